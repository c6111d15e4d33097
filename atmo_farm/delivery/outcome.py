"""How the handling of one message ended, in terms that no broker and no guest knows."""

from __future__ import annotations

import enum

import attrs


class Kind(enum.Enum):
    """What may be done about it."""

    OK = "ok"
    TRANSIENT = "transient"
    """It may go better later: retried."""
    PERMANENT = "permanent"
    """It will fail again: not retried."""
    CANCELLED = "cancelled"
    """Cut off by a drain or a stop: neither done nor failed."""


@attrs.frozen
class Outcome:
    """The end of one attempt. `cause` is one of timeout, datasource, publish, trap, memory, error, internal."""

    kind: Kind
    cause: str = ""
    code: int = 0
    """The Runnable's error code (cause `error`), else 500, or 504 for a timeout."""
    message: str = ""
    function: str = ""
    """The function that failed, as the Directive writes it; empty when the failure was outside of any."""


OK = Outcome(Kind.OK)
