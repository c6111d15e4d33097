"""1,000 messages in flight in one consumer, whose guests each wait 100 ms in a host call.

The host call is cache_get, answered by a client of the data-source process that asks nobody, after
`loop.call_later(0.1)`. The baseline is 1,000 asyncio tasks that wait for the same and do nothing else.
"""

from __future__ import annotations

import argparse
import asyncio
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import cast

import uvloop
import wasmtime

from atmo_farm.capabilities.datasources import DataSources
from atmo_farm.capabilities.rules import Rules
from atmo_farm.capabilities.services import Capabilities
from atmo_farm.consumer import sequence
from atmo_farm.consumer.attempts import Attempts
from atmo_farm.consumer.guest_log import HandlerGuestLog
from atmo_farm.consumer.worker import Worker
from atmo_farm.directive.model import Call, Handler, Step
from atmo_farm.ipc.arena import Arena, Field
from atmo_farm.ipc.client import Answer, ProxyClient
from atmo_farm.ipc.frames import Op
from atmo_farm.runtime.engine import Engine
from atmo_farm.runtime.function import Function
from atmo_farm.runtime.modules import compile_module
from atmo_farm.streams.base import Message, Output, Stream
from benchmarks.report import Check, Report, median

MESSAGES = 1000
WAIT_S = 0.1

GUEST = """(module
  (import "env" "return_result" (func $result (param i32 i32 i32)))
  (import "env" "cache_get" (func $cache_get (param i32 i32 i32) (result i32)))
  (import "env" "get_ffi_result" (func $fetch (param i32 i32) (result i32)))
  (memory (export "memory") 2)
  (func (export "allocate") (param i32) (result i32) (i32.const 4096))
  (func (export "deallocate") (param i32 i32))
  (func (export "run_e") (param $ptr i32) (param $len i32) (param $ident i32) (local $n i32)
    (local.set $n (call $cache_get (local.get $ptr) (local.get $len) (local.get $ident)))
    (drop (call $fetch (i32.const 65536) (local.get $ident)))
    (call $result (i32.const 65536) (local.get $n) (local.get $ident))))"""


class _Client(ProxyClient):
    """Answers by itself."""

    def __init__(self) -> None:
        pass

    def call(self, op: Op, handler: int, deadline: float, arguments: Sequence[object], writes: bool = False) -> Answer:  # noqa: ARG002
        loop = asyncio.get_running_loop()
        answer: Answer = loop.create_future()
        loop.call_later(WAIT_S, answer.set_result, f"value of {arguments[0]}".encode())
        return answer


class _Collects:
    """The stream's end for outputs: counts those that are right."""

    durable = redelivers = False

    def __init__(self) -> None:
        self.right = 0

    async def publish(self, output: Output) -> None:
        assert output.cause is not None
        self.right += output.data == b"value of " + output.cause.data


def run(options: argparse.Namespace) -> Report:
    """All rounds in one loop; the first one, which also makes the instances, is reported too."""
    return uvloop.run(_measure(options.rounds or 5))


async def _measure(rounds: int) -> Report:
    report = Report("fanin", unit="s")
    with tempfile.TemporaryDirectory() as folder:
        engine = Engine(instances=MESSAGES)
        compiled = compile_module(bytes(wasmtime.wat2wasm(GUEST)), Path(folder))
        function = Function(engine, compiled, memory_limit=64 << 20, isolation="pooled", pool_warm=1, pool_max=MESSAGES)
        await function.warm()
        steps = (Step((Call("wait", "default::wait", "wait"),)),)
        handler = Handler("fanin", "stream", "nats", "fanin", steps, max_in_flight=MESSAGES, pool_max=MESSAGES)
        rules = Rules()
        capabilities = Capabilities(rules, HandlerGuestLog("fanin"), DataSources(_Client(), rules, (), False))
        took: list[float] = []
        bare: list[float] = []
        loop = asyncio.get_running_loop()
        for _ in range(rounds + 1):
            slot, collects = Arena().slot(0), _Collects()
            stream = cast(Stream, collects)
            steps_of = sequence.Sequence(steps, "", {"default::wait": function}, capabilities)
            worker = Worker(handler, Attempts(handler, steps_of, stream, slot, "fanin"), stream, slot)
            began = time.perf_counter()
            for number in range(MESSAGES):
                await worker.handle(Message("fanin", b"%d" % number, {}, str(number), reply="out"))
            await worker.idle()
            took.append(time.perf_counter() - began)
            assert slot[Field.OK] == collects.right == MESSAGES
            began = time.perf_counter()
            waits = [loop.create_future() for _ in range(MESSAGES)]
            for wait in waits:
                loop.call_later(WAIT_S, wait.set_result, None)
            await asyncio.gather(*(asyncio.ensure_future(_task(wait)) for wait in waits))
            bare.append(time.perf_counter() - began)
        engine.close()
    first, *rest = took
    report.header = ("", "s")
    report.rows = [
        ("first round, 999 instances made on the way", f"{first:.3f}"),
        ("atmo-farm", f"{median(rest):.3f}"),
        ("bare asyncio tasks", f"{median(bare):.3f}"),
    ]
    report.series = {"atmo-farm": rest, "bare asyncio tasks": bare}
    report.ratio = median(bare) / median(rest)
    report.checks = [
        Check("seconds for 1,000 waiting messages, instances warm", median(rest), "<=", 1.0),
        Check("seconds for the first 1,000", first, "<=", 1.0),
    ]
    return report


async def _task(wait: asyncio.Future[None]) -> None:
    await wait
