"""Start, reload and end of a real farm, told by real signals and a real notify socket."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable
from pathlib import Path

import nats
import pytest

from tests.farm import nats_directive, wait_for, write_app, write_directive
from tests.servers.nats import NatsServer
from tests.servers.process import free_port
from tests.system.conftest import TestFarm
from tests.system.load import Load

MakeFarm = Callable[..., TestFarm]
Amount = Callable[[int, int], int]
Figure = Callable[[str, object], None]


def descriptors(pid: int) -> int:
    """How many a process has open."""
    return len(list(Path(f"/proc/{pid}/fd").iterdir()))


def reload(farm: TestFarm) -> None:
    """SIGHUP."""
    os.kill(farm.pid, signal.SIGHUP)


def test_only_what_changed_is_replaced(make_farm: MakeFarm) -> None:
    """A changed key, a changed module, a new and a removed handler; the unchanged one keeps its process."""
    farm = make_farm().serve(same="fn: looping", key="fn: upper-case", module="fn: hello", gone="fn: upper-case")
    with farm:
        before = {name: farm.workers(name) for name in ("same", "key", "module", "gone")}
        hello, upper = (farm.app / name / f"{name}.wasm" for name in ("hello", "upper-case"))
        unfinished = hello.with_suffix(".unfinished")
        unfinished.write_bytes(upper.read_bytes())
        unfinished.rename(hello)
        farm.serve(same="fn: looping", key="fn: upper-case\ntimeout: 3s", module="fn: hello", new="fn: upper-case")
        reload(farm)
        farm.wait_notified("RELOADING=1")
        farm.wait_notified("READY=1")
        assert farm.workers("same") == before["same"]
        assert farm.workers("gone") == []
        for changed in ("key", "module"):
            assert len(farm.workers(changed)) == 1 and farm.workers(changed) != before[changed]
        assert len(farm.workers("new")) == 1
        (accepted,) = farm.log(message="reload: generation 2 accepted")
        assert "handlers: +new, -gone, ~key, ~module" in accepted["changes"]
        with Load(farm.url, farm.subject("module"), per_s=50) as load:
            wait_for(load.answered)


@pytest.mark.alone
@pytest.mark.fault(row="invalid-reload")
def test_an_invalid_directive_keeps_everything(make_farm: MakeFarm, amount: Amount, figure: Figure) -> None:
    """Same processes, every problem named within a second, the status says so."""
    slowest = 0.0
    reloads = amount(10, 50)
    farm = make_farm().serve(a="fn: hello\nworkers: 2")
    with farm, Load(farm.url, farm.subject("a"), per_s=100) as load:
        before = farm.workers()
        for number in range(reloads):
            farm.serve(a=f"fn: helo{number}\nworkers: none", b="fn: hello\ndurable: d")
            sent_at = time.monotonic()
            reload(farm)
            wait_for(lambda number=number: farm.logged("reload refused") == number + 1)
            slowest = max(slowest, time.monotonic() - sent_at)
            assert slowest < 1
            texts = [line["message"] for line in farm.log(level="error")]
            assert any(f"helo{number}" in text and "Directive.yaml:" in text for text in texts)
            assert any("workers" in text for text in texts)
        assert "last reload refused" in farm.wait_notified("STATUS=generation 1, 2 of 2 ready; last reload")
        assert farm.workers() == before
        load.stop()
        assert load.lost() == load.repeated() == 0
        figure("reloads refused", reloads)
        figure("slowest, s", slowest)


@pytest.mark.fault(row="hup-storm")
def test_a_storm_of_hups_under_load(make_farm: MakeFarm, amount: Amount, figure: Figure) -> None:
    """Twenty a second, each with another file: nothing is lost, the last file wins, descriptors are flat."""
    reloads = amount(60, 200)
    farm = make_farm().serve(a="fn: hello", same="fn: hello")
    with farm, Load(farm.url, farm.subject("a"), per_s=200) as load:
        same = farm.workers("same")
        before = descriptors(farm.pid)
        begin = time.monotonic()
        for number in range(reloads):
            farm.serve(a=f"fn: hello\ntimeout: {number + 1}s", same="fn: hello")
            reload(farm)
            time.sleep(max(0.0, begin + (number + 1) * 0.05 - time.monotonic()))
        kept = farm.folder / "state" / "generations"

        def last_directive() -> bytes:
            newest = max(kept.glob("*.zip"), key=lambda path: int(path.stem))
            with zipfile.ZipFile(newest) as bundle:
                return bundle.read("Directive.yaml")

        def settled() -> bool:
            return farm.logged("reload: in force") == farm.logged("reload: checking") and len(farm.children()) == 2

        wait_for(lambda: settled() and b"timeout: %ds" % reloads in last_directive())
        load.stop()
        assert not farm.log(level="error")
        assert load.lost() == load.repeated() == 0, load.unanswered(farm)
        assert farm.workers("same") == same
        assert len(farm.workers("a")) == 1
        assert descriptors(farm.pid) == before
        assert farm.logged("reload: in force") > 3
        figure("reloads in force", farm.logged("reload: in force"))
        figure("messages, none lost", len(load.requests))


@pytest.mark.fault(row="hup-while-starting")
@pytest.mark.timeout(900)
def test_hup_while_starting(make_farm: MakeFarm, amount: Amount, figure: Figure) -> None:
    """At any moment from the pid file on: no death, each start ends ready and reloaded."""
    starts = amount(8, 200)
    farm = make_farm().serve(a="fn: hello")
    pid_file = farm.folder / "run" / "atmo-farm.pid"
    for number in range(starts):
        farm.start()
        wait_for(lambda: pid_file.exists() and pid_file.read_text() == f"{farm.pid}\n")
        time.sleep(number * 0.6 / starts)
        reload(farm)
        farm.wait_notified("READY=1")
        wait_for(lambda number=number: farm.logged("reload: in force") == number + 1)
        assert farm.stop() == 0
    figure("starts, none failed", starts)


def test_sigterm_with_the_broker_down(make_farm: MakeFarm, start_nats: Callable[..., NatsServer]) -> None:
    """Whether it was there before or never: exit code 0, soon."""
    server = start_nats()
    farm = make_farm(url=server.url).serve(a="fn: hello\nworkers: 2")
    with farm:
        server.kill()
        farm.wait_notified("STATUS=generation 1, 0 of 2 ready; waiting: a/0 for")
        sent_at = time.monotonic()
        assert farm.stop(patience_s=30) == 0
        assert time.monotonic() - sent_at < 5
        farm.start()
        farm.wait_notified("READY=1")
        assert farm.stop(patience_s=30) == 0


def test_the_service_manager_is_told_a_whole_life(make_farm: MakeFarm, start_nats: Callable[..., NatsServer]) -> None:
    """READY though the broker is away, with a STATUS that says so; then ready in fact; reload; stop."""
    server = start_nats()
    server.kill()
    farm = make_farm(url=server.url, environ={"WATCHDOG_USEC": "2000000"}).serve(a="fn: hello")
    with farm:
        status = farm.wait_notified("STATUS=generation 1, 0 of 1 ready; waiting: a/0 for")
        assert "nats default" in status
        server.start()
        farm.wait_notified("STATUS=generation 1, 1 of 1 ready")
        farm.wait_notified("WATCHDOG=1")
        farm.serve(a="fn: upper-case")
        reload(farm)
        assert "MONOTONIC_USEC=" in farm.wait_notified("RELOADING=1")
        farm.wait_notified("READY=1")
        farm.wait_notified("STATUS=generation 2, 1 of 1 ready")
        assert farm.process is not None
        farm.process.send_signal(signal.SIGTERM)
        farm.wait_notified("STOPPING=1")
        assert farm.stop() == 0


def test_a_required_connection_that_is_down(make_farm: MakeFarm) -> None:
    """--require-connections: exit code 3 with the connection's name, instead of waiting."""
    farm = make_farm("--require-connections", url=f"nats://127.0.0.1:{free_port()}").serve(a="fn: hello")
    farm.start()
    assert farm.process is not None
    assert farm.process.wait(20) == 3
    assert "nats default" in (farm.folder / "stderr").read_text()


def test_a_second_start_is_refused(make_farm: MakeFarm) -> None:
    """Exit code 3 with the pid of the first, which serves on."""
    farm = make_farm().serve(a="fn: hello")
    with farm, Load(farm.url, farm.subject("a"), per_s=50) as load:
        command = [sys.executable, "-m", "atmo_farm", "start", str(farm.app), "--run-dir", str(farm.folder / "run")]
        second = subprocess.run(command, capture_output=True, timeout=30, check=False)
        assert second.returncode == 3
        assert f"pid {farm.pid}" in second.stderr.decode()
        load.stop()
        assert load.lost() == 0


def test_usr1_opens_the_log_again_everywhere(make_farm: MakeFarm) -> None:
    """After a rotation the master's and the children's lines go to the new file, none to the old one."""
    farm = make_farm("--log-level", "debug").serve(a="fn: failing")
    with farm, Load(farm.url, farm.subject("a"), per_s=20):
        rotated = farm.log_file.with_name("log.1")
        wait_for(lambda: farm.logged("message failed"))
        farm.log_file.rename(rotated)
        wait_for(lambda: rotated.read_bytes().count(b"message failed") > 3)
        os.kill(farm.pid, signal.SIGUSR1)
        wait_for(lambda: farm.logged("message failed") and farm.logged("log reopened"))
        size = rotated.stat().st_size
        count = farm.logged("message failed")
        wait_for(lambda: farm.logged("message failed") > count + 3)
        assert rotated.stat().st_size == size


@pytest.mark.alone
def test_an_idle_farm_costs_next_to_nothing(make_farm: MakeFarm) -> None:
    """Master and ten consumers together: under 3 % of a core."""
    farm = make_farm().serve(a="fn: hello\nworkers: 10")
    with farm:
        pids = [farm.pid, *farm.workers()]

        def ticks() -> int:
            fields = [Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split() for pid in pids]
            return sum(int(field[11]) + int(field[12]) for field in fields)

        time.sleep(1.5)
        before = ticks()
        time.sleep(3)
        used = (ticks() - before) / os.sysconf("SC_CLK_TCK") / 3
        assert used < 0.03, used


@pytest.mark.parametrize("moment_s", [0.0, 0.1, 0.2, 0.4, 0.8])
def test_sigterm_at_any_moment_of_the_start(make_farm: MakeFarm, moment_s: float) -> None:
    """From the pid file on: exit code 0, at once, nothing left."""
    farm = make_farm().serve(a="fn: hello\nworkers: 4")
    pid_file = farm.folder / "run" / "atmo-farm.pid"
    farm.start()
    wait_for(lambda: pid_file.exists() and pid_file.read_text() == f"{farm.pid}\n")
    time.sleep(moment_s)
    sent_at = time.monotonic()
    assert farm.stop() == 0
    assert time.monotonic() - sent_at < 2
    assert not pid_file.exists()


def test_secrets_never_reach_the_log(make_farm: MakeFarm) -> None:
    """A password in the Directive that a function logs, and one that a reload brings: both are replaced."""
    farm = make_farm("--log-level", "debug")
    write_app(farm.app, "handlers: []\n", ("c", "logging"))

    def serve(password: str) -> None:
        entry = f"name: a\nresource: {farm.subject('a')}\nsteps: [{{fn: logging}}]"
        access = f"    user: u\n    password: {password}\n    serverAddress:"
        write_directive(farm.app, nats_directive(farm.url, entry).replace("    serverAddress:", access))

    serve("hunter-one")
    with farm:
        ask(farm, b"info the password is hunter-one, and hunter-two is not yet")
        farm.wait_log(guest=True)
        serve("hunter-two")
        reload(farm)
        farm.wait_log(message="reload: in force")
        ask(farm, b"warn now it is hunter-two")
        wait_for(lambda: farm.log(guest=True, level="warn"))
        text = farm.log_file.read_text()
        assert "the password is [redacted], and hunter-two" in text
        assert "now it is [redacted]" in text
        assert "hunter-one" not in text


def ask(farm: TestFarm, data: bytes) -> None:
    """One request to `a`, answered."""

    async def body() -> None:
        client = await nats.connect(farm.url)
        await client.request(farm.subject("a"), data, timeout=10)
        await client.close()

    asyncio.run(body())
