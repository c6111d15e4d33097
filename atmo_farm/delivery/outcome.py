"""How the handling of one message ended, in terms that no broker and no guest knows."""

from __future__ import annotations

import enum

import attrs

from atmo_farm.errors import (
    DataSourceError,
    GuestOutOfMemory,
    GuestTimedOut,
    GuestTrapped,
    PublishError,
    RunnableError,
)


class Kind(enum.Enum):
    """What may be done about it."""

    OK = "ok"
    FAILED = "failed"
    """This attempt failed; the retry policy says whether another one may go better."""
    REFUSED = "refused"
    """It can never go better, whatever the policy says."""
    UNKNOWN = "unknown"
    """A write went out and no answer came: to try again may do it twice."""
    CANCELLED = "cancelled"
    """It was cut off: nobody knows how it would have ended."""


@attrs.frozen
class Outcome:
    """The end of one attempt."""

    kind: Kind
    cause: str = ""
    """timeout, datasource, outcome unknown, publish, trap, memory, error, killed its process or internal; empty when
    ok."""
    code: int = 0
    """The Runnable's error code (cause `error`), 504 for a timeout, else 500."""
    message: str = ""
    function: str = ""
    """The function that failed, as the Directive writes it; empty when the failure was outside of any."""


OK = Outcome(Kind.OK)
CANCELLED = Outcome(Kind.CANCELLED)

KILLER = Outcome(Kind.REFUSED, "killed its process", 500, "its process died three times while a function ran for it")
"""Of a message that the crash ledger knows too well: it is not tried again."""


def failure(error: Exception, function: str = "") -> Outcome:
    """The outcome that an exception of a run or of a publish stands for."""
    message = str(error)
    if isinstance(error, RunnableError):
        return Outcome(Kind.FAILED, "error", error.code, message, function)
    if isinstance(error, DataSourceError):
        if error.unknown:
            return Outcome(Kind.UNKNOWN, "outcome unknown", 500, message, function)
        return Outcome(Kind.FAILED if error.transient else Kind.REFUSED, "datasource", 503, message, function)
    if isinstance(error, GuestTimedOut):
        return Outcome(Kind.FAILED, "timeout", 504, message, function)
    if isinstance(error, GuestOutOfMemory):
        return Outcome(Kind.FAILED, "memory", 500, message, function)
    if isinstance(error, GuestTrapped):
        return Outcome(Kind.FAILED, "trap", 500, message, function)
    if isinstance(error, PublishError):
        return Outcome(Kind.FAILED if error.transient else Kind.REFUSED, "publish", 500, message, function)
    return Outcome(Kind.REFUSED, "internal", 500, f"{type(error).__name__}: {message}", function)
