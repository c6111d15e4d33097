"""Health and metrics of a whole farm: true under load and faults, and nobody's burden."""

from __future__ import annotations

import json
import os
import resource
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from typing import Any

import pytest
from nats.js import JetStreamContext
from prometheus_client.parser import text_string_to_metric_families

from tests.farm import wait_for
from tests.servers.nats import NatsServer
from tests.system.conftest import TestFarm
from tests.system.jetstream import DURABLE, make_streams, with_client
from tests.system.load import Load
from tests.system.test_system_exhaustion import WELL_AGAIN_S, busy_s
from tests.system.test_system_monitor import ask

MakeFarm = Callable[..., TestFarm]
Amount = Callable[[int, int], int]
Figure = Callable[[str, object], None]

NOTICED_S = 30.0


def address(farm: TestFarm) -> str:
    found: str = ask(farm, "status")["farm"]["monitor"]
    return found


def get(where: str, path: str) -> tuple[int, str]:
    try:
        with urllib.request.urlopen(f"http://{where}{path}", timeout=10) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def ready(where: str) -> tuple[bool, dict[str, list[str]]]:
    """What /ready says, and why of each handler."""
    status, body = get(where, "/ready")
    found = json.loads(body)
    assert (status == 200) is found["ready"]
    return found["ready"], {entry["name"]: entry["why"] for entry in [*found["handlers"], *found["processes"]]}


def metric(where: str, metric: str, **labels: str) -> float:
    """One sample of /metrics."""
    for family in text_string_to_metric_families(get(where, "/metrics")[1]):
        for sample in family.samples:
            if sample.name == f"atmo_farm_{metric}" and sample.labels == labels:
                return float(sample.value)
    raise AssertionError(f"no {metric} {labels}")


@pytest.mark.fault(row="ready-half-open")
@pytest.mark.timeout(300)
def test_ready_turns_when_the_broker_stands(
    make_farm: MakeFarm, start_nats: Callable[..., NatsServer], figure: Figure
) -> None:
    """Stopped by SIGSTOP, so its connections stand and say nothing: two pings long at most, then /ready says it; it
    turns back by itself. The ten seconds are those of the pings."""
    server = start_nats()
    farm = make_farm(url=server.url).serve(a="fn: hello")
    with farm:
        where = address(farm)
        assert ready(where) == (True, {"a": []})
        server.pause()
        paused_at = time.monotonic()
        try:
            wait_for(lambda: not ready(where)[0], NOTICED_S)
            noticed_s = time.monotonic() - paused_at
            assert ready(where)[1]["a"][0].startswith("waiting for nats default (")
            assert get(where, "/live")[0] == 200
            assert metric(where, "handler_ready", handler="a") == 0
        finally:
            server.resume()
        resumed_at = time.monotonic()
        wait_for(lambda: ready(where)[0], WELL_AGAIN_S)
        figure("noticed after, s", noticed_s)
        figure("ready again after, s", time.monotonic() - resumed_at)


def test_lag_and_times_of_a_durable_handler(make_farm: MakeFarm, start_jetstream: Callable[[], NatsServer]) -> None:
    """What waited in the stream was its lag, which falls as it is worked off; each attempt is in the histogram."""
    server = start_jetstream()
    farm = make_farm(url=server.url)
    make_streams(server.url, farm.subject("work"))

    async def publish(js: JetStreamContext) -> None:
        for number in range(200):
            await js.publish(farm.subject("work"), b"%d" % number)

    with_client(server.url, publish)
    with farm.serve(work=f"fn: hello\ndurable: {DURABLE}"):
        where = address(farm)
        wait_for(lambda: metric(where, "settled_total", handler="work", outcome="ok") == 200)
        wait_for(lambda: "atmo_farm_unsettled_seconds{" in get(where, "/metrics")[1])
        assert metric(where, "lag", handler="work", partition="0") >= 0
        assert metric(where, "attempt_seconds_count", handler="work") == 200
        assert metric(where, "attempt_seconds_sum", handler="work") > 0
        assert ready(where) == (True, {"work": []})


@pytest.mark.fault(row="http-clients")
def test_http_clients_that_flood_or_hang(make_farm: MakeFarm, amount: Amount, figure: Figure) -> None:
    """Messages go on as before, the monitor stays, and a client that behaves is answered."""
    seconds = amount(2, 60)
    farm = make_farm().serve(a="fn: hello")
    with farm, Load(farm.url, farm.subject("a"), per_s=200) as load:
        where = address(farm)
        host, port = where.split(":")
        end = time.monotonic() + seconds

        def flood() -> None:
            while time.monotonic() < end:
                get(where, "/metrics")

        flooders = [threading.Thread(target=flood) for _ in range(2)]
        for flooder in flooders:
            flooder.start()
        held: list[socket.socket] = []
        answered = []
        while time.monotonic() < end:
            for words in (b"", b"GET /ready HT", b"GET /metrics HTTP/1.1\r\nHost: a\r\n\r\n"):
                client = socket.create_connection((host, int(port)))
                client.sendall(words)
                held.append(client)
            for client in held[:-150]:
                client.close()
            held = held[-150:]
            began = time.monotonic()
            assert get(where, "/live")[0] == 200
            answered.append(time.monotonic() - began)
            time.sleep(0.02)
        for flooder in flooders:
            flooder.join()
        load.stop()
        for client in held:
            client.close()
        assert load.lost() == load.repeated() == 0
        assert ask(farm, "status")["processes"][0]["restarts"] == 0
        figure("slowest answer, s", max(answered))


@pytest.mark.fault(row="metrics-survive")
@pytest.mark.timeout(300)
def test_counts_go_on_over_deaths(make_farm: MakeFarm, amount: Amount, figure: Figure) -> None:
    """Of workers and of the monitor itself, under load: no counter falls, the address stays, no other is replaced."""
    kills = amount(2, 20)
    farm = make_farm().serve(a="fn: hello\nworkers: 2")
    with farm, Load(farm.url, farm.subject("a"), per_s=200) as load:
        where = address(farm)
        counts, back = [0.0], []
        for _ in range(kills):
            seen = load.answered()
            wait_for(lambda seen=seen: load.answered() > seen + 20)
            counts.append(metric(where, "received_total", handler="a"))
            others = farm.children()
            os.kill(farm.monitor(), signal.SIGKILL)
            killed_at = time.monotonic()
            counts.append(metric(where, "received_total", handler="a"))
            back.append(time.monotonic() - killed_at)
            assert farm.children() == others
            killed = farm.workers("a")[0]
            os.kill(killed, signal.SIGKILL)
            wait_for(lambda killed=killed: killed not in (found := farm.workers("a")) and len(found) == 2)
            counts.append(metric(where, "received_total", handler="a"))
            time.sleep(3 if kills > 4 else 0)
        load.stop()
        counts.append(metric(where, "received_total", handler="a"))
        assert counts == sorted(counts)
        assert metric(where, "settled_total", handler="a", outcome="ok") >= load.answered()
        assert metric(where, "restarts_total", kind="consumer", name="a", cause="signal") == kills
        assert metric(where, "restarts_total", kind="monitor", name="monitor", cause="signal") == kills
        figure("slowest scrape over a kill, s", max(back))


@pytest.mark.fault(row="monitor-descriptors-used-up")
def test_a_monitor_without_descriptors(make_farm: MakeFarm, amount: Amount, figure: Figure) -> None:
    """It accepts nobody, and does not spin; messages go on; once it has some it answers again, the same process."""
    farm = make_farm().serve(a="fn: hello")
    with farm, Load(farm.url, farm.subject("a"), per_s=200) as load:
        where = address(farm)
        host, port = where.split(":")
        pid = farm.monitor()
        before = resource.prlimit(pid, resource.RLIMIT_NOFILE)
        resource.prlimit(pid, resource.RLIMIT_NOFILE, (3, before[1]))
        clients = []
        for _ in range(50):
            client = socket.create_connection((host, int(port)), timeout=2)
            client.sendall(b"GET /metrics HTTP/1.0\r\n\r\n")
            clients.append(client)
        control = socket.socket(socket.AF_UNIX)
        control.connect(str(farm.folder / "run" / "control.sock"))
        clients.append(control)
        begin, busy = time.monotonic(), busy_s([pid])
        time.sleep(amount(1, 30))
        busy = (busy_s([pid]) - busy) / (time.monotonic() - begin)
        resource.prlimit(pid, resource.RLIMIT_NOFILE, before)
        free_at = time.monotonic()
        assert get(where, "/ready")[0] == 200
        well_s = time.monotonic() - free_at
        for client in clients:
            client.close()
        load.stop()
        assert load.lost() == load.repeated() == 0
        assert farm.monitor() == pid
        assert well_s < WELL_AGAIN_S and busy < 0.3
        figure("answering again after, s", well_s)
        figure("monitor busy meanwhile", busy)


def test_an_address_that_is_in_use(make_farm: MakeFarm) -> None:
    """Set: exit code 3, and it says so; the same farm without HTTP starts."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        where = f"127.0.0.1:{taken.getsockname()[1]}"
        farm = make_farm("--monitor-address", where).serve(a="fn: hello").start()
        assert farm.process is not None and farm.process.wait(20) == 3
        assert f"monitor.address {where} is in use" in farm.tail()
    with make_farm("--monitor-address", "off").serve(a="fn: hello") as farm:
        assert address(farm) == "off"
        command = [sys.executable, "-m", "atmo_farm", "status", "--run-dir", str(farm.folder / "run"), "--json"]
        shown: dict[str, Any] = json.loads(subprocess.run(command, capture_output=True, check=True).stdout)
        assert shown["farm"]["state"] == "ready"


def test_ready_stays_through_a_reload(make_farm: MakeFarm) -> None:
    """Whoever was ready is, until the new ones are."""
    with make_farm().serve(a="fn: hello") as farm:
        where = address(farm)
        seen: list[bool] = []
        over = threading.Event()

        def watch() -> None:
            while not over.is_set():
                seen.append(ready(where)[0])

        watcher = threading.Thread(target=watch)
        watcher.start()
        try:
            farm.serve(a="fn: hello\nworkers: 2", b="fn: hello")
            assert ask(farm, "reload")["generation"] == 2
        finally:
            over.set()
            watcher.join()
        assert seen and all(seen)
        assert ready(where) == (True, {"a": [], "b": []})
