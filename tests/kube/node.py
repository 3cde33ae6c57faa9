"""The part of a node and its scheduler: pods are bound to it, get a network of their own, and are said to be ready.

Containers of our own images run, as processes of the user and with the capabilities that the pod says, their variables, files
and probes too; init containers one by one before. Images of others are not there, so their containers are only said to run.
`kubectl logs` is answered; `kubectl port-forward` is, as far as the connection goes: nothing is carried over it.
"""

import base64
import hashlib
import http.server
import json
import os
import re
import ssl
import subprocess
import threading
import time
import urllib.request

from cluster import TIED, Refused, end, wait

NAME = "worker-1"
ADDRESS = "10.78.0.1"
PORT = 10250


class Node(threading.Thread):
    """`failures` says what could not be done."""

    def __init__(self, cluster, program, images):
        super().__init__(daemon=True)
        self.cluster, self.program, self.images = cluster, program, images
        self.pods, self.failures, self.ends = {}, [], threading.Event()
        subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
        subprocess.run(["ip", "addr", "add", f"{ADDRESS}/32", "dev", "lo"], check=True)
        Api(self).start()
        cluster.create("api/v1/nodes", {"metadata": {"name": NAME}})
        status = {
            "addresses": [{"type": "InternalIP", "address": ADDRESS}],
            "daemonEndpoints": {"kubeletEndpoint": {"Port": PORT}},
            "conditions": [{"type": "Ready", "status": "True", "reason": "KubeletReady", "message": ""}],
        }
        self.patch(f"api/v1/nodes/{NAME}/status", {"status": status})

    def patch(self, path, body):
        self.cluster.send("PATCH", path, body, "application/merge-patch+json")

    def run(self):
        while not self.ends.wait(0.2):
            try:
                there = self.cluster.get("api/v1/pods")["items"]
            except (OSError, Refused):
                continue
            for pod in there:
                try:
                    self.see(pod)
                except Refused as error:
                    # It is going away meanwhile, or its namespace is.
                    print(f"{pod['metadata']['name']}: {error}", flush=True)
                except (OSError, TimeoutError, subprocess.CalledProcessError) as error:
                    self.failures.append(f"{pod['metadata']['name']}: {error}")
            gone = self.pods.keys() - {pod["metadata"]["uid"] for pod in there}
            for uid in gone:
                self.pods.pop(uid).stop()

    def see(self, pod):
        meta = pod["metadata"]
        path = f"api/v1/namespaces/{meta['namespace']}/pods/{meta['name']}"
        if meta.get("deletionTimestamp"):
            if held := self.pods.pop(meta["uid"], None):
                # It may take its time to end.
                threading.Thread(target=held.stop).start()
            self.cluster.send("DELETE", path, {"gracePeriodSeconds": 0})
        elif "nodeName" not in pod["spec"]:
            target = {"apiVersion": "v1", "kind": "Node", "name": NAME}
            self.cluster.create(f"{path}/binding", {"metadata": {"name": meta["name"]}, "target": target})
        elif meta["uid"] not in self.pods:
            held = self.pods[meta["uid"]] = Pod(self, pod)
            held.start()
            self.patch(f"{path}/status", {"status": held.status()})

    def stop(self):
        self.ends.set()
        self.join()
        for pod in self.pods.values():
            pod.stop()


class Pod:
    """One pod: its network, and its processes by container."""

    count = 0

    def __init__(self, node, pod):
        Pod.count += 1
        self.node, self.pod, self.number = node, pod, Pod.count
        self.folder = node.cluster.folder / pod["metadata"]["uid"]
        self.folder.mkdir(mode=0o755)
        self.address = f"10.78.{self.number}.2"
        self.processes = {}
        self.network = subprocess.Popen([*TIED, "unshare", "--net", "sleep", "infinity"])
        wait("a network", lambda: os.stat(f"/proc/{self.network.pid}/ns/net").st_ino != os.stat("/proc/self/ns/net").st_ino)
        device = f"pod{self.number}"
        for line in [
            f"ip link add {device} type veth peer name eth0 netns {self.network.pid}",
            f"ip addr add 10.78.{self.number}.1/24 dev {device}",
            f"ip link set {device} up",
            f"{self.inside()} ip link set lo up",
            f"{self.inside()} ip addr add {self.address}/24 dev eth0",
            f"{self.inside()} ip link set eth0 up",
        ]:
            subprocess.run(line.split(), check=True)

    def inside(self):
        return f"nsenter --net=/proc/{self.network.pid}/ns/net"

    def start(self):
        spec = self.pod["spec"]
        for container in spec.get("initContainers", []):
            if self.is_ours(container):
                stays = container.get("restartPolicy") == "Always"
                self.run(container)
                if not stays and (status := self.processes[container["name"]].wait(30)):
                    raise OSError(f"{container['name']} ended with {status}: {self.log(container['name'])}")
        for container in filter(self.is_ours, spec["containers"]):
            self.run(container)

    def is_ours(self, container):
        return container["image"] in self.node.images

    def run(self, container):
        self.files(container)
        security = {**self.pod["spec"].get("securityContext", {}), **container.get("securityContext", {})}
        user, group = security["runAsUser"], security["runAsGroup"]
        assert security["capabilities"]["drop"] == ["ALL"], security
        added = security["capabilities"].get("add", [])
        kept = "".join(f",+{name.lower()}" for name in added)
        command = [*self.inside().split(), "setpriv", f"--reuid={user}", f"--regid={group}", "--clear-groups"]
        command += ["--pdeathsig=KILL", "--no-new-privs", "--inh-caps=-all", f"--bounding-set=-all{kept}", self.node.program]
        command += [self.here(text) for text in container["args"]]
        log = open(self.folder / f"{container['name']}.log", "wb")
        # Nothing but its own variables: an image has no others.
        environment = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", **self.variables(container)}
        process = subprocess.Popen(command, env=environment, cwd="/", stdout=log, stderr=log)
        self.processes[container["name"]] = process
        for probe in ["startupProbe", "readinessProbe"]:
            if probe in container:
                what = f"{probe} of {self.pod['metadata']['name']}"
                wait(what, lambda: self.probe(container, container[probe]["httpGet"]), 30)

    def variables(self, container):
        values = {}
        for entry in container.get("env", []):
            if "valueFrom" in entry:
                value = self.field(entry["valueFrom"]["fieldRef"]["fieldPath"])
            else:
                value = re.sub(r"\$\((\w+)\)", lambda name: values.get(name[1], name[0]), entry.get("value", ""))
            values[entry["name"]] = self.here(value)
        return values

    def field(self, path):
        if path == "status.podIP":
            return self.address
        value = self.pod
        for key in path.split("."):
            value = value[key]
        return value

    def here(self, text):
        """With the paths of files that are mounted."""
        return text.replace("/etc/pillion", f"{self.folder}/etc/pillion")

    def files(self, container):
        volumes = {volume["name"]: volume for volume in self.pod["spec"].get("volumes", [])}
        for mount in container.get("volumeMounts", []):
            volume, namespace = volumes[mount["name"]], self.pod["metadata"]["namespace"]
            files = {}
            if "configMap" in volume:
                held = self.node.cluster.get(f"api/v1/namespaces/{namespace}/configmaps/{volume['configMap']['name']}")
                files = {name: self.here(text).encode() for name, text in held["data"].items()}
            elif "secret" in volume:
                # As a kubelet, for a while: the Secret may come later.
                path = f"api/v1/namespaces/{namespace}/secrets/{volume['secret']['secretName']}"
                held = wait(path, lambda: self.node.cluster.get(path), 30)
                files = {name: base64.b64decode(text) for name, text in held["data"].items()}
            folder = self.folder / mount["mountPath"].lstrip("/")
            folder.mkdir(parents=True, exist_ok=True)
            for name, content in files.items():
                (folder / name).write_bytes(content)

    def probe(self, container, get):
        port = get["port"]
        if isinstance(port, str):
            port = next(each["containerPort"] for each in container["ports"] if each["name"] == port)
        if (status := self.processes[container["name"]].poll()) is not None:
            raise OSError(f"{container['name']} ended with {status}: {self.log(container['name'])}")
        url = f"{get.get('scheme', 'HTTP').lower()}://{self.address}:{port}{get['path']}"
        with urllib.request.urlopen(url, context=self.node.cluster.context, timeout=2) as answer:
            return answer.status == 200

    def log(self, container):
        path = self.folder / f"{container}.log"
        return path.read_text(errors="replace") if path.exists() else ""

    def status(self):
        spec, now = self.pod["spec"], time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())

        def container(each, is_init):
            ended = is_init and each.get("restartPolicy") != "Always"
            state = {"terminated": {"exitCode": 0, "reason": "Completed", "finishedAt": now}}
            if not ended:
                state = {"running": {"startedAt": now}}
            said = {"name": each["name"], "image": each["image"], "imageID": "", "state": state}
            return {**said, "ready": True, "restartCount": 0, "started": not ended}

        kinds = ["PodScheduled", "Initialized", "ContainersReady", "Ready"]
        return {
            "phase": "Running",
            "hostIP": ADDRESS,
            "podIP": self.address,
            "podIPs": [{"ip": self.address}],
            "startTime": now,
            "conditions": [{"type": kind, "status": "True", "lastTransitionTime": now} for kind in kinds],
            "initContainerStatuses": [container(each, True) for each in spec.get("initContainers", [])],
            "containerStatuses": [container(each, False) for each in spec["containers"]],
        }

    def stop(self):
        end([*self.processes.values(), self.network])


class Api(threading.Thread):
    """What the API server asks of a node."""

    def __init__(self, node):
        super().__init__(daemon=True)

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self):
                if self.path.startswith("/portForward/"):
                    return self.upgrade()
                _, kind, namespace, name, container = self.path.split("?")[0].split("/")
                text = b""
                for pod in list(node.pods.values()):
                    meta = pod.pod["metadata"]
                    if kind == "containerLogs" and (meta["namespace"], meta["name"]) == (namespace, name):
                        text = pod.log(container).encode()
                self.send_response(200)
                self.send_header("content-length", str(len(text)))
                self.end_headers()
                self.wfile.write(text)

            def upgrade(self):
                self.send_response(101)
                self.send_header("Connection", "Upgrade")
                self.send_header("Upgrade", self.headers["Upgrade"])
                self.send_header("X-Stream-Protocol-Version", "portforward.k8s.io")
                if key := self.headers.get("Sec-WebSocket-Key"):
                    accepted = hashlib.sha1(f"{key}258EAFA5-E914-47DA-95CA-C5AB0DC85B11".encode()).digest()
                    self.send_header("Sec-WebSocket-Accept", base64.b64encode(accepted).decode())
                    self.send_header("Sec-WebSocket-Protocol", self.headers["Sec-WebSocket-Protocol"].split(",")[0])
                self.end_headers()
                self.rfile.read()

            do_POST = do_GET

            def log_message(self, *_):
                pass

        self.server = http.server.ThreadingHTTPServer((ADDRESS, PORT), Handler)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(node.cluster.folder / "tls.crt", node.cluster.folder / "tls.key")
        self.server.socket = context.wrap_socket(self.server.socket, server_side=True)

    def run(self):
        self.server.serve_forever()
