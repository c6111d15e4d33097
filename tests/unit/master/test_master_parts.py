"""The master's small parts, each alone."""

from __future__ import annotations

import errno
import itertools
import os
import re
import signal
import time
from pathlib import Path

import pytest

from atmo_farm.errors import CannotStart
from atmo_farm.ipc.arena import SLOTS, Field
from atmo_farm.ipc.cards import Kind
from atmo_farm.ipc.pidfile import PidFile
from atmo_farm.master import forking, instance
from atmo_farm.master.respawn import FORKS_A_MINUTE, Respawn
from atmo_farm.master.signals import SignalQueue
from atmo_farm.master.slots import Owner, Slots


def consumer(handler: str) -> Owner:
    return Kind.CONSUMER, handler


def test_never_more_than_ten_failed_forks_a_minute() -> None:
    """Whatever the jitter gives, over an hour of deaths right after the fork."""
    respawn = Respawn()
    now, forks = 1000.0, []
    while now < 4600:
        forks.append(now)
        respawn.died(now, forked_at=now, was_ready=False)
        assert respawn.next_at >= now + 0.08
        now = respawn.next_at
    for at in forks:
        assert sum(at <= other < at + 60 for other in forks) <= FORKS_A_MINUTE
    assert forks[4] - forks[0] < 3  # the first ones come quickly
    assert max(b - a for a, b in itertools.pairwise(forks)) <= 36


def test_kills_every_three_seconds_are_replaced_at_once() -> None:
    """A hundred of them: no backoff builds up."""
    respawn = Respawn()
    for number in range(100):
        now = 1000.0 + number * 3
        respawn.died(now, forked_at=now - 3, was_ready=True)
        assert respawn.next_at == now


def test_a_boot_failure_between_kills_costs_only_its_own_backoff() -> None:
    """The next death after ready is replaced at once again."""
    respawn = Respawn()
    for number in range(5):
        respawn.died(1000.0 + number, forked_at=1000.0 + number, was_ready=False)
    assert respawn.next_at > 1004.0 + 1.2
    respawn.died(1050.0, forked_at=1010.0, was_ready=True)
    assert respawn.next_at == 1050.0


def test_counts_survive_a_worker() -> None:
    """What a given-up slot held is in its handler's retired count and in the total; the slot comes back empty."""
    slots = Slots()
    taken = [slots.take(consumer("echo")) for _ in range(3)]
    for number, slot in enumerate(taken):
        slot.numbers[Field.RECEIVED] = 10**number
        slot.numbers[Field.PID] = 7
    for slot in taken:
        slots.give_back(slot)
    assert slots.retired(consumer("echo"), Field.RECEIVED) == slots.total(Field.RECEIVED) == 111
    assert slots.retired(consumer("echo"), Field.PID) == 0
    assert slots.retired(consumer("other"), Field.RECEIVED) == 0
    assert slots.free == SLOTS - 1
    again = slots.take(consumer("echo"))
    assert not any(again.numbers)


def test_counts_that_are_nonsense_do_no_harm() -> None:
    """A child that is out of its mind may leave any bits in its slot."""
    slots = Slots()
    for _ in range(3):
        slot = slots.take(consumer("echo"))
        for index in range(512):
            slot.numbers[index] = 2**64 - 1
        slots.give_back(slot)
    assert slots.total(Field.OK) == 2**64 - 3
    assert not any(slots.take(consumer("echo")).numbers)


def test_the_arena_is_finite() -> None:
    """The worker that has no place is refused in words."""
    slots = Slots()
    for _ in range(SLOTS):
        slots.take(consumer("echo"))
    with pytest.raises(CannotStart, match="4096 places"):
        slots.take(consumer("echo"))


def test_places_do_not_run_out_with_new_names(tmp_path: Path) -> None:
    """Handlers that are gone for good share one place when places get scarce; those that are there keep their counts,
    and the total never falls."""
    slots = Slots()
    stays, left = slots.take(consumer("stays")), slots.take(consumer("stays"))
    left.numbers[Field.OK] = 5
    slots.give_back(left)
    for number in range(3 * SLOTS):
        assert slots.free >= SLOTS - 3
        slot = slots.take(consumer(f"handler-{number}"))
        assert not any(slot.numbers)
        slot.numbers[Field.OK] = 1
        slots.give_back(slot)
        assert slots.total(Field.OK) == 5 + number + 1
    assert slots.retired(consumer("stays"), Field.OK) == 5
    assert slots.retired(consumer(f"handler-{3 * SLOTS - 1}"), Field.OK) == 1
    for _ in range(slots.free):
        slots.take(consumer("many"))
    with pytest.raises(CannotStart):
        slots.take(consumer("one-more"))
    assert slots.total(Field.OK) == 5 + 3 * SLOTS
    assert not any(stays.numbers)


def test_a_pid_file_is_held_by_one(tmp_path: Path) -> None:
    """The second is told who; a release lets the next one in; a stale file does not matter."""
    path = tmp_path / "pid"
    path.write_text("99999999\n")
    first = PidFile(path)
    first.acquire()
    assert path.read_text() == f"{os.getpid()}\n"
    with pytest.raises(CannotStart, match=f"pid {os.getpid()};"):
        PidFile(path).acquire()
    first.release()
    assert not path.exists()
    second = PidFile(path)
    second.acquire()
    second.release()


def test_a_pid_file_does_not_follow_a_link(tmp_path: Path) -> None:
    """Somebody else's file is not overwritten."""
    (tmp_path / "theirs").write_text("precious")
    (tmp_path / "pid").symlink_to(tmp_path / "theirs")
    with pytest.raises(CannotStart, match="remove it"):
        PidFile(tmp_path / "pid").acquire()
    assert (tmp_path / "theirs").read_text() == "precious"


def test_a_pid_file_that_is_another_farms_by_now_stays(tmp_path: Path) -> None:
    """Somebody removed the folder under a running farm, and another took the place: its file is not ours to remove."""
    path = tmp_path / "pid"
    first, second = PidFile(path), PidFile(path)
    first.acquire()
    path.unlink()
    second.acquire()
    first.release()
    with pytest.raises(CannotStart, match=f"pid {os.getpid()};"):
        PidFile(path).acquire()
    path.unlink()
    path.mkdir()
    second.release()


def test_a_pid_file_on_a_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Refused in words, and the file is gone again."""

    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "pwrite", full)
    with pytest.raises(CannotStart, match="cannot be used as pid file: No space left on device"):
        PidFile(tmp_path / "pid").acquire()
    assert not (tmp_path / "pid").exists()
    monkeypatch.undo()
    PidFile(tmp_path / "pid").acquire()


def test_an_identity_that_is_none_is_made_anew(tmp_path: Path) -> None:
    """Whatever the file holds; a place where none can be kept is named."""
    path = tmp_path / instance.NAME
    for content in (b"", b"\xff\xfe", b"one two", b"g" * 16):
        path.write_bytes(content)
        assert re.fullmatch("[0-9a-f]{16}", made := instance.identity(tmp_path))
        assert instance.identity(tmp_path) == made
    path.unlink()
    path.mkdir()
    with pytest.raises(CannotStart, match=r"instance-id cannot be used: Is a directory"):
        instance.identity(tmp_path)


def test_an_instance_keeps_its_identity(tmp_path: Path) -> None:
    """Random once, the same ever after; another folder has another."""
    (tmp_path / "other").mkdir()
    assert instance.identity(tmp_path) == instance.identity(tmp_path) != instance.identity(tmp_path / "other")


def in_a_fork(body: object) -> int:
    """Run `body` in a plain fork and return its exit code, so that no handler of pytest's process is changed."""
    pid = os.fork()
    if pid == 0:
        status = 99
        try:
            status = int(body() or 0)  # type: ignore[operator]
        finally:
            os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def test_signals_are_queued_in_order_and_bounded() -> None:
    """A thousand HUPs are two; nothing is lost between two looks; taking some leaves the others."""

    def body() -> int:
        queue = SignalQueue()
        queue.install()
        for number in (signal.SIGUSR1, *[signal.SIGHUP] * 1000, signal.SIGTERM):
            os.kill(os.getpid(), number)
        if queue.take({signal.SIGTERM}) != [signal.SIGTERM]:
            return 1
        if queue.take() != [signal.SIGUSR1, signal.SIGHUP, signal.SIGHUP]:
            return 2
        return 3 if queue.take() else 0

    assert in_a_fork(body) == 0


def test_a_fork_sheds_what_is_the_masters() -> None:
    """Handlers are reset, SIGTERM is held back, the master's signal queue is not reached, the score is raised."""

    def child() -> int:
        ignored = all(
            signal.getsignal(number) is signal.SIG_IGN for number in (signal.SIGINT, signal.SIGHUP, signal.SIGUSR1)
        )
        held = signal.pthread_sigmask(signal.SIG_BLOCK, ()) == {signal.SIGTERM}
        default = signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
        named = Path("/proc/self/comm").read_text().strip() == "a-name-of-more-"
        return 0 if ignored and held and default and named else 1

    def body() -> int:
        queue = SignalQueue()
        queue.install()
        pid = forking.fork("a-name-of-more-than-15", child, queue.close)
        status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        unblocked = not signal.pthread_sigmask(signal.SIG_BLOCK, ())
        return status or (0 if unblocked else 2)

    assert in_a_fork(body) == 0


def test_a_child_dies_with_its_master() -> None:
    """Also one that looks at nothing: the kernel kills it."""
    read_end, write_end = os.pipe()

    def body() -> int:
        pid = forking.fork("child", lambda: time.sleep(60) or 0, lambda: None)
        os.write(write_end, str(pid).encode())
        os.kill(os.getpid(), signal.SIGKILL)
        return 1

    assert in_a_fork(body) == -signal.SIGKILL
    child = Path(f"/proc/{os.read(read_end, 20).decode()}")
    deadline = time.monotonic() + 2
    while child.exists() and "Z" not in (child / "stat").read_text().rpartition(")")[2][:3]:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    os.close(read_end)
    os.close(write_end)
