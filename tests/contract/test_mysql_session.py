"""How MySQL's backend connects, what it makes of the session, and where it refuses to go on."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from MySQLdb import _mysql

from atmo_farm.datasource.errors import CallFailed, TransientFailure, Unreachable
from atmo_farm.datasource.mysql.driver import MISSING
from atmo_farm.directive.connections import Tls
from atmo_farm.errors import CannotStart
from tests.contract.kit import Database, fails, harmless
from tests.contract.suite_values import PAYLOADS, RAW
from tests.contract.test_database_mysql import SNIPPETS, database
from tests.servers import certificates
from tests.servers.fake_mysql import FakeMySql, fake_mysql
from tests.servers.mariadb import DATABASE, PASSWORD, MariaDbServer


def of(server: MariaDbServer, query: str = "") -> Database:
    return database(server.dsn("atmo", PASSWORD, query=query), server)


def as_admin(server: MariaDbServer, statement: str) -> None:
    """By the driver itself: a procedure's body holds several statements."""
    handle = _mysql.connect(host="127.0.0.1", port=server.port, user="trusted", database=DATABASE)
    handle.query(statement)
    handle.close()


@pytest.fixture(scope="module")
def certs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return certificates.make(tmp_path_factory.mktemp("certificates"))


@pytest.fixture(scope="module")
def tls_server(certs: Path) -> Iterator[MariaDbServer]:
    """It takes connections with and without TLS; its user `secure` only with."""
    server = MariaDbServer(tls=certs)
    server.start()
    yield server
    server.remove()


@pytest.fixture(scope="module")
def gbk_server() -> Iterator[MariaDbServer]:
    """It takes every session for GBK, whatever the client says, and knows no backslash escapes."""
    server = MariaDbServer(
        ["--character-set-server=gbk", "--skip-character-set-client-handshake", "--sql-mode=NO_BACKSLASH_ESCAPES"]
    )
    server.start()
    yield server
    server.remove()


def test_the_driver_is_missing(mariadb: MariaDbServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """The error says what to install, and what that needs."""
    for name in ("MySQLdb", "MySQLdb._mysql"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(CannotStart) as caught:
        of(mariadb).backend()
    assert str(caught.value) == MISSING
    for word in ("pip install 'atmo-farm[mysql]'", "gcc", "pkg-config", "libmariadb-dev"):
        assert word in MISSING


async def test_unix_socket(mariadb: MariaDbServer) -> None:
    """By its path."""
    async with database(f"trusted@unix({mariadb.socket})/{DATABASE}").connected() as session:
        assert await session.value("SELECT user()") == "trusted@localhost"
    backend = database(f"trusted@unix({mariadb.folder}/absent)/{DATABASE}").backend()
    assert "no such file" in str(await fails(Unreachable, backend.connection().open()))
    await backend.close()


async def test_localhost(mariadb: MariaDbServer) -> None:
    """A host like others; and a URL."""
    async with database(f"mysql://trusted@localhost:{mariadb.port}/{DATABASE}").connected() as session:
        assert await session.value("SELECT user()") == "trusted@127.0.0.1"


async def test_the_session(mariadb: MariaDbServer) -> None:
    """What it is by default."""
    async with of(mariadb).connected() as session:
        (row,) = await session.rows(
            "SELECT @@character_set_client a, @@character_set_connection b, @@character_set_results c, @@autocommit d,"
            " @@time_zone e, @@sql_select_limit f, @@local_infile g, @@collation_connection h"
        )
        assert list(row.values())[:6] == ["utf8mb4", "utf8mb4", "utf8mb4", 1, "+00:00", 10_001]


async def test_options(mariadb: MariaDbServer) -> None:
    """Of the DSN: what the session is told, and what the driver is."""
    options = (
        "collation=utf8mb4_bin&clientFoundRows=true&sql_mode=%27ANSI%27&lock_wait_timeout=77&time_zone=%27%2B02:00%27"
    )
    async with of(mariadb, options).connected() as session:
        (row,) = await session.rows(
            "SELECT @@collation_connection a, @@sql_mode LIKE '%ANSI_QUOTES%' b, @@lock_wait_timeout c, @@time_zone d"
        )
        assert list(row.values()) == ["utf8mb4_bin", 1, 77, "+02:00"]
        assert await session.value("SELECT from_unixtime(0)") == "1970-01-01T02:00:00"
        table = await session.table(SNIPPETS)
        await session.fill(table, SNIPPETS, "a")
        assert (await session.change(f"UPDATE {table} SET name = 'a'"))[1] == 1  # found, not changed
    async with of(mariadb).connected() as session:
        assert (await session.change(f"UPDATE {table} SET name = 'a'"))[1] == 0


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ("no_such_variable=1", "refuses the option `no_such_variable`"),
        ("sql_mode=NO_SUCH_MODE", "refuses the option `sql_mode`"),
        ("collation=utf8mb4_nonsense", "refuses the option `collation`"),
        ("character_set_client=gbk", "must be utf8mb4"),
        ("character_set_connection=latin1", "must be utf8mb4"),
        ("character_set_results=binary", "must be utf8mb4"),
        ("autocommit=0", "autocommit"),
    ],
)
async def test_options_that_do_not_work(mariadb: MariaDbServer, options: str, words: str) -> None:
    """The reason names them."""
    backend = of(mariadb, options).backend()
    error = await fails(Unreachable, backend.connection().open())
    assert words in str(error)
    harmless(error, PASSWORD)
    await backend.close()


async def test_a_server_of_another_character_set(gbk_server: MariaDbServer) -> None:
    """The session is made utf8mb4, and nothing that is GBK's quote or backslash breaks out, in any mode."""
    for options in (
        "",
        "charset=gbk",
        "charset=gbk&collation=gbk_chinese_ci",
        "sql_mode=%27%27",
        "sql_mode=%27ANSI%27",
    ):
        async with of(gbk_server, options).connected() as session:
            await session.ddl("CREATE OR REPLACE TABLE only_this (a int)")
            table = await session.table(SNIPPETS)
            payloads = [payload.replace("{table}", "only_this") for payload in PAYLOADS]
            for payload in (*payloads, "縗'", "\u5c5c\\' OR 1=1 -- ", "誠' OR 1=1 --"):
                assert await session.rows("SELECT ? AS a, ? AS b", payload, "'") == [{"a": payload, "b": "'"}]
            for number, raw in enumerate((*RAW, b"\xbf' OR 1=1 -- ", b"\xbf\\' OR 1=1 -- ", b"\xa8\\'")):
                await session.change(f"INSERT INTO {table} (amount, data) VALUES (?, ?)", str(number), raw)
                found = f"SELECT count(*) FROM {table} WHERE data = ? AND amount = ?"
                assert await session.value(found, raw, str(number)) == 1
                assert (
                    await session.value(f"SELECT hex(data) FROM {table} WHERE amount = ?", str(number))
                    == raw.hex().upper()
                )
            assert await session.rows("SELECT * FROM only_this") == []


MODE = "SET SESSION sql_mode = 'NO_BACKSLASH_ESCAPES'"


@pytest.mark.parametrize(
    ("make", "use"),
    [
        (f"PROCEDURE turns() {MODE}", "CALL turns()"),
        (f"FUNCTION turning() RETURNS int BEGIN {MODE}; RETURN 1; END", "SELECT turning()"),
        ("PROCEDURE nothing() DO 0", "SET STATEMENT sql_mode = 'NO_BACKSLASH_ESCAPES' FOR SELECT 1"),
    ],
)
async def test_a_driver_that_is_misled(mariadb: MariaDbServer, make: str, use: str) -> None:
    """The mode of such a statement ends with it, but the server goes on to tell it: the driver would leave backslashes
    as they are, and a variable could break out. The answer stands, and the connection is not used again."""
    as_admin(mariadb, f"CREATE OR REPLACE {make}")
    async with of(mariadb).connected() as session:
        assert not session.connection.broken
        await session.json(use, type_="select")
        assert session.connection.broken


@pytest.mark.parametrize(
    "does",
    [
        "SET NAMES gbk",
        "SET SESSION character_set_results = latin1",
        "SET SESSION autocommit = 0",
        "SET SESSION time_zone = '+09:00'",
        "EXECUTE IMMEDIATE 'USE information_schema'",
    ],
)
async def test_a_procedure_that_changes_the_session(mariadb: MariaDbServer, does: str) -> None:
    """Its connection is not used again."""
    as_admin(mariadb, f"CREATE OR REPLACE PROCEDURE changes() BEGIN {does}; SELECT 7 AS a; END")
    async with of(mariadb).connected() as session:
        assert await session.rows("CALL changes()") == [{"a": 7}]
        assert session.connection.broken


async def test_a_procedure_that_leaves_a_transaction_open(mariadb: MariaDbServer) -> None:
    """It is rolled back, whether the procedure succeeds or fails; the connection goes on."""
    async with of(mariadb).connected() as session, of(mariadb).connected() as other:
        table = await session.table(SNIPPETS)
        begins = f"START TRANSACTION; INSERT INTO {table} (name) VALUES ('a')"
        as_admin(mariadb, f"CREATE OR REPLACE PROCEDURE opens() BEGIN {begins}; END")
        as_admin(mariadb, f"CREATE OR REPLACE PROCEDURE opens_and_fails() BEGIN {begins}; SELECT * FROM absent; END")
        await session.json("CALL opens()", type_="update")
        await fails(CallFailed, session.json("CALL opens_and_fails()", type_="update"))
        assert not session.connection.broken
        await session.fill(table, SNIPPETS, "b")
        assert await other.rows(f"SELECT name FROM {table}") == [{"name": "b"}]


async def test_procedures(mariadb: MariaDbServer) -> None:
    """The first of their answers is the result; those that leave the session as it is leave the connection good."""
    async with of(mariadb).connected() as session:
        table = await session.table(SNIPPETS)
        as_admin(
            mariadb,
            f"CREATE OR REPLACE PROCEDURE several(n text) BEGIN SELECT n AS a; SELECT 2 AS b;"
            f" INSERT INTO {table} (name) VALUES (n), (n); END",
        )
        assert await session.rows("CALL several(?)", "x") == [{"a": "x"}]
        assert await session.rows("CALL several(?)", "x" * 50_000) == [{"a": "x" * 50_000}]
        assert await session.value(f"SELECT count(*) FROM {table}") == 4
        await session.connection.begin()
        await session.rows("CALL several('y')")
        await session.connection.rollback()
        assert await session.value(f"SELECT count(*) FROM {table}") == 4
        assert not session.connection.broken


@pytest.mark.parametrize("mode", ["NO_BACKSLASH_ESCAPES", "ANSI_QUOTES"])
async def test_backslashes_in_the_query(mariadb: MariaDbServer, mode: str) -> None:
    """In a mode that makes them something else, a query with one in quotes is refused: where its quotes end, and which
    question marks are variables, is not certain. Other queries run, with any variables."""
    async with of(mariadb, f"sql_mode=%27{mode}%27").connected() as session:
        error = await fails(CallFailed, session.rows(r"SELECT 'a\' , ? , b\'' AS a", "x"))
        assert "backslash" in str(error)
        assert not session.connection.broken
        for payload in PAYLOADS:
            assert await session.value("SELECT ?", payload) == payload
        if mode == "ANSI_QUOTES":
            assert await session.rows('SELECT 1 AS "a ? b"') == [{"a ? b": 1}]


async def test_max_allowed_packet() -> None:
    """A statement that is too long for the server is not sent; the connection goes on. One just below it runs."""
    server = MariaDbServer(["--max-allowed-packet=1M"])
    server.start()
    async with of(server).connected() as session:
        table = await session.table(SNIPPETS)
        insert = SNIPPETS.insert.format(table=table)
        for size in (1 << 20, 3 << 20):
            error = await fails(CallFailed, session.change(insert, "x" * size, "1"))
            assert "max_allowed_packet" in str(error)
            assert not session.connection.broken
        longest = (1 << 20) - len(insert.replace("?", "''").encode()) - 10
        await session.change(insert, "x" * longest, "1")
        assert await session.rows(f"SELECT length(name) AS a FROM {table}") == [{"a": longest}]
    async with of(server, "maxAllowedPacket=1000").connected() as session:
        await fails(CallFailed, session.change(insert, "x" * 1000, "1"))
        assert not session.connection.broken
    server.remove()


async def test_too_many_connections(mariadb: MariaDbServer) -> None:
    """Told as such; a transient failure for calls."""
    async with database(mariadb.dsn()).connected() as admin:
        await admin.ddl("CREATE OR REPLACE USER few IDENTIFIED BY 'x' WITH MAX_USER_CONNECTIONS 1")
        few = database(mariadb.dsn("few", "x", ""))
        backend = few.backend()
        async with few.another(backend):
            error = await fails(Unreachable, backend.connection().open())
            assert "used up what it may" in str(error)
        await backend.close()
    assert issubclass(Unreachable, TransientFailure)


async def test_login_in_clear() -> None:
    """A server that wants the password in clear does not get it without TLS."""
    logins: list[bytes] = []

    async def nothing(_: FakeMySql, __: bytes) -> None:
        """It does not come to that."""

    async with fake_mysql(nothing, "mysql_clear_password", logins) as port:
        backend = database(f"u:{PASSWORD}@tcp(127.0.0.1:{port})/").backend()
        error = await fails(Unreachable, backend.connection().open())
        await backend.close()
    assert "in clear" in str(error)
    assert len(logins) == 1
    assert PASSWORD.encode() not in logins[0]


async def test_tls(tls_server: MariaDbServer, mariadb: MariaDbServer, certs: Path) -> None:
    """Each mode against a server with TLS and one without."""
    cipher = "SHOW SESSION STATUS LIKE 'Ssl_cipher'"
    good, other = Tls(ca_file=str(certs / "ca.pem")), Tls(ca_file=str(certs / "client.pem"))
    client = Tls(
        **{f"{n}_file": str(certs / f) for n, f in (("ca", "ca.pem"), ("cert", "client.pem"), ("key", "client.key"))}
    )
    expected: list[tuple[str, Tls | None, str, str]] = [
        ("", None, "plain", "plain"),
        ("tls=preferred", None, "TLS", "plain"),
        ("tls=skip-verify", None, "TLS", "its server has no TLS"),
        ("tls=true", None, "certificate", "TLS failed: SSL is required"),
        ("", good, "TLS", "TLS failed: SSL is required"),
        ("", client, "TLS", "TLS failed: SSL is required"),
        ("", other, "certificate", "TLS failed: SSL is required"),
    ]
    for query, tls, with_tls, without in expected:
        for server, outcome in ((tls_server, with_tls), (mariadb, without)):
            backend = of(server, query).backend(tls=tls)
            if outcome in ("TLS", "plain"):
                async with of(server, query).another(backend) as session:
                    (row,) = await session.rows(cipher)
                    assert bool(row["Value"]) is (outcome == "TLS"), (query, tls)
            else:
                assert outcome in str(await fails(Unreachable, backend.connection().open())), (query, tls)
            await backend.close()


async def test_a_certificate_of_another_name(tls_server: MariaDbServer, certs: Path) -> None:
    """It is not accepted."""
    text = f"trusted@tcp(localhost.localdomain:{tls_server.port})/"
    connection = database(text.replace("localhost.localdomain", "127.0.0.1")).connection
    assert connection.target is not None
    backend = database(text).backend(tls=Tls(ca_file=str(certs / "ca.pem")))
    harmless(await fails(Unreachable, backend.connection().open()))
    await backend.close()


async def test_answers_over_tls(tls_server: MariaDbServer, certs: Path) -> None:
    """Small and large ones, changes, errors, cancels: as without."""
    async with of(tls_server).connected(tls=Tls(ca_file=str(certs / "ca.pem"))) as session:
        table = await session.table(SNIPPETS)
        await session.fill(table, SNIPPETS, "a", "b" * 100_000)
        assert [len(str(row["name"])) for row in await session.rows(f"SELECT name FROM {table}")] == [1, 100_000]
        assert len(await session.rows("SELECT seq FROM seq_1_to_9999")) == 9999
        await fails(CallFailed, session.rows("SELECT * FROM no_such_table"))
        await fails(CallFailed, session.rows(SNIPPETS.many_rows))
        await fails(TransientFailure, session.json(SNIPPETS.endless_select, within_s=0.1))
        assert (await session.change(f"DELETE FROM {table}"))[1] == 2
        assert not session.connection.broken and not session.connection.is_lost()
