"""The data-source proxy alone, for benchmarks: `python -m benchmarks.proxy SOCKET DIRECTIVE.yaml` serves until killed.

`running` starts one; `Guests` calls it from guests, as a consumer does.
"""

from __future__ import annotations

import asyncio
import contextlib
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import uvloop
import wasmtime

from atmo_farm import clock
from atmo_farm.capabilities.datasources import DataSources
from atmo_farm.capabilities.request import Request
from atmo_farm.capabilities.rules import Rules
from atmo_farm.capabilities.services import Capabilities
from atmo_farm.consumer.guest_log import HandlerGuestLog
from atmo_farm.datasource import build
from atmo_farm.datasource.server import Server
from atmo_farm.directive import load
from atmo_farm.directive.model import Directive
from atmo_farm.ipc.client import ProxyClient
from atmo_farm.runtime.engine import Engine
from atmo_farm.runtime.function import Function
from atmo_farm.runtime.modules import compile_module
from atmo_farm.settings import DataSourceSettings, HandlerDefaults
from benchmarks import parts

HEAD = "identifier: com.example.bench\nappVersion: v1.0.0\natmoVersion: v0.4.7\n"

IMPORTS = """
  (import "env" "return_result" (func $result (param i32 i32 i32)))
  (import "env" "get_ffi_result" (func $fetch (param i32 i32) (result i32)))
  (memory (export "memory") 4)
  (func (export "allocate") (param i32) (result i32) (i32.const 4096))
  (func (export "deallocate") (param i32 i32))"""

CACHE_GUEST = f"""(module
  (import "env" "cache_get" (func $cache_get (param i32 i32 i32) (result i32))) {IMPORTS}
  (func (export "run_e") (param $ptr i32) (param $len i32) (param $ident i32) (local $n i32)
    (local.set $n (call $cache_get (local.get $ptr) (local.get $len) (local.get $ident)))
    (drop (call $fetch (i32.const 65536) (local.get $ident)))
    (call $result (i32.const 65536) (local.get $n) (local.get $ident))))"""
"""The value of the key that is its input."""

QUERY_GUEST = f"""(module
  (import "env" "add_ffi_var" (func $add (param i32 i32 i32 i32 i32) (result i32)))
  (import "env" "db_exec" (func $db_exec (param i32 i32 i32 i32) (result i32))) {IMPORTS}
  (data (i32.const 0) "one")
  (func (export "run_e") (param $ptr i32) (param $len i32) (param $ident i32) (local $n i32)
    (drop (call $add (i32.const 0) (i32.const 1) (local.get $ptr) (local.get $len) (local.get $ident)))
    (local.set $n (call $db_exec (i32.const 1) (i32.const 0) (i32.const 3) (local.get $ident)))
    (drop (call $fetch (i32.const 65536) (local.get $ident)))
    (call $result (i32.const 65536) (local.get $n) (local.get $ident))))"""
"""The JSON of the query `one` with its input as the variable."""


def application(folder: Path, text: str) -> Path:
    """A project folder with this Directive (without its head) and one function that nobody calls."""
    parts.hello_app(folder, "127.0.0.1:4222")
    (folder / "Directive.yaml").write_text(HEAD + text)
    return folder


@contextlib.contextmanager
def running(app: Path, socket: Path) -> Iterator[int]:
    """A proxy process that serves the application's data sources; gives its pid once it listens."""
    command = (sys.executable, "-m", "benchmarks.proxy", socket, app)
    with parts.process(*command, stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == b"ready\n", "the proxy did not start"
        yield child.pid


class Guests:
    """Instances of one guest in this process, connected to a proxy."""

    def __init__(self, function: Function, capabilities: Capabilities):
        self._function = function
        self._capabilities = capabilities

    async def call(self, data: bytes) -> bytes:
        """Run it once."""
        deadline = clock.monotonic() + 60
        request = Request("STREAM", "bench", "1", data)
        result = await self._function.call(data, self._capabilities.for_call("bench", request, deadline), deadline)
        assert result is not None
        return result


@contextlib.asynccontextmanager
async def guests(wat: str, directive: Directive, socket: Path, count: int) -> AsyncIterator[Guests]:
    """So many instances at most."""
    with tempfile.TemporaryDirectory() as folder:
        engine = Engine(instances=count)
        compiled = compile_module(bytes(wasmtime.wat2wasm(wat)), Path(folder))
        function = Function(engine, compiled, pool_warm=1, pool_max=count)
        client = ProxyClient(socket, ["bench"])
        client.start()
        data = DataSources(client, Rules(), directive.queries, bool(directive.connections.databases))
        await function.warm()
        yield Guests(function, Capabilities(Rules(), HandlerGuestLog("bench"), data))
        await client.close()
        engine.close()


async def main(socket: str, app: str) -> None:
    """Serve until killed."""
    directive = load(Path(app), HandlerDefaults()).directive
    sources = build.sources(directive, DataSourceSettings())
    await sources.open()
    await Server(sources, Path(socket)).start()
    print("ready", flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    uvloop.run(main(*sys.argv[1:]))
