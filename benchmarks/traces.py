"""What traces cost: the `nats` benchmark's farm without them, with one in a hundred sampled, and with all of them.

Counted is CPU per message of all processes of the farm; the collector is another process, which takes all and keeps
nothing. There is no bound: the figure says what a probability costs.
"""

from __future__ import annotations

import argparse
import contextlib
import subprocess
import tempfile
from pathlib import Path

from benchmarks import machine, parts
from benchmarks.report import Report, median
from tests.servers.process import free_port

SECONDS = 3.0
SIDES = {"not traced": None, "probability 0": "0", "probability 0.01": "0.01", "probability 1": "1"}


def run(options: argparse.Namespace) -> Report:
    """Alternate the sides for so many rounds."""
    report = Report("traces", unit="CPU µs per message")
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        port = free_port()
        collector = stack.enter_context(
            parts.process(parts.PYTHON, "-m", "benchmarks.baselines.collector", str(port), stdout=subprocess.PIPE)
        )
        assert collector.stdout is not None and collector.stdout.readline() == b"ready\n"
        sides = {}
        for name, probability in SIDES.items():
            url = stack.enter_context(parts.nats_server())
            app = parts.hello_app(folder / name, url)
            environ = {}
            if probability is not None:
                environ = {
                    "ATMO_TRACER_TYPE": "collector",
                    "ATMO_TRACER_COLLECTOR_ENDPOINT": f"127.0.0.1:{port}",
                    "ATMO_TRACER_PROBABILITY": probability,
                }
            sides[name] = url, machine.tree(stack.enter_context(parts.farm(app, environ=environ)))
        cpu: dict[str, list[float]] = {name: [] for name in sides}
        for url, _ in sides.values():
            parts.drive(url, "bench.0", in_flight=256, seconds=1)
        for _ in range(options.rounds or 7):
            for name, (url, pids) in sides.items():
                before = machine.cpu_s(pids)
                result = parts.drive(url, "bench.0", in_flight=256, seconds=SECONDS)
                cpu[name].append((machine.cpu_s(pids) - before) * 1e6 / result["answered"])
    report.header = ("", "CPU µs/msg", "added")
    plain = cpu["not traced"]
    for name, values in cpu.items():
        added = median([one - other for one, other in zip(values, plain, strict=True)])
        report.rows.append((name, f"{median(values):.1f}", f"{added:+.1f}"))
    report.series = cpu
    return report
