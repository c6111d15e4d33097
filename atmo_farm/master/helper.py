"""A helper process: does for the master what touches the user's files and the compiler, within a time limit.

The master stays small and safe that way: a bundle that is a bomb, a module that is slow to compile or that kills the
compiler ends a helper. They talk over a socketpair, one JSON object in each line:

    helper → master   {"identifier": "com.example.app"}          read and valid so far
    master → helper   {"state": "/var/lib/atmo-farm"}            go on, this is the state folder
    helper → master   {"accepted": 7, "warnings": […], "modules": {"default::hello": {…}}, "changes": "…"}
    or                {"refused": 1, "problems": […]}            with the exit code that `start` ends with
    or                {"refused": 3, "reason": "…"}
"""

from __future__ import annotations

import json
import logging
import os
import signal
import socket
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs

from atmo_farm import clock, log
from atmo_farm.errors import AtmoFarmError, CannotStart, Position, Problem, UserFilesError
from atmo_farm.ipc import channel
from atmo_farm.ipc.lines import LineSocket
from atmo_farm.master import forking

if TYPE_CHECKING:
    from atmo_farm.runtime.modules import CompiledModule

logger = logging.getLogger("atmo_farm.master")

REPORT_LIMIT = 16 << 20
"""Bytes of the longest report."""

REAP_RETRY_S = 0.02
"""Between the end of its channel and the end of the process there is a moment."""

MOST_PROBLEMS = 1000
"""Problems that are reported; a file with more is best mended from the top."""


@attrs.frozen
class Accepted:
    """The application is good, compiled and kept as this generation."""

    generation: int
    warnings: tuple[Problem, ...]
    modules: Mapping[str, CompiledModule]
    changes: str = ""
    """What is different from the generation in force, for people."""


class HelperSide:
    """The helper's end of the talk; blocking, for the helper has nothing else to do."""

    def __init__(self, sock: socket.socket):
        self._socket = sock
        self._answers = sock.makefile("rb")

    def identify(self, identifier: str) -> Path:
        """Say which application this is; returns the state folder."""
        self._send({"identifier": identifier})
        return Path(json.loads(self._answers.readline(REPORT_LIMIT))["state"])

    def accept(self, accepted: Accepted) -> None:
        """Report the new generation."""
        modules = {key: attrs.asdict(module) for key, module in accepted.modules.items()}
        warnings = [attrs.asdict(problem) for problem in accepted.warnings[:MOST_PROBLEMS]]
        self._send(
            {"accepted": accepted.generation, "warnings": warnings, "modules": modules, "changes": accepted.changes}
        )

    def refuse(self, error: AtmoFarmError) -> None:
        """Report why not."""
        if isinstance(error, UserFilesError):
            problems = [attrs.asdict(problem) for problem in error.problems[:MOST_PROBLEMS]]
            self._send({"refused": error.exit_code, "problems": problems})
        else:
            self._send({"refused": error.exit_code, "reason": str(error)})

    def _send(self, report: Mapping[str, object]) -> None:
        self._socket.sendall(json.dumps(report, default=str).encode() + b"\n")


Job = Callable[[HelperSide], None]
"""What a helper does: identify, then accept or refuse."""


class Helper:
    """The master's handle of one helper process, from `start` until `result` is there.

    `on_identified` is called with the application's identifier and returns the state folder; what it raises ends the
    helper and becomes the result.
    """

    def __init__(self, job: Job, on_identified: Callable[[str], Path], timeout_s: float):
        self._job = job
        self._on_identified = on_identified
        self._timeout_s = timeout_s
        self._lines: LineSocket | None = None
        self._deadline = 0.0
        self._status = 0
        self.pid = 0
        """0 before the start and after its end."""
        self.result: Accepted | AtmoFarmError | None = None

    def start(self, shed: Callable[[], None]) -> None:
        """Fork it; `shed` closes in it what belongs to the master. OSError when the machine has no place for it."""
        master_end, helper_end = channel.pair()

        def body() -> int:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})
            master_end.close()
            return _run_job(self._job, HelperSide(helper_end))

        try:
            self.pid = forking.fork("atmo helper", body, shed)
        except OSError:
            master_end.close()
            raise
        finally:
            helper_end.close()
        self._lines = LineSocket(master_end, REPORT_LIMIT)
        self._deadline = clock.monotonic() + self._timeout_s

    def fileno(self) -> int:
        """Readable when it has reported, or is gone."""
        assert self._lines is not None
        return self._lines.fileno()

    def step(self, now: float) -> float:
        """Read what it reports, mind its time limit; returns when to call it next: at once if there is a `result`."""
        assert self._lines is not None
        for line in self._lines.receive():
            try:
                self._take(json.loads(line))
            except AtmoFarmError as error:
                self.result = error
            except (ValueError, KeyError, TypeError) as error:
                self.result = CannotStart(f"the helper process reported nonsense: {error}")
        if self.result is None and self._lines.closed:
            if not self._reap(os.WNOHANG):
                return now + REAP_RETRY_S
            self.result = CannotStart(f"the helper process ended without a report: {_cause(self._status)}")
        if self.result is None and now >= self._deadline:
            self.result = CannotStart(
                f"reading, checking and compiling the application took longer than {self._timeout_s:g} s; "
                "give it more with the setting timeouts.load"
            )
        return self._deadline if self.result is None else now

    def ended(self, pid: int, status: int) -> bool:
        """Take note of a child's end that somebody else reaped; False if it is not this one."""
        if pid != self.pid:
            return False
        self.pid, self._status = 0, status
        return True

    def close(self) -> None:
        """End it if it still runs, reap it, and give its descriptor back."""
        if self.pid:
            os.kill(self.pid, signal.SIGKILL)
            self._reap(0)
        if self._lines is not None:
            self._lines.close()

    def shed(self) -> None:
        """In a child that is forked meanwhile: close the copy of the master's end."""
        if self._lines is not None:
            self._lines.close()

    def _reap(self, options: int) -> bool:
        if self.pid:
            pid, self._status = os.waitpid(self.pid, options)
            if pid:
                self.pid = 0
        return not self.pid

    def _take(self, report: Mapping[str, Any]) -> None:
        assert self._lines is not None
        if "identifier" in report:
            state = self._on_identified(report["identifier"])
            self._lines.send(json.dumps({"state": str(state)}).encode() + b"\n")
        elif "accepted" in report:
            warnings, modules = _problems(report["warnings"]), _modules(report["modules"])
            self.result = Accepted(report["accepted"], warnings, modules, report["changes"])
        elif "problems" in report:
            self.result = UserFilesError(_problems(report["problems"]))
        else:
            kind = CannotStart if report["refused"] == CannotStart.exit_code else AtmoFarmError
            self.result = kind(report["reason"])


def _run_job(job: Job, side: HelperSide) -> int:
    try:
        job(side)
    except AtmoFarmError as error:
        side.refuse(error)
    except OSError as error:
        side.refuse(CannotStart(f"the application could not be made ready: {error}"))
    except Exception as error:
        log.event(logger, logging.ERROR, "internal error in the helper process", exc_info=error)
        side.refuse(AtmoFarmError(f"internal error: {type(error).__name__}: {error}"))
    return 0


def _cause(status: int) -> str:
    code = os.waitstatus_to_exitcode(status)
    if code == -signal.SIGKILL:
        return "killed by SIGKILL, most likely by the kernel for want of memory"
    return f"killed by signal {-code}" if code < 0 else f"exit code {code}"


def _problems(items: list[dict[str, Any]]) -> tuple[Problem, ...]:
    return tuple(Problem(**{**item, "position": Position(**item["position"])}) for item in items)


def _modules(items: Mapping[str, dict[str, Any]]) -> dict[str, CompiledModule]:
    from atmo_farm.runtime.modules import CompiledModule

    return {key: CompiledModule(**item) for key, item in items.items()}
