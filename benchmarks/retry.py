"""1 % of a durable handler's messages fail, are tried again and become dead letters: the rate of the others.

Each of them fails three times, 50 ms and 100 ms apart: with an error that it returns, or with a trap, which costs its
instance. The others' rate is theirs until the last of them is out, against the same messages with none that fails.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import tempfile
import time
from pathlib import Path

import nats
import wasmtime

from benchmarks import parts
from benchmarks.jetstream import kept, make_streams
from benchmarks.report import Check, Report, median

MESSAGES = 10_000
FLOOR = 0.9
RETURNS_ERROR, TRAPS = b"!" * 100, b"?" * 100
FUNCTION = """(module
  (import "env" "return_result" (func $result (param i32 i32 i32)))
  (import "env" "return_error" (func $error (param i32 i32 i32 i32)))
  (memory (export "memory") 1)
  (func (export "allocate") (param i32) (result i32) (i32.const 4096))
  (func (export "deallocate") (param i32 i32))
  (func (export "run_e") (param $at i32) (param $size i32) (param $ident i32)
    (if (i32.eq (i32.load8_u (local.get $at)) (i32.const 63)) (then unreachable))
    (if (i32.eq (i32.load8_u (local.get $at)) (i32.const 33))
      (then (call $error (i32.const 503) (local.get $at) (local.get $size) (local.get $ident)))
      (else (call $result (local.get $at) (local.get $size) (local.get $ident))))))"""
"""Echoes; answers with error 503 what begins with an exclamation mark, and traps on a question mark."""
EXTRA = (
    "    durable: farm\n    respondTo: {source: nats, resource: out.bench.0}\n"
    "    retry: {attempts: 3, initialDelay: 50ms, on: [error, trap]}\n"
)


def run(options: argparse.Namespace) -> Report:
    """Alternate for so many rounds."""
    report = Report("retry", floor=FLOOR, unit="messages per s", header=("", "msg/s"))
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        url = stack.enter_context(parts.nats_server("-js", "-sd", folder / "jetstream"))
        asyncio.run(make_streams(url, IN="bench.>", OUT="out.>", ATMO_DEAD="atmo.dead.>"))
        app = parts.hello_app(folder / "app", url, extra=EXTRA)
        (app / "greet/greet.wasm").write_bytes(wasmtime.wat2wasm(FUNCTION))
        stack.enter_context(parts.farm(app))
        kinds = {"none fails": b"", "1 % return an error": RETURNS_ERROR, "1 % trap": TRAPS}
        rates: dict[str, list[float]] = {name: [] for name in kinds}
        asyncio.run(_drive(url, MESSAGES // 10, RETURNS_ERROR))
        for _ in range(options.rounds or 7):
            for name, fails in kinds.items():
                rates[name].append(MESSAGES / asyncio.run(_drive(url, MESSAGES, fails)))
    report.rows += [(name, f"{median(found):,.0f}") for name, found in rates.items()]
    report.series = dict(rates)
    whole = rates.pop("none fails")
    for name, found in rates.items():
        ratio = median([one / other for one, other in zip(found, whole, strict=True)])
        report.checks.append(Check(f"{name}: rate of the others, of the rate when none fails", ratio, ">=", FLOOR))
    report.ratio = min(check.value for check in report.checks)
    return report


async def _drive(url: str, count: int, fails: bytes) -> float:
    """Publish so many that succeed, and `fails` with each hundred, if it is not empty; seconds until those are out.

    Returns when the dead letters of the others are there as well.
    """
    client = await nats.connect(url, pending_size=64 << 20)
    outputs = await kept(client, "OUT") + count
    dead = await kept(client, "ATMO_DEAD") + (count // 100 if fails else 0)
    began = time.perf_counter()
    for number in range(count):
        await client.publish("bench.0", b"x" * 100)
        if fails and number % 100 == 0:
            await client.publish("bench.0", fails)
    await client.flush()
    while await kept(client, "OUT") < outputs:  # noqa: ASYNC110
        await asyncio.sleep(0.01)
    seconds = time.perf_counter() - began
    while await kept(client, "ATMO_DEAD") < dead:  # noqa: ASYNC110
        await asyncio.sleep(0.01)
    assert (await kept(client, "OUT"), await kept(client, "ATMO_DEAD")) == (outputs, dead)
    await client.close()
    return seconds
