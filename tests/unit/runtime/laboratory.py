"""An engine, fake services and short words for the runtime's tests."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Coroutine
from pathlib import Path
from typing import Any

import uvloop

from atmo_farm.errors import HostError
from atmo_farm.runtime.engine import Engine
from atmo_farm.runtime.function import Function
from atmo_farm.runtime.modules import compile_module

Answer = bytes | Awaitable[bytes]


class FakeServices:
    """Remembers what it was called with; `answer` decides what those functions give that may wait."""

    def __init__(self, answer: Callable[..., Any] | None = None):
        self.calls: list[tuple[Any, ...]] = []
        self.output = ""
        self.number = 0
        self.answer = answer or (lambda name, *arguments: f"answer of {name}".encode())

    def log_msg(self, level: int, message: str) -> None:
        self.calls.append(("log_msg", level, message))

    def guest_output(self, text: str) -> None:
        self.output += text

    def request_get_field(self, field: int, key: str) -> bytes:
        self.calls.append(("request_get_field", field, key))
        return key.upper().encode()

    def request_set_field(self, field: int, key: str, value: bytes) -> None:
        self.calls.append(("request_set_field", field, key, value))
        if key == "refused":
            raise HostError("no such field")

    def resp_set_header(self, key: str, value: str) -> None:
        self.calls.append(("resp_set_header", key, value))

    def _ask(self, *call: Any) -> Answer:
        self.calls.append(call)
        answer: Answer = self.answer(*call)
        return answer

    def fetch_url(self, method: int, url: str, body: bytes) -> Answer:
        return self._ask("fetch_url", method, url, body)

    def graphql_query(self, endpoint: str, query: str) -> Answer:
        return self._ask("graphql_query", endpoint, query)

    def cache_set(self, key: str, value: bytes, ttl: int) -> Answer:
        return self._ask("cache_set", key, value, ttl)

    def cache_get(self, key: str) -> Answer:
        return self._ask("cache_get", key)

    def db_exec(self, kind: int, name: str, variables: list[tuple[str, bytes]]) -> Answer:
        return self._ask("db_exec", kind, name, variables)

    def get_static_file(self, name: str) -> Answer:
        return self._ask("get_static_file", name)

    def get_secret_value(self, key: str) -> Answer:
        return self._ask("get_secret_value", key)


class Laboratory:
    """`async with Laboratory(folder) as lab`: an engine whose functions are closed at the end."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.services = FakeServices()

    async def __aenter__(self) -> Laboratory:
        self.engine = Engine(instances=1100, tables=16)
        return self

    async def __aexit__(self, *_: object) -> None:
        self.engine.close()

    def function(self, wasm: bytes, interface: Any = "runnable", **options: Any) -> Function:
        return Function(self.engine, compile_module(wasm, self.folder, interface), **options)

    async def call(self, function: Function, data: bytes = b"", timeout: float = 5.0) -> bytes | None:
        return await function.call(data, self.services, time.monotonic() + timeout)

    async def run(self, wasm: bytes, data: bytes = b"", timeout: float = 5.0, **options: Any) -> bytes | None:
        """Compile, call once."""
        return await self.call(self.function(wasm, **options), data, timeout)


def in_lab(folder: Path, scene: Callable[[Laboratory], Coroutine[Any, Any, None]]) -> None:
    """Run a scene in a laboratory of its own, on uvloop."""

    async def main() -> None:
        async with Laboratory(folder) as lab:
            await scene(lab)

    uvloop.run(main())


async def settle() -> None:
    """Let everything that is ready run."""
    for _ in range(5):
        await asyncio.sleep(0)
