"""The steps of one handler, run for one message: functions, groups, state, `with`, `onErr`, `response`."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Coroutine, Mapping
from typing import Any, Protocol, final

import attrs

from atmo_farm.capabilities.request import Request
from atmo_farm.capabilities.services import CallServices, Capabilities
from atmo_farm.directive.model import Call, Step
from atmo_farm.errors import AtmoFarmError, GuestOutOfMemory, GuestTrapped, RunnableError
from atmo_farm.runtime.function import Unfinished
from atmo_farm.runtime.services import Services

NO_HEADERS: Mapping[str, str] = {}


class CallFailed(AtmoFarmError):
    """A function failed and its `onErr` does not let the sequence go on; `error` says how."""

    def __init__(self, function: str, error: Exception):
        super().__init__(str(error))
        self.function = function
        self.error = error


class Runs(Protocol):
    """What the sequence needs of a runtime.Function."""

    def begin(self, data: bytes, services: Services, deadline: float) -> bytes | Unfinished | None:
        """Run once; None when the guest returned nothing at all."""


@final
@attrs.define
class Result:
    """What a sequence ends with: `data` None means that there is nothing to publish."""

    data: bytes | None
    headers: Mapping[str, str]


class Sequence:
    """Runs the steps; made once per process, used by all its messages at the same time."""

    def __init__(
        self, steps: tuple[Step, ...], response: str, functions: Mapping[str, Runs], capabilities: Capabilities
    ):
        self._steps = [
            (step, [(call, functions[call.function]) for call in step.calls], step is steps[-1]) for step in steps
        ]
        self._response = response
        self._capabilities = capabilities
        only = self._steps[0][0]
        self._plain = None
        """The one function of a sequence that is nothing but that."""
        if len(steps) == 1 and not (only.is_group or only.transaction or only.calls[0].with_ or response):
            self._plain = self._steps[0][1][0]

    def begin(self, request: Request, deadline: float) -> Result | Coroutine[Any, Any, Result]:
        """As `run`, but a single function that ends on its first poll costs no coroutine."""
        if self._plain is None:
            return self.run(request, deadline)
        call, function = self._plain
        services = CallServices(self._capabilities, call.fn, request, deadline)
        try:
            ran = function.begin(request.body, services, deadline)
        except AtmoFarmError as error:
            return Result(_decide(call, error, services), NO_HEADERS)
        if type(ran) is Unfinished:
            return self._finish(call, ran, services)
        return Result(ran, services.headers or NO_HEADERS)

    async def _finish(self, call: Call, ran: Unfinished, services: CallServices) -> Result:
        try:
            return Result(await ran, services.headers or NO_HEADERS)
        except AtmoFarmError as error:
            return Result(_decide(call, error, services), NO_HEADERS)

    async def run(self, request: Request, deadline: float) -> Result:
        """All steps for one request, whose state is filled on the way; deadline in clock.monotonic() seconds.

        Raises CallFailed.
        """
        headers: dict[str, str] = {}
        output: bytes | None = None
        for step, calls, is_last in self._steps:
            if step.is_group:
                done = await self._group(calls, request, deadline)
                for services, _ in done:
                    _leave_behind(services, request, headers)
                output = done[-1][1]
                results = {call.key: value or b"" for (call, _), (_, value) in zip(calls, done, strict=True)}
                request.state = {**request.state, **results}
                continue
            call, function = calls[0]
            view = _with(call, request) if call.with_ else request
            services = self._capabilities.for_call(call.fn, view, deadline, step.transaction)
            try:
                ran = function.begin(request.body, services, deadline)
                output = await ran if type(ran) is Unfinished else ran
                if step.transaction:
                    await services.commit()
            except AtmoFarmError as error:
                output = _decide(call, error, services)
            except BaseException:
                services.rollback()
                raise
            else:
                if services.headers or services.changes:
                    _leave_behind(services, request, headers)
            if not is_last or self._response:
                request.state = {**request.state, call.key: output or b""}
        if self._response:
            output = request.state.get(self._response)
        return Result(output, headers)

    async def _group(
        self, calls: list[tuple[Call, Runs]], request: Request, deadline: float
    ) -> list[tuple[CallServices | None, bytes | None]]:
        """All calls at the same time. A failure waits for the others: no run may outlive its message's attempt."""
        ended = await asyncio.gather(*(self._call(*pair, request, deadline) for pair in calls), return_exceptions=True)
        done = []
        for end in ended:
            if isinstance(end, BaseException):
                raise end
            done.append(end)
        return done

    async def _call(
        self, call: Call, function: Runs, request: Request, deadline: float
    ) -> tuple[CallServices | None, bytes | None]:
        """What the run left behind, and its output; nothing is left behind by one that failed."""
        view = _with(call, request) if call.with_ else request
        services = self._capabilities.for_call(call.fn, view, deadline)
        try:
            ran = function.begin(request.body, services, deadline)
            return services, await ran if type(ran) is Unfinished else ran
        except AtmoFarmError as error:
            return None, _decide(call, error, services)


def _decide(call: Call, error: AtmoFarmError, services: CallServices) -> bytes:
    """The output that stands for a failure where the sequence goes on after it, as `onErr` says; else CallFailed.

    That is the data source's failure where it had a part in this one: it may pass by itself, or nobody knows what was
    done. What the run had changed in a transaction is undone.
    """
    services.rollback()
    if isinstance(error, RunnableError):
        code, message = error.code, error.message
    elif isinstance(error, GuestTrapped | GuestOutOfMemory):
        code, message = 500, str(error)
    else:
        raise CallFailed(call.fn, services.data_failure() or error) from error
    if call.on_err.decide(code) == "return":
        raise CallFailed(call.fn, services.data_failure() or error) from error
    return _as_json(code, message)


def _leave_behind(services: CallServices | None, request: Request, headers: dict[str, str]) -> None:
    """What a run that succeeded has set: fields for what comes after it, headers for the outgoing message."""
    if services is None:
        return
    if services.headers:
        headers.update(services.headers)
    for change in services.changes or ():
        request.set(*change)


def _with(call: Call, request: Request) -> Request:
    """The view that `with` makes: an alias holds its key's value, and that key is hidden under its own name."""
    state = {key: value for key, value in request.state.items() if key not in call.with_.values()}
    for alias, key in call.with_.items():
        if key in request.state:
            state[alias] = request.state[key]
    view = request.copy()
    view.state = state
    return view


def _as_json(code: int, message: str) -> bytes:
    return json.dumps({"code": code, "message": message}, separators=(",", ":"), ensure_ascii=False).encode()
