"""Processes: started on one core, accounted by the operating system, ended by their own id."""

import http.client
import os
import pathlib
import signal
import socket
import subprocess
import time

PROXY_CORE = 0
LOAD_CORE = 1
DEADLINE = 30.0

_logs = None


def logs_in(directory):
    """Where the output of started programs goes."""
    global _logs
    _logs = pathlib.Path(directory)


def free_port():
    """A loopback port that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def on_core(core, command):
    """The command, pinned."""
    return ["taskset", "-c", str(core), *map(str, command)]


class Process:
    """A program that was started here and is ended here."""

    def __init__(self, name, command, core, env=None):
        self.name = name
        self.log = _logs / f"{name}.log"
        self.started = time.monotonic()
        with open(self.log, "ab") as log:
            # `exec` semantics: taskset becomes the program, so the id is the program's.
            self.child = subprocess.Popen(
                on_core(core, command),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={**os.environ, **(env or {})},
                start_new_session=True,
            )
        self.pid = self.child.pid

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.stop()

    def stop(self, patience=15.0):
        """Ends it, by SIGKILL when it does not end by itself. True when it did."""
        if self.child.poll() is not None:
            return True
        self.child.send_signal(signal.SIGTERM)
        try:
            self.child.wait(patience)
            return True
        except subprocess.TimeoutExpired:
            self.child.kill()
            self.child.wait()
            return False

    def alive(self):
        """Whether it still runs."""
        return self.child.poll() is None

    def wait_for_port(self, port, deadline=DEADLINE):
        """Waits until it accepts connections."""
        end = time.monotonic() + deadline
        while time.monotonic() < end:
            if not self.alive():
                raise RuntimeError(f"{self.name} ended: {self.last_lines()}")
            try:
                socket.create_connection(("127.0.0.1", port), 1).close()
                return
            except OSError:
                time.sleep(0.002)
        raise RuntimeError(f"{self.name} does not accept connections: {self.last_lines()}")

    def last_lines(self):
        """The end of its output."""
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-5:])

    def cpu(self):
        """User and system time of all its threads so far, ended ones included, in seconds: its CPU clock."""
        return time.clock_gettime((~self.pid << 3) | 2)

    def ticks(self):
        """User and system time so far, in ticks of the clock: too coarse for more than telling the two apart."""
        fields = pathlib.Path(f"/proc/{self.pid}/stat").read_text().rsplit(")", 1)[1].split()
        return int(fields[11]), int(fields[12])

    def memory(self, key="VmRSS"):
        """Resident memory in MiB."""
        for line in pathlib.Path(f"/proc/{self.pid}/status").read_text().splitlines():
            if line.startswith(key + ":"):
                return int(line.split()[1]) / 1024
        return 0.0


def fetch(port, path, timeout=5.0):
    """Status and body of a GET on loopback."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=timeout)
    try:
        connection.request("GET", path)
        answer = connection.getresponse()
        return answer.status, answer.read()
    finally:
        connection.close()


def conditions():
    """What a reader needs to judge the figures."""
    model = "unknown"
    for line in pathlib.Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            model = line.split(":", 1)[1].strip()
            break
    return {
        "date": time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime()),
        "cpu": model,
        "cores": os.cpu_count(),
        "kernel": os.uname().release,
        "load_average": [round(value, 2) for value in os.getloadavg()],
    }
