"""100 B records of a topic, through Wasm into another, acks=all, committed: a farm of one consumer against bare loops.

Both client libraries, each against a loop of its own. All have at most 256 records at once, flush and commit once for
them. Counted is CPU: records per CPU second of all processes of the farm, against the loop's one. For librdkafka the
farm's rate counts too, against its own with kafka-python.
"""

from __future__ import annotations

import argparse
import contextlib
import tempfile
from pathlib import Path

from benchmarks import kafka_parts, machine, parts
from benchmarks.kafka_parts import DRIVERS, Load
from benchmarks.report import Check, Report, median

RECORDS = 20_000
FLOOR = 0.7
FASTER = 2.5


def run(options: argparse.Namespace) -> Report:
    """Alternate the sides for so many rounds."""
    report = Report("kafka", floor=FLOOR, unit="records per CPU second")
    rates: dict[str, list[float]] = {}
    per_cpu: dict[str, list[float]] = {}
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        address = stack.enter_context(kafka_parts.broker())
        sides: dict[str, tuple[int, Load]] = {}
        for driver in DRIVERS:
            ours, theirs = f"farm.{driver}", f"loop.{driver}"
            kafka_parts.make_topics(address, ours, theirs)
            app = kafka_parts.hello_app(folder / driver, address, ours, driver)
            sides[f"atmo-farm, {driver}"] = (stack.enter_context(parts.farm(app)), Load(address, ours))
            sides[f"{driver} loop"] = (
                stack.enter_context(kafka_parts.loop(address, theirs, driver)),
                Load(address, theirs),
            )
        if options.peers:
            kafka_parts.make_topics(address, "faststream")
            pid = stack.enter_context(parts.peer("faststream_kafka", address, "faststream"))
            sides["FastStream"] = (pid, Load(address, "faststream"))
        for _, load in sides.values():
            stack.callback(load.close)
            load.run(RECORDS // 10)
        for _ in range(options.rounds or 5):
            for name, (pid, load) in sides.items():
                pids = machine.tree(pid)
                before = machine.cpu_s(pids)
                rates.setdefault(name, []).append(RECORDS / load.run(RECORDS))
                per_cpu.setdefault(name, []).append(RECORDS / (machine.cpu_s(pids) - before))
    report.header = ("", "records/s", "CPU µs/record", "records per CPU s")
    for name, measured in per_cpu.items():
        cpu = median(measured)
        report.rows.append((name, f"{median(rates[name]):,.0f}", f"{1e6 / cpu:.1f}", f"{cpu:,.0f}"))
    report.series = per_cpu
    python, rdkafka = (f"atmo-farm, {driver}" for driver in DRIVERS)
    report.ratio = _paired(per_cpu[python], per_cpu["kafka-python loop"])
    report.checks = [
        Check("kafka-python: records per CPU second against its loop", report.ratio, ">=", FLOOR),
        Check("librdkafka: records per second against the farm's with kafka-python",
              _paired(rates[rdkafka], rates[python]), ">=", FASTER),
    ]  # fmt: skip
    for figure, one, other in (
        ("librdkafka: records per CPU second against the farm's with kafka-python", rdkafka, python),
        ("librdkafka: records per CPU second against its loop", rdkafka, "librdkafka loop"),
    ):
        report.rows.append((f"({figure}: {_paired(per_cpu[one], per_cpu[other]):.2f})", "", "", ""))
    return report


def _paired(ours: list[float], theirs: list[float]) -> float:
    return median([one / other for one, other in zip(ours, theirs, strict=True)])
