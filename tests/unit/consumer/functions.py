"""Functions written in Python, behind the interface of runtime.Function, in place of guests."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any

from atmo_farm.directive.model import Call, Step
from atmo_farm.runtime.function import Unfinished
from atmo_farm.runtime.services import Services

Body = Callable[[bytes, Services], Coroutine[Any, Any, bytes | None]]


class Python:
    """A function whose code is Python, behind the interface of runtime.Function."""

    def __init__(self, body: Body):
        self._body = body

    def begin(self, data: bytes, services: Services, deadline: float) -> Unfinished:
        return Unfinished(self._body(data, services))


class Silent:
    def line(self, level: int, text: str, function: str, request_id: str) -> None:
        raise AssertionError("no function logs here")


def returns(value: bytes | None) -> Python:
    async def body(data: bytes, services: Services) -> bytes | None:
        return value

    return Python(body)


def fails(error: Exception) -> Python:
    async def body(data: bytes, services: Services) -> bytes | None:
        raise error

    return Python(body)


def call(fn: str, key: str = "", **keys: object) -> Call:
    return Call(fn, f"default::{fn}", key or fn, **keys)  # type: ignore[arg-type]


def step(*calls: Call) -> Step:
    return Step(calls, is_group=len(calls) > 1)
