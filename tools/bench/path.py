#!/usr/bin/env python3
"""Measures links of each transport on an emulated path, and writes NAME.json, .md and .html.

Two parts. `sessions`: small messages of 50 sessions beside one download on the same link, 50 ms and some loss; what
their 99th percentile adds above the path's round trip. `rate`: one session on 100 ms x 200 Mbit/s without loss; its
share of the rate after 5 s. `tieline-loadgen path` runs this program at both ends: relay and callers near, agent and
target far.
"""

import argparse
import datetime
import html
import json
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request

NEAR = "10.77.0.1"
TUNNEL = "bench"

# Listeners of the relay. The namespace is the run's own, so the ports are free.
LISTENERS = ["--agent-listen", f"{NEAR}:9001", "--agent-listen", f"tls://{NEAR}:9444", "--tcp-listen", "127.0.0.1:9002",
             "--http-listen", f"tls://{NEAR}:9443", "--quic-listen", f"{NEAR}:9443", "--admin-listen", "127.0.0.1:9003"]
URLS = {"tcp": f"tcp://{NEAR}:9001", "tls": f"tls://{NEAR}:9444", "wss": f"wss://{NEAR}:9443",
        "quic": f"quic://{NEAR}:9443"}
TARGET = "127.0.0.1:7000"
ADMIN = "http://127.0.0.1:9003"

# Round trip of the first part, and its load: 5 messages of 256 B a second on each session.
ROUND_TRIP_MS = 50
SESSIONS = ["mixed", "--connections", "50", "--size", "256", "--rate", "250"]
SESSIONS_RATE = "100mbit"
PACED = "3mbit"

# Rate of the second part.
RATE_MBIT = 200

# Longest time until relay and agent are there, and until one cell has ended.
START_PATIENCE_S = 20
CELL_PATIENCE_S = 120

# Kernel settings of both ends: buffers for what is on its way.
SYSCTLS = ["net.ipv4.tcp_rmem=4096 131072 67108864", "net.ipv4.tcp_wmem=4096 16384 67108864"]

# Colours that suit colour-blind readers (Okabe and Ito).
COLOURS = {"tcp": "#0072b2", "tcp-lane": "#56b4e9", "tls": "#009e73", "wss": "#cc79a7", "quic": "#d55e00"}


# The ends.

def environment():
    """The caller's environment without settings of relay and agent."""
    return {name: value for name, value in os.environ.items() if not name.startswith("TIELINE_") and name != "RUST_LOG"}


def until(what, check):
    """Waits until `check` returns something."""
    end = time.monotonic() + START_PATIENCE_S
    while time.monotonic() < end:
        found = check()
        if found:
            return found
        time.sleep(0.02)
    raise SystemExit(f"not within {START_PATIENCE_S} s: {what}")


def tunnels():
    """The relay's rows, or nothing if it does not answer yet."""
    try:
        with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(f"{ADMIN}/tunnels", timeout=2) as answer:
            return json.load(answer)
    except OSError:
        return None


def near(work):
    """Relay and callers; prints the load generator's report with the links' facts."""
    cell = json.loads((work / "cell.json").read_text())
    programs = pathlib.Path(cell["programs"])
    lanes = [] if cell["link"] == "tcp-lane" else ["--bulk-run-bytes=0"]
    relay = [programs / "tieline-relay", "--json", "--open-anywhere", *LISTENERS, f"--tls-cert={work}/cert.pem",
             f"--tls-key={work}/key.pem", *lanes]
    with open(work / "relay.log", "w") as log:
        relay = subprocess.Popen(relay, env=environment(), stdin=subprocess.DEVNULL, stdout=log, stderr=log)
    try:
        until("the relay answers", lambda: tunnels() is not None)
        (work / "relay-is-up").touch()
        until("the tunnel is up", tunnels)
        load = [programs / "tieline-loadgen", *cell["load"], "--path", "relay", "--relay-tcp", "127.0.0.1:9002",
                "--tunnel", TUNNEL, "--rounds", "1", "--no-pin", "--json"]
        ran = subprocess.run(load, env=environment(), stdout=subprocess.PIPE, timeout=CELL_PATIENCE_S)
        if ran.returncode:
            raise SystemExit(f"the load failed: {ran.returncode}")
        links = [path for row in tunnels() or [] for path in row["paths"]]
        print(json.dumps({"report": json.loads(ran.stdout), "links": links}))
    finally:
        relay.kill()
        relay.wait()


def far(work):
    """Target and agent; ends with the path."""
    cell = json.loads((work / "cell.json").read_text())
    programs = pathlib.Path(cell["programs"])
    url = URLS[cell["link"].removesuffix("-lane")]
    target = [programs / "tieline-loadgen", "target", "any", "--listen", TARGET]
    agent = [programs / "tieline", "serve", "--json", "--no-look", "--proxy", "none", "--relay", url, "--to", TARGET,
             "--name", TUNNEL, "--state-dir", work / "agent"]
    if not url.startswith("tcp:"):
        agent += ["--ca", work / "cert.pem"]
    with open(work / "agent.log", "w") as log:
        subprocess.Popen(target, env=environment(), stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        until("the relay is up", (work / "relay-is-up").exists)
        agent = subprocess.Popen(agent, env=environment(), stdin=subprocess.DEVNULL, stdout=log, stderr=log)
    sys.exit(agent.wait())


# The cells.

def cells(arguments):
    """What is measured, in the order of the report: (part, facts, flags of the path, load)."""
    window = ["--warm-up", "3s", "--duration", f"{arguments.duration}s"]
    found = []
    if "sessions" in arguments.only:
        for control in arguments.controls:
            # BBR stands beside CUBIC at one loss only, which keeps the whole run at half an hour.
            for loss in ["0.3", "1"] if control == "cubic" else ["0.3"]:
                for bulk in [PACED, None]:
                    for link in ["tcp", "tls", "quic"]:
                        flags = ["--delay", f"{ROUND_TRIP_MS // 2}ms", "--rate", SESSIONS_RATE, "--queue", "1bdp",
                                 "--loss", f"{loss}%"]
                        load = SESSIONS + (["--bulk-rate", bulk] if bulk else []) + window
                        facts = {"control": control, "loss_percent": float(loss), "bulk": bulk or "unpaced", "link": link}
                        found.append(("sessions", facts, flags, load))
    if "rate" in arguments.only:
        for control in arguments.controls:
            for link in ["tcp", "tcp-lane", "tls", "wss", "quic"]:
                flags = ["--delay", "50ms", "--rate", f"{RATE_MBIT}mbit", "--queue", "1bdp"]
                load = ["bulk", "down", "--warm-up", "5s", "--duration", "5s"]
                found.append(("rate", {"control": control, "link": link}, flags, load))
    return found


def measure(cell, seed, arguments):
    """One run of a cell; its values."""
    part, facts, flags, load = cell
    with tempfile.TemporaryDirectory(prefix="tieline-path-") as work:
        work = pathlib.Path(work)
        certificate(work)
        told = {"programs": str(arguments.programs), "link": facts["link"], "load": load}
        (work / "cell.json").write_text(json.dumps(told))
        own = f"exec '{sys.executable}' '{pathlib.Path(__file__).resolve()}'"
        sysctls = [*SYSCTLS, f"net.ipv4.tcp_congestion_control={facts['control']}"]
        command = [arguments.programs / "tieline-loadgen", "path", *flags, "--seed", str(seed)]
        command += [word for sysctl in sysctls for word in ("--sysctl", sysctl)]
        command += ["--report", work / "path.json", "--near", f"{own} near '{work}'", "--far", f"{own} far '{work}'"]
        ran = subprocess.run(command, env={**environment(), "QUIC_CONGESTION": facts["control"]}, text=True,
                             stdout=subprocess.PIPE, stderr=subprocess.PIPE, timeout=CELL_PATIENCE_S + 60)
        if ran.returncode:
            logs = [(work / name).read_text()[-2000:] for name in ("relay.log", "agent.log") if (work / name).exists()]
            raise SystemExit("\n".join([f"{facts} failed", ran.stderr[-2000:], *logs]))
        near_end, path = json.loads(ran.stdout), json.loads((work / "path.json").read_text())
    values = near_end["report"]["scenarios"][0]["paths"][0]
    median = lambda name: values[name]["median"]
    mbit = median("mib_per_s") * (1 << 20) * 8 / 1e6
    row = {"seed": seed, "mbit_per_s": round(mbit, 3), "links": near_end["links"],
           "late_ms_max": max(path[way]["late_ns_max"] for way in ("near_to_far", "far_to_near")) / 1e6}
    if part == "rate":
        return {**row, "share": round(mbit / RATE_MBIT, 4)}
    added = {f"added_{name}_ms": round(median(f"{name}_us") / 1e3 - ROUND_TRIP_MS, 3) for name in ("p50", "p90", "p99", "p999")}
    return {**row, **added}


def certificate(folder):
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2",
               "-subj", "/CN=localhost", "-addext", f"subjectAltName=IP:{NEAR}", "-addext",
               "basicConstraints=critical,CA:FALSE", "-keyout", folder / "key.pem", "-out", folder / "cert.pem"]
    subprocess.run(command, check=True, capture_output=True)
    os.chmod(folder / "key.pem", 0o600)


def usable_controls():
    """Congestion controls that a namespace may choose: the machine's default, and those it allows to all."""
    read = lambda name: pathlib.Path(f"/proc/sys/net/ipv4/tcp_{name}").read_text().split()
    return set(read("congestion_control")) | set(read("allowed_congestion_control"))


# The report.

def spread(rows, name):
    values = sorted(row[name] for row in rows)
    return statistics.median(values), values[0], values[-1]


def told(values, digits=1):
    median, least, most = values
    return f"{median:.{digits}f} ({least:.{digits}f}..{most:.{digits}f})"


def find(results, part, **wanted):
    for result in results:
        if result["part"] == part and all(result[key] == value for key, value in wanted.items()):
            return result["rounds"]
    return None


def ratio(over, quic):
    """What one link adds divided by what QUIC adds, round by round. Below 0.1 ms the emulator is not exact."""
    pairs = zip(over, quic)
    values = sorted(max(a["added_p99_ms"], 0.1) / max(b["added_p99_ms"], 0.1) for a, b in pairs)
    return statistics.median(values), values[0], values[-1]


def groups(results):
    """Facts of each group of links that are compared, in order."""
    found = []
    for result in results:
        if result["part"] == "sessions":
            group = {key: result[key] for key in ("control", "loss_percent", "bulk")}
            if group not in found:
                found.append(group)
    return found


def title(group):
    return f"{group['control'].upper()}, {group['loss_percent']:g} % loss, bulk {group['bulk']}"


def markdown(results, facts):
    lines = ["# Links on an emulated path", "", "Written by `just bench-path`; the next run replaces it. Median of the rounds, "
             "with the least and the most in brackets.", ""]
    if groups(results):
        lines += [f"## 50 sessions beside one download on the same link, round trip {ROUND_TRIP_MS} ms", "",
                  "50 sessions with 5 messages of 256 B a second each, on a path of 100 Mbit/s. What latencies add above the "
                  "round trip, in ms. The last column divides the 99th percentile by that of the QUIC link, round by round.",
                  "", "| congestion control, loss, bulk | link | p50 | p90 | p99 | p99.9 | bulk Mbit/s | ÷ QUIC |",
                  "|---|---|---:|---:|---:|---:|---:|---:|"]
    for group in groups(results):
        quic = find(results, "sessions", link="quic", **group)
        for link in ("tcp", "tls", "quic"):
            rows = find(results, "sessions", link=link, **group)
            if rows is None:
                continue
            added = " | ".join(told(spread(rows, f"added_{name}_ms")) for name in ("p50", "p90", "p99", "p999"))
            compared = "" if link == "quic" or quic is None else told(ratio(rows, quic))
            bulk = told(spread(rows, "mbit_per_s"))
            lines.append(f"| {title(group)} | {link} | {added} | {bulk} | {compared} |")
    rates = [result for result in results if result["part"] == "rate"]
    if rates:
        lines += ["", f"## One session on 100 ms x {RATE_MBIT} Mbit/s without loss", "",
                  "A download, measured for 5 s after its first 5 s. `tcp-lane` is a link over TCP whose session has a connection "
                  "of its own, as by default. Headers of TCP and IP take 3.5 % of the rate.", "",
                  "| congestion control | link | Mbit/s | share of the rate |", "|---|---|---:|---:|"]
        for result in rates:
            rate, share = spread(result["rounds"], "mbit_per_s"), spread(result["rounds"], "share")
            lines.append(f"| {result['control']} | {result['link']} | {told(rate)} | {told([100 * it for it in share])} % |")
    late = max(row["late_ms_max"] for result in results for row in result["rounds"])
    lines += ["", "## Where and how", "", f"- latest arrival on the path: {late:.2f} ms too late"]
    lines += [f"- {name}: {value}" for name, value in facts]
    return "\n".join(lines) + "\n"


def bars(name, rows, unit):
    """Horizontal bars with a whisker from the least to the most, as inline SVG."""
    width, names, numbers, row_height = 560, 90, 190, 24
    full = max(max(most for _, (_, _, most) in rows), 1e-3)
    x = lambda value: names + (width - names - numbers) * max(value, 0) / full
    height = row_height * len(rows) + 6
    out = [f'<svg viewBox="0 0 {width} {height}" role="img" aria-label="{html.escape(name)}"><title>{html.escape(name)}</title>']
    for number, (link, (median, least, most)) in enumerate(rows):
        top = row_height * number + 4
        middle = top + 9
        out.append(f'<text x="{names - 8}" y="{middle + 4}" text-anchor="end">{link}</text>'
                   f'<rect x="{names}" y="{top}" width="{max(x(median) - names, 1):.1f}" height="18" fill="{COLOURS[link]}"/>'
                   f'<path class="whisker" d="M{x(least):.1f} {middle}H{x(most):.1f}M{x(least):.1f} {middle - 4}v8'
                   f'M{x(most):.1f} {middle - 4}v8"/>'
                   f'<text x="{width - numbers + 8}" y="{middle + 4}">{told((median, least, most))} {unit}</text>')
    return "".join(out) + "</svg>"


STYLE = ("body{font:15px/1.5 system-ui,'DejaVu Sans',sans-serif;color:#1a1a1a;background:#fff;max-width:1180px;margin:2rem auto;"
         "padding:0 1.2rem}svg{width:100%;max-width:560px}svg text{font:12px system-ui,'DejaVu Sans',sans-serif}"
         ".whisker{stroke:#1a1a1a;fill:none}section{display:inline-block;width:48%;min-width:420px;vertical-align:top}"
         "h2{font-size:1.25rem;border-top:1px solid #ddd;padding-top:1.1rem}h3{font-size:1rem;margin:1.2rem 0 .3rem}")


def page(results, facts):
    out = ["<!doctype html><html lang=\"en\"><meta charset=\"utf-8\"><title>Links on an emulated path</title>",
           f"<style>{STYLE}</style><h1>Links on an emulated path</h1><p>Bars are medians of the rounds, whiskers the least and "
           "the most.</p>"]
    if groups(results):
        out.append(f"<h2>50 sessions beside one download on the same link: what the 99th percentile adds above {ROUND_TRIP_MS} "
                   "ms</h2>")
    for group in groups(results):
        found = [(link, find(results, "sessions", link=link, **group)) for link in ("tcp", "tls", "quic")]
        rows = [(link, spread(rounds, "added_p99_ms")) for link, rounds in found if rounds]
        out.append(f"<section><h3>{html.escape(title(group))}</h3>{bars(title(group), rows, 'ms')}</section>")
    controls = list(dict.fromkeys(result["control"] for result in results if result["part"] == "rate"))
    if controls:
        out.append(f"<h2>One session on 100 ms x {RATE_MBIT} Mbit/s without loss: Mbit/s after 5 s</h2>")
    for control in controls:
        of = [result for result in results if result["part"] == "rate" and result["control"] == control]
        rows = [(result["link"], spread(result["rounds"], "mbit_per_s")) for result in of]
        out.append(f"<section><h3>{control.upper()}</h3>{bars(control, rows, 'Mbit/s')}</section>")
    out.append("<h2>Where and how</h2><ul>")
    out += [f"<li>{name}: {html.escape(value)}</li>" for name, value in facts]
    return "".join(out) + "</ul></html>\n"


def output(*command):
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def circumstances(arguments):
    """Machine, software and commit of the measurement; no host name, since the numbers are published."""
    cpu = next((line.split(":", 1)[1].strip() for line in open("/proc/cpuinfo") if line.startswith("model name")),
               os.uname().machine)
    memory_mib = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // (1 << 20)
    changed = " with uncommitted changes" if output("git", "status", "--porcelain") else ""
    return [
        ("date", datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%d %H:%M UTC")),
        ("commit", output("git", "rev-parse", "--short=12", "HEAD") + changed),
        ("command", " ".join(["just bench-path", *sys.argv[1:]])),
        ("machine", f"{cpu}, {len(os.sched_getaffinity(0))} cores, {memory_mib} MiB"),
        ("kernel", f"Linux {os.uname().release}"),
        ("rounds", f"{arguments.rounds}, with the seeds {arguments.seed} and following; the links of a round have the same seed"),
    ]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--programs", type=lambda text: pathlib.Path(text).resolve(), default="target/release",
                        help="folder of tieline-relay, tieline and tieline-loadgen")
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path("docs/bench"), help="folder for the report")
    parser.add_argument("--name", default="bench-path", help="base name of the report's files")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--duration", type=int, default=20, choices=range(1, 91), metavar="1..90",
                        help="measured seconds of each cell with sessions")
    parser.add_argument("--only", nargs="+", choices=["sessions", "rate"], default=["sessions", "rate"])
    parser.add_argument("--controls", nargs="+", choices=["cubic", "bbr"], default=["cubic", "bbr"],
                        help="congestion control of TCP and QUIC at both ends")
    parser.add_argument("--seed", type=int, default=1000)
    arguments = parser.parse_args()
    missing = set(arguments.controls) - usable_controls()
    if missing:
        raise SystemExit(f"namespaces may not choose {' and '.join(sorted(missing))} here: run `modprobe tcp_bbr` if it is "
                         "missing, and allow all: sysctl -w net.ipv4.tcp_allowed_congestion_control='reno cubic bbr'")
    if os.geteuid():
        raise SystemExit("an emulated path needs root")
    wanted = cells(arguments)
    results = [{"part": part, **facts, "rounds": []} for part, facts, _, _ in wanted]
    for number in range(arguments.rounds):
        for cell, result in zip(wanted, results):
            row = measure(cell, arguments.seed + number, arguments)
            result["rounds"].append(row)
            names = [str(value) for key, value in result.items() if key != "rounds"]
            print(f"round {number + 1} of {arguments.rounds}:", ", ".join(names), {k: v for k, v in row.items() if k != "links"},
                  file=sys.stderr, flush=True)
    facts = circumstances(arguments)
    arguments.out.mkdir(parents=True, exist_ok=True)
    base = arguments.out / arguments.name
    document = {"facts": dict(facts), "round_trip_ms": ROUND_TRIP_MS, "rate_mbit": RATE_MBIT, "results": results}
    base.with_suffix(".json").write_text(json.dumps(document) + "\n")
    base.with_suffix(".html").write_text(page(results, facts))
    base.with_suffix(".md").write_text(markdown(results, facts))
    print(markdown(results, facts))


if sys.argv[1:2] in (["near"], ["far"]) and len(sys.argv) == 3:
    {"near": near, "far": far}[sys.argv[1]](pathlib.Path(sys.argv[2]))
else:
    main()
