"""In which trace an output goes on, while nothing is traced."""

from __future__ import annotations

import subprocess
import sys

from atmo_farm.tracing.context import passed_on

PARENT = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"


def test_passed_on() -> None:
    """What names another trace itself keeps it."""
    own, came = {"A": "1"}, {"traceparent": PARENT, "tracestate": "s=1", "b": "2"}
    assert passed_on(came, own) == {"A": "1", "traceparent": PARENT, "tracestate": "s=1"}
    assert passed_on({"traceparent": PARENT}, own) == {"A": "1", "traceparent": PARENT}
    assert passed_on({"tracestate": "s=1"}, own) is own
    another = {"Traceparent": "another"}
    assert passed_on(came, another) is another


UNTRACED = """
import sys
from atmo_farm import processes
from atmo_farm.master import main
from atmo_farm.settings import Tracer
from atmo_farm.tracing.collector import collector
processes.preload()
assert collector(Tracer()) is None
from atmo_farm.consumer import main
print(sorted(name for name in sys.modules if name.split(".")[0] == "opentelemetry"))
"""


def test_nothing_is_imported() -> None:
    """Neither by the master nor by a consumer, where nothing is traced (nats-py imports aiohttp itself)."""
    assert subprocess.check_output([sys.executable, "-c", UNTRACED], text=True) == "[]\n"
