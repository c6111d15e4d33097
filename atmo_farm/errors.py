"""Every exception that the farm raises on purpose.

AtmoFarmError                what went wrong and what to do about it, in one line
├── UserFilesError           problems in the user's files, each with its place           exit 1
├── CannotStart              run folder held, something not served yet, port taken       exit 3
├── NotFound                 no such farm, handler or function                           exit 4
├── TimedOut                 a wait ended without its event                              exit 5
├── RunnableError            the guest said so (return_error, return_abort): code and message
├── GuestFailed              the run ended without the guest's saying so; its instance is thrown away
│   ├── GuestTrapped         a trap, a bad module, an exit status
│   ├── GuestTimedOut        killed at its deadline, computing or waiting
│   └── GuestOutOfMemory     refused by its memory limit
├── HostError                what a host call answers to the guest instead of a result
└── PublishError             an output was not accepted
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

import attrs


@attrs.frozen(order=True)
class Position:
    """A place in a user's file; line and column count from 1, 0 stands for the whole file."""

    file: str
    line: int = 0
    column: int = 0

    def __str__(self) -> str:
        return f"{self.file}:{self.line}:{self.column}" if self.line else self.file


@attrs.frozen
class Problem:
    """One thing wrong with a user's file: where, under which key (`handlers[0].steps`), what, and what to do."""

    position: Position
    key: str
    message: str
    severity: Literal["error", "warning"] = "error"

    def __str__(self) -> str:
        warning = "warning: " if self.severity == "warning" else ""
        key = f"{self.key}: " if self.key else ""
        return f"{self.position}: {warning}{key}{self.message}"


class AtmoFarmError(Exception):
    """The root of the tree; `exit_code` is what a command ends with when nothing else catches it."""

    exit_code = 70


class UserFilesError(AtmoFarmError):
    """The user's files have problems: all of them, in the order of their places."""

    exit_code = 1

    def __init__(self, problems: Iterable[Problem]):
        self.problems = tuple(problems)
        super().__init__("\n".join(str(problem) for problem in self.problems))


class CannotStart(AtmoFarmError):
    """The farm cannot start as things are on this machine."""

    exit_code = 3


class NotFound(AtmoFarmError):
    """What a command names does not exist."""

    exit_code = 4


class TimedOut(AtmoFarmError):
    """What a command waited for did not come."""

    exit_code = 5


def with_exit_code(message: str, exit_code: int) -> AtmoFarmError:
    """An error that another process has told us of; one that has no class of its own here still ends a command so."""
    kinds = {kind.exit_code: kind for kind in (CannotStart, NotFound, TimedOut)}
    error = kinds.get(exit_code, AtmoFarmError)(message)
    error.exit_code = exit_code
    return error


class RunnableError(AtmoFarmError):
    """The guest answered with an error; its instance is still good."""

    exit_code = 1

    def __init__(self, code: int, message: str):
        super().__init__(message)
        self.code = code
        self.message = message


class GuestFailed(AtmoFarmError):
    """The guest failed without an answer; its instance must not be used again."""


class GuestTrapped(GuestFailed):
    """The guest trapped, or could not be instantiated, or exited with a status."""


class GuestTimedOut(GuestFailed):
    """The guest was killed at its deadline."""


class GuestOutOfMemory(GuestFailed):
    """The guest's memory or table limit does not let it run."""


class HostError(AtmoFarmError):
    """A host call's answer to the guest that is not a result.

    `result` is what the host function returns to the guest: None for minus the length of the message, which the
    guest then fetches; -1 or -2 where the ABI wants just that number and nothing pending.
    """

    def __init__(self, message: str, result: int | None = None):
        super().__init__(message)
        self.message = message
        self.result = result


class DataSourceError(HostError):
    """A call to a data source failed: the outcome of the whole message follows from it when the function then fails.

    `transient`: it may go better later, nothing was done. `unknown`: a write, and nobody knows whether it was done.
    """

    def __init__(self, message: str, *, transient: bool = False, unknown: bool = False):
        super().__init__(message)
        self.transient = transient
        self.unknown = unknown


class PublishError(AtmoFarmError):
    """An output was not accepted: for good (too large, a bad subject), or for now (`transient`)."""

    def __init__(self, message: str, transient: bool):
        super().__init__(message)
        self.transient = transient
