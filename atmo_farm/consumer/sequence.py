"""The steps of one handler, run for one message: functions, groups, state, `with`, `onErr`, `response`."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from typing import Protocol

import attrs

from atmo_farm.capabilities.request import Request
from atmo_farm.capabilities.services import CallServices, Capabilities
from atmo_farm.directive.model import Call, Step
from atmo_farm.errors import AtmoFarmError, GuestOutOfMemory, GuestTrapped, RunnableError
from atmo_farm.runtime.services import Services


class CallFailed(AtmoFarmError):
    """A function failed and its `onErr` does not let the sequence go on; `error` says how."""

    def __init__(self, function: str, error: Exception):
        super().__init__(str(error))
        self.function = function
        self.error = error


class Runs(Protocol):
    """What the sequence needs of a runtime.Function."""

    async def call(self, data: bytes, services: Services, deadline: float) -> bytes | None:
        """Run once; None when the guest returned nothing at all."""


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
            (
                step.is_group,
                [(call, functions[call.function], step.transaction) for call in step.calls],
                step is steps[-1],
            )
            for step in steps
        ]
        self._response = response
        self._capabilities = capabilities

    async def run(self, request: Request, deadline: float) -> Result:
        """All steps for one request, whose state is filled on the way; deadline in clock.monotonic() seconds.

        Raises CallFailed.
        """
        headers: dict[str, str] = {}
        output: bytes | None = None
        for is_group, calls, is_last in self._steps:
            if is_group:
                done = await self._group(calls, request, deadline)
            else:
                done = [await self._call(*calls[0], request, deadline)]
            for services, _ in done:
                if services is None:
                    continue
                if services.headers:
                    headers.update(services.headers)
                if services.changes:
                    for change in services.changes:
                        request.set(*change)
            output = done[-1][1]
            if not is_last or self._response:
                results = {call.key: value or b"" for (call, *_), (_, value) in zip(calls, done, strict=True)}
                request.state = {**request.state, **results}
        if self._response:
            output = request.state.get(self._response)
        return Result(output, headers)

    async def _group(
        self, calls: list[tuple[Call, Runs, bool]], request: Request, deadline: float
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
        self, call: Call, function: Runs, transaction: bool, request: Request, deadline: float
    ) -> tuple[CallServices | None, bytes | None]:
        """What the run left behind, and its output; nothing is left behind by one that failed.

        A failure that `onErr` does not let pass is, for the message's outcome, the data source's where that had a part
        in it: it may pass by itself, or nobody knows what was done.
        """
        view = _with(call, request) if call.with_ else request
        services = self._capabilities.for_call(call.fn, view, deadline, transaction)
        try:
            output = await function.call(request.body, services, deadline)
            if transaction:
                await services.commit()
            return services, output
        except RunnableError as error:
            services.rollback()
            if call.on_err.decide(error.code) == "return":
                raise CallFailed(call.fn, services.data_failure() or error) from error
            return None, _as_json(error.code, error.message)
        except (GuestTrapped, GuestOutOfMemory) as error:
            services.rollback()
            if call.on_err.decide(500) == "return":
                raise CallFailed(call.fn, services.data_failure() or error) from error
            return None, _as_json(500, str(error))
        except AtmoFarmError as error:
            services.rollback()
            raise CallFailed(call.fn, services.data_failure() or error) from error
        except BaseException:
            services.rollback()
            raise


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
