"""One table of medians, spreads and ratios; the bars; as text and as data."""

import json
import pathlib
import statistics

from . import scenarios

ROWS_FOR_RATIOS = ("raw-copy", "nginx", "envoy otlp")


def save(directory, results, text):
    """Writes `latest.txt` and `latest.json`."""
    directory = pathlib.Path(directory)
    directory.mkdir(exist_ok=True)
    (directory / "latest.txt").write_text(text)
    (directory / "latest.json").write_text(json.dumps(compact(results), indent=1) + "\n")


def compact(value):
    """Figures to five significant digits: the rest is noise."""
    if isinstance(value, float):
        return float(f"{value:.5g}")
    if isinstance(value, dict):
        return {key: compact(item) for key, item in value.items()}
    if isinstance(value, list):
        return [compact(item) for item in value]
    return value


def text(results):
    """The whole report."""
    conditions, options = results["conditions"], results["options"]
    lines = [
        f"Pillion beside other proxies, {conditions['date']}",
        f"{conditions['cores']} x {conditions['cpu']}, Linux {conditions['kernel']}; proxy on core 0, the rest on core 1; "
        f"load average {conditions['load_average'][0]} before, {conditions['load_average_after'][0]} after",
        f"{options['rounds']} rounds, {options['requests']} requests in the cheapest scenario",
        *doubts(results),
        *(f"{name}: {version}" for name, version in results["versions"].items()),
    ]
    if results["missing"]:
        lines.append(f"not here, left out: {', '.join(results['missing'])}")
    lines += ["", "CPU: user and system time of the proxy for one request, median, and half of the distance between the",
              "quartiles in percent of it; the kernel's share of all rounds; then CPU as a multiple of three others in the",
              "same run. MiB: the most resident memory until the end of the load.", ""]
    for name, block in results["scenarios"].items():
        table = {"footprint": footprint, "instructions": instructions, "latency": latency}.get(name, cpu)
        lines += [f"{name}: {block['title']}", *table(block["rows"]), ""]
    lines += ["bars", *bars(results), ""]
    if results["failures"]:
        lines += ["FAILED", *(f"  {' '.join(failure.split())}" for failure in results["failures"]), ""]
    return "\n".join(lines)


BEGIN, END = "<!-- what tests/bench/compare/run measured -->", "<!-- end of what it measured -->"


def into_readme(path, results):
    """Puts the figures that people ask for between the README's two marks."""
    text = path.read_text()
    if BEGIN not in text or END not in text:
        return
    before, rest = text.split(BEGIN, 1)
    path.write_text(before + BEGIN + "\n" + "\n".join(readme(results)) + "\n" + END + rest.split(END, 1)[1])


def readme(results):
    """A short table, with date and conditions."""
    conditions, options, found = results["conditions"], results["options"], results["scenarios"]

    def of(scenario, name, key="cpu_us"):
        return median(found.get(scenario, {}).get("rows", {}), name, key)

    def cell(value, digits=1):
        return "" if value is None else f"{value:.{digits}f}"

    lines = [
        f"{conditions['date']}, {conditions['cores']} x {conditions['cpu']}, Linux {conditions['kernel']}, medians of "
        f"{options['rounds']} rounds in one run, one core for the proxy; CPU time in microseconds a request.",
        *(f"**{doubt}**" for doubt in doubts(results)),
        "",
        "| proxy | keep-alive | 16 KiB | new connection | h2c | gRPC | instructions | MiB idle | MiB, 10,000 idle connections |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for name in found.get("keepalive", {}).get("rows", {}):
        if name != "direct":
            cells = [cell(of(scenario, name)) for scenario in ("keepalive", "body16k", "close", "h2c-both", "grpc")]
            cells.append(cell(of("instructions", name, "instructions"), 0))
            cells += [cell(of("footprint", name, key)) for key in ("idle_mib", "conns_10000_mib")]
            lines.append(f"| {name} | {' | '.join(cells)} |")
    return lines


def doubts(results):
    """What a reader must know before quoting anything."""
    found = []
    if results["options"]["rounds"] < 5:
        found.append("NOT TO BE QUOTED: fewer than five rounds")
    conditions = results["conditions"]
    if max(conditions["load_average"][0], conditions["load_average_after"][0]) > conditions["cores"]:
        found.append("NOT TO BE QUOTED: the machine was busy with other work; only instruction counts, sizes and span "
                     "counts hold")
    return found


def cpu(rows):
    lines = [f"  {'':22}{'CPU us':>9}{'+-%':>6}{'kernel':>8}" + "".join(f"{'/ ' + name:>13}" for name in ROWS_FOR_RATIOS)
             + f"{'MiB':>8}{'req/s':>10}{'errors':>8}  spans arrived"]
    for name, rounds in rows.items():
        rate = statistics.median(r["load"]["requests"] / r["load"]["seconds"] for r in rounds)
        errors = sum(r["load"]["errors"] for r in rounds)
        if "cpu_us" not in rounds[0]:
            lines.append(f"  {name:22}{'':>9}{'':>6}{'':>8}" + " " * 13 * len(ROWS_FOR_RATIOS) + f"{'':>8}{rate:>10.0f}{errors:>8}")
            continue
        own = median(rows, name, "cpu_us")
        ratios = "".join(format_ratio(own, median(rows, other, "cpu_us")) for other in ROWS_FOR_RATIOS)
        memory = f"{median(rows, name, 'peak_mib') or 0:>8.1f}" if "peak_mib" in rounds[0] else f"{'':>8}"
        lines.append(f"  {name:22}{own:>9.1f}{spread(rounds, 'cpu_us'):>6.1f}{kernel(rounds):>8}{ratios}{memory}{rate:>10.0f}{errors:>8}"
                     f"  {spans(rounds)}")
    return lines


def kernel(rounds):
    """The kernel's share of the time, where there are ticks enough to tell."""
    user, system = map(sum, zip(*(r.get("ticks", (0, 0)) for r in rounds)))
    return f"{system / (user + system) * 100:.0f}%" if user + system >= 10 else ""


def spans(rounds):
    counted = [r["spans"] for r in rounds if "spans" in r]
    if not counted:
        return ""
    expected = sum(c["expected"] for c in counted)
    arrived = sum(c["arrived"] for c in counted)
    posts = sum(c["posts"] for c in counted)
    # A sampled share is a matter of chance; whole numbers are not.
    verdict = "" if arrived == expected or any(c["sampled"] for c in counted) else "  NOT ALL"
    return f"{arrived} of {expected:.0f} in {posts} posts{verdict}"


def latency(rows):
    lines = [f"  {'':22}" + "".join(f"{name:>10}" for name in ("p50 us", "p99 us", "p99.9 us"))
             + f"{'p99 s us':>10}"
             + "".join(f"{'added ' + name:>13}" for name in ("p50", "p99", "p99.9", "p99 s")) + f"{'CPU us':>9}{'errors':>8}  spans arrived"]
    for name, rounds in rows.items():
        own = [quantile(rows, name, key) or 0 for key in QUANTILES]
        base = [quantile(rows, "direct", key) for key in QUANTILES]
        added = "".join(f"{a - b:>13.0f}" if b is not None and name != "direct" else f"{'':>13}" for a, b in zip(own, base))
        cost = f"{median(rows, name, 'cpu_us'):>9.1f}" if "cpu_us" in rounds[0] else f"{'':>9}"
        errors = sum(r["load"]["errors"] for r in rounds)
        lines.append(f"  {name:22}" + "".join(f"{value:>10.0f}" for value in own) + added + f"{cost}{errors:>8}  {spans(rounds)}")
    return lines


# The last one is the p99 of the middle second of a round: a host that halts the machine moves the p99 of all rows.
QUANTILES = ("p50_us", "p99_us", "p999_us", "second_p99_us")


def quantile(rows, name, key):
    values = [r["load"][key] for r in rows.get(name, []) if key in r["load"]]
    return statistics.median(values) if values else None


def footprint(rows):
    keys = ["start_ms", *sorted({k for rounds in rows.values() for r in rounds for k in r if k.endswith("_mib")}, key=memory_order), "size_mb"]
    lines = [f"  {'':22}" + "".join(f"{key:>18}" for key in keys)]
    for name in rows:
        values = [median(rows, name, key) for key in keys]
        lines.append(f"  {name:22}" + "".join(f"{value:>18.1f}" if value is not None else f"{'':>18}" for value in values))
    return lines


def memory_order(key):
    digits = "".join(filter(str.isdigit, key))
    return (key == "closed_mib", int(digits or 0))


def instructions(rows):
    off = median(rows, "pillion off", "instructions")
    return [f"  {'':22}{'':>12}{'/ pillion off':>15}"] + [
        f"  {name:22}{median(rows, name, 'instructions'):>12.0f}{median(rows, name, 'instructions') / off if off else 0:>15.2f}"
        for name in rows
    ]


def median(rows, name, key):
    values = [r[key] for r in rows.get(name, []) if key in r]
    return statistics.median(values) if values else None


def spread(rounds, key):
    values = [r[key] for r in rounds]
    if len(values) < 2:
        return 0.0
    low, _, high = statistics.quantiles(values, n=4, method="inclusive")
    return (high - low) / 2 / statistics.median(values) * 100


def format_ratio(value, other):
    return f"{value / other:>13.2f}" if value and other else f"{'':>13}"


def lost(found):
    """Spans that should have arrived and did not, or too often, of all rows that trace every request."""
    counted = [r["spans"] for block in found.values() for name, rounds in block["rows"].items() if name.startswith("pillion")
               for r in rounds if "spans" in r and not r["spans"]["sampled"]]
    return sum(abs(c["expected"] - c["arrived"]) for c in counted) if counted else None


# Bars of growing numbers of connections, and how many those are.
GROWTH = {
    "1 connection against 64": 1,
    "1,000 connections against 64": 1000,
    "10,000 connections against 64": 10000,
}


def bars(results):
    """What issue after issue promised, and what this run shows."""
    found = results["scenarios"]

    def of(scenario, name, key="cpu_us"):
        return median(found.get(scenario, {}).get("rows", {}), name, key)

    def added(name, key="p99_us"):
        rows = found.get("latency", {}).get("rows", {})
        own, base = quantile(rows, name, key), quantile(rows, "direct", key)
        return own - base if own is not None and base is not None else None

    traced, off = "pillion 100%", "pillion off"
    twice = of("inbound", traced)
    checks = [
        ("keep-alive, 100 % against Envoy's OTLP", of("keepalive", traced), of("keepalive", "envoy otlp"), 0.20),
        ("keep-alive, 100 % against the raw copy", of("keepalive", traced), of("keepalive", "raw-copy"), 2.2),
        ("keep-alive, 100 % against nginx untraced", of("keepalive", traced), of("keepalive", "nginx"), 1.3),
        ("instructions, 100 %", of("instructions", traced, "instructions"), 1, 35000),
        ("spans lost at full load", lost(found), 1, 0),
        ("100 % against off", of("keepalive", traced), of("keepalive", off), 1.20),
        ("0.1 % against off", of("keepalive", "pillion 0.1%"), of("keepalive", off), 1.05),
        ("linked against twice inbound", of("linked", traced), twice and 2 * twice, 1.1),
        ("added p99 against Envoy's", added(traced), added("envoy otlp"), 0.5),
        ("added p99 of the middle seconds", added(traced, "second_p99_us"), added("envoy otlp", "second_p99_us"), 0.5),
        ("h2c both, 100 % against Envoy", of("h2c-both", traced), of("h2c-both", "envoy otlp"), 0.25),
        ("h2c both, off against HAProxy", of("h2c-both", off), of("h2c-both", "haproxy"), 2.0),
        ("gRPC, 100 % against Envoy", of("grpc", traced), of("grpc", "envoy otlp"), 0.25),
        ("gRPC, off against HAProxy", of("grpc", off), of("grpc", "haproxy"), 2.0),
        ("16 KiB against the raw copy, off", of("body16k", off), of("body16k", "raw-copy"), 1.8),
        ("16 KiB against the raw copy, 100 %", of("body16k", traced), of("body16k", "raw-copy"), 1.8),
        ("new connections against nginx, off", of("close", off), of("close", "nginx"), 1.3),
        ("new connections against nginx, 100 %", of("close", traced), of("close", "nginx"), 1.3),
        ("idle MiB", of("footprint", traced, "idle_mib"), 1, 12),
        ("MiB with 10,000 idle connections", of("footprint", traced, "conns_10000_mib"), 1, 80),
        ("MiB after they close, against idle", of("footprint", traced, "closed_mib"), of("footprint", traced, "idle_mib"), 1.5),
        ("first answer against Envoy", of("footprint", traced, "start_ms"), of("footprint", "envoy otlp", "start_ms"), 0.2),
        ("stripped MB", of("footprint", off, "size_mb"), 1, 15),
        *((title, of(f"conns-{conns}", traced), of("conns-64", traced), 1.15) for title, conns in GROWTH.items()),
        *((f"{title} operations against 1{how}", of(f"operations-{count}", row), of("operations-1", row), 1.15)
          for row, how in ((traced, ""), ("pillion remote", ", remote"))
          for title, count in (("100", 100), ("5,000", 5000))),
        ("linked without forwarded headers, against twice", of("unaware", traced), twice and 2 * twice, 1.1),
        ("8 reporters against 1", of("reporters-8", traced), of("reporters-1", traced), 1.15),
    ]
    # What the same growth costs others is what the kernel and the processor's caches make of it.
    beside = {}
    for title, conns in GROWTH.items():
        others = {name: (of(f"conns-{conns}", name), of("conns-64", name)) for name in scenarios.GROWING if name != traced}
        told = [f"{name} {more / less:.2f}" for name, (more, less) in others.items() if more and less]
        beside[title] = f"  ({', '.join(told)})" if told else ""
    lines = []
    for title, value, against, bar in checks:
        if value is None or against is None:
            lines.append(f"  {title:48}{'':>10}  bar {bar:<8g}NOT MEASURED in this run")
            continue
        if bar and (value <= 0 or against <= 0):
            # Less than without a proxy: noise, whatever the quotient says.
            lines.append(f"  {title:48}{'':>10}  bar {bar:<8g}NOT MEASURABLE in this run")
            continue
        ratio = value / against
        lines.append(f"  {title:48}{ratio:>10.2f}  bar {bar:<8g}{'ok' if ratio <= bar else 'MISSED'}{beside.get(title, '')}")
    return lines
