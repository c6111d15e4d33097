"""What it costs to be looked at: the `nats` benchmark's farm with its monitor on, scraped and asked for its status once
a second, against the same farm with the monitor off and nobody who asks.

Counted is CPU per message of all processes of the farm, the monitor among them. The sides alternate and each pair gives
one ratio; the bound has to hold for the upper 95 % bound of their median (by order statistics, whatever the
distribution). What each message counts, the histogram of attempts too, is in both sides: it cannot
be turned off.
"""

from __future__ import annotations

import argparse
import contextlib
import math
import tempfile
from collections.abc import Sequence
from pathlib import Path

from benchmarks import machine, parts
from benchmarks.report import Check, Report, median
from tests.servers.process import free_port

SECONDS = 2.0
ROUNDS = 60
CONFIDENCE = 0.95


def run(options: argparse.Namespace) -> Report:
    """Alternate the sides for so many rounds, at least 15."""
    rounds = max(15, options.rounds or ROUNDS)
    report = Report("observe", unit="CPU µs per message")
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        sides = {}
        for name, address in (("watched", f"127.0.0.1:{free_port()}"), ("monitor off", "off")):
            url = stack.enter_context(parts.nats_server())
            app = parts.hello_app(folder / f"app {name}", url)
            place = folder / name
            pid = stack.enter_context(parts.farm(app, "--monitor-address", address, "--run-dir", place))
            if address != "off":
                stack.enter_context(parts.process(parts.PYTHON, "-m", "benchmarks.watcher", address, place))
            sides[name] = (url, machine.tree(pid))
        cpu: dict[str, list[float]] = {name: [] for name in sides}
        for url, _ in sides.values():
            parts.drive(url, "bench.0", in_flight=256, seconds=1)
        for number in range(rounds):
            for name in list(sides)[:: 1 if number % 2 else -1]:
                url, pids = sides[name]
                before = machine.cpu_s(pids)
                result = parts.drive(url, "bench.0", in_flight=256, seconds=SECONDS)
                cpu[name].append((machine.cpu_s(pids) - before) * 1e6 / result["answered"])
    ratios = [watched / off for watched, off in zip(cpu["watched"], cpu["monitor off"], strict=True)]
    report.header = ("", "CPU µs/msg")
    report.rows = [(name, f"{median(values):.2f}") for name, values in cpu.items()]
    report.rows.append(("added, median", f"{100 * (median(ratios) - 1):+.2f} %"))
    report.series = cpu
    added = 100 * (upper_bound(ratios) - 1)
    report.checks.append(Check("CPU per message added, upper 95 % bound, %", added, "<=", 3.0))
    return report


def upper_bound(values: Sequence[float]) -> float:
    """Of the median: the smallest value that is above it with this confidence."""
    ordered, count, below = sorted(values), len(values), 0.0
    for place, value in enumerate(ordered):
        below += math.comb(count, place) / 2**count
        if below >= CONFIDENCE:
            return value
    return ordered[-1]
