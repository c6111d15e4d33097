"""A client of a farm's control socket (docs/control-protocol.md), for commands: it waits for each answer."""

from __future__ import annotations

import json
import socket
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from atmo_farm import clock
from atmo_farm.errors import TimedOut, with_exit_code
from atmo_farm.log.lines import escape

ANSWER_S = 10.0
"""How long the monitor may take for the first word of an answer."""

Told = Callable[[Mapping[str, Any]], None]


class ConnectionLost(TimedOut):
    """The monitor went away before it had answered."""


class ControlClient:
    """One connection; `with ControlClient(path) as farm: farm.ask("status")`. OSError when nobody listens."""

    def __init__(self, path: Path):
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._socket.settimeout(ANSWER_S)
        self._received = bytearray()
        self._requests = 0
        try:
            self._socket.connect(str(path))
        except OSError:
            self._socket.close()
            raise

    def __enter__(self) -> ControlClient:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Hang up."""
        self._socket.close()

    def ask(
        self, verb: str, args: Mapping[str, Any] | None = None, told: Told | None = None, deadline: float | None = None
    ) -> dict[str, Any]:
        """The result. `told` gets each progress; `deadline` is a clock.monotonic() second, None: as long as it takes.

        AtmoFarmError with the farm's reason and exit code; TimedOut at the deadline, or when there is no word at all in
        10 s; ConnectionLost.
        """
        self._requests += 1
        request = json.dumps({**(args or {}), "id": self._requests, "verb": verb}).encode() + b"\n"
        patience = clock.monotonic() + ANSWER_S  # for the first word
        until: float | None = patience if deadline is None else min(patience, deadline)
        try:
            self._socket.sendall(request)
        except TimeoutError:
            raise TimedOut("the farm's monitor does not read; it is stopped or overloaded") from None
        except OSError:
            pass  # what it said before it hung up can still be read
        while True:
            try:
                answer = self._answer(until)
            except TimeoutError:
                if deadline is not None and clock.monotonic() >= deadline:
                    raise TimedOut(f"{verb}: not done in time") from None
                raise TimedOut("the farm's monitor does not answer; it is stopped or overloaded") from None
            until = deadline
            if answer.get("id") not in (self._requests, None):
                continue
            if "error" in answer:
                raise with_exit_code("\n".join(map(escape, answer["error"].split("\n"))), answer["exit"])
            if "result" in answer:
                result: dict[str, Any] = answer["result"]
                return result
            if told is not None:
                told(answer["progress"])

    def _answer(self, until: float | None) -> dict[str, Any]:
        while (end := self._received.find(b"\n")) < 0:
            left_s = None if until is None else until - clock.monotonic()
            if left_s is not None and left_s <= 0:
                raise TimeoutError
            self._socket.settimeout(left_s)
            try:
                data = self._socket.recv(1 << 16)
            except ConnectionError:
                data = b""
            if not data:
                raise ConnectionLost("the farm's monitor went away before it had answered")
            self._received += data
        line = bytes(self._received[:end])
        del self._received[: end + 1]
        answer: dict[str, Any] = json.loads(line)
        return answer
