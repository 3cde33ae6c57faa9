"""Takes the figures of one row: CPU time, latency, spans, memory, start-up, instructions."""

import pathlib
import re
import resource
import subprocess
import time

from . import scenarios
from . import system
from .proxies import Wiring

WARM = 0.1
IDLE_COUNTS = (1000, 10000)


class Bench:
    """Upstream, span sink and the directory of one run."""

    def __init__(self, work, programs):
        self.work = work
        self.programs = programs["bench"]
        self.ports = {name: system.free_port() for name in ("upstream", "sink", "backend")}
        self.helpers = []

    def __enter__(self):
        self.start("upstream", self.ports["upstream"])
        self.start("upstream", self.ports["backend"], name="backend")
        self.start("sink", self.ports["sink"], "--operations", "5000")
        return self

    def __exit__(self, *_):
        for helper in self.helpers:
            helper.stop()

    def start(self, program, port, *more, name=None):
        command = [self.programs / program, "--listen", f"127.0.0.1:{port}", *more]
        helper = system.Process(name or program, command, system.LOAD_CORE)
        self.helpers.append(helper)
        helper.wait_for_port(port)
        return helper

    def spans(self):
        """Spans that arrived so far, and how many posts they came in."""
        spans, posts, _, bad = map(int, system.fetch(self.ports["sink"], "/count")[1].split())
        if bad:
            raise RuntimeError(f"{bad} messages to the span sink were malformed")
        return spans, posts

    def wait_for_spans(self, target, deadline=15.0):
        """Waits until so many arrived, then a little for what should not come."""
        end = time.monotonic() + deadline
        while time.monotonic() < end and self.spans()[0] < target:
            time.sleep(0.05)
        time.sleep(0.2)
        return self.spans()

    def wiring(self, **changes):
        """Fresh ports between the upstream and the sink."""
        base = dict(upstream=self.ports["upstream"], sink=self.ports["sink"], work=self.work)
        return Wiring(**{**base, "listen": system.free_port(), "egress": system.free_port(), **changes})


def direct(bench, scenario):
    """The same load without a proxy."""
    scenarios.send(scenario, bench.programs, bench.ports["upstream"], 200)
    figures = scenarios.send(scenario, bench.programs, bench.ports["upstream"], scenario.requests)
    return {"load": figures}


def row(bench, scenario, proxy):
    """One row of one scenario in one round."""
    changes = dict(scenario.wiring)
    app = None
    if scenario.spans == 2:
        changes["backend"] = bench.ports["backend"]
    wiring = bench.wiring(**changes)
    try:
        if scenario.spans == 2:
            wiring.upstream = system.free_port()
            app = bench.start("upstream", wiring.upstream, "--call", f"127.0.0.1:{wiring.egress}", name="app")
        with system.Process(proxy.name.replace(" ", "-"), proxy.command(wiring), system.PROXY_CORE) as process:
            process.wait_for_port(wiring.listen)
            return loaded(bench, scenario, proxy, wiring, process)
    finally:
        if app:
            app.stop()
            bench.helpers.remove(app)


def loaded(bench, scenario, proxy, wiring, process):
    """Warms up, sends, waits for the spans."""
    each = 0 if proxy.traced is None else proxy.traced * scenario.spans
    if "remote" in proxy.name:
        # Its first answer comes within milliseconds.
        time.sleep(1)
    wait = each * wiring.reporters
    before, _ = bench.spans()
    warm = max(50, int(scenario.requests * WARM))
    scenarios.send(scenario, bench.programs, wiring.listen, warm)
    mark = {}

    def ready(opening):
        warmed = max(warm, scenario.conns if scenario.h2load else 0) + opening
        mark["spans"], mark["posts"] = bench.wait_for_spans(before + warmed * wait if proxy.traced == 1.0 else before)
        mark["cpu"], mark["ticks"] = process.cpu(), process.ticks()

    figures = scenarios.send(scenario, bench.programs, wiring.listen, scenario.requests, ready)
    sent = process.cpu()
    requests = figures["requests"]
    if requests == 0:
        raise RuntimeError(f"no answers: {figures}; {process.last_lines()}")
    result = {"load": figures, "rss_mib": process.memory(), "peak_mib": process.memory("VmHWM")}
    if proxy.traced is not None:
        expected = requests * wait
        spans, later = bench.wait_for_spans(mark["spans"] + expected if proxy.traced == 1.0 else before)
        result["spans"] = {"expected": expected, "arrived": spans - mark["spans"], "posts": later - mark["posts"],
                           "sampled": proxy.traced != 1.0}
    result["cpu_us"] = (process.cpu() - mark["cpu"]) / requests * 1e6
    result["cpu_us_under_load"] = (sent - mark["cpu"]) / requests * 1e6
    result["ticks"] = [now - before for now, before in zip(process.ticks(), mark["ticks"])]
    if not process.alive():
        raise RuntimeError(f"{proxy.name} ended: {process.last_lines()}")
    return result


def footprint(bench, proxy, idle_counts):
    """Start-up, and resident memory idle, with idle connections, and after they closed."""
    wiring = bench.wiring()
    command = proxy.command(wiring)
    with system.Process(proxy.name.replace(" ", "-"), command, system.PROXY_CORE) as process:
        result = {"start_ms": first_answer(process, wiring.listen)}
        time.sleep(0.5)
        result["idle_mib"] = process.memory()
        for count in idle_counts:
            opened = min(count, most_idle(proxy))
            result[f"conns_{count}_mib"] = with_idle(bench, wiring.listen, process, opened)
            if opened < count:
                result[f"conns_{count}_opened"] = opened
        if idle_counts:
            # Only where something was open can something have been given back.
            time.sleep(3)
            result["closed_mib"] = process.memory()
        return result


def most_idle(proxy):
    """Connections that may be open: what copies bytes has an upstream one for each, and both count as its files."""
    files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return (files - 200) // (1 if proxy.http else 2)


def first_answer(process, port):
    """Milliseconds from its start to its first good answer."""
    while time.monotonic() - process.started < system.DEADLINE:
        try:
            if system.fetch(port, "/small")[0] == 200:
                return (time.monotonic() - process.started) * 1000
        except OSError:
            pass
        if not process.alive():
            raise RuntimeError(f"{process.name} ended: {process.last_lines()}")
        time.sleep(0.0005)
    raise RuntimeError(f"{process.name} never answered")


def with_idle(bench, port, process, count):
    """Resident memory while so many connections, each used once, wait."""
    command = [bench.programs / "load", "idle", "--addr", f"127.0.0.1:{port}", "--conns", count]
    opener = subprocess.Popen(
        system.on_core(system.LOAD_CORE, command), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        line = opener.stdout.readline().strip()
        if line != "ready":
            raise RuntimeError(f"idle connections: {line or 'nothing'}; {process.last_lines()}")
        time.sleep(1.5)
        return process.memory()
    finally:
        opener.stdin.close()
        opener.wait(30)


def size(path, work):
    """Stripped, in MB."""
    stripped = work / "stripped"
    try:
        subprocess.run(["strip", "-o", stripped, path], check=True, capture_output=True)
        return stripped.stat().st_size / 1e6
    except (OSError, subprocess.CalledProcessError):
        return pathlib.Path(path).stat().st_size / 1e6


def instructions(bench, proxy, requests, conns=16):
    """User-space instructions per request: slope of two runs under callgrind."""
    scenario = scenarios.Scenario("instructions", "", None, requests, conns=conns)
    counts = []
    for count in (requests, 3 * requests):
        wiring = bench.wiring()
        out = bench.work / "callgrind.out"
        out.unlink(missing_ok=True)
        command = ["valgrind", "--tool=callgrind", f"--callgrind-out-file={out}", *proxy.command(wiring)]
        with system.Process("callgrind", command, system.PROXY_CORE) as process:
            process.wait_for_port(wiring.listen, 120)
            if "remote" in proxy.name:
                time.sleep(3)
            before, _ = bench.spans()
            figures = scenarios.send(scenario, bench.programs, wiring.listen, count)
            if figures["errors"]:
                raise RuntimeError(f"under callgrind: {figures}")
            if proxy.traced == 1.0:
                bench.wait_for_spans(before + count, 30)
            process.stop(60)
        found = re.search(r"^(?:summary|totals): (\d+)", out.read_text(errors="replace"), re.M)
        counts.append(int(found[1]))
    return (counts[1] - counts[0]) / (2 * requests)


def certificate(work):
    """A self-signed certificate for 127.0.0.1."""
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2",
         "-keyout", work / "key.pem", "-out", work / "cert.pem", "-subj", "/CN=localhost",
         "-addext", "subjectAltName=IP:127.0.0.1,DNS:localhost"],
        check=True, capture_output=True,
    )
