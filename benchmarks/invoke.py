"""One hello call inside a consumer's loop, against wasmtime-py's public API doing the same call.

Ours is `Function.begin`, as the sequence calls it: pool, fiber, deadline, result. The baseline writes its input with
`Memory.write`, calls allocate, run_e and deallocate, and takes the result in a Python host function.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

import uvloop
import wasmtime

from atmo_farm import clock
from atmo_farm.capabilities.request import Request
from atmo_farm.capabilities.rules import Rules
from atmo_farm.capabilities.services import Capabilities
from atmo_farm.consumer.guest_log import HandlerGuestLog
from atmo_farm.runtime.engine import Engine
from atmo_farm.runtime.function import Function, Unfinished
from atmo_farm.runtime.modules import compile_module
from benchmarks.parts import HELLO_WASM
from benchmarks.report import Check, Report, median

OURS, THEIRS = 100_000, 5_000
"""Calls of one round."""
INPUT = b"world"


def run(options: argparse.Namespace) -> Report:
    """Alternate for so many rounds; µs of wall time for one call."""
    return uvloop.run(_measure(options.rounds or 7))


async def _measure(rounds: int) -> Report:
    report = Report("invoke", floor=20, unit="µs per call", header=("", "µs per call"))
    wasm = HELLO_WASM.read_bytes()
    capabilities = Capabilities(Rules(), HandlerGuestLog("bench"))
    services = capabilities.for_call("greet", Request("STREAM", "bench", "1", INPUT))
    ours: list[float] = []
    theirs: list[float] = []
    with tempfile.TemporaryDirectory() as folder:
        engine = Engine(instances=1)
        function = Function(
            engine,
            compile_module(wasm, Path(folder)),
            memory_limit=64 << 20,
            isolation="pooled",
            pool_warm=1,
            pool_max=1,
        )
        await function.warm()
        baseline = _Public(wasm)
        deadline = clock.monotonic() + 3600
        expected = await function.call(INPUT, services, deadline)
        assert expected == baseline.call(INPUT)
        for _ in range(rounds):
            began = time.perf_counter()
            for _ in range(OURS):
                ran = function.begin(INPUT, services, deadline)
                if type(ran) is Unfinished:
                    await ran
            ours.append((time.perf_counter() - began) / OURS * 1e6)
            began = time.perf_counter()
            for _ in range(THEIRS):
                baseline.call(INPUT)
            theirs.append((time.perf_counter() - began) / THEIRS * 1e6)
        engine.close()
    report.series = {"atmo-farm": ours, "wasmtime-py": theirs}
    report.rows = [(name, f"{median(values):.2f}") for name, values in report.series.items()]
    report.ratio = median([b / a for a, b in zip(ours, theirs, strict=True)])
    report.checks = [
        Check("µs per call", median(ours), "<=", 5.0),
        Check("times faster than wasmtime-py's public API", report.ratio, ">=", 20),
    ]
    return report


class _Public:
    """The guest through wasmtime-py's own objects."""

    def __init__(self, wasm: bytes):
        engine = wasmtime.Engine()
        module, self._store, linker = wasmtime.Module(engine, wasm), wasmtime.Store(engine), wasmtime.Linker(engine)
        self._output: list[bytes] = []
        for item in module.imports:
            if item.name == "return_result":
                linker.define_func("env", item.name, item.type, self._return_result, access_caller=True)
        linker.define_unknown_imports_as_traps(module)
        exports = linker.instantiate(self._store, module).exports(self._store)
        self._memory = exports["memory"]
        self._allocate, self._run, self._free = exports["allocate"], exports["run_e"], exports["deallocate"]

    def _return_result(self, caller: wasmtime.Caller, at: int, size: int, _: int) -> None:
        self._output.append(bytes(caller["memory"].read(caller, at, at + size)))

    def call(self, data: bytes) -> bytes:
        """One call."""
        at = self._allocate(self._store, len(data))
        self._memory.write(self._store, data, at)
        self._run(self._store, at, len(data), 0)
        self._free(self._store, at, len(data))
        return self._output.pop()
