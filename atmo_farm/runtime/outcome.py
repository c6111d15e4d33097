"""How a call that has ended is read: its result, its error, or why it failed."""

from __future__ import annotations

from typing import TYPE_CHECKING

from atmo_farm.errors import AtmoFarmError, GuestOutOfMemory, GuestTrapped, RunnableError
from atmo_farm.runtime import failures, layout
from atmo_farm.runtime.host import internal_error, signed
from atmo_farm.runtime.memory import TEXT_CAP

if TYPE_CHECKING:
    from atmo_farm.runtime.instance import Instance
    from atmo_farm.runtime.services import Services

COMMAND_FAILED = 500
"""The code of a RunnableError for a WASI command's exit status."""


def read(instance: Instance, services: Services) -> bytes | None:
    """The call's result, or None when the guest gave neither a result nor an error.

    Raises RunnableError, GuestTrapped or GuestOutOfMemory. Sets the instance `broken` when it must not be used again.
    The guest's output is handed to `services` in every case.
    """
    text = instance.text()
    if text:
        hand_over(services, text)
    if instance.variables:
        instance.take_variables()
    header = instance.header
    if header[layout.STATUS] == 0:
        failure = _unfinished(instance, text)
        if failure is not None:
            raise failure
    elif header[layout.STATUS] & layout.STATUS_WORN:
        instance.broken = True
    if header[layout.FULL]:  # a command that went on after its output was refused: what is there is not whole
        raise failures.too_large("what it wrote to stdout", instance.program.memory_limit)
    kind = header[layout.KIND]
    if kind == layout.NOTHING:
        return None
    if kind == layout.RESULT:
        return instance.copied(header[layout.PTR], header[layout.LEN])
    raise _error(instance)


def hand_over(services: Services, text: bytes) -> None:
    """Give the guest's output to the services; what goes wrong there is logged and is not the guest's fault."""
    try:
        services.guest_output(text.decode("utf-8", "replace"))
    except Exception as error:
        internal_error("what takes a guest's output", error)


def start_failure(instance: Instance) -> AtmoFarmError:
    """Why a start function ended in a trap."""
    text = instance.text()
    failure = _unfinished(instance, text) or _error(instance)
    kind = GuestOutOfMemory if isinstance(failure, GuestOutOfMemory) else GuestTrapped
    return kind(f"while it started: {failure}")


def _unfinished(instance: Instance, text: bytes) -> AtmoFarmError | None:
    """Why the call did not come to its end; None when its result counts all the same."""
    header, program = instance.header, instance.program
    instance.broken = True
    code, trap = instance.take_trap()
    if header[layout.KIND] in (layout.ERROR, layout.ABORT):  # AssemblyScript's abort traps right after it has said why
        return None
    if header[layout.EXITED]:
        status = signed(header[layout.EXIT_CODE])
        if program.interface == "wasi-command":
            if status == 0:
                return None
            return RunnableError(COMMAND_FAILED, failures.with_last_line(f"exit status {status}", text))
        if status == 0 and header[layout.KIND] != layout.NOTHING:
            return None
        return failures.exited(status, text)
    if header[layout.FULL]:
        return failures.too_large("its result", program.memory_limit)
    if header[layout.STAGE] == layout.RETURNED:  # only deallocate trapped: this guest's run_e frees its input itself
        program.frees_input = True
        return None
    return failures.trapped(code, trap, instance.memory.size, program.memory_limit)


def _error(instance: Instance) -> RunnableError:
    header = instance.header
    message = _text(instance, header[layout.PTR], header[layout.LEN])
    if header[layout.KIND] == layout.ABORT:
        file = _text(instance, header[layout.FILE_PTR], header[layout.FILE_LEN])
        line, column = signed(header[layout.LINE]), signed(header[layout.COLUMN])
        message = f"runnable abort: {message}; file: {file}, line: {line}, col: {column}"
    return RunnableError(signed(header[layout.CODE]), message)


def _text(instance: Instance, at: int, length: int) -> str:
    """A text of an error, cut where a guest's texts end: it goes into logs and headers."""
    return instance.copied(at, min(length, TEXT_CAP)).decode("utf-8", "replace")
