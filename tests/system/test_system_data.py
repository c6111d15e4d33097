"""Data sources of a farm under load: kills, stops, outages, reloads, secrets (scripts/soak runs the full form)."""

from __future__ import annotations

import os
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest

from tests import data
from tests.data import Asker, Sql, data_directive
from tests.farm import add_guest, alive, wait_for, write_directive
from tests.servers.mariadb import PASSWORD as MARIADB_PASSWORD
from tests.servers.mariadb import MariaDbServer
from tests.servers.nats import NatsServer
from tests.servers.postgresql import PASSWORD as POSTGRES_PASSWORD
from tests.servers.postgresql import PostgresServer
from tests.servers.redis import RedisServer, password
from tests.system.conftest import TestFarm
from tests.system.load import Load

Amount = Callable[[int, int], int]
Figure = Callable[[str, object], None]
KILL_SPACING_S = 3.2
"""A slot that dies more often waits longer for its next process."""

ROWS = "fs_rows"


class DataFarm(TestFarm):
    """A farm whose functions query a database."""

    def serve_data(
        self, handlers: Mapping[str, str], queries: Mapping[str, str], databases: Mapping[str, str], redis: str = ""
    ) -> DataFarm:
        """Write the Directive: handlers as for `serve`, the rest as for `data_directive`."""
        for name in ("querying", "caching"):
            add_guest(self.app, "c", name, name)
        entries = []
        for name, text in handlers.items():
            step, _, more = text.partition("\n")
            entries.append(f"name: {name}\nresource: {self.subject(name)}\nsteps: [{{{step}}}]\n{more}")
        directive = data_directive(self.url, *entries, databases=databases, queries=queries, redis=redis)
        write_directive(self.app, directive)
        return self

    def proxy(self) -> int:
        """The pid of its data source process."""
        (pid,) = self.workers("data-sourc")  # as much of it as the kernel keeps
        return pid

    def reload(self) -> None:
        """SIGHUP; returns when it is over, whatever came of it."""
        assert self.process is not None
        self.process.send_signal(signal.SIGHUP)
        self.wait_notified("RELOADING=1")
        self.wait_notified("READY=1")

    def kill_proxy(self) -> None:
        """SIGKILL, and wait until the next one serves."""
        count = len(self.log(message="worker ready", worker="data-sources/0"))
        os.kill(self.proxy(), signal.SIGKILL)
        wait_for(lambda: len(self.log(message="worker ready", worker="data-sources/0")) > count)


@pytest.fixture
def make_data_farm(tmp_path: Path, nats_server: NatsServer) -> Iterator[Callable[..., DataFarm]]:
    """As `make_farm`."""
    made: list[DataFarm] = []

    def make(*arguments: str, environ: dict[str, str] | None = None) -> DataFarm:
        farm = DataFarm(tmp_path / f"app{len(made)}", nats_server.url, *arguments, environ=environ)
        made.append(farm)
        return farm

    yield make
    for farm in made:
        farm.__exit__()


MakeFarm = Callable[..., DataFarm]


def queries(database: Sql) -> dict[str, str]:
    """On a table ROWS. PostgreSQL's insert takes 20 ms, so that some are always under way."""
    plain = f"INSERT INTO {ROWS} (name) VALUES ($1)"
    slow = {"postgresql": f"INSERT INTO {ROWS} (name) SELECT $1 FROM pg_sleep(0.02)"}
    return {
        "put": slow.get(database.type, plain),
        "one": "SELECT 1 AS one",
        "sleep": {"postgresql": "SELECT pg_sleep($1)", "mysql": "SELECT SLEEP($1)"}.get(database.type, "SELECT 1"),
        "wrong": "SELECT * FROM fs_missing",
    }


def make_rows(database: Sql) -> None:
    """The table, empty."""
    database.run(f"DROP TABLE IF EXISTS {ROWS}", f"CREATE TABLE {ROWS} (name varchar(100))")


def counts(database: Sql) -> Counter[str]:
    """How often each name is there."""
    return Counter(name for (name,) in database.run(f"SELECT name FROM {ROWS}"))


def insert(number: int) -> bytes:
    return b"insert put\n%d" % number


def select(_: int) -> bytes:
    return b"select one"


def check_exactly_once(load: Load, rows: Mapping[str, int]) -> tuple[int, int]:
    """Every acknowledged row is there once, no row twice; how many were acknowledged, and how many are unknown."""
    acknowledged = [
        str(number) for number, request in enumerate(load.requests) if request.answers and not request.error
    ]
    assert max(rows.values()) == 1, [name for name, count in rows.items() if count > 1]
    assert not [name for name in acknowledged if name not in rows]
    errors = [request.error for request in load.requests if request.error]
    assert not [error for error in errors if "unknown" not in error], errors
    return len(acknowledged), len(load.requests) - len(acknowledged)


@pytest.mark.alone
@pytest.mark.fault(row="kill-proxy")
@pytest.mark.timeout(900)
def test_kill_9_of_the_proxy_under_load(
    make_data_farm: MakeFarm, tmp_path: Path, postgresql: PostgresServer, amount: Amount, figure: Figure
) -> None:
    """Back within a second each time; every acknowledged row is there exactly once, no row twice, no read fails."""
    kills = amount(4, 100)
    file, server = data.sqlite(tmp_path / "rows.db"), data.postgresql(postgresql)
    for database in (file, server):
        make_rows(database)
    farm = make_data_farm().serve_data(
        dict.fromkeys(("file", "server", "read"), "fn: querying") | {"hello": "fn: hello"},
        {"put-file@file": queries(file)["put"], **queries(server)},
        {"default": server.yaml(), "file": file.yaml()},
    )
    with (
        farm,
        Load(farm.url, farm.subject("file"), per_s=100, data=lambda number: b"insert put-file\n%d" % number) as to_file,
        Load(farm.url, farm.subject("server"), per_s=100, data=insert) as to_server,
        Load(farm.url, farm.subject("read"), per_s=100, data=select) as reads,
        Load(farm.url, farm.subject("hello"), per_s=50) as hello,
    ):
        loads = (to_file, to_server, reads)
        wait_for(lambda: min(load.answered() for load in loads) > 20)
        slowest_s = 0.0
        for _ in range(kills):
            killed_at = time.monotonic()
            farm.kill_proxy()
            slowest_s = max(slowest_s, *(load.wait_resumed(killed_at, 5) for load in loads))
            time.sleep(max(0.0, killed_at + KILL_SPACING_S - time.monotonic()))
        for load in (*loads, hello):
            load.stop()
            assert load.lost() == load.repeated() == 0
        assert slowest_s <= 1
        assert not [request.error for request in (*hello.requests, *reads.requests) if request.error]
        ends = [check_exactly_once(to_file, counts(file)), check_exactly_once(to_server, counts(server))]
        acknowledged, unknown = (sum(each) for each in zip(*ends, strict=True))
        assert farm.logged("worker ended") == kills
        assert farm.logged("message failed", cause="outcome unknown") == farm.logged("message failed") == unknown
        figure("kills", kills)
        figure("slowest return, s", slowest_s)
        figure("rows acknowledged, each there once", acknowledged)
        figure("rows of unknown outcome", unknown)
        assert farm.stop() == 0


@pytest.mark.fault(row="stop-proxy")
def test_a_stopped_proxy_is_replaced(make_data_farm: MakeFarm, tmp_path: Path, amount: Amount, figure: Figure) -> None:
    """SIGSTOP at default settings: replaced within 12 s; reads go on after it, no write is done twice."""
    database = data.sqlite(tmp_path / "rows.db")
    make_rows(database)
    farm = make_data_farm().serve_data(
        {"write": "fn: querying", "read": "fn: querying", "hello": "fn: hello"},
        queries(database),
        {"default": database.yaml()},
    )
    with (
        farm,
        Load(farm.url, farm.subject("write"), per_s=20, data=insert) as writes,
        Load(farm.url, farm.subject("read"), per_s=20, data=select) as reads,
        Load(farm.url, farm.subject("hello"), per_s=50) as hello,
    ):
        wait_for(lambda: writes.answered() > 10 and reads.answered() > 10)
        stopped_at = time.monotonic()
        os.kill(farm.proxy(), signal.SIGSTOP)
        resumed_s = reads.wait_resumed(stopped_at + 0.5, 15)
        wait_for(lambda: reads.lost() == 0 or time.monotonic() > stopped_at + 20)
        for load in (writes, reads, hello):
            load.stop()
        assert 5 < resumed_s < 12
        assert "no heartbeat" in farm.wait_log(message="worker ended")["cause"]
        assert hello.lost() == 0 and max(hello.latencies()) < 1
        assert reads.lost() == 0 and not [request.error for request in reads.requests if request.error]
        _, unknown = check_exactly_once(writes, counts(database))
        figure("replaced after, s", resumed_s)
        figure("writes of unknown outcome", unknown)


@pytest.mark.alone
@pytest.mark.fault(row="database-stopped")
@pytest.mark.timeout(900)
@pytest.mark.parametrize("kind", ["postgresql", "mysql"])
def test_a_database_that_stops_and_returns(kind: str, make_data_farm: MakeFarm, amount: Amount, figure: Figure) -> None:
    """Each time: an error within 100 ms while it is away, and an answer within two seconds of its return."""
    stops = amount(2, 30)
    server = PostgresServer() if kind == "postgresql" else MariaDbServer()
    try:
        server.start()
        database = data.postgresql(server) if isinstance(server, PostgresServer) else data.mysql(server)
        farm = make_data_farm().serve_data(
            {"read": "fn: querying\nretry: {attempts: 1}", "hello": "fn: hello"},
            queries(database),
            {"default": database.yaml()},
        )
        slowest_error_s = slowest_return_s = 0.0
        with farm, Load(farm.url, farm.subject("hello"), per_s=50) as hello:
            for _ in range(stops):
                with Load(farm.url, farm.subject("read"), per_s=50, data=select) as reads:
                    wait_for(lambda load=reads: load.answered() > 20)
                    server.kill()
                    begin = time.monotonic()
                    wait_for(lambda load=reads, since=begin: load.answered(since) > 20)
                    end = time.monotonic() - 0.2
                    server.start()
                    returned_at = time.monotonic()
                    slowest_return_s = max(slowest_return_s, reads.wait_resumed(returned_at, 5))
                slowest_error_s = max(slowest_error_s, *reads.latencies(begin, end))
                assert reads.lost() == 0
            hello.stop()
            assert hello.lost() == 0
        assert slowest_error_s <= 0.1
        assert slowest_return_s <= 2
        figure(f"{kind}: stops", stops)
        figure(f"{kind}: slowest error, s", slowest_error_s)
        figure(f"{kind}: slowest return, s", slowest_return_s)
    finally:
        server.remove()


@pytest.mark.alone
@pytest.mark.fault(row="slow-database")
@pytest.mark.timeout(600)
def test_a_slow_query_does_not_slow_its_neighbours(
    make_data_farm: MakeFarm, postgresql: PostgresServer, amount: Amount, figure: Figure
) -> None:
    """One handler floods the database with queries that take longer than they may: each ends at its deadline, within
    10 %, and another handler's 99th percentile at most doubles (best of five: the machine has a say in it, too)."""
    seconds = amount(3, 30)
    database = data.postgresql(postgresql)
    farm = make_data_farm().serve_data(
        {"slow": "fn: querying\ntimeout: 1s\nretry: {attempts: 1}\nmaxInFlight: 64", "read": "fn: querying"},
        queries(database),
        {"default": database.yaml()},
    )

    def p99(reads: Load) -> float:
        begin = time.monotonic()
        time.sleep(seconds)
        latencies = reads.latencies(begin, time.monotonic() - 0.1)
        return latencies[int(len(latencies) * 0.99)]

    late: list[float] = []
    rounds: list[tuple[float, float]] = []
    with farm, Load(farm.url, farm.subject("read"), per_s=200, data=select) as reads:
        wait_for(lambda: reads.answered() > 50)
        while len(rounds) < 5 and not any(beside <= 2 * alone for alone, beside in rounds):
            alone = p99(reads)
            with Load(farm.url, farm.subject("slow"), 20, lambda _: b"select sleep\n30") as slow:
                beside = p99(reads)
            assert slow.lost() == 0
            late += [abs(latency - 1) for latency in slow.latencies()]
            rounds.append((alone, beside))
        reads.stop()
        assert reads.lost() == 0 and not [request.error for request in reads.requests if request.error]
        running = "FROM pg_stat_activity WHERE state = 'active' AND query LIKE '%pg_sleep%' AND pid <> pg_backend_pid()"
        wait_for(lambda: database.run(f"SELECT count(*) {running}") == [(0,)], 3)
    alone, beside = rounds[-1]
    assert beside <= 2 * alone, rounds
    farthest = sorted(late)[int(len(late) * 0.99)]
    assert farthest <= 0.1
    figure("p99 alone, ms", 1000 * alone)
    figure("p99 beside slow queries, ms", 1000 * beside)
    figure("99 % end so near to their deadline of 1 s, s", farthest)


@pytest.mark.fault(row="data-reload")
@pytest.mark.timeout(300)
@pytest.mark.parametrize("what", ["query", "connection"])
def test_a_reload_of_queries_and_connections(
    what: str, make_data_farm: MakeFarm, tmp_path: Path, amount: Amount, figure: Figure
) -> None:
    """It replaces the proxy and who uses it, nobody else, and loses nothing: no error, each row once."""
    reloads = amount(2, 30)
    database = data.sqlite(tmp_path / "rows.db")
    make_rows(database)
    handlers = {"write": "fn: querying\nworkers: 2", "read": "fn: querying", "hello": "fn: hello"}
    farm = make_data_farm().serve_data(handlers, queries(database), {"default": database.yaml()})
    with (
        farm,
        Load(farm.url, farm.subject("write"), per_s=100, data=insert) as writes,
        Load(farm.url, farm.subject("read"), per_s=100, data=select) as reads,
        Load(farm.url, farm.subject("hello"), per_s=100) as hello,
    ):
        wait_for(lambda: writes.answered() > 20 and reads.answered() > 20)
        for number in range(reloads):
            kept, replaced = farm.workers("hello"), [farm.proxy(), *farm.workers("write"), *farm.workers("read")]
            if what == "query":
                changed = {**queries(database), "one": f"SELECT {number} AS one"}
                farm.serve_data(handlers, changed, {"default": database.yaml()})
            else:
                farm.serve_data(
                    handlers, queries(database), {"default": database.yaml(f"statementTimeout: {number + 9}s")}
                )
            farm.reload()
            wait_for(lambda pids=replaced: not alive(*pids))
            assert farm.workers("hello") == kept
            assert len(farm.workers("write")) == 2 and len(farm.workers("read")) == 1 and farm.proxy() not in replaced
        for load in (writes, reads, hello):
            load.stop()
            assert load.lost() == load.repeated() == 0
            assert not [request.error for request in load.requests if request.error]
        rows = counts(database)
        assert set(rows.values()) == {1} and len(rows) == len(writes.requests)
        figure(f"{what}: reloads", reloads)
        figure(f"{what}: writes and reads, none lost", len(writes.requests) + len(reads.requests))


def test_a_reload_that_changes_no_data_keeps_the_proxy(make_data_farm: MakeFarm, tmp_path: Path) -> None:
    """A handler is added: neither the proxy nor its users are touched, and the cache keeps what it holds."""
    database = data.sqlite(tmp_path / "rows.db")
    make_rows(database)
    handlers = {"read": "fn: querying", "cache": "fn: caching"}
    farm = make_data_farm().serve_data(handlers, queries(database), {"default": database.yaml()})
    ask = Asker(farm.url)
    with farm:
        assert ask(farm.subject("cache"), "set a 0 b") == b"ok"
        before = farm.workers()
        farm.serve_data({**handlers, "hello": "fn: hello"}, queries(database), {"default": database.yaml()})
        farm.reload()
        assert set(before) < set(farm.workers()) and len(farm.workers()) == len(before) + 1
        assert ask(farm.subject("cache"), "get a") == b"b"


def test_the_proxy_comes_and_goes_with_those_who_ask(make_data_farm: MakeFarm, tmp_path: Path) -> None:
    """A farm without data has none; the first handler that asks brings it, and the last one takes it with it."""
    database = data.sqlite(tmp_path / "rows.db")
    make_rows(database)
    farm = make_data_farm()
    one, both = {"hello": "fn: hello"}, {"hello": "fn: hello", "read": "fn: querying"}
    ask = Asker(farm.url)
    with farm.serve_data(one, queries(database), {"default": database.yaml()}):
        (hello,) = farm.workers()
        farm.serve_data(both, queries(database), {"default": database.yaml()}).reload()
        assert ask.rows(farm.subject("read"), "select one") == [[{"one": 1}]]
        proxy = farm.proxy()
        farm.serve_data(one, queries(database), {"default": database.yaml()}).reload()
        wait_for(lambda: farm.workers() == [hello])
        assert not Path(f"/proc/{proxy}").exists()


def test_a_reload_to_a_connection_that_cannot_be_used(make_data_farm: MakeFarm, tmp_path: Path) -> None:
    """It is refused, and says which key; nobody is replaced."""
    database = data.sqlite(tmp_path / "rows.db")
    make_rows(database)
    handlers = {"read": "fn: querying"}
    farm = make_data_farm()
    with farm.serve_data(handlers, queries(database), {"default": database.yaml()}):
        before = farm.workers()
        farm.serve_data(handlers, queries(database), {"default": "{type: mysql, connectionString: tcp(127.0.0.1:1)/d}"})
        farm.reload()
        farm.wait_log(message="reload refused; generation 1 goes on")
        assert any("connectionString" in line["message"] for line in farm.log(level="error"))
        assert farm.workers() == before
        assert Asker(farm.url).rows(farm.subject("read"), "select one") == [[{"one": 1}]]


def test_a_connection_string_of_a_file_may_change(make_data_farm: MakeFarm, tmp_path: Path) -> None:
    """`file(PATH)` is read again by a reload: another database is asked from then on."""
    secret = tmp_path / "secret"
    farm = make_data_farm()
    ask = Asker(farm.url)
    for name in ("first", "second"):
        database = data.sqlite(tmp_path / f"{name}.db")
        make_rows(database)
        database.run(f"INSERT INTO {ROWS} VALUES ('{name}')")
    secret.write_text(f"{tmp_path / 'first.db'}\n")
    farm.serve_data(
        {"read": "fn: querying"},
        {"all": f"SELECT name FROM {ROWS}"},
        {"default": f"{{type: sqlite, connectionString: 'file({secret})'}}"},
    )
    with farm:
        assert ask.rows(farm.subject("read"), "select all") == [[{"name": "first"}]]
        secret.write_text(f"{tmp_path / 'second.db'}\n")
        farm.reload()
        wait_for(lambda: ask.rows(farm.subject("read"), "select all") == [[{"name": "second"}]], 5)


def test_a_stop_under_load(make_data_farm: MakeFarm, tmp_path: Path) -> None:
    """SIGTERM: the proxy outlives those who ask it, so what was taken is done and answered, all of it exactly once."""
    database = data.sqlite(tmp_path / "rows.db")
    make_rows(database)
    farm = make_data_farm().serve_data(
        {"write": "fn: querying\nworkers: 2"}, queries(database), {"default": database.yaml()}
    )
    with farm, Load(farm.url, farm.subject("write"), per_s=150, data=insert) as load:
        wait_for(lambda: load.answered() > 50)
        sent_at = time.monotonic()
        assert farm.stop() == 0
        assert time.monotonic() - sent_at < 5
        load.stop()
        answered = [request.answers for request in load.requests]
        assert set(answered) <= {0, 1} and not [request.error for request in load.requests if request.error]
        last = max(at for at, answers in enumerate(answered) if answers)
        assert 0 not in answered[:last], "a message before the last answered one was lost"
        rows = counts(database)
        assert set(rows.values()) == {1} and len(rows) == sum(answered)
        ended = [line["worker"] for line in farm.log(message="worker ended")]
        assert ended[-2:] == ["data-sources/0", "monitor/0"]
        assert {line["cause"] for line in farm.log(message="worker ended")} == {"exit 0 (drained)"}


def test_a_killed_master_leaves_no_proxy(make_data_farm: MakeFarm, tmp_path: Path) -> None:
    """It goes with the others, and the next farm takes over the folder with its socket."""
    database = data.sqlite(tmp_path / "rows.db")
    make_rows(database)
    farm = make_data_farm().serve_data({"read": "fn: querying"}, queries(database), {"default": database.yaml()})
    for _ in range(2):
        farm.start()
        farm.wait_notified("READY=1")
        assert Asker(farm.url).rows(farm.subject("read"), "select one") == [[{"one": 1}]]
        children = farm.children()
        assert farm.stop(signal.SIGKILL) == -signal.SIGKILL
        wait_for(lambda pids=children: not alive(*pids), 2)


# Secrets

CANARIES = (b"canary", b"%63%61%6E%61%72%79", b"%63%61%6e%61%72%79")
"""Part of every password here, as it is and as URLs have it."""


@pytest.mark.fault(row="data-secrets")
@pytest.mark.timeout(300)
def test_no_secret_gets_out(make_data_farm: MakeFarm, tmp_path: Path, figure: Figure) -> None:
    """Passwords of PostgreSQL, MySQL and Redis in the environment, each server ended, stopped, and with another
    password: none is in the log (at its most talkative), in an answer, in a notification, in a file of the farm, in a
    command line."""
    servers = PostgresServer(), MariaDbServer(), RedisServer(tmp_path / "redis", password("canary-of-redis"))
    first, second, third = servers
    environ = {
        "PG_URL": first.url("atmo", POSTGRES_PASSWORD),
        "MYSQL_DSN": second.dsn("atmo", MARIADB_PASSWORD),
        "REDIS_PASSWORD": "canary-of-redis",
        "ATMO_LOG_LEVEL": "trace",
    }
    bad = "SELECT FROM WHERE"
    farm = make_data_farm(environ=environ).serve_data(
        {
            "sql": "fn: querying\ntimeout: 1s\nretry: {attempts: 1}",
            "cache": "fn: caching\ntimeout: 1s\nretry: {attempts: 1}",
        },
        {"one": "SELECT 1 AS one", "one-too@second": "SELECT 1 AS one", "bad": bad, "bad-too@second": bad},
        {
            "default": "{type: postgresql, connectionString: env(PG_URL)}",
            "second": "{type: mysql, connectionString: env(MYSQL_DSN)}",
        },
        redis=f"{{serverAddress: '{third.address}', password: env(REDIS_PASSWORD)}}",
    )
    ask = Asker(farm.url)
    requests = (("sql", "select one"), ("sql", "select one-too"), ("cache", "set a 0 b\nget a"))
    told: list[bytes] = []

    def ask_all() -> list[bool]:
        """Who was answered well; what was said is kept."""
        well = []
        for name, request in requests:
            message = ask.message(farm.subject(name), request)
            told.append(message.data + repr(message.headers).encode())
            well.append(not message.headers and b"!" not in message.data)
        return well

    try:
        for server in servers:
            server.start()
        with farm:
            assert ask_all() == [True] * 3
            for name in ("bad", "bad-too"):
                told.append(repr(ask.refusal(farm.subject("sql"), f"select {name}")).encode())
            for number, server in enumerate(servers):
                for harm, repair in ((server.kill, server.start), (server.pause, server.resume)):
                    harm()
                    assert ask_all() == [number != other for other in range(3)]
                    repair()
                    wait_for(lambda: ask_all() == [True] * 3, 10)
            _set_passwords(first, second)
            third.kill()
            other = RedisServer(tmp_path / "redis2", password("canary-too"), port=third.port)
            servers = (*servers, other)
            other.start()
            first.restart()
            second.restart()
            assert wait_for(lambda: ask_all() == [False] * 3, 10)
            words = ("authentication failed", "(1045)", "WRONGPASS")
            wait_for(lambda: all(word in farm.log_file.read_text() for word in words), 10, lambda: farm.tail())
            farm.kill_proxy()
            assert ask_all() == [False] * 3
            pids = [farm.pid, *farm.children()]
            lines = [Path(f"/proc/{pid}/cmdline").read_bytes() for pid in pids]
            assert all(canary in Path(f"/proc/{farm.pid}/environ").read_bytes() for canary in CANARIES[:2])
            assert farm.stop() == 0
            files = [path.read_bytes() for path in farm.folder.rglob("*") if path.is_file()]
            notified = [text.encode() for text in farm.notified]
            for text in (*told, *lines, *files, *notified):
                assert not [canary for canary in CANARIES if canary in text], text[-2000:]
            figure("answers, log and other files, command lines searched", len(told) + len(files) + len(lines))
    finally:
        for server in servers:
            server.remove() if hasattr(server, "remove") else server.stop()


def _set_passwords(first: PostgresServer, second: MariaDbServer) -> None:
    """Of user `atmo`, to something else."""
    data.postgresql(first).run("ALTER ROLE atmo PASSWORD 'other'")
    data.mysql(second).run("ALTER USER atmo IDENTIFIED BY 'other'", "FLUSH LOGS")


@pytest.mark.parametrize(
    ("type_", "text"),
    [
        ("postgresql", "postgres://atmo:canary@[::1/x"),
        ("mysql", "tcp(127.0.0.1:1)/canary"),
        ("sqlite", "canary.db"),
    ],
)
def test_a_connection_string_that_cannot_be_used_is_named_by_its_key(
    type_: str, text: str, make_data_farm: MakeFarm
) -> None:
    """The start is refused with a line that names the key, and not the value."""
    farm = make_data_farm(environ={"BAD": text}).serve_data(
        {"sql": "fn: querying"}, {"one": "SELECT 1"}, {"default": f"{{type: {type_}, connectionString: env(BAD)}}"}
    )
    farm.start()
    assert farm.process is not None
    assert farm.process.wait(20) in (1, 3)
    assert "connectionString" in farm.tail()
    assert "canary" not in farm.tail()


def test_a_driver_that_is_missing(make_data_farm: MakeFarm, tmp_path: Path) -> None:
    """The start is refused and says what to install; where no function asks for data, it is not missed."""
    (tmp_path / "without" / "MySQLdb").mkdir(parents=True)
    (tmp_path / "without" / "MySQLdb" / "__init__.py").write_text("raise ModuleNotFoundError(name='MySQLdb')\n")
    environ = {"PYTHONPATH": f"{tmp_path / 'without'}:{os.environ.get('PYTHONPATH', '')}"}
    database = {"default": "{type: mysql, connectionString: 'u:canary@tcp(127.0.0.1:1)/d'}"}
    farm = make_data_farm(environ=environ).serve_data({"sql": "fn: querying"}, {"one": "SELECT 1"}, database)
    farm.start()
    assert farm.process is not None
    assert farm.process.wait(20) == 3
    assert "pip install 'atmo-farm[mysql]'" in farm.tail() and "canary" not in farm.tail()
    with farm.serve_data({"hello": "fn: hello"}, {"one": "SELECT 1"}, database):
        assert Asker(farm.url)(farm.subject("hello"), "x") == b"hello, x"


# Nothing grows


@pytest.mark.fault(row="data-leaks")
@pytest.mark.timeout(900)
def test_descriptors_and_memory_stay_flat(
    make_data_farm: MakeFarm, tmp_path: Path, amount: Amount, figure: Figure
) -> None:
    """Of the proxy and the consumers, over outages of a database, deadlines, errors, rollbacks and a busy cache."""
    rounds = amount(2, 30)
    server = PostgresServer()
    server.start()
    database = data.postgresql(server)
    make_rows(database)
    other = data.sqlite(tmp_path / "other.db")
    make_rows(other)
    farm = make_data_farm().serve_data(
        {
            "sql": "fn: querying\nretry: {attempts: 1}",
            "slow": "fn: querying\ntimeout: 200ms\nretry: {attempts: 1}",
            "whole": "fn: querying, transaction: true\nretry: {attempts: 1}",
            "cache": "fn: caching",
        },
        {**queries(database), "other@other": f"INSERT INTO {ROWS} (name) VALUES ($1)"},
        {"default": database.yaml(), "other": other.yaml()},
    )
    ask = Asker(farm.url)
    mix = [
        *((farm.subject("sql"), f"insert other\n{number}\n\nselect one") for number in range(40)),
        *((farm.subject("sql"), "select wrong") for _ in range(20)),
        *((farm.subject("slow"), "select sleep\n5") for _ in range(10)),
        *((farm.subject("whole"), f"insert put\n{number}\n\nselect wrong") for number in range(10)),
        *((farm.subject("whole"), f"insert put\n{number}") for number in range(10)),
        *((farm.subject("cache"), f"set key-{number} 60 {'x' * 1000}\nget key-{number}") for number in range(100)),
    ]

    def round_() -> None:
        for _ in range(3):
            ask.together(*mix)
        server.kill()
        ask.together(*mix)
        server.start()
        wait_for(lambda: ask.message(farm.subject("sql"), "select one").data, 10)
        ask.together(*mix)

    def sizes() -> dict[int, tuple[int, float]]:
        """pid → descriptors, MiB of its own."""
        return {pid: (len(list(Path(f"/proc/{pid}/fd").iterdir())), _private_mib(pid)) for pid in farm.workers()}

    try:
        with farm:
            round_()
            before = sizes()
            for _ in range(rounds):
                round_()
            after = sizes()
            assert before.keys() == after.keys()
            proxy = farm.proxy()
            for pid, (descriptors, mib) in after.items():
                assert descriptors <= before[pid][0] + 1, (before, after)
                assert mib <= before[pid][1] * 1.1 + 2, (before, after)
            figure("rounds", rounds)
            figure("the proxy's descriptors, before and after", f"{before[proxy][0]}, {after[proxy][0]}")
            figure("the proxy's own MiB, before and after", f"{before[proxy][1]:.1f}, {after[proxy][1]:.1f}")
            assert farm.stop() == 0
    finally:
        server.remove()


def _private_mib(pid: int) -> float:
    fields = dict(line.split(":") for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:])
    return sum(int(fields[name].split()[0]) for name in ("Private_Clean", "Private_Dirty")) / 1024
