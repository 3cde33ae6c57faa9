"""What is measured: who sends what through which proxies."""

import dataclasses
import json
import re
import resource
import subprocess

from . import system

ALL = None
UNTRACED = ["raw-copy", "minimal-hyper", "nginx", "haproxy", "envoy", "pillion off"]
TRACED = ["envoy otlp", "pillion 100%"]
GROWING = ["raw-copy", "nginx", "envoy otlp", "pillion 100%"]


@dataclasses.dataclass
class Scenario:
    """One block of the table."""

    name: str
    title: str
    # Rows by name; `ALL`: every one.
    rows: list | None
    requests: int
    conns: int = 64
    # Arguments of `load`, or a function from a wiring to an h2load command line.
    load: list = dataclasses.field(default_factory=list)
    h2load: object = None
    open_rate: float | None = None
    # Changes to the wiring.
    wiring: dict = dataclasses.field(default_factory=dict)
    # Spans for each request of a traced row.
    spans: int = 1
    direct: bool = False

    def takes(self, row):
        """Whether the row can serve this."""
        if self.rows is not ALL and row.name not in self.rows:
            return False
        wants_http = self.h2load is not None and not self.wiring.get("tls")
        return (
            (row.tls or not self.wiring.get("tls"))
            and (row.h2_upstream or not self.wiring.get("h2_upstream") or (self.wiring.get("grpc") and row.name == "nginx"))
            and (row.http or not wants_http)
            and (row.linking or self.spans == 1)
        )


def h2(path, *extra):
    return lambda scenario, port, requests: [
        "h2load", "-c", min(scenario.conns, 16), "-m", "16", "-n", requests, *extra, f"http://127.0.0.1:{port}{path}",
    ]


def grpc(work):
    message = work / "message.grpc"
    message.write_bytes(b"\0\0\0\0\x20" + b"\x0a\x1e" + b"x" * 30)
    return h2(
        "/bench.Echo/Say", "-d", message, "-H", "content-type: application/grpc", "-H", "te: trailers",
    )


def tls():
    return lambda scenario, port, requests: [
        "h2load", "--h1", "-c", scenario.conns, "-n", requests, f"https://127.0.0.1:{port}/small",
    ]


def all_of(work, requests):
    """Every scenario that counts CPU time or latency. `requests` is the number for the cheapest exchange."""
    chunked = ["--path", "/stream/64/1024"]
    echo = ["--path", "/echo", "--body", "65536", "--chunk", "1024"]
    few, fewer = max(200, requests // 4), max(100, requests // 40)
    growing = ["pillion 100%"]
    by_operation = ["pillion 100%", "pillion remote"]
    scenarios = [
        Scenario("keepalive", "HTTP/1.1 keep-alive, 64 connections, 64-byte answers", ALL, requests, direct=True),
        Scenario("close", "HTTP/1.1, a new connection for each request", UNTRACED + TRACED, few, load=["--close"]),
        Scenario("body16k", "16 KiB answers", UNTRACED + TRACED, few, load=["--path", "/size/16384"]),
        Scenario("body1m", "1 MiB answers", UNTRACED + TRACED, fewer, conns=16, load=["--path", "/size/1048576"]),
        Scenario("stream-down", "64 chunks of 1 KiB, one by one", UNTRACED + TRACED, fewer, conns=16, load=chunked),
        Scenario("stream-both", "64 chunks of 1 KiB sent and echoed", UNTRACED + TRACED, fewer, conns=16, load=echo),
        Scenario("h2c-in", "h2c in, HTTP/1.1 to the program", UNTRACED + TRACED, requests, h2load=h2("/small"),
                 wiring={"h2": True}),
        Scenario("h2c-both", "h2c on both sides", UNTRACED + TRACED, requests, h2load=h2("/small"),
                 wiring={"h2": True, "h2_upstream": True}),
        Scenario("grpc", "gRPC unary calls", UNTRACED + TRACED, requests, h2load=grpc(work),
                 wiring={"h2": True, "h2_upstream": True, "grpc": True}),
        Scenario("tls", "TLS in, HTTP/1.1 keep-alive", UNTRACED + TRACED, requests, h2load=tls(),
                 wiring={"tls": True}),
        Scenario("linked", "inbound and outbound with linking: two spans", ["envoy otlp", "pillion 100%"], few,
                 load=["--path", "/call"], spans=2),
        Scenario("unaware", "the same, and the program passes no trace headers on", ["envoy otlp", "pillion 100%"], few,
                 load=["--path", "/forget"], spans=2),
        Scenario("inbound", "the same program with inbound only", ["envoy otlp", "pillion 100%"], few,
                 load=["--path", "/other"]),
        Scenario("latency", "open loop, 2,000 requests a second", UNTRACED + TRACED, requests,
                 open_rate=2000.0, direct=True),
    ]
    for conns in (1, 64, 1000, 10000):
        # Each takes two of the files that the proxy may open.
        most = min(conns, (resource.getrlimit(resource.RLIMIT_NOFILE)[0] - 1000) // 2)
        count = max(requests, 2 * conns) if conns > 64 else requests // 2
        scenarios.append(Scenario(f"conns-{conns}", f"{most} busy connections", GROWING, count, conns=most))
    for operations in (1, 100, 5000):
        scenarios.append(Scenario(f"operations-{operations}", f"{operations} operations", by_operation, requests,
                                  load=["--paths", operations], wiring={"routes": operations}))
    for reporters in (1, 8):
        scenarios.append(Scenario(f"reporters-{reporters}", f"{reporters} reporters", growing, requests,
                                  wiring={"reporters": reporters}))
    return scenarios


def send(scenario, bench, port, requests, ready=None):
    """Sends the requests; the figures of the load generator.

    `ready`, when given, is called between the first use of every connection and the requests that count; it learns
    how many requests were sent until then. h2load and an open loop open their connections as they go.
    """
    if scenario.h2load:
        if ready:
            ready(0)
        return h2load(scenario.h2load(scenario, port, max(requests, scenario.conns)))
    conns = min(scenario.conns, requests)
    common = ["--addr", f"127.0.0.1:{port}", "--conns", conns, "--requests", requests, *scenario.load]
    if scenario.open_rate:
        if ready:
            ready(0)
        return json.loads(output([bench / "load", "open", "--rate", scenario.open_rate, *common]))
    if not ready or "--close" in scenario.load:
        if ready:
            ready(0)
        return json.loads(output([bench / "load", "closed", *common]))
    command = system.on_core(system.LOAD_CORE, [bench / "load", "closed", "--warm", "2", *common])
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as load:
        try:
            if load.stdout.readline() != "ready\n":
                raise RuntimeError("load did not get ready")
            ready(2 * conns)
            text, _ = load.communicate("\n", timeout=300)
        finally:
            load.kill()
    return json.loads(text)


def h2load(command):
    text = output(command)
    match = re.search(r"(\d+) total, \d+ started, \d+ done, (\d+) succeeded, (\d+) failed", text)
    total, succeeded, failed = map(int, match.groups())
    statuses = re.search(r"status codes: (\d+) 2xx", text)
    seconds = re.search(r"finished in ([\d.]+)(us|ms|s)", text)
    unit = {"us": 1e-6, "ms": 1e-3, "s": 1.0}[seconds[2]]
    good = min(succeeded, int(statuses[1]))
    return {"requests": good, "errors": total - good, "seconds": float(seconds[1]) * unit}


def output(command):
    done = subprocess.run(
        system.on_core(system.LOAD_CORE, command), capture_output=True, text=True, timeout=300, stdin=subprocess.DEVNULL
    )
    if done.returncode != 0:
        raise RuntimeError(f"{command[0]}: {done.stderr[-400:]}")
    return done.stdout
