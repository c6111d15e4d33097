"""The master's loop: a list of named steps, each of which does what is due and says when it wants its next turn."""

from __future__ import annotations

import logging
import math
import os
import selectors
import signal
from collections.abc import Callable

from atmo_farm import clock, log
from atmo_farm.errors import AtmoFarmError, CannotStart
from atmo_farm.ipc.arena import Field
from atmo_farm.ipc.messages import ReopenLog
from atmo_farm.master.fleet import Fleet
from atmo_farm.master.generation import Generation
from atmo_farm.master.helper import Accepted, Helper
from atmo_farm.master.notify import RETRY_S, Notifier
from atmo_farm.master.reload import Roll
from atmo_farm.master.signals import SignalQueue
from atmo_farm.settings import Settings

logger = logging.getLogger("atmo_farm.master")

STATUS_S = 1.0
"""How often what people read is brought up to date."""


class Arbiter:
    """Keeps a farm as its generation wants it, until it is told to stop.

    `loader` makes generations; the arbiter only decides when, and what becomes of them.
    """

    def __init__(
        self,
        generation: Generation,
        fleet: Fleet,
        loader: Loader,
        settings: Settings,
        signals: SignalQueue,
        selector: selectors.BaseSelector,
        notifier: Notifier,
    ):
        self._fleet = fleet
        self._loader = loader
        self._settings = settings
        self._signals = signals
        self._selector = selector
        self._notifier = notifier
        self._generation = generation
        self._roll: Roll | None = None
        ...
