"""A worker, which the farm wants to run, and the process that runs as it at the moment."""

from __future__ import annotations

import math

import attrs

from atmo_farm.ipc.arena import Field, State
from atmo_farm.ipc.cards import Kind
from atmo_farm.ipc.channel import MasterChannel
from atmo_farm.ipc.messages import Event, Failed, Ready, Waiting
from atmo_farm.master.generation import Generation
from atmo_farm.master.respawn import Respawn
from atmo_farm.master.role import Role
from atmo_farm.master.slots import Slot


@attrs.define(eq=False)
class Process:
    """One child process, from its fork until it is reaped. Times are clock.monotonic() seconds."""

    pid: int
    channel: MasterChannel
    forked_at: float
    state: State = State.BOOTING
    """BOOTING until it says something, then READY or WAITING by what it said last."""
    was_ready: bool = False
    waiting: Waiting | None = None
    """What it waits for, while it does."""
    failure: str = ""
    """Why it cannot boot, in its own words."""
    killed_because: str = ""
    """Why the master sent it SIGKILL; empty if it did not."""

    def told(self, event: Event) -> None:
        """Take in what it said."""
        if isinstance(event, Failed):
            self.failure = event.reason
        elif isinstance(event, Waiting | Ready):
            self.waiting = event if isinstance(event, Waiting) else None
            self.state = State.READY if isinstance(event, Ready) else State.WAITING
            self.was_ready = self.was_ready or self.state is State.READY


class Worker:
    """One of a role's workers, of one generation. It outlives its processes; its slot is its own."""

    def __init__(self, generation: Generation, role: Role, number: int, slot: Slot, proxy: Worker | None):
        self.generation = generation
        self.role = role
        self.number = number
        self.slot = slot
        self.proxy = proxy
        """The data-source proxy that its functions ask."""
        self.recipe = generation.recipe(role)
        self.process: Process | None = None
        self.respawn = Respawn()
        self.failure = ""
        """How the last process ended, if it was never ready; empty once one is up."""
        self.cannot_boot = False
        """That process said itself that it cannot boot: the next one will most likely say the same."""
        self.restarts = 0
        """How many of its processes ended without being told to."""
        self.joining = False
        """It begins beside one that serves until it is up: nobody waits for it."""
        self.leaving = False
        """It was told to end and gets no other process."""
        self.kill_at = math.inf
        """When a leaving worker's process is killed."""

    @property
    def key(self) -> tuple[tuple[Kind, str], int]:
        """Role and number: what stays the same over generations."""
        return self.role.key, self.number

    @property
    def name(self) -> str:
        """`users-get/0`, for people."""
        return f"{self.role.name}/{self.number}"

    @property
    def is_up(self) -> bool:
        """Whether it serves, or would if its broker could be reached."""
        return self.process is not None and self.process.state in (State.READY, State.WAITING)

    @property
    def is_ready(self) -> bool:
        """Whether it serves."""
        return self.process is not None and self.process.state is State.READY

    @property
    def waiting(self) -> Waiting | None:
        """What its process waits for, if it does."""
        return self.process.waiting if self.process is not None else None

    def heartbeat(self) -> float:
        """clock.monotonic() of its process's last sign of life; 0.0 if it has not given one yet."""
        return self.slot.numbers[Field.HEARTBEAT_NS] / 1e9

    def adopt(self, generation: Generation, role: Role) -> None:
        """Go on unchanged as part of a newer generation; the next process is made from that one."""
        self.generation, self.role = generation, role
