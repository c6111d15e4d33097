"""A change of one handler under load: how long until the new generation is in force, and what its neighbour notices.

Two handlers get requests at a fixed rate each. In every other round a reload changes the first one in the middle. Each
request must be answered; the neighbour's rate in a round with a reload is compared with that of the round without.
"""

from __future__ import annotations

import argparse
import contextlib
import tempfile
import threading
import time
from pathlib import Path

from atmo_farm.ipc.control import ControlClient
from benchmarks import parts
from benchmarks.report import Check, Report, median

RATE = 3000.0
"""Requests a second for each handler: about a tenth of what one does when it is alone."""
SECONDS = 3.0
AFTER_S = 1.0
"""From the driver's start to the reload."""


def run(options: argparse.Namespace) -> Report:
    """Alternate rounds without a reload and with one."""
    report = Report("reload", unit="neighbour's requests per s", header=("", "s", "neighbour's msg/s", "its p99 ms"))
    took: list[float] = []
    rates: dict[str, list[float]] = {"no reload": [], "reload": []}
    late: dict[str, list[float]] = {"no reload": [], "reload": []}
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        url = stack.enter_context(parts.nats_server())
        app = parts.hello_app(folder / "app", url, 2)
        stack.enter_context(parts.farm(app, "--run-dir", folder / "run"))
        for number in range(2 * (options.rounds or 7)):
            name = ("no reload", "reload")[number % 2]
            drivers = [_Load(url, f"bench.{handler}") for handler in range(2)]
            time.sleep(AFTER_S)
            if number % 2:
                took.append(_reload(app, folder / "run", number))
            _, neighbour = (driver.result() for driver in drivers)
            rates[name].append(neighbour["answered"] / neighbour["seconds"])
            late[name].append(neighbour["p99_ms"])
    for name, found in rates.items():
        report.rows.append((name, f"{median(took):.2f}" if name == "reload" else "", f"{median(found):,.0f}",
                            f"{median(late[name]):.2f}"))  # fmt: skip
    report.series = dict(rates)
    report.ratio = median([one / other for one, other in zip(rates["reload"], rates["no reload"], strict=True)])
    report.floor = 0.95
    report.checks = [
        Check("seconds to the new generation, slowest", max(took), "<=", 5.0),
        Check("rate of the neighbour, of the rate without a reload", report.ratio, ">=", 0.95),
    ]
    return report


class _Load(threading.Thread):
    """A driver's run; none of its requests may be lost."""

    def __init__(self, url: str, subject: str):
        super().__init__(daemon=True)
        self._url, self._subject = url, subject
        self._found: dict[str, float] = {}
        self.start()

    def run(self) -> None:
        self._found = parts.drive(self._url, self._subject, rate=RATE, seconds=SECONDS)

    def result(self) -> dict[str, float]:
        """When it is over."""
        self.join()
        assert self._found, f"the driver of {self._subject} failed"
        return self._found


def _reload(app: Path, run_folder: Path, number: int) -> float:
    """Change the first handler; seconds until that is in force."""
    directive = app / "Directive.yaml"
    first, rest = directive.read_text().split("    resource: bench.0\n")
    rest = rest[rest.index("    steps:") :]
    directive.write_text(f"{first}    resource: bench.0\n    maxInFlight: {1000 + number}\n{rest}")
    with ControlClient(run_folder / "control.sock") as farm:
        began = time.perf_counter()
        result = farm.ask("reload", {"wait": True})
        assert "bench" in result["changes"], result
        return time.perf_counter() - began
