"""p50 and p99 of a request through the farm, one at a time and at half of the farm's own full rate; and of the echo."""

from __future__ import annotations

import argparse
import contextlib
import tempfile
from pathlib import Path

from benchmarks import parts
from benchmarks.report import Check, Report, median

SECONDS = 3.0


def run(options: argparse.Namespace) -> Report:
    """Measure the farm's full rate once, then alternate the sides at both loads."""
    rounds = options.rounds or 5
    report = Report("latency", unit="p99, ms")
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        url = stack.enter_context(parts.nats_server())
        stack.enter_context(parts.farm(parts.hello_app(folder / "app", url)))
        stack.enter_context(parts.peer("nats_echo", url, "echo"))
        full = parts.drive(url, "bench.0", in_flight=256, seconds=SECONDS)
        half_rate = full["answered"] / full["seconds"] / 2
        loads = {"1 in flight": {"in_flight": 1}, "half load": {"rate": half_rate}}
        measured: dict[tuple[str, str], list[tuple[float, float]]] = {}
        for _ in range(rounds):
            for load, flags in loads.items():
                for side, subject in (("atmo-farm", "bench.0"), ("bare nats-py", "echo")):
                    result = parts.drive(url, subject, seconds=SECONDS, **flags)
                    measured.setdefault((load, side), []).append((result["p50_ms"], result["p99_ms"]))
    report.header = ("", "p50 ms", "p99 ms")
    for (load, side), values in measured.items():
        p50, p99 = (median(column) for column in zip(*values, strict=True))
        report.rows.append((f"{side}, {load}", f"{p50:.3f}", f"{p99:.3f}"))
        report.series[f"{side}, {load}"] = [p99 for _, p99 in values]
    report.rows.append((f"(half load: {half_rate:,.0f} msg/s)", "", ""))
    for load in loads:
        ours, theirs = measured[load, "atmo-farm"], measured[load, "bare nats-py"]
        added = median([a[1] - b[1] for a, b in zip(ours, theirs, strict=True)])
        report.checks.append(Check(f"p99 added at {load}, ms", added, "<=", 1.0))
    return report
