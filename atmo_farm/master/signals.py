"""Signals of the master: handlers only queue, the loop acts.

HUP   reload                    TERM, INT   drain and end; the second one ends at once
USR1  open the log file again   CHLD        a child may have ended
"""

from __future__ import annotations

import os
import signal
from collections.abc import Container
from types import FrameType

QUEUED = (signal.SIGHUP, signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGCHLD)

MOST_OF_ONE = 2
"""How often one signal can stand in the queue: twice, for a second SIGTERM means more than the first."""


class SignalQueue:
    """Holds what came until the loop takes it, and has a descriptor that wakes the loop."""

    def __init__(self) -> None:
        self._queue: list[int] = []
        self._read_end, self._write_end = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)

    def install(self) -> None:
        """From here on no signal of `QUEUED` ends this process, nor is one blocked, as the parent may have left it."""
        signal.set_wakeup_fd(self._write_end, warn_on_full_buffer=False)
        for number in QUEUED:
            signal.signal(number, self._handle)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, QUEUED)

    def finish(self) -> None:
        """Hear no more of them: how the process ends is decided, and the interpreter gives our handlers up before."""
        signal.pthread_sigmask(signal.SIG_BLOCK, QUEUED)

    def fileno(self) -> int:
        """Readable when signals may be waiting."""
        return self._read_end

    def take(self, numbers: Container[int] = QUEUED) -> list[int]:
        """Those of these signals that came since, in their order; the others stay."""
        try:
            while os.read(self._read_end, 4096):
                pass
        except BlockingIOError:
            pass
        # The wake-up byte is written after the interpreter knows of the signal, so all that woke us is queued by now;
        # a signal from here on wakes the loop again.
        taken = [number for number in self._queue if number in numbers]
        for number in taken:
            self._queue.remove(number)
        return taken

    def close(self) -> None:
        """Close the descriptors; in a child after `reset`."""
        os.close(self._read_end)
        os.close(self._write_end)

    def _handle(self, number: int, _frame: FrameType | None) -> None:
        if self._queue.count(number) < MOST_OF_ONE:
            self._queue.append(number)


def reset_in_child() -> None:
    """Give up the master's handlers. A child is told to end by SIGTERM alone: a terminal's Ctrl-C goes to the whole
    process group, and it is the master that answers it."""
    signal.set_wakeup_fd(-1)
    for number in (signal.SIGINT, signal.SIGHUP, signal.SIGUSR1):
        signal.signal(number, signal.SIG_IGN)
    for number in (signal.SIGTERM, signal.SIGCHLD):
        signal.signal(number, signal.SIG_DFL)
