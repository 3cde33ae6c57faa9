"""A pod with Pillion and its rules, and a world outside: two network namespaces that end with the run.

Needs root, iproute2, util-linux and nft. Nothing on the machine's own network changes.
"""

import json
import os
import pathlib
import re
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request

ROOT = pathlib.Path(__file__).resolve().parents[3]
POD = ("10.77.0.1", "fd77::1")
WORLD = ("10.77.0.2", "fd77::2")
PROGRAM_UID = 65534
ADMIN = "127.0.0.1:15690"
TICK = os.sysconf("SC_CLK_TCK")


def enter():
    """Starts the calling script again in a namespace of its own."""
    if os.environ.get("PILLION_BENCH_INSIDE") != "1":
        os.environ["PILLION_BENCH_INSIDE"] = "1"
        os.execvp("unshare", ["unshare", "--net", sys.executable, *sys.argv])


def binary(named):
    """The program to measure: what was named, else the release build."""
    if named:
        return named
    target = pathlib.Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target"))
    path = target / "release" / "pillion"
    if not path.is_file():
        sys.exit(f"{path} is missing: cargo build --release, or --pillion PATH")
    return str(path)


def sh(line):
    subprocess.run(["sh", "-ec", line], check=True)


class Net:
    """This process is in the pod."""

    def __init__(self):
        self.keeper = subprocess.Popen(["unshare", "--net", "sleep", "infinity"])
        self.children = []
        own = os.readlink("/proc/self/ns/net")
        while os.readlink(f"/proc/{self.keeper.pid}/ns/net") == own:
            time.sleep(0.01)
        sh(f"ip link set lo up; ip link add pod0 type veth peer name world0 netns {self.keeper.pid}")
        self.addresses("pod0", POD, [])
        self.addresses("world0", WORLD, self.world([]))
        # Ports come back soon, so that many connections in a row find one.
        for name in ("net/ipv4/ip_local_port_range=1024 65000", "net/ipv4/tcp_tw_reuse=1"):
            self.sysctl(name, [])
            self.sysctl(name, self.world([]))

    @staticmethod
    def sysctl(setting, prefix):
        name, value = setting.split("=")
        subprocess.run([*prefix, "sh", "-c", f"echo '{value}' >/proc/sys/{name}"], check=True)

    @staticmethod
    def addresses(device, addresses, prefix):
        v4, v6 = addresses
        line = (
            f"ip link set lo up; ip addr add {v4}/24 dev {device}; ip addr add {v6}/64 dev {device} nodad;"
            f"ip link set {device} up"
        )
        subprocess.run([*prefix, "sh", "-ec", line], check=True)

    def world(self, command):
        return ["nsenter", "--net", "--target", str(self.keeper.pid), *command]

    @staticmethod
    def program(command):
        return ["setpriv", "--reuid", str(PROGRAM_UID), "--clear-groups", *command]

    def start(self, command, **more):
        """Starts a command that ends with the run, and whatever it starts with it."""
        child = subprocess.Popen(command, start_new_session=True, **more)
        self.children.append(child)
        return child

    def close(self):
        for child in self.children:
            try:
                os.killpg(child.pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
            child.wait()
        self.keeper.kill()
        self.keeper.wait()


class Proxy:
    """Pillion in the pod, with rules that lead everything to it."""

    def __init__(self, path, mode="redirect", **settings):
        config = {
            "inbound": {"listen": "127.0.0.1:0", "redirect": {"mode": mode}},
            "outbound": {"listen": "127.0.0.1:0", "redirect": {"mode": mode}},
            "admin": {"listen": ADMIN},
            "sampling": {"constant": {"decision": True}},
            # Spans are counted and gone: a store of recent ones would fill up meanwhile.
            "view": {"enabled": False},
            # Its descriptors and memory come a moment after the start.
            "linking": {"kernel": "off"},
            "shutdown": {"drain_timeout": "100ms"},
            **settings,
        }
        self.file = tempfile.NamedTemporaryFile("w", suffix=".json", prefix="pillion-bench-")
        json.dump(config, self.file)
        self.file.flush()
        environment = {name: value for name, value in os.environ.items() if not re.match("PILLION_|OTEL_|JAEGER_", name)}
        self.child = subprocess.Popen([path, "run", "-c", self.file.name], env=environment, stderr=subprocess.DEVNULL)
        deadline = time.monotonic() + 10
        while True:
            try:
                self.metrics()
                break
            except OSError:
                if time.monotonic() > deadline or self.child.poll() is not None:
                    sys.exit("pillion does not start")
                time.sleep(0.05)
        install = [path, "redirect", "install", "-c", self.file.name, "--exclude-uids", "0"]
        subprocess.run(install, check=True, env=environment)

    def metrics(self):
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        text = opener.open(f"http://{ADMIN}/metrics", timeout=5).read().decode()
        return [line.rsplit(" ", 1) for line in text.splitlines() if line and line[0] != "#"]

    def metric(self, name, *labels):
        """The sum of the series whose labels contain all of these."""
        series = [(key, float(value)) for key, value in self.metrics() if re.split("[{ ]", key)[0] == name]
        return sum(value for key, value in series if all(label in key for label in labels))

    def cpu(self):
        """Seconds of processor time so far."""
        fields = pathlib.Path(f"/proc/{self.child.pid}/stat").read_text().rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / TICK

    def memory(self):
        """Resident bytes."""
        text = pathlib.Path(f"/proc/{self.child.pid}/status").read_text()
        return int(re.search(r"VmRSS:\s+(\d+) kB", text)[1]) * 1024

    def descriptors(self):
        return len(os.listdir(f"/proc/{self.child.pid}/fd"))

    def stop(self):
        self.child.terminate()
        self.child.wait()
        self.file.close()
