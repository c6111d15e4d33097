"""One fork, made safe: what the child must shed before its own code runs, and how it ends."""

from __future__ import annotations

import ctypes
import logging
import os
import signal
import sys
from collections.abc import Callable

from atmo_farm.ipc.exits import ChildExit
from atmo_farm.master import signals

logger = logging.getLogger("atmo_farm.master")

PR_SET_PDEATHSIG = 1
PR_SET_NAME = 15

OOM_SCORE_ADDED = 500
"""The kernel's out-of-memory killer shall take a child, which is replaced, and not the master."""

_libc = ctypes.CDLL(None, use_errno=True)


def fork(name: str, body: Callable[[], int], shed: Callable[[], None]) -> int:
    """Run `shed` and then `body` in a new process, and return its pid; OSError when the machine has no place for it.

    `shed` closes what belongs to the master alone. `body` returns the exit status; its process dies with the master.
    It begins with SIGTERM blocked, so that one which comes before its handler stands waits instead of being lost; it
    unblocks it then.
    """
    _flush()  # what is buffered now would be written by both
    sys._clear_type_cache()  # each name in it that a child replaces would cost the child a page: 0.4 MiB in all
    master = os.getpid()
    before = signal.pthread_sigmask(signal.SIG_BLOCK, signals.QUEUED)
    try:
        pid = os.fork()
        if pid == 0:
            _run_child(name, body, shed, master)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    return pid


def _run_child(name: str, body: Callable[[], int], shed: Callable[[], None], master: int) -> None:
    """Never returns: neither the master's stack nor its exit handlers are this process's."""
    status = int(ChildExit.INTERNAL)
    try:
        _libc.prctl(PR_SET_PDEATHSIG, ctypes.c_ulong(signal.SIGKILL), 0, 0, 0)
        if os.getppid() != master:  # it died before the line above
            os._exit(ChildExit.LOST_MASTER)
        _libc.prctl(PR_SET_NAME, name.encode()[:15], 0, 0, 0)
        signals.reset_in_child()
        signal.pthread_sigmask(signal.SIG_UNBLOCK, set(signals.QUEUED) - {signal.SIGTERM})
        _raise_oom_score()
        shed()
        status = body()
    except BaseException:
        logger.critical("internal error in a child process", exc_info=True)
    finally:
        try:
            _flush()
        finally:
            os._exit(status)


def _flush() -> None:
    """Best effort: a full disk must not keep a process from being forked, nor from ending."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:
            pass


def _raise_oom_score() -> None:
    """Best effort: a container may not let us. Without `pathlib`, whose way to a file costs the child 0.2 MiB."""
    try:
        score = os.open("/proc/self/oom_score_adj", os.O_RDWR | os.O_CLOEXEC)
        try:
            os.write(score, b"%d" % min(1000, int(os.read(score, 16)) + OOM_SCORE_ADDED))
        finally:
            os.close(score)
    except (OSError, ValueError):
        pass
