"""Addresses and connection strings: every form that users have, and errors that show none of it."""

from __future__ import annotations

import pytest

from atmo_farm.directive import addresses, dsn
from atmo_farm.directive.connections import DatabaseTarget
from tests.unit.directive.support import HEAD, read

SECRET = "s3cret"


@pytest.mark.parametrize(
    ("text", "full"),
    [
        ("localhost", ("nats://localhost:4222",)),
        ("a:1, b ,nats://c", ("nats://a:1", "nats://b:4222", "nats://c:4222")),
        ("tls://u:p@a.example.com:4443", ("tls://u:p@a.example.com:4443",)),
        ("ws://a", ("ws://a:80",)),
        ("wss://a", ("wss://a:443",)),
        ("[::1]", ("nats://[::1]:4222",)),
        ("[fe80::1%eth0]:1", ("nats://[fe80::1%eth0]:1",)),
        ("nats://token@a/", ("nats://token@a:4222",)),
    ],
)
def test_nats(text: str, full: tuple[str, ...]) -> None:
    assert addresses.nats(text) == full


def test_kafka() -> None:
    assert addresses.kafka("a, b:1,kafka://c") == ("a:9092", "b:1", "c:9092")
    with pytest.raises(ValueError, match="write it under `sasl`"):
        addresses.kafka("a,u@b")


@pytest.mark.parametrize(
    ("text", "full"),
    [
        ("localhost", "redis://localhost:6379"),
        ("rediss://u:p@a:1", "rediss://u:p@a:1"),
        ("redis://a/2", "redis://a:6379/2"),
        ("unix:///run/r.sock", "unix:///run/r.sock"),
        ("/run/r.sock", "unix:///run/r.sock"),
    ],
)
def test_redis(text: str, full: str) -> None:
    assert addresses.redis(text) == full


@pytest.mark.parametrize(
    "text",
    [
        f"{SECRET} x",
        f"{SECRET}:x",
        f"http://{SECRET}",
        f"{SECRET}:0",
        f"{SECRET}:65536",
        f"a@{SECRET}@b",
        "",
        ",",
        f"nats://u:{SECRET}/@h",
        f"{SECRET}/path",
        "::1",
    ],
)
def test_addresses_that_are_none(text: str) -> None:
    for check in (addresses.nats, addresses.kafka, addresses.redis):
        with pytest.raises(ValueError) as error:
            check(text)
        assert SECRET not in str(error.value)


POSTGRESQL = {
    "postgres://u:p%40ss@h:1/db?sslmode=require": DatabaseTarget(
        (("h", 1),), user="u", password="p@ss", database="db", options={"sslmode": "require"}
    ),
    "postgresql://h": DatabaseTarget((("h", 5432),)),
    "postgresql:///db?host=/run/pg": DatabaseTarget(socket="/run/pg", database="db"),
    "postgresql:///db?host=/run/pg&port=5433": DatabaseTarget(
        socket="/run/pg", database="db", options={"port": "5433"}
    ),
    "host=/run/pg port=5433": DatabaseTarget(socket="/run/pg", options={"port": "5433"}),
    "postgres://u@a,b:2/db": DatabaseTarget((("a", 5432), ("b", 2)), user="u", database="db"),
    "postgres://u:p@[::1]:1/db": DatabaseTarget((("::1", 1),), user="u", password="p", database="db"),
    "postgres://h/db?search_path=a&pool_max_conns=3": DatabaseTarget(
        (("h", 5432),), database="db", settings={"search_path": "a"}, ignored=("pool_max_conns",)
    ),
    "host=h port=1 user=u password='p \\' q' dbname=db": DatabaseTarget(
        (("h", 1),), user="u", password="p ' q", database="db"
    ),
    "host = h  application_name='my app'": DatabaseTarget((("h", 5432),), options={"application_name": "my app"}),
    "user=u password=a\\ b": DatabaseTarget((("localhost", 5432),), user="u", password="a b"),
    "host=/run/pg statement_cache_mode=describe": DatabaseTarget(socket="/run/pg", ignored=("statement_cache_mode",)),
    "password='postgres://x' host=h": DatabaseTarget((("h", 5432),), password="postgres://x"),
}

MYSQL = {
    "u:p@tcp(h:3307)/db?charset=utf8mb4&parseTime=true": DatabaseTarget(
        (("h", 3307),), user="u", password="p", database="db", options={"charset": "utf8mb4"}, ignored=("parseTime",)
    ),
    "u:p@ss:w/rd@tcp(h)/db": DatabaseTarget((("h", 3306),), user="u", password="p@ss:w/rd", database="db"),
    "u@unix(/run/my.sock)/db": DatabaseTarget(socket="/run/my.sock", user="u", database="db"),
    "u:p@tcp([::1]:1)/": DatabaseTarget((("::1", 1),), user="u", password="p"),
    "/db": DatabaseTarget((("127.0.0.1", 3306),), database="db"),
    "/": DatabaseTarget((("127.0.0.1", 3306),)),
    "u@tcp/db": DatabaseTarget((("127.0.0.1", 3306),), user="u", database="db"),
    "tcp(h)/db?loc=Europe%2FBerlin&time_zone=%27%2B00%3A00%27": DatabaseTarget(
        (("h", 3306),), database="db", settings={"time_zone": "'+00:00'"}, ignored=("loc",)
    ),
    "u@tcp(h)/db?loc=Europe/Berlin": DatabaseTarget((("h", 3306),), user="u", database="db", ignored=("loc",)),
    "mysql://u:p%40@h:1/db?timeout=5s": DatabaseTarget(
        (("h", 1),), user="u", password="p@", database="db", options={"timeout": "5s"}
    ),
    "mysql://h": DatabaseTarget((("h", 3306),)),
    "mysql://u:p(w@h/db": DatabaseTarget((("h", 3306),), user="u", password="p(w", database="db"),
    "mysql://u:p%40@tcp(h:1)/db": DatabaseTarget((("h", 1),), user="u", password="p%40", database="db"),
    "u:p@(h:1)/db": DatabaseTarget((("h", 1),), user="u", password="p", database="db"),
    "u@tcp6([::1]:1)/db": DatabaseTarget((("::1", 1),), user="u", database="db"),
    "u:p?w@tcp/db": DatabaseTarget((("127.0.0.1", 3306),), user="u", password="p?w", database="db"),
    "u:p@unix/db": DatabaseTarget(socket="/tmp/mysql.sock", user="u", password="p", database="db"),
    "u:a/b?c@d@tcp(h)/?loc=A/B/C": DatabaseTarget((("h", 3306),), user="u", password="a/b?c@d", ignored=("loc",)),
}

SQLITE = {
    ":memory:": DatabaseTarget(path=":memory:"),
    "file::memory:": DatabaseTarget(path=":memory:"),
    "file:any?mode=memory": DatabaseTarget(path="any", options={"mode": "memory"}),
    "/var/lib/app.db": DatabaseTarget(path="/var/lib/app.db"),
    "sqlite:///var/app.db": DatabaseTarget(path="/var/app.db"),
    "file:/app%20x.db?mode=ro": DatabaseTarget(path="/app x.db", options={"mode": "ro"}),
}


@pytest.mark.parametrize(
    ("kind", "text", "target"),
    [
        (kind, *pair)
        for kind, cases in (("postgresql", POSTGRESQL), ("mysql", MYSQL), ("sqlite", SQLITE))
        for pair in cases.items()
    ],
)
def test_connection_strings(kind: str, text: str, target: DatabaseTarget) -> None:
    assert dsn.parse(kind, text) == target


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        ("postgresql", f"postgres://u:{SECRET}@h:x/db"),
        ("postgresql", f"postgres://u:{SECRET}@h:70000/db"),
        ("postgresql", f"mysql://u:{SECRET}@h/db"),
        ("postgresql", SECRET),
        ("postgresql", f"host=h password='{SECRET}"),
        ("postgresql", f"host=h password={SECRET} sslmode=on"),
        ("postgresql", f"host=a,b port=1,2,3 password={SECRET}"),
        ("postgresql", f"postgres://u:{SECRET}%FF@h/db"),
        ("postgresql", f"postgres://h/db?{SECRET}"),
        ("postgresql", f"postgres://h/db?{SECRET}-=1"),
        ("mysql", SECRET),
        ("mysql", f"u:{SECRET}@udp(h)/db"),
        ("mysql", f"u:{SECRET}@tcp(h:x)/db"),
        ("mysql", f"u:{SECRET}@tcp(h)/db?x"),
        ("mysql", f"u:{SECRET}@tcp(h)/db%ff"),
        ("sqlite", "file:"),
        ("sqlite", "app.db"),
        ("sqlite", "file:data/app.db"),
        ("sqlite", "/app.db?mode=x"),
        ("sqlite", f"/app.db?_auth={SECRET}"),
        ("sqlite", ""),
        ("mysql", "a\nb"),
        ("mysql", "?" + "/" * 8000),
        ("mysql", f"u:{SECRET}@tcp(h)/d?x=" + "y" * 10_000),
        ("postgresql", "host=" + "a" * 10_000),
    ],
)
def test_connection_strings_that_are_none(kind: str, text: str) -> None:
    with pytest.raises(ValueError) as error:
        dsn.parse(kind, text)
    assert SECRET not in str(error.value)
    assert type(error.value) is ValueError


def test_ignored_options_are_a_warning_at_the_key() -> None:
    text = HEAD + "  database:\n    type: mysql\n    connectionString: u:p@tcp(h)/d?parseTime=true\n"
    directive, problems = read(text)
    assert directive is not None
    assert [str(problem.position) for problem in problems] == ["Directive.yaml:9:5"]
    assert "`parseTime`" in problems[0].message
