"""The monitor of a farm under load: what it tells is true, and what becomes of it is nobody else's matter."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from atmo_farm.cli.farm import RunningFarm
from atmo_farm.errors import AtmoFarmError
from atmo_farm.ipc.control import ConnectionLost, ControlClient
from tests.farm import wait_for
from tests.system.conftest import TestFarm
from tests.system.load import Load

MakeFarm = Callable[..., TestFarm]
Amount = Callable[[int, int], int]
Figure = Callable[[str, object], None]


def ask(farm: TestFarm, verb: str, **args: Any) -> dict[str, Any]:
    """One request; a monitor that is being replaced is waited for."""

    def client() -> ControlClient | None:
        try:
            return ControlClient(farm.folder / "run" / "control.sock")
        except (FileNotFoundError, ConnectionRefusedError):
            return None

    while True:
        with wait_for(client) as found, contextlib.suppress(ConnectionLost):
            result: dict[str, Any] = found.ask(verb, args)
            return result


def handler(farm: TestFarm, name: str) -> dict[str, Any]:
    return next(entry for entry in ask(farm, "status")["handlers"] if entry["name"] == name)


def test_status_counts_what_the_farm_does(make_farm: MakeFarm) -> None:
    """Every message of every worker, by its outcome; a table and JSON by the command, while it works."""
    farm = make_farm().serve(a="fn: hello\nworkers: 2", b="fn: failing")
    command = [sys.executable, "-m", "atmo_farm", "status", "--run-dir", str(farm.folder / "run")]
    with farm, Load(farm.url, farm.subject("a"), per_s=300) as good, Load(farm.url, farm.subject("b"), per_s=50) as bad:
        wait_for(lambda: good.answered() > 50)
        table = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
        found = json.loads(subprocess.run([*command, "--json"], capture_output=True, check=True).stdout)
        assert table[0].startswith("com.example.test v1.0.0: ready, generation 1, 3 of 3 ready")
        assert [line.split()[:3] for line in table[2:]] == [["a", "ready", "2/2"], ["b", "ready", "1/1"]]
        assert 0 < int(table[2].split()[4]) < found["handlers"][0]["received"]
        good.stop()
        bad.stop()
        a, b = handler(farm, "a"), handler(farm, "b")
        assert a["received"] == a["ok"] == a["published"] == len(good.requests)
        assert b["received"] == b["failed"] == len(bad.requests) and b["ok"] == 0
        assert sorted(worker["pid"] for worker in a["workers"]) == farm.workers("a")


@pytest.mark.fault(row="kill-monitor")
@pytest.mark.timeout(300)
def test_log_level_of_all_processes(make_farm: MakeFarm) -> None:
    """Those that run obey, and one that is forked later; an unknown level changes nothing."""
    farm = make_farm().serve(a="fn: hello")
    command = [sys.executable, "-m", "atmo_farm", "loglevel", "--run-dir", str(farm.folder / "run")]
    with farm:
        assert subprocess.run([*command, "error"], capture_output=True, check=True).stdout == b"log level error\n"
        os.kill(pid := farm.workers("a")[0], signal.SIGKILL)
        wait_for(lambda: farm.workers("a") not in ([], [pid]) and handler(farm, "a")["ready"])
        assert farm.wait_log(message="worker ended", pid=pid)
        assert farm.logged("worker ready", worker="a/0") == 1
        with ControlClient(farm.folder / "run" / "control.sock") as client, pytest.raises(AtmoFarmError) as error:
            client.ask("loglevel", {"level": "loud"})
        assert error.value.exit_code == 2
        ask(farm, "loglevel", level="info")
        os.kill(farm.workers("a")[0], signal.SIGKILL)
        wait_for(lambda: farm.logged("worker ready", worker="a/0") == 2)


def test_kill_9_of_the_monitor_under_load(make_farm: MakeFarm, amount: Amount, figure: Figure) -> None:
    """It is back at once and knows all; nothing is lost, no process is replaced, and a reload works as ever."""
    kills = amount(3, 50)
    farm = make_farm().serve(a="fn: hello\nworkers: 2")
    with farm, Load(farm.url, farm.subject("a"), per_s=200) as load:
        before, back = farm.children(), []
        for _ in range(kills):
            seen = load.answered()
            wait_for(lambda seen=seen: load.answered() > seen + 20)
            pid = ask(farm, "status")["processes"][0]["workers"][0]["pid"]
            killed_at = time.monotonic()
            os.kill(pid, signal.SIGKILL)
            wait_for(lambda pid=pid: ask(farm, "status")["processes"][0]["workers"][0]["pid"] != pid)
            back.append(time.monotonic() - killed_at)
            time.sleep(max(0.0, 2.5 - back[-1]) if kills > 4 else 0)
        assert farm.children() == before
        farm.serve(a="fn: hello\nworkers: 3")
        assert ask(farm, "reload")["generation"] == 2
        load.stop()
        assert load.lost() == load.repeated() == 0
        found = ask(farm, "status")
        assert found["processes"][0]["restarts"] == kills
        assert found["handlers"][0]["ok"] == len(load.requests)
        assert set(before) < set(farm.children())
        figure("kills", kills)
        figure("slowest answer of the next one, s", max(back))


@pytest.mark.fault(row="control-clients")
def test_control_clients_that_flood_or_hang(make_farm: MakeFarm, amount: Amount, figure: Figure) -> None:
    """Clients that never read, never end their line, or ask as fast as they can: messages go on as before."""
    seconds = amount(2, 60)
    farm = make_farm().serve(a="fn: hello")
    with farm, Load(farm.url, farm.subject("a"), per_s=200) as load:
        ask(farm, "status")
        running = RunningFarm(farm.folder / "run")  # where too many wait to be let in, it comes again
        end = time.monotonic() + seconds
        request = b'{"id": 1, "verb": "status"}\n'
        held = []

        def flood() -> None:
            while time.monotonic() < end:
                with running.connect() as client:
                    for _ in range(20):
                        client.ask("status")

        flooder = threading.Thread(target=flood)
        flooder.start()
        while time.monotonic() < end:
            deaf, half = running.connect(), running.connect()
            deaf._socket.setblocking(False)
            try:
                for _ in range(50):
                    deaf._socket.send(request * 50)
            except BlockingIOError:
                pass
            half._socket.send(request[:-5])
            held = [*held[-60:], deaf, half]
            time.sleep(0.02)
        flooder.join()
        asked_at = time.monotonic()
        assert ask(farm, "status")["processes"][0]["restarts"] == 0
        figure("answer afterwards, s", time.monotonic() - asked_at)
        load.stop()
        assert load.lost() == load.repeated() == 0
        for client in held:
            client._socket.close()


def test_what_the_monitor_costs(make_farm: MakeFarm) -> None:
    """Little: most of its memory is shared with the others, and idle it does next to nothing."""
    farm = make_farm().serve(a="fn: hello")
    with farm:
        ask(farm, "status")
        pid = farm.monitor()
        rollup = Path(f"/proc/{pid}/smaps_rollup").read_text()
        private = sum(int(line.split()[1]) for line in rollup.splitlines() if line.startswith("Private_"))
        assert private < 12 << 10, f"{private} KiB"

        def ticks() -> int:
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            return int(fields[11]) + int(fields[12])

        before = ticks()
        time.sleep(1.5)
        assert ticks() - before <= 2
