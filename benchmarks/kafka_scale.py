"""8 partitions, 1, 2 and 4 workers: records per CPU second of all processes of the farm, and the order of outputs.

Both client libraries, `ordering: partition`. On a machine with few CPUs more workers are not faster: measured is that
a record costs no more with them.
"""

from __future__ import annotations

import argparse
import contextlib
import tempfile
from pathlib import Path

from benchmarks import kafka_parts, machine, parts
from benchmarks.kafka_parts import DRIVERS, Load
from benchmarks.report import Check, Report, median

RECORDS = 8_000
PARTITIONS = 8
WORKERS = (1, 2, 4)
FLOOR = 0.9


def run(options: argparse.Namespace) -> Report:
    """Alternate the farms for so many rounds, each library by itself."""
    report = Report("kafka-scale", unit="records per CPU second")
    report.header = ("", "records/s", "CPU µs/record", "of one worker's")
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        address = stack.enter_context(kafka_parts.broker())
        for driver in DRIVERS:
            _measure(report, address, folder, driver, options.rounds or 5)
    return report


def _measure(report: Report, address: str, folder: Path, driver: str, rounds: int) -> None:
    rates: dict[int, list[float]] = {workers: [] for workers in WORKERS}
    per_cpu: dict[int, list[float]] = {workers: [] for workers in WORKERS}
    with contextlib.ExitStack() as stack:
        sides: dict[int, tuple[int, Load]] = {}
        for workers in WORKERS:
            topic = f"{driver}.{workers}"
            kafka_parts.make_topics(address, topic, partitions=PARTITIONS)
            app = kafka_parts.hello_app(folder / topic, address, topic, driver, workers)
            load = stack.enter_context(contextlib.closing(Load(address, topic, PARTITIONS)))
            sides[workers] = (stack.enter_context(parts.farm(app)), load)
            load.run(RECORDS // 4)
        for _ in range(rounds):
            for workers, (pid, load) in sides.items():
                pids = machine.tree(pid)
                before = machine.cpu_s(pids)
                rates[workers].append(RECORDS / load.run(RECORDS))
                per_cpu[workers].append(RECORDS / (machine.cpu_s(pids) - before))
        disorder = sum(load.disorder() for _, load in sides.values())
    for workers in WORKERS:
        name = f"{driver}, {workers} workers"
        share = median([one / other for one, other in zip(per_cpu[workers], per_cpu[1], strict=True)])
        report.rows.append(
            (name, f"{median(rates[workers]):,.0f}", f"{1e6 / median(per_cpu[workers]):.1f}", f"{share:.2f}")
        )
        report.series[name] = per_cpu[workers]
        if workers > 1:
            figure = f"{driver}: records per CPU second of {workers} workers against one's"
            report.checks.append(Check(figure, share, ">=", FLOOR))
    report.checks.append(Check(f"{driver}: outputs out of order", disorder, "<=", 0))
