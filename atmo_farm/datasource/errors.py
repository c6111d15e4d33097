"""How a call to a data source fails. Drivers' errors are wrapped at the edge, in the backend that knows them."""

from __future__ import annotations

from atmo_farm.errors import AtmoFarmError
from atmo_farm.ipc.frames import Status


class CallFailed(AtmoFarmError):
    """The call's answer is an error text for the guest; it can never go better."""

    status = Status.FAILED


class TransientFailure(CallFailed):
    """The source is out of reach or too slow, or chose this call as the victim of a conflict: nothing was done."""

    status = Status.TRANSIENT


class OutcomeUnknown(CallFailed):
    """A write went out and its answer never came."""

    status = Status.UNKNOWN


class Unreachable(TransientFailure):
    """There is no connection to the source; its breaker opens."""
