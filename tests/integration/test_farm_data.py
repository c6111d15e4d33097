"""Databases and the cache through a real farm: real servers, a real proxy, guests in four languages."""

from __future__ import annotations

import base64
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import attrs
import pytest

from tests.data import LANGUAGES, Asker, Refused, Sql, data_directive, mysql, postgresql, sqlite, write_data_app
from tests.farm import Farm, wait_for
from tests.servers.nats import NatsServer
from tests.servers.redis import RedisServer

KINDS = ("sqlite", "postgresql", "mysql")
CACHES = ("memory", "redis")
CANARY = "c4nary 4111-1111"

HANDLERS = (
    *(f"resource: q.{language}\nsteps: [{{fn: querying-{language}}}]" for language in LANGUAGES),
    "resource: q.all\nmaxInFlight: 64\nsteps: [{fn: querying}]",
    "resource: q.small\nmemoryLimit: 4MiB\nsteps: [{fn: querying}]",
    "resource: q.whole\ntimeout: 1s\nretry: {attempts: 1}\nsteps: [{fn: querying, transaction: true}]",
    "resource: q.group\nsteps: [{group: [{fn: querying}, {fn: querying-rust}, {fn: querying-c}]}]\nresponse: querying",
    "resource: q.forgiven\nsteps: [{fn: querying, transaction: true, onErr: {any: continue}}]",
)


def queries(database: Sql) -> dict[str, str]:
    """The queries of this file's farms, for tables that `tables` makes."""
    returning = " RETURNING id" if database.type == "postgresql" else ""
    return {
        "put": f"INSERT INTO fd_orders (customer, amount) VALUES ($1, $2){returning}",
        "all": "SELECT id, customer, amount FROM fd_orders ORDER BY id",
        "of": "SELECT amount FROM fd_orders WHERE customer = $1 ORDER BY id",
        "by-id": "SELECT customer FROM fd_orders WHERE id = $1",
        "add": "UPDATE fd_orders SET amount = amount + $2 WHERE customer = $1",
        "drop": "DELETE FROM fd_orders WHERE customer = $1",
        "types": "SELECT small, real_one, words, bytes, absent FROM fd_types WHERE small = $1",
        "put-types": "INSERT INTO fd_types (small, real_one, words) VALUES ($1, $2, $3)",
        "put-once": "INSERT INTO fd_once (name) VALUES ($1)",
        "broken": "SELECT * FROM fd_missing",
        "wide": {
            "sqlite": "SELECT replace(hex(zeroblob($1 * 500000)), '0', 'x') AS wide",
            "postgresql": "SELECT repeat('x', $1::int * 1000000) AS wide",
            "mysql": "SELECT repeat('x', $1 * 1000000) AS wide",
        }[database.type],
    }


def tables(database: Sql) -> None:
    """Make them anew, empty."""
    binary = "bytea" if database.type == "postgresql" else "blob"
    real = "real" if database.type == "sqlite" else "double precision"
    for table, columns in (
        ("fd_orders", f"id {database.key}, customer varchar(100), amount int"),
        ("fd_types", f"small int, real_one {real}, words varchar(200), bytes {binary}, absent int"),
        ("fd_once", "name varchar(100) PRIMARY KEY"),
    ):
        database.run(f"DROP TABLE IF EXISTS {table}", f"CREATE TABLE {table} ({columns})")


def connected(kind: str, request: pytest.FixtureRequest, folder: Path) -> Sql:
    """A database of this kind, on the servers that tests share."""
    if kind == "sqlite":
        return sqlite(folder / "data.db")
    if kind == "postgresql":
        return postgresql(request.getfixturevalue("postgresql"))
    return mysql(request.getfixturevalue("mariadb"))


@attrs.frozen
class Shop:
    """A farm with one database."""

    farm: Farm
    database: Sql
    ask: Asker

    def rows(self) -> list[tuple[object, ...]]:
        """Customer and amount of all orders, from the database itself."""
        return self.database.run("SELECT customer, amount FROM fd_orders ORDER BY id")


@pytest.fixture(scope="module", params=KINDS)
def served(
    request: pytest.FixtureRequest, nats_server: NatsServer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Shop]:
    folder = tmp_path_factory.mktemp("data")
    database = connected(request.param, request, folder)
    tables(database)
    directive = data_directive(
        nats_server.url, *HANDLERS, databases={"default": database.yaml()}, queries=queries(database)
    )
    with Farm(write_data_app(folder / "app", directive)) as farm:
        yield Shop(farm, database, Asker(nats_server.url))


@pytest.fixture
def shop(served: Shop) -> Shop:
    """The farm of this kind of database; no orders are there."""
    served.database.run("DELETE FROM fd_orders", "DELETE FROM fd_once")
    return served


# Queries


@pytest.mark.parametrize("language", LANGUAGES)
def test_the_four_kinds_of_query(shop: Shop, language: str) -> None:
    """Insert gives the new id, select the rows in their order, update and delete how many there were."""
    ask, subject = shop.ask, f"q.{language}"
    (first,) = ask.rows(subject, "insert put\nMara\n3")
    (second,) = ask.rows(subject, "insert put\nEdvard\n4")
    assert first["rowsAffected"] == 1 and second["lastInsertID"] == first["lastInsertID"] + 1
    assert ask.rows(subject, "select all") == [
        [
            {"id": first["lastInsertID"], "customer": "Mara", "amount": 3},
            {"id": second["lastInsertID"], "customer": "Edvard", "amount": 4},
        ]
    ]
    (changed,) = ask.rows(subject, "update add\nMara\n10")
    assert changed["rowsAffected"] == 1
    (dropped,) = ask.rows(subject, "delete drop\nEdvard")
    assert dropped["rowsAffected"] == 1
    assert shop.rows() == [("Mara", 13)]
    assert ask.rows(subject, "select of\nnobody") == [[]]


def test_several_queries_of_one_run(shop: Shop) -> None:
    """They run one after the other, each with its own variables."""
    found = shop.ask.rows("q.all", "insert put\na\n1\n\ninsert put\nb\n2\n\nupdate add\nb\n5\n\nselect of\nb")
    assert found[3] == [{"amount": 7}]


def test_many_runs_at_the_same_time(shop: Shop) -> None:
    """More than there are connections: each gets its own answer."""
    answers = shop.ask.together(*(("q.all", f"insert put\nc{number}\n{number}") for number in range(60)))
    assert not [answer for answer in answers if isinstance(answer, Refused)]
    assert len({json.loads(answer)["lastInsertID"] for answer in answers if isinstance(answer, bytes)}) == 60
    found = shop.ask.together(*(("q.all", f"select of\nc{number}") for number in range(60)))
    assert [answer if isinstance(answer, Refused) else json.loads(answer) for answer in found] == [
        [{"amount": number}] for number in range(60)
    ]


def test_values(shop: Shop) -> None:
    """Numbers become numbers, text stays byte for byte, bytes are base64, NULL is null."""
    words = 'Zoë\'s "quote"; DROP TABLE fd_orders; -- \\ %s $1 ? \t€'
    shop.ask("q.all", f"insert put-types\n42\n-1.5\n{words}")
    (found,) = shop.ask.rows("q.all", "select types\n42")
    assert found == [{"small": 42, "real_one": -1.5, "words": words, "bytes": None, "absent": None}]
    literal = "'\\x00ff'" if shop.database.type == "postgresql" else "X'00ff'"
    shop.database.run(f"INSERT INTO fd_types (small, bytes) VALUES (7, {literal})")
    ((row,),) = shop.ask.rows("q.all", "select types\n7")
    assert base64.b64decode(row["bytes"]) == b"\x00\xff"


@pytest.mark.parametrize(
    ("asked", "text"),
    [
        ("select nothing", "query not found: nothing"),
        ("update put\na\n1", "wrong type: the query put is of type insert, not update"),
        ("7 all", "wrong type: the query all is of type select, not unknown"),
        ("select of", "expected 1 variables, got 0"),
        ("select all\nx", "expected 0 variables, got 1"),
    ],
)
def test_calls_that_fit_no_query(shop: Shop, asked: str, text: str) -> None:
    """The guest gets the reason; here it makes it its error."""
    assert shop.ask.refusal("q.all", asked) == ("500", text)


def test_a_select_and_an_insert_may_be_taken_for_each_other(shop: Shop) -> None:
    """An old SDK has swapped their numbers; the query's own type decides."""
    assert shop.ask.rows("q.all", "select put\na\n1")[0]["rowsAffected"] == 1
    assert shop.ask.rows("q.all", "insert of\na") == [[{"amount": 1}]]


def test_what_the_server_says_against_a_query(shop: Shop) -> None:
    """It reaches the guest, without the values; nothing is tried again, and the next query goes through."""
    code, text = shop.ask.refusal("q.all", "select broken")
    assert code == "500" and "fd_missing" in text
    shop.ask("q.all", f"insert put-once\n{CANARY}")
    code, text = shop.ask.refusal("q.all", f"insert put-once\n{CANARY}")
    assert code == "500" and CANARY not in text and "unique" in text.lower()
    assert CANARY.encode() not in shop.farm.log_file.read_bytes()
    assert not shop.farm.log(message="message will be tried again")
    assert shop.ask.rows("q.all", "select all") == [[]]


def test_results_that_are_too_large(shop: Shop) -> None:
    """For the proxy's limit (16 MiB) or the function's memory: an error for the function, and everybody lives on."""
    pids = shop.farm.children()
    assert shop.ask.refusal("q.all", "select wide\n5\nfail") == ("422", "told to fail")
    code, text = shop.ask.refusal("q.all", "select wide\n17")
    assert code == "500" and "16" in text, text
    code, text = shop.ask.refusal("q.small", "select wide\n8")
    assert code == "500" and ("memory" in text or "4194304" in text), text
    assert shop.ask.rows("q.small", "select wide\n0") == [[{"wide": ""}]]
    assert shop.farm.children() == pids


# Transactions

BOTH = "insert put\nMara\n1\n\nupdate add\nMara\n1"


def test_a_transaction_is_committed_when_its_function_succeeds(shop: Shop) -> None:
    """Both queries, and the answer comes after the commit."""
    shop.ask("q.whole", BOTH)
    assert shop.rows() == [("Mara", 2)]


@pytest.mark.parametrize(
    ("end", "code"),
    [
        ("\nfail", "422"),
        ("\ntrap", "500"),
        ("\nloop", "504"),
        ("\n\nselect nothing", "500"),
        ("\n\nselect broken", "500"),
    ],
)
def test_a_transaction_is_rolled_back_when_its_function_fails(shop: Shop, end: str, code: str) -> None:
    """By its own error, a trap, its deadline, a query that is refused or fails: nothing was done."""
    assert shop.ask.refusal("q.whole", BOTH + end)[0] == code
    assert shop.rows() == []
    shop.ask("q.whole", BOTH)
    assert shop.rows() == [("Mara", 2)]


def test_without_a_transaction_each_query_stands_for_itself(shop: Shop) -> None:
    """What was done before the error stays done."""
    shop.ask.refusal("q.all", f"{BOTH}\nfail")
    assert shop.rows() == [("Mara", 2)]


def test_an_error_that_the_directive_lets_pass_rolls_back_too(shop: Shop) -> None:
    """`onErr: continue` keeps the sequence, not the writes."""
    assert json.loads(shop.ask("q.forgiven", f"{BOTH}\nfail")) == {"code": 422, "message": "told to fail"}
    assert shop.rows() == []


def test_a_transaction_whose_function_goes_on_after_an_error(shop: Shop) -> None:
    """All or nothing in any case: PostgreSQL undoes it all, and the message fails; with others the rest is done."""
    asked = "insert put\nMara\n1\n\ntry select broken\n\ntry insert put\nMara\n2"
    if shop.database.type == "postgresql":
        code, text = shop.ask.refusal("q.whole", asked)
        assert code == "503" and "rolled back" in text, text
        assert shop.rows() == []
    else:
        assert shop.ask("q.whole", asked).startswith(b'{"lastInsertID"')
        assert shop.rows() == [("Mara", 1), ("Mara", 2)]


def test_a_query_that_the_farm_refuses_does_not_harm_a_transaction(shop: Shop) -> None:
    """It never reaches the database."""
    answers = shop.ask("q.whole", "try select nothing\n\ninsert put\nMara\n1\n\ntry select of").splitlines()
    assert answers[0] == b"! query not found: nothing" and answers[2] == b"! expected 1 variables, got 0"
    assert shop.rows() == [("Mara", 1)]


def test_a_group_queries_at_the_same_time(shop: Shop) -> None:
    """Each function has variables and results of its own."""
    shop.ask("q.all", "insert put\nMara\n1")
    for _ in range(20):
        rows = json.loads(
            shop.ask("q.group", "select of\nMara\n\nupdate add\nMara\n0\n\nselect of\nMara").splitlines()[2]
        )
        assert rows == [{"amount": 1}]


def test_a_transaction_sees_its_own_writes_and_nobody_else_does(shop: Shop) -> None:
    """Until the commit; a second one does not wait for the first one's connection."""
    whole = shop.ask.rows("q.whole", "insert put\nown\n1\n\nselect of\nown")
    assert whole[1] == [{"amount": 1}]
    answers = shop.ask.together(*(("q.whole", f"insert put\nt{number}\n1\n\nselect all") for number in range(20)))
    assert not [answer for answer in answers if isinstance(answer, Refused)]
    assert len(shop.rows()) == 21


# Several databases


def test_two_databases(nats_server: NatsServer, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    """A query runs on the database that it names; a transaction is one database's."""
    first, second = sqlite(tmp_path / "first.db"), connected("postgresql", request, tmp_path)
    for database in (first, second):
        database.run("DROP TABLE IF EXISTS fd_two", "CREATE TABLE fd_two (name varchar(100))")
    directive = data_directive(
        nats_server.url,
        "resource: two.q\nsteps: [{fn: querying}]",
        "resource: two.whole\nsteps: [{fn: querying, transaction: true}]",
        databases={"default": first.yaml(), "second": second.yaml("poolSize: 2, statementTimeout: 5s")},
        queries={
            "put": "INSERT INTO fd_two VALUES ($1)",
            "put-second@second": "INSERT INTO fd_two VALUES ($1)",
            "all-second@second": "SELECT name FROM fd_two",
        },
    )
    ask = Asker(nats_server.url)
    with Farm(write_data_app(tmp_path / "app", directive)):
        ask("two.q", "insert put\none\n\ninsert put-second\ntwo")
        assert first.run("SELECT name FROM fd_two") == [("one",)]
        assert second.run("SELECT name FROM fd_two") == [("two",)]
        text = "the transaction runs on the database default, and put-second is a query of second"
        assert ask.refusal("two.whole", "insert put\nlost\n\ninsert put-second\nlost") == ("500", text)
        ask("two.whole", "insert put-second\nkept\n\nselect all-second")
        assert first.run("SELECT name FROM fd_two") == [("one",)]
        assert second.run("SELECT name FROM fd_two ORDER BY name") == [("kept",), ("two",)]


# The cache


@pytest.fixture(params=CACHES)
def cached(request: pytest.FixtureRequest, nats_server: NatsServer, tmp_path: Path) -> Iterator[Asker]:
    """A farm with two consumers that use the cache in each of three languages."""
    redis = ""
    if request.param == "redis":
        server: RedisServer = request.getfixturevalue("redis_server")
        redis = f"{{serverAddress: '{server.address}', keyPrefix: {tmp_path.name}}}"
    languages = [language for language in LANGUAGES if language != "assemblyscript"]
    handlers = [f"resource: c.{language}\nsteps: [{{fn: caching-{language}}}]" for language in languages]
    directive = data_directive(nats_server.url, *handlers, "resource: c.other\nsteps: [{fn: caching}]", redis=redis)
    with Farm(write_data_app(tmp_path / "app", directive)):
        yield Asker(nats_server.url)


def test_what_one_consumer_caches_another_one_gets(cached: Asker) -> None:
    """Text and an empty value; a later value replaces an earlier one; a key that is not there is said to be missing."""
    for language in ("c", "rust", "rust-suborbital"):
        subject, key = f"c.{language}", f"key-{language}"
        assert cached("c.other", f"get {key}") == b"! key not found"
        assert cached(subject, f"set {key} 0 Zoë 1\nget {key}") == "ok\nZoë 1".encode()
        assert cached("c.other", f"get {key}\nset {key} 60 two") == "Zoë 1\nok".encode()
        assert cached(subject, f"get {key}\nset {key} 60 \nget {key}") == b"two\nok\n"


def test_a_cached_value_ends_with_its_time_to_live(cached: Asker) -> None:
    """Seconds; until then it is there."""
    set_at = time.monotonic()
    assert cached("c.c", "set short 1 x\nset long 60 y\nget short") == b"ok\nok\nx"
    wait_for(lambda: cached("c.other", "get short") == b"! key not found", 5)
    assert 0.9 < time.monotonic() - set_at < 3
    assert cached("c.other", "get long") == b"y"


# What the Directive does not allow


@pytest.mark.parametrize(
    ("capabilities", "refused"),
    [
        ("{cache: {rules: {allowGet: false}}}", "get"),
        ("{cache: {rules: {allowSet: false}}}", "set"),
        ("{cache: {enabled: false}}", "get set"),
        ("{db: {enabled: false}}", "db"),
    ],
)
def test_capabilities(nats_server: NatsServer, tmp_path: Path, capabilities: str, refused: str) -> None:
    """What is off answers `capability is not enabled`; what is not off works."""
    database = sqlite(tmp_path / "data.db")
    tables(database)
    directive = data_directive(
        nats_server.url,
        "resource: cap.q\nsteps: [{fn: querying}]",
        "resource: cap.c\nsteps: [{fn: caching}]",
        databases={"default": database.yaml()},
        queries={"all": "SELECT * FROM fd_orders"},
        more=f"capabilities: {capabilities}\n",
    )
    ask = Asker(nats_server.url)
    with Farm(write_data_app(tmp_path / "app", directive)):
        got, put = ("! capability is not enabled" if "get" in refused else "! key not found"), "ok"
        if "set" in refused:
            put = "! the host failed"  # cache_set has no text to give
        assert ask("cap.c", "get a\nset a 5 x").decode() == f"{got}\n{put}"
        if refused == "db":
            assert ask.refusal("cap.q", "select all") == ("500", "capability is not enabled")
        else:
            assert ask.rows("cap.q", "select all") == [[]]


def test_a_capability_that_is_off_waits_for_nothing(nats_server: NatsServer, tmp_path: Path) -> None:
    """The database that nobody may ask is out of reach, and nobody waits for it."""
    directive = data_directive(
        nats_server.url,
        "resource: off.q\nsteps: [{fn: querying}]",
        databases={"default": "{type: postgresql, connectionString: 'postgres://u@127.0.0.1:1/x'}"},
        redis="{serverAddress: '127.0.0.1:1'}",
        queries={"all": "SELECT 1"},
        more="capabilities: {db: {enabled: false}, cache: {enabled: false}}\n",
    )
    with Farm(write_data_app(tmp_path / "app", directive)) as farm:
        assert not farm.log(message="worker waits")
        assert Asker(nats_server.url).refusal("off.q", "select all") == ("500", "capability is not enabled")


def test_queries_without_a_database(nats_server: NatsServer, tmp_path: Path) -> None:
    """The capability is there when a connection is."""
    directive = data_directive(nats_server.url, "resource: none.q\nsteps: [{fn: querying}]")
    with Farm(write_data_app(tmp_path / "app", directive)):
        assert Asker(nats_server.url).refusal("none.q", "select all") == ("500", "capability is not enabled")


# atmo-farm invoke


def invoke(app: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "atmo_farm", "invoke", str(app), *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=60)


def test_invoke_reaches_the_data(nats_server: NatsServer, tmp_path: Path) -> None:
    """One function alone gets the Directive's database and a cache; with --no-connect it is told that it has none."""
    database = sqlite(tmp_path / "data.db")
    tables(database)
    directive = data_directive(
        "nats://127.0.0.1:1",
        "resource: x\nsteps: [{fn: querying}, {fn: caching}]",
        databases={"default": database.yaml()},
        queries=queries(database),
    )
    app = write_data_app(tmp_path / "app", directive)
    done = invoke(app, "querying", "--input", "insert put\nMara\n3\n\nselect of\nMara")
    assert (done.returncode, json.loads(done.stdout.splitlines()[1])) == (0, [{"amount": 3}]), done
    assert database.run("SELECT customer, amount FROM fd_orders") == [("Mara", 3)]
    assert invoke(app, "caching", "--input", "set a 0 b\nget a").stdout == "ok\nb"
    refused = invoke(app, "querying", "--input", "select all", "--no-connect")
    assert refused.returncode == 1 and refused.stdout == ""
    assert json.loads(refused.stderr.splitlines()[-1]) == {"code": 500, "message": "capability is not enabled"}
    assert invoke(app, "caching", "--input", "get a", "--no-connect").stdout == "! capability is not enabled"


def test_invoke_says_what_is_out_of_reach(tmp_path: Path) -> None:
    """Exit status 3 at once, with the reason and without the password."""
    directive = data_directive(
        "nats://127.0.0.1:1",
        "resource: x\nsteps: [{fn: querying}]",
        databases={"default": "{type: postgresql, connectionString: 'postgres://u:s3cret@127.0.0.1:1/x'}"},
        queries={"all": "SELECT 1"},
    )
    done = invoke(write_data_app(tmp_path / "app", directive), "querying", "--input", "select all")
    assert done.returncode == 3 and done.stdout == ""
    assert "database default is out of reach" in done.stderr and "refused" in done.stderr
    assert "s3cret" not in done.stderr
