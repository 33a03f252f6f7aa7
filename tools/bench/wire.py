#!/usr/bin/env python3
"""Prints docs/bench/wire.md from the results of wire's benches in the given folder.

Criterion's estimates are in NAME/new/*.json, and the bytes of a session's state in state.jsonl.
"""

import datetime
import json
import os
import pathlib
import subprocess
import sys

# Name of each bench, and its unit of work.
TIMES = [
    ("header/encode", "a frame header written"),
    ("header/decode", "a frame header read and checked"),
    ("message/write", "a `Register` with a token of 200 bytes written"),
    ("message/verify", "the same frame read: verified, and made into values"),
    ("message/signature", "the signature of an agent's hello checked, once for a link"),
    ("mux/round_trip_256", "256 B there and back on one session: two `Data` frames, each sent and received"),
    ("mux/frames_256_sessions_1", "a frame of 256 B sent and received, 1 session"),
    ("mux/frames_256_sessions_64", "the same, 64 sessions in turn"),
    ("mux/frames_256_sessions_512", "the same, 512 sessions in turn"),
    ("mux/frames_32768", "a frame of 32 KiB sent and received, 4 in a row"),
    ("mux/open_and_close", "a session from `Open` to both `Finish`"),
]

HEAD = """\
# Frame codec and mux

Cost of the protocol alone, without sockets: `wire/benches`, with Criterion. Written by `just bench-wire`; the
next run replaces it.

Times cover both ends of a link in one thread on a simulated clock, including grants, pings and turns of the scheduler.
In place of two sockets, the bytes are copied once in memory; the times include this copy. Unit: ns per unit of work, the
mean, with Criterion's 95 % confidence interval in brackets.
"""

STATE = """
Bytes of state per idle session at each end of a link: what a mux with this many sessions frees when it is dropped, less
what a mux without sessions frees, divided by their number. Bytes requested from the allocator, without its overhead. A
hash map that doubles its size makes the number depend on how full it is.
"""


def nanoseconds(folder, name):
    """Mean and confidence interval of one unit of work."""
    latest = folder / name / "new"
    mean = json.loads((latest / "estimates.json").read_text())["mean"]
    units = json.loads((latest / "benchmark.json").read_text())["throughput"]["Elements"]
    interval = mean["confidence_interval"]
    return [value / units for value in (mean["point_estimate"], interval["lower_bound"], interval["upper_bound"])]


def told(value):
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def output(*command):
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def facts():
    """Machine, software and commit of the measurement; no host name, since the numbers are published."""
    cpu = next(
        (line.split(":", 1)[1].strip() for line in open("/proc/cpuinfo") if line.startswith("model name")),
        os.uname().machine,
    )
    memory_mib = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // (1 << 20)
    changed = " with uncommitted changes" if output("git", "status", "--porcelain") else ""
    return [
        ("date", datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%d %H:%M UTC")),
        ("commit", output("git", "rev-parse", "--short=12", "HEAD") + changed),
        ("command", "`just bench-wire`"),
        ("machine", f"{cpu}, {len(os.sched_getaffinity(0))} cores, {memory_mib} MiB"),
        ("kernel", f"Linux {os.uname().release}"),
        ("compiler", output("rustc", "--version")),
    ]


def main():
    folder = pathlib.Path(sys.argv[1])
    lines = [HEAD, "| bench | ns | unit of work |", "|---|---:|---|"]
    for name, unit in TIMES:
        mean, low, high = (told(value) for value in nanoseconds(folder, name))
        lines.append(f"| `{name}` | {mean} ({low}..{high}) | {unit} |")
    lines += [STATE, "| sessions | before | relay B | agent B |", "|---:|---|---:|---:|"]
    held = {}
    for line in (folder / "state.jsonl").read_text().splitlines():
        row = json.loads(line)
        held.setdefault((row["round_trips"], row["sessions"]), {})[row["end"]] = row["bytes"]
    for (round_trips, sessions), ends in held.items():
        before = f"{round_trips} round trips of 256 B" if round_trips else "just opened"
        lines.append(f"| {sessions:,} | {before} | {ends['relay']} | {ends['agent']} |")
    lines += ["", "## Where and how", ""]
    lines += [f"- {name}: {value}" for name, value in facts()]
    print("\n".join(lines))


main()
