"""100 B messages, 256 in flight: a farm of one consumer against a bare nats-py echo under the same driver.

Counted is CPU: messages per CPU second of all processes of the farm (master and consumer), against the echo's one.
"""

from __future__ import annotations

import argparse
import contextlib
import tempfile
from pathlib import Path

from benchmarks import machine, parts
from benchmarks.report import Check, Report, median

SECONDS = 4.0


def run(options: argparse.Namespace) -> Report:
    """Alternate the sides for so many rounds."""
    rounds = options.rounds or 5
    report = Report("nats", floor=0.55, unit="messages per CPU second")
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        url = stack.enter_context(parts.nats_server())
        sides = {
            "atmo-farm": ("bench.0", stack.enter_context(parts.farm(parts.hello_app(folder / "app", url)))),
            "bare nats-py": ("echo", stack.enter_context(parts.peer("nats_echo", url, "echo"))),
        }
        if options.peers:
            sides["FastStream"] = ("peer", stack.enter_context(parts.peer("faststream_echo", url, "peer")))
        rates: dict[str, list[float]] = {name: [] for name in sides}
        per_cpu: dict[str, list[float]] = {name: [] for name in sides}
        for name, (subject, _) in sides.items():
            parts.drive(url, subject, in_flight=256, seconds=1)
            del name
        for _ in range(rounds):
            for name, (subject, pid) in sides.items():
                pids = machine.tree(pid)
                before = machine.cpu_s(pids)
                result = parts.drive(url, subject, in_flight=256, seconds=SECONDS)
                rates[name].append(result["answered"] / result["seconds"])
                per_cpu[name].append(result["answered"] / (machine.cpu_s(pids) - before))
    report.header = ("", "msg/s", "CPU µs/msg", "msg per CPU s")
    for name in sides:
        cpu = median(per_cpu[name])
        report.rows.append((name, f"{median(rates[name]):,.0f}", f"{1e6 / cpu:.1f}", f"{cpu:,.0f}"))
    report.series = per_cpu
    pairs = zip(per_cpu["atmo-farm"], per_cpu["bare nats-py"], strict=True)
    report.ratio = median([ours / theirs for ours, theirs in pairs])
    report.checks.append(Check("messages per CPU second against the bare echo", report.ratio, ">=", 0.55))
    return report
