"""What a consumer costs in memory, how soon it is there, 200 of them on one machine, growth over a million messages."""

from __future__ import annotations

import argparse
import contextlib
import tempfile
import time
from pathlib import Path

from atmo_farm.runtime.pool import KEPT_IDLE_S
from benchmarks import machine, parts
from benchmarks.report import Check, Report, median

HANDLERS = 200
MESSAGES = 1_000_000
WARM_UP = 200_000
SHRINKS_S = 2 * KEPT_IDLE_S + 1
"""After which the instances that a peak made are gone: what is left then is what messages leave behind."""
MIB = 1 << 20


def run(options: argparse.Namespace) -> Report:  # noqa: ARG001
    """Two farms, one after the other: one of a single handler, one of 200."""
    report = Report("memory", unit="MiB private, each consumer")
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        url = stack.enter_context(parts.nats_server())
        with parts.farm(parts.hello_app(folder / "one", url)) as master:
            consumer = machine.consumers(master)[0]
            parts.drive(url, "bench.0", in_flight=256, count=WARM_UP)
            time.sleep(SHRINKS_S)
            before = machine.private_bytes(consumer)
            for _ in range(10):
                parts.drive(url, "bench.0", in_flight=256, count=MESSAGES // 10)
            time.sleep(SHRINKS_S)
            growth = (machine.private_bytes(consumer) - before) / MIB
        began = time.perf_counter()
        with parts.farm(parts.hello_app(folder / "many", url, HANDLERS)) as master:
            all_ready_s = time.perf_counter() - began
            consumers = machine.consumers(master)
            private = [machine.private_bytes(pid) / MIB for pid in consumers]
            forked_ms = parts.fork_to_ready_ms(folder / "one")
    report.header = ("", "value")
    report.rows = [
        ("private memory of an idle consumer, median, MiB", f"{median(private):.1f}"),
        ("largest, MiB", f"{max(private):.1f}"),
        ("fork to ready, median, ms", f"{median(forked_ms):.1f}"),
        (f"{HANDLERS} handlers, from exec to all ready, s", f"{all_ready_s:.2f}"),
        (f"growth over {MESSAGES:,} messages, MiB", f"{growth:.2f}"),
    ]
    report.series = {"idle consumer": private}
    report.checks = [
        Check("private MiB of an idle consumer", median(private), "<=", 8),
        Check("fork to ready, ms", median(forked_ms), "<=", 50),
        Check(f"{HANDLERS} handlers ready, s", all_ready_s, "<=", 15),
        Check("growth over a million messages, MiB", growth, "<=", 2),
    ]
    assert len(consumers) == HANDLERS
    return report
