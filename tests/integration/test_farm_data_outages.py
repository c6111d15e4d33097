"""Databases and Redis that are not there, end, or do not answer, as a real farm meets them."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import nats
import pytest

from tests.data import Asker, Sql, data_directive, mysql, postgresql, write_data_app
from tests.farm import Farm, wait_for
from tests.servers.mariadb import PASSWORD as MARIADB_PASSWORD
from tests.servers.mariadb import MariaDbServer
from tests.servers.nats import NatsServer
from tests.servers.postgresql import PASSWORD, PostgresServer
from tests.servers.redis import RedisServer, password

Server = PostgresServer | MariaDbServer
HELLO = "resource: out.hello\nsteps: [{fn: hello}]"
SLEEP = {"postgresql": "pg_sleep(0.5)", "mysql": "SLEEP(0.5)"}


@pytest.fixture(params=["postgresql", "mysql"])
def server(request: pytest.FixtureRequest) -> Iterator[Server]:
    """A server of this test's own, not started."""
    made = PostgresServer() if request.param == "postgresql" else MariaDbServer()
    yield made
    made.remove()


def sql(server: Server) -> Sql:
    """Its database."""
    return postgresql(server) if isinstance(server, PostgresServer) else mysql(server)


def secret_connection(server: Server) -> str:
    """The YAML of a connection with a password."""
    if isinstance(server, PostgresServer):
        return f'{{type: postgresql, connectionString: "{server.url("atmo", PASSWORD)}"}}'
    text = server.dsn("atmo", MARIADB_PASSWORD).replace("'", "''")
    return f"{{type: mysql, connectionString: '{text}'}}"


def app(folder: Path, url: str, server: Server, *handlers: str, connection: str = "") -> Path:
    """An application with the handlers and with queries on table fd_rows."""
    database = sql(server)
    sleep = SLEEP[database.type]
    directive = data_directive(
        url,
        HELLO,
        *handlers,
        databases={"default": connection or database.yaml()},
        queries={
            "put": "INSERT INTO fd_rows (name) VALUES ($1)",
            "slow-put": f"INSERT INTO fd_rows (name) SELECT $1 FROM (SELECT {sleep} AS slept) AS s",
            "all": "SELECT name FROM fd_rows ORDER BY name",
        },
    )
    return write_data_app(folder / "app", directive)


@pytest.fixture
def up(server: Server) -> Server:
    """The same, started, with the table."""
    server.start()
    make_table(server)
    return server


def make_table(server: Server) -> None:
    sql(server).run("CREATE TABLE fd_rows (name varchar(100))", "GRANT ALL ON fd_rows TO atmo")


def names(server: Server) -> list[str]:
    return [name for (name,) in sql(server).run("SELECT name FROM fd_rows ORDER BY name")]


# At the start


def test_a_farm_starts_without_its_database(server: Server, nats_server: NatsServer, tmp_path: Path) -> None:
    """READY=1, and the status says what is waited for; who needs no data serves; who does begins when it is there."""
    folder = app(
        tmp_path,
        nats_server.url,
        server,
        "resource: out.q\nname: asking\nsteps: [{fn: querying}]",
        connection=secret_connection(server),
    )
    ask = Asker(nats_server.url)
    with Farm(folder) as farm:
        assert "refused" in wait_status(farm, "asking/0 for database default")
        assert ask("out.hello", "x") == b"hello, x"
        waits = farm.wait_log(message="worker waits", worker="asking/0")
        assert waits["on"] == "database default" and "refused" in waits["reason"]
        server.start()
        make_table(server)
        farm.wait_log(message="worker ready", worker="asking/0", patience_s=5)
        wait_status(farm, "3 of 3 ready")
        assert ask.rows("out.q", "select all") == [[]]
        for secret in (PASSWORD, MARIADB_PASSWORD):
            assert secret.encode() not in farm.log_file.read_bytes()


def wait_status(farm: Farm, wanted: str) -> str:
    """The first status that holds these words, which may have been told already."""
    for told in farm.notified:
        if "STATUS=" in told and wanted in told:
            return told
    while wanted not in (told := farm.wait_notified("STATUS=", 10)):
        pass
    return told


def test_a_start_that_requires_its_database(server: Server, nats_server: NatsServer, tmp_path: Path) -> None:
    """With --require-connections: exit status 3, and the reason without the password."""
    folder = app(
        tmp_path,
        nats_server.url,
        server,
        "resource: out.q\nsteps: [{fn: querying}]",
        connection=secret_connection(server),
    )
    farm = Farm(folder, "--require-connections")
    try:
        farm.start()
        assert farm.process is not None
        assert farm.process.wait(20) == 3
        assert "database default" in farm.tail() and "refused" in farm.tail()
        assert PASSWORD not in farm.tail() and MARIADB_PASSWORD not in farm.tail()
    finally:
        farm.__exit__()


def test_a_farm_starts_without_its_redis(nats_server: NatsServer, tmp_path: Path) -> None:
    """As with a database; and an outage later costs those that ask for the cache an error, at once."""
    server = RedisServer(tmp_path / "redis", password("c4nary-of-redis"))
    directive = data_directive(
        nats_server.url,
        HELLO,
        "resource: out.c\nname: caching\nsteps: [{fn: caching}]",
        redis=f"{{serverAddress: '{server.address}', password: c4nary-of-redis}}",
    )
    ask = Asker(nats_server.url)
    try:
        with Farm(write_data_app(tmp_path / "app", directive)) as farm:
            assert ask("out.hello", "x") == b"hello, x"
            assert farm.wait_log(message="worker waits", worker="caching/0")["on"] == "redis"
            server.start()
            farm.wait_log(message="worker ready", worker="caching/0", patience_s=5)
            assert ask("out.c", "set a 0 b\nget a") == b"ok\nb"
            server.kill()
            lost = ask("out.c", "get a\nset a 0 c").decode()
            assert lost.startswith("! redis is out of reach") and lost.endswith("\n! the host failed")
            assert ask("out.hello", "x") == b"hello, x"
            server.start()
            wait_for(lambda: ask("out.c", "set a 0 d\nget a") == b"ok\nd", 3)
            assert b"c4nary-of-redis" not in farm.log_file.read_bytes()
    finally:
        server.stop()


# During operation


@pytest.mark.alone
def test_a_database_that_ends_and_returns(up: Server, nats_server: NatsServer, tmp_path: Path) -> None:
    """Who asks is told within 100 ms, others go on; within 2 s of its return it is asked again."""
    folder = app(
        tmp_path,
        nats_server.url,
        up,
        "resource: out.once\nretry: {attempts: 1}\nsteps: [{fn: querying}]",
        "resource: out.again\nretry: {attempts: 50, initialDelay: 100ms, maxDelay: 200ms}\nsteps: [{fn: querying}]",
    )
    ask = Asker(nats_server.url)
    with Farm(folder) as farm:
        assert ask.rows("out.once", "insert put\nbefore")[0]["rowsAffected"] == 1
        up.kill()
        for _ in range(3):
            began = time.monotonic()
            code, text = ask.refusal("out.once", "insert put\nlost")
            assert time.monotonic() - began < 0.1 + 0.1, "100 ms, and as much for the test's own connection"
            assert code == "503" and "database default" in text and "refused" in text, text
            assert farm.wait_log(message="message failed", cause="datasource")["code"] == 503
        assert ask("out.hello", "x") == b"hello, x"
        patient: list[bytes] = []
        thread = threading.Thread(target=lambda: patient.append(ask("out.again", "insert put\npatient")))
        thread.start()
        farm.wait_log(message="message will be tried again", subject="out.again")
        up.start()
        began = time.monotonic()
        wait_for(lambda: ask.message("out.once", "select all").data, 5)
        assert time.monotonic() - began <= 2
        thread.join()
        assert patient and names(up).count("patient") == 1
        assert farm.log(message="database default is back")


@pytest.mark.alone
def test_a_write_without_an_answer_is_never_repeated(up: Server, nats_server: NatsServer, tmp_path: Path) -> None:
    """The server stands until the deadline: one error line with the cause, the error answer, one row at most."""
    folder = app(tmp_path, nats_server.url, up, "resource: out.q\ntimeout: 1s\nsteps: [{fn: querying}]")
    ask = Asker(nats_server.url)
    with Farm(folder) as farm:
        ask("out.q", "insert put\nbefore")
        up.pause()
        began = time.monotonic()
        code, text = ask.refusal("out.q", "insert put\nunknown")
        assert 0.9 < time.monotonic() - began < 1.5
        assert code == "500" and "unknown" in text
        up.resume()
        wait_for(lambda: _answered(ask, "out.q"))
        (line,) = farm.log(message="message failed")
        assert line["cause"] == "outcome unknown" and line["attempt"] == 1 and line["level"] == "error"
        assert not farm.log(message="message will be tried again")
        assert names(up) in (["before"], ["before", "unknown"])


def _answered(ask: Asker, subject: str) -> bool:
    """The breaker may be open for a moment after the server has stood."""
    return bool(ask.message(subject, "select all").data)


def test_a_select_without_an_answer_is_tried_again(up: Server, nats_server: NatsServer, tmp_path: Path) -> None:
    """It has done nothing: a timeout, which the handler's `retry` repeats."""
    folder = app(
        tmp_path,
        nats_server.url,
        up,
        "resource: out.q\ntimeout: 1s\nretry: {attempts: 20, initialDelay: 100ms, maxDelay: 200ms}\n"
        "steps: [{fn: querying}]",
    )
    ask = Asker(nats_server.url, 30)
    with Farm(folder) as farm:
        ask("out.q", "insert put\nbefore")
        up.pause()
        answers: list[bytes] = []
        thread = threading.Thread(target=lambda: answers.append(ask("out.q", "select all")))
        thread.start()
        assert farm.wait_log(message="message will be tried again")["cause"] == "timeout"
        up.resume()
        thread.join()
        assert answers == [b'[{"name":"before"}]']


def test_a_server_that_is_killed_under_a_write(up: Server, nats_server: NatsServer, tmp_path: Path) -> None:
    """Known at once, long before the deadline, and not repeated; in a transaction it is, for nothing was done."""
    retry = "retry: {attempts: 50, initialDelay: 100ms, maxDelay: 200ms}"
    folder = app(
        tmp_path,
        nats_server.url,
        up,
        f"resource: out.q\n{retry}\nsteps: [{{fn: querying}}]",
        f"resource: out.whole\n{retry}\nsteps: [{{fn: querying, transaction: true}}]",
    )
    ask = Asker(nats_server.url, 30)
    with Farm(folder) as farm:
        answers: dict[str, object] = {}

        def send(subject: str, name: str) -> None:
            request = f"insert put\n{name}\n\ninsert slow-put\n{name}"
            answers[subject] = ask.message(subject, request)

        threads = [threading.Thread(target=send, args=(f"out.{way}", way)) for way in ("q", "whole")]
        for thread in threads:
            thread.start()
        wait_for(lambda: _running(up) == 2)
        up.kill()
        line = farm.wait_log(message="message failed", patience_s=2)
        assert line["cause"] == "outcome unknown" and line["subject"] == "out.q" and line["attempt"] == 1
        assert farm.wait_log(message="message will be tried again")["subject"] == "out.whole"
        up.start()
        for thread in threads:
            thread.join()
        assert len(farm.log(message="message failed")) == 1
        found = names(up)
        assert found.count("whole") == 2 and found.count("q") in (0, 1, 2)
        assert getattr(answers["out.whole"], "data", b"")


def test_a_commit_without_an_answer_is_never_repeated(nats_server: NatsServer, tmp_path: Path) -> None:
    """The server is killed while it commits (a deferred trigger makes that slow): nobody knows, one line says so."""
    server = PostgresServer()
    try:
        server.start()
        make_table(server)
        sql(server).run(
            "CREATE FUNCTION fd_slow() RETURNS trigger LANGUAGE plpgsql"
            " AS 'BEGIN PERFORM pg_sleep(5); RETURN NULL; END'",
            "CREATE CONSTRAINT TRIGGER fd_late AFTER INSERT ON fd_rows DEFERRABLE INITIALLY DEFERRED"
            " FOR EACH ROW EXECUTE FUNCTION fd_slow()",
        )
        folder = app(
            tmp_path, nats_server.url, server, "resource: out.whole\nsteps: [{fn: querying, transaction: true}]"
        )
        ask = Asker(nats_server.url)
        with Farm(folder) as farm:
            refusals: list[tuple[str, str]] = []
            thread = threading.Thread(target=lambda: refusals.append(ask.refusal("out.whole", "insert put\nx")))
            thread.start()
            wait_for(
                lambda: sql(server).run(
                    "SELECT 1 FROM pg_stat_activity WHERE query LIKE 'COMMIT%' AND state = 'active'"
                )
            )
            server.kill()
            thread.join()
            ((code, text),) = refusals
            assert code == "500" and "COMMIT" in text
            assert [line["cause"] for line in farm.log(message="message failed")] == ["outcome unknown"]
            assert not farm.log(message="message will be tried again")
    finally:
        server.remove()


def test_a_proxy_that_is_killed_in_a_transaction(up: Server, nats_server: NatsServer, tmp_path: Path) -> None:
    """Nothing of it was done, so it is tried again as a whole: each row is there once."""
    retry = "retry: {attempts: 50, initialDelay: 100ms, maxDelay: 200ms}"
    folder = app(
        tmp_path, nats_server.url, up, f"resource: out.whole\n{retry}\nsteps: [{{fn: querying, transaction: true}}]"
    )
    ask = Asker(nats_server.url, 30)
    with Farm(folder) as farm:
        (proxy,) = [started["pid"] for started in farm.log(message="worker started", worker="data-sources/0")]
        answers: list[bytes] = []
        request = "insert put\na\n\ninsert slow-put\nb\n\ninsert put\nc"
        thread = threading.Thread(target=lambda: answers.append(ask("out.whole", request)))
        thread.start()
        wait_for(lambda: _running(up) == 1)
        os.kill(proxy, signal.SIGKILL)
        thread.join()
        assert len(answers) == 1 and names(up) == ["a", "b", "c"]
        again = farm.log(message="message will be tried again")
        assert {line["cause"] for line in again} == {"datasource"}  # more than one if the new proxy is slow to come
        assert not farm.log(message="message failed")


def test_a_consumer_that_is_killed_in_a_transaction(up: Server, nats_server: NatsServer, tmp_path: Path) -> None:
    """Its transaction is rolled back at once, so that nobody waits for what it held."""
    folder = app(tmp_path, nats_server.url, up, "resource: out.whole\nsteps: [{fn: querying, transaction: true}]")
    with Farm(folder) as farm:
        (started,) = farm.log(message="worker started", worker="nats-out_whole/0")
        _send(nats_server.url, "out.whole", b"insert put\na\nloop")
        wait_for(lambda: _transactions(up) == 1)
        os.kill(started["pid"], signal.SIGKILL)
        wait_for(lambda: _transactions(up) == 0, 1)
        assert names(up) == []


def _send(url: str, subject: str, data: bytes) -> None:
    """Without waiting for an answer."""

    async def main() -> None:
        client = await nats.connect(url)
        await client.publish(subject, data)
        await client.close()

    asyncio.run(main())


def _transactions(server: Server) -> int:
    """How many are open on the server, beside this one."""
    if isinstance(server, PostgresServer):
        count = "SELECT count(*) FROM pg_stat_activity WHERE state = 'idle in transaction'"
    else:
        time.sleep(0.15)  # asked more often than each 0.1 s, the server answers from memory
        count = "SELECT count(*) FROM information_schema.innodb_trx"
    return int(sql(server).run(count)[0][0])


def _running(server: Server) -> int:
    """How many slow inserts run on the server."""
    if isinstance(server, PostgresServer):
        count = "SELECT count(*) FROM pg_stat_activity WHERE query LIKE '%INTO fd_rows%pg_sleep%' AND state = 'active'"
        count += " AND pid <> pg_backend_pid()"
    else:
        count = "SELECT count(*) FROM information_schema.processlist WHERE info LIKE '%INTO fd_rows%SLEEP%'"
        count += " AND id <> connection_id()"
    return int(sql(server).run(count)[0][0])
