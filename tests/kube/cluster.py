"""A control plane of one version on loopback: etcd, kube-apiserver and kube-controller-manager, and a fake node."""

import json
import os
import signal
import socket
import ssl
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
LIMIT = 180
TOKEN = "tests-kube"
SERVICE = "pillion-injector.pillion.svc"
# In front of a command: it ends when who started it is killed, or was before it said so.
TIED = ["setpriv", "--pdeathsig=KILL", "sh", "-c", '[ $PPID = "$0" ] && exec "$@"', str(os.getpid())]


def end_on_sigterm():
    """As by an exception, so that what was started is ended and no file stays."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))


class Cluster:
    """The processes, and requests to the server."""

    def __init__(self, folder, binaries, server=(), manager=()):
        """`server`, `manager`: flags of the two besides."""
        self.folder, self.processes = folder, []
        try:
            self.start_all(binaries, server, manager)
        except BaseException:
            self.show_logs()
            self.stop()
            raise

    def start_all(self, binaries, server, manager):
        folder = self.folder
        self.context = ssl._create_unverified_context()
        etcd, peer, port = free_ports(3)
        self.url = f"https://127.0.0.1:{port}"
        certificates(folder)
        (folder / "tokens.csv").write_text(f'{TOKEN},admin,admin,"system:masters"\n')
        (folder / "kubeconfig").write_text(KUBECONFIG % (self.url, TOKEN))
        self.start(
            [binaries.parent / "etcd", f"--data-dir={folder}/etcd", "--unsafe-no-fsync", "--log-level=error"]
            + [f"--{kind}-urls=http://127.0.0.1:{etcd}" for kind in ("listen-client", "advertise-client")]
            + [f"--{kind}-urls=http://127.0.0.1:{peer}" for kind in ("listen-peer", "initial-advertise-peer")]
            + [f"--initial-cluster=default=http://127.0.0.1:{peer}"]
        )
        self.start(
            [
                binaries / "kube-apiserver",
                f"--etcd-servers=http://127.0.0.1:{etcd}",
                "--bind-address=127.0.0.1",
                "--advertise-address=192.0.2.1",
                "--endpoint-reconciler-type=none",
                f"--secure-port={port}",
                f"--cert-dir={folder}/apiserver",
                f"--token-auth-file={folder}/tokens.csv",
                "--authorization-mode=RBAC",
                "--service-cluster-ip-range=198.51.100.0/24",
                "--service-account-issuer=https://kubernetes.default.svc",
                f"--service-account-key-file={folder}/accounts.key",
                f"--service-account-signing-key-file={folder}/accounts.key",
                *server,
            ]
        )
        wait("the API server", lambda: self.get("readyz") == "ok")
        # Not what it tells its callers: 1.27 built from modules does not know its number there.
        said = subprocess.run([binaries / "kube-apiserver", "--version"], check=True, capture_output=True, text=True)
        self.version = ".".join(said.stdout.split("v")[-1].split(".")[:2])
        self.start(
            [
                binaries / "kube-controller-manager",
                f"--kubeconfig={folder}/kubeconfig",
                f"--service-account-private-key-file={folder}/accounts.key",
                f"--root-ca-file={folder}/apiserver/apiserver.crt",
                "--use-service-account-credentials",
                "--leader-elect=false",
                "--bind-address=127.0.0.1",
                f"--secure-port={free_ports(1)[0]}",
                *manager,
            ]
        )

    def start(self, command, is_last=False):
        """`is_last`: ends after the others."""
        log = open(self.folder / f"{Path(command[0]).name}.log", "wb")
        process = subprocess.Popen([*TIED, *(str(part) for part in command)], stdout=log, stderr=log)
        self.processes.insert(0 if is_last else len(self.processes), process)

    def stop(self):
        end(reversed(self.processes))

    def show_logs(self):
        for log in sorted(self.folder.glob("*.log")):
            tail = log.read_text(errors="replace").splitlines()[-15:]
            print(f"---- {log.name}", *tail, sep="\n", file=sys.stderr)

    def send(self, method, path, body=None, kind="application/json"):
        """The answer, and what the server warns about."""
        if isinstance(body, dict):
            body = json.dumps(body)
        request = urllib.request.Request(f"{self.url}/{path}", method=method, data=body and body.encode())
        request.add_header("Authorization", f"Bearer {TOKEN}")
        request.add_header("Content-Type", kind)
        try:
            with urllib.request.urlopen(request, context=self.context, timeout=30) as answer:
                text, warnings = answer.read().decode(), answer.headers.get_all("Warning") or []
        except urllib.error.HTTPError as error:
            raise Refused(f"{method} {path}: {error.code} {error.read().decode()}") from None
        return (json.loads(text) if text.startswith("{") else text), warnings

    def get(self, path):
        return self.send("GET", path)[0]

    def create(self, path, body, kind="application/json"):
        return self.send("POST", path, body, kind)


class Refused(Exception):
    """The server's answer to what it does not take."""


KUBECONFIG = """apiVersion: v1
kind: Config
clusters: [{name: c, cluster: {server: "%s", insecure-skip-tls-verify: true}}]
users: [{name: u, user: {token: "%s"}}]
contexts: [{name: x, context: {cluster: c, user: u}}]
current-context: x
"""


def free_ports(count):
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


def certificates(folder):
    def openssl(*arguments):
        subprocess.run(["openssl", *arguments], cwd=folder, check=True, capture_output=True)

    openssl("genrsa", "-out", "accounts.key", "2048")
    openssl("req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=tests", "-keyout", "ca.key", "-out", "ca.crt")
    openssl("req", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=injector", "-keyout", "tls.key", "-out", "tls.csr")
    (folder / "names").write_text(f"subjectAltName=DNS:{SERVICE}\n")
    openssl(
        *"x509 -req -in tls.csr -CA ca.crt -CAkey ca.key -CAcreateserial -days 2 -extfile names -out tls.crt".split()
    )


def end(processes):
    """Asks each to end, one after the other, and makes it."""
    for process in processes:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def wait(what, holds, limit=LIMIT):
    deadline = time.monotonic() + limit
    while True:
        try:
            if found := holds():
                return found
        except (OSError, Refused) as error:
            last = error
        else:
            last = None
        if time.monotonic() > deadline:
            raise TimeoutError(f"{what}: not within {limit} s ({last})")
        time.sleep(0.2)
