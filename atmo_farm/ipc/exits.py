"""What a child's exit status tells the master."""

import enum


class ChildExit(enum.IntEnum):
    """0 is a wished end; everything else is a cause that the master logs and counts."""

    DRAINED = 0
    """Told to stop; everything in flight was finished."""
    BOOT_FAILED = 10
    """It could not get ready, and said why on its channel."""
    BROKER_CLOSED = 11
    """Its connection ended for good; a new process makes a new one."""
    LOST_MASTER = 12
    """The master is gone."""
    DRAIN_DEADLINE = 13
    """Told to stop; the drain deadline came before the last message was finished."""
    INTERNAL = 70
    """An exception that nobody expected; its trace is in the log."""
