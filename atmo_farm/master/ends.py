"""How a child process ended, in words."""

from __future__ import annotations

import enum
import logging
import os
import signal
from collections.abc import Mapping

from atmo_farm import clock, log
from atmo_farm.ipc.arena import Field
from atmo_farm.ipc.exits import ChildExit
from atmo_farm.master.worker import Process, Worker

logger = logging.getLogger("atmo_farm.master")


_EXITS: Mapping[int, Field] = {
    ChildExit.BOOT_FAILED: Field.BOOT_FAILED,
    ChildExit.BROKER_CLOSED: Field.BROKER_CLOSED,
}


def cause(process: Process, status: int) -> str:
    """`status` as waitpid gives it."""
    code = os.waitstatus_to_exitcode(status)
    if code < 0:
        name = _name(signal.Signals, -code) or f"signal {-code}"
        return f"{name}: {process.killed_because}" if process.killed_because else f"killed by {name}"
    meaning = _name(ChildExit, code).lower().replace("_", " ")
    return f"exit {code} ({meaning})" if meaning else f"exit {code}"


def field(process: Process, status: int) -> Field:
    """Which of the arena's counts of ends it belongs to."""
    code = os.waitstatus_to_exitcode(status)
    if process.killed_because:
        return Field.REPLACED
    if code < 0:
        return Field.KILLED
    return _EXITS.get(code, Field.EXITED)


def log_end(worker: Worker, process: Process, status: int, again_in_s: float | None) -> None:
    """One line for a process that is gone; `again_in_s`: when the worker gets its next one, None for never."""
    wished = worker.leaving and status == 0
    log.event(
        logger,
        logging.INFO if wished else logging.ERROR,
        "worker ended",
        worker=worker.name,
        pid=process.pid,
        cause=cause(process, status),
        reason=process.failure,
        uptime_s=round(clock.monotonic() - process.forked_at, 1),
        again_in_s=None if again_in_s is None else round(again_in_s, 1),
    )


def _name(kind: type[enum.IntEnum], number: int) -> str:
    """Empty for a number that has none: of the real-time signals, only the first and the last have."""
    return next((member.name for member in kind if member == number), "")
