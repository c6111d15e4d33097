"""What a farm stands on runs out or jumps: log, descriptors, state folder, clock (spec 4: nothing lost, no spin, well
again within 5 s)."""

from __future__ import annotations

import itertools
import json
import os
import resource
import shutil
import signal
import struct
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.farm import busy_s, wait_for
from tests.servers.nats import NatsServer
from tests.system.conftest import TestFarm
from tests.system.load import Load

MakeFarm = Callable[..., TestFarm]
Amount = Callable[[int, int], int]
Figure = Callable[[str, object], None]

WELL_AGAIN_S = 5.0
UNLIMITED = resource.RLIM_INFINITY


class Reader(threading.Thread):
    """Reads a pipe, unless it is told to wait."""

    def __init__(self, descriptor: int):
        super().__init__(daemon=True)
        self._descriptor = descriptor
        self.goes_on = threading.Event()
        self.goes_on.set()
        self.lines: list[bytes] = []

    def run(self) -> None:
        rest = b""
        while data := os.read(self._descriptor, 1 << 16):
            self.goes_on.wait()
            *lines, rest = (rest + data).split(b"\n")
            self.lines += lines


@pytest.mark.alone
@pytest.mark.fault(row="log-reader-stopped")
@pytest.mark.timeout(300)
def test_a_log_reader_that_stops_costs_lines_and_no_rate(make_farm: MakeFarm, amount: Amount, figure: Figure) -> None:
    """Standard error is a pipe that nobody reads: at least 95 % of the rate, whole lines, and their loss is told."""
    farm = make_farm().serve(a="fn: failing", b="fn: hello")
    read_end, write_end = os.pipe()
    reader = Reader(read_end)
    reader.start()
    farm.start(log_to=write_end)
    os.close(write_end)
    farm.wait_notified("READY=1")
    seconds = amount(4, 30)
    with Load(farm.url, farm.subject("a"), per_s=500) as load:
        wait_for(lambda: load.answered() > 100)
        moments = [time.monotonic()]
        time.sleep(seconds / 2)
        reader.goes_on.clear()
        moments.append(time.monotonic())
        time.sleep(seconds)
        moments.append(time.monotonic())
        os.kill(farm.workers("b")[0], signal.SIGKILL)
        wait_for(lambda: len(farm.workers("b")) == 1, 2)
        reader.goes_on.set()
        wait_for(lambda: any(b"log lines were dropped" in line for line in reader.lines), WELL_AGAIN_S)
        load.stop()
    before, during = (load.answered(begin, end) / (end - begin) for begin, end in itertools.pairwise(moments))
    assert during >= 0.95 * before, (during, before)
    assert load.lost() == load.repeated() == 0
    assert farm.stop() == 0
    reader.join(5)
    lines = [json.loads(line) for line in reader.lines]
    told = [line["lines_dropped"] for line in lines if "lines_dropped" in line]
    assert sum(told) > 100 * seconds
    figure("reader stopped, s", seconds)
    figure("rate, of before", during / before)
    figure("log lines lost and told", sum(told))


@pytest.mark.fault(row="log-target-full")
@pytest.mark.timeout(300)
def test_a_log_that_cannot_grow_costs_lines_and_nothing_else(
    make_farm: MakeFarm, amount: Amount, figure: Figure
) -> None:
    """The file may not grow any more: messages and supervision go on; once it may, lines come again at once."""
    farm = make_farm().serve(a="fn: failing", b="fn: hello")
    with farm, Load(farm.url, farm.subject("a"), per_s=200) as load:
        wait_for(lambda: load.answered() > 50)
        size = farm.log_file.stat().st_size
        pids = [farm.pid, *farm.workers()]
        for pid in pids:
            resource.prlimit(pid, resource.RLIMIT_FSIZE, (size, UNLIMITED))
        begin = time.monotonic()
        busy = busy_s(pids)
        time.sleep(amount(2, 30))
        busy = (busy_s(pids) - busy) / (time.monotonic() - begin)
        assert farm.log_file.stat().st_size <= size + 4096
        (pid,) = farm.workers("b")
        os.kill(pid, signal.SIGKILL)
        wait_for(lambda: farm.workers("b") not in ([], [pid]), 2)
        for pid in (farm.pid, *farm.workers()):
            resource.prlimit(pid, resource.RLIMIT_FSIZE, (UNLIMITED, UNLIMITED))
        free_at = time.monotonic()
        wait_for(lambda: farm.logged("log lines were dropped", process="consumer a/0"), WELL_AGAIN_S)
        well_s = time.monotonic() - free_at
        load.stop()
        assert load.lost() == load.repeated() == 0
        assert busy < 0.5
        assert farm.stop() == 0
        assert farm.log(message="worker ended", worker="a/0")[-1]["cause"] == "exit 0 (drained)"
        figure("first line after, s", well_s)
        figure("processors busy meanwhile", busy)


@pytest.mark.fault(row="descriptors-used-up")
@pytest.mark.timeout(300)
def test_without_descriptors(
    make_farm: MakeFarm, start_nats: Callable[..., NatsServer], amount: Amount, figure: Figure
) -> None:
    """Neither master nor child may open anything: what runs goes on; then children, connections, reloads are back."""
    server = start_nats()
    farm = make_farm(url=server.url).serve(a="fn: hello", b="fn: hello")
    with farm:
        before = resource.prlimit(farm.pid, resource.RLIMIT_NOFILE)
        (killed,), (kept,) = farm.workers("a"), farm.workers("b")
        with Load(farm.url, farm.subject("b"), per_s=100) as load:
            wait_for(lambda: load.answered() > 10)
            for pid in (farm.pid, kept):
                resource.prlimit(pid, resource.RLIMIT_NOFILE, (3, before[1]))
            os.kill(killed, signal.SIGKILL)
            os.kill(farm.pid, signal.SIGHUP)
            begin, busy = time.monotonic(), busy_s([farm.pid])
            wait_for(lambda: farm.logged("reload refused") and farm.logged("no fork") > 2)
            load.stop()
            assert load.lost() == load.repeated() == 0
        server.kill()
        server.start()
        time.sleep(amount(3, 60))
        busy = (busy_s([farm.pid]) - busy) / (time.monotonic() - begin)
        assert farm.workers() == [kept]
        for pid in (farm.pid, kept):
            resource.prlimit(pid, resource.RLIMIT_NOFILE, before)
        free_at = time.monotonic()
        wait_for(lambda: farm.workers("a"), WELL_AGAIN_S)
        back_s = []
        for name in ("a", "b"):
            with Load(farm.url, farm.subject(name), per_s=50) as load:
                back_s.append(load.wait_resumed(free_at, WELL_AGAIN_S))
        assert max(back_s) < WELL_AGAIN_S
        assert farm.workers("b") == [kept]
        os.kill(farm.pid, signal.SIGHUP)
        wait_for(lambda: farm.logged("reload: in force"))
        assert busy < 0.05
        figure("serving again after, s", max(back_s))
        figure("master busy meanwhile", busy)


SHIFTED_CLOCK = """\
import mmap, os, struct, time
with open(os.environ["CLOCK_SHIFT"], "rb") as file:
    _shift = mmap.mmap(file.fileno(), 8, prot=mmap.PROT_READ)
def _shifted(now=time.time):
    return now() + struct.unpack("d", _shift[:])[0]
def _shifted_ns(now=time.time_ns):
    return now() + int(struct.unpack("d", _shift[:])[0] * 1e9)
time.time, time.time_ns = _shifted, _shifted_ns
"""


@pytest.mark.fault(row="clock-jump")
@pytest.mark.timeout(300)
def test_jumps_of_the_wall_clock(make_farm: MakeFarm, tmp_path: Path, amount: Amount, figure: Figure) -> None:
    """An hour ahead and an hour back, in all processes: no message lost, no process replaced, no spin; reloads work."""
    (tmp_path / "sitecustomize.py").write_text(SHIFTED_CLOCK)
    shift = tmp_path / "shift"
    shift.write_bytes(struct.pack("d", 0))
    environ = {"CLOCK_SHIFT": str(shift), "PYTHONPATH": f"{tmp_path}{os.pathsep}{Path.cwd()}"}
    farm = make_farm(environ=environ).serve(a="fn: hello", b="fn: failing")
    with farm, Load(farm.url, farm.subject("a"), per_s=200) as load:
        wait_for(lambda: load.answered() > 50)
        pids = [farm.pid, *farm.workers()]
        jumps = (0.0, 3600.0, -3600.0, 0.0)
        most_busy = 0.0
        for number, jump in enumerate(jumps):
            with shift.open("r+b") as file:
                file.write(struct.pack("d", jump))
            begin, busy = time.monotonic(), busy_s(pids)
            time.sleep(amount(2, 15))
            most_busy = max(most_busy, (busy_s(pids) - busy) / (time.monotonic() - begin))
            os.kill(farm.pid, signal.SIGHUP)
            wait_for(lambda number=number: farm.logged("reload: in force") == number + 1)
        hours = {line["time"][:13] for line in farm.log()}
        assert len(hours) >= 3, "the clock did not jump"
        load.stop()
        assert load.lost() == load.repeated() == 0
        assert [farm.pid, *farm.workers()] == pids
        assert most_busy < 0.5
        figure("messages, none lost", len(load.requests))
        figure("processors busy, at most", most_busy)


def test_a_state_folder_that_is_gone(make_farm: MakeFarm) -> None:
    """Without modules and bundles no child can be replaced: tried every few seconds, told, and a reload mends it."""
    farm = make_farm().serve(a="fn: hello", b="fn: hello")
    with farm, Load(farm.url, farm.subject("b"), per_s=50) as load:
        shutil.rmtree(farm.folder / "state")
        os.kill(farm.workers("a")[0], signal.SIGKILL)
        farm.wait_notified("STATUS=generation 1, 1 of 2 ready; not getting ready: a/0 (its compiled module is gone)")
        gone_at = time.monotonic()
        wait_for(lambda: farm.logged("not compiled again") == 3)
        assert time.monotonic() - gone_at > 4
        assert farm.logged("compiled module is gone") == 1
        os.kill(farm.pid, signal.SIGHUP)
        wait_for(lambda: farm.logged("reload: generation 2 accepted"))
        wait_for(lambda: len(farm.workers("a")) == 1, WELL_AGAIN_S)
        load.stop()
        assert load.lost() == 0
