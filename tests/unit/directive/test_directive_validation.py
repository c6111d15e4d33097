"""Each rule of the language: what is said, of which key, and exactly where."""

from __future__ import annotations

import time

import pytest

from tests.unit.directive.support import HEAD, good, only_problem, read, stream, with_handlers

KAFKA = HEAD + "  kafka:\n    brokerAddress: localhost\n"
TWO = HEAD.replace("    serverAddress: localhost", "    main: {serverAddress: a}\n    edge: {serverAddress: b}")
REQUEST = "type: request\n  method: GET"
STEPS = "  steps: [{fn: hello}]"

TOP = {
    "identifier missing": ("«appVersion: v1.0.0\natmoVersion: v1.0.0\n", "identifier", "is missing"),
    "identifier empty": ("«identifier:\nappVersion: v1.0.0\natmoVersion: v1.0.0\n", "identifier", "must be set"),
    "identifier with a slash": ("«identifier: a/b\nappVersion: v1.0.0\natmoVersion: v1.0.0\n", "identifier", "`a/b`"),
    "appVersion missing": ("«identifier: a\natmoVersion: v1.0.0\n", "appVersion", "is missing"),
    "appVersion without v": ("identifier: a\n«appVersion: 1.0.0\natmoVersion: v1.0.0\n", "appVersion", "semantic"),
    "appVersion with two parts": ("identifier: a\n«appVersion: v1.0\natmoVersion: v1.0.0\n", "appVersion", "`v1.0`"),
    "appVersion with a zero in front": (
        "identifier: a\n«appVersion: v1.0.0-01\natmoVersion: v1.0.0\n",
        "appVersion",
        "`v1.0.0-01`",
    ),
    "identifier with an empty part": (
        "«identifier: a..b\nappVersion: v1.0.0\natmoVersion: v1.0.0\n",
        "identifier",
        "single dots",
    ),
    "identifier that is too long": (
        f"«identifier: {'a' * 129}\nappVersion: v1.0.0\natmoVersion: v1.0.0\n",
        "identifier",
        "is not an identifier",
    ),
    "atmoVersion not semver": ("identifier: a\nappVersion: v1.0.0\n«atmoVersion: new\n", "atmoVersion", "semantic"),
    "unknown key": (HEAD + "«handler: []\n", "handler", "did you mean `handlers`?"),
    "unknown key in another case": (HEAD + "«Handlers: []\n", "Handlers", "did you mean `handlers`?"),
    "duplicate key": (HEAD + "«identifier: b\n", "identifier", "written twice; the first one is on line 1"),
    "a list in place of the mapping": ("«- a\n- b\n", "", "must be a mapping with keys such as `identifier:`"),
}

HANDLERS = {
    "type unknown": ("- «type: strem\n  source: nats\n  resource: a\n" + STEPS, "type", "did you mean `stream`?"),
    "type missing": ("- «source: nats\n  resource: a\n" + STEPS, "type", "is missing"),
    "resource missing": ("- «type: stream\n  source: nats\n" + STEPS, "resource", "is missing"),
    "request path": (f"- {REQUEST}\n  «resource: user\n{STEPS}", "resource", "starts with `/`"),
    "request without method": ("- «type: request\n  resource: /a\n" + STEPS, "method", "needs a `method`"),
    "request method": ("- type: request\n  «method: post\n  resource: /a\n" + STEPS, "method", "did you mean `POST`?"),
    "request with respondTo": (
        f"- {REQUEST}\n  resource: /a\n  «respondTo: b\n{STEPS}",
        "respondTo",
        "has no `respondTo`",
    ),
    "request with source": (f"- {REQUEST}\n  «source: nats\n  resource: /a\n{STEPS}", "source", "only a handler of"),
    "websocket path": ("- type: stream\n  «resource: ws\n" + STEPS, "resource", "starts with `/`"),
    "kafka not configured": (
        "- type: stream\n  source: «kafka\n  resource: a\n" + STEPS,
        "source",
        "`connections.kafka` is not set",
    ),
    "another source": ("- type: stream\n  «source: nast\n  resource: a\n" + STEPS, "source", "did you mean `nats`?"),
    "steps missing": ("- «type: stream\n  source: nats\n  resource: a", "steps", "is missing"),
    "steps empty": ("- type: stream\n  source: nats\n  resource: a\n  «steps: []", "steps", "empty list"),
    "steps null": ("- type: stream\n  source: nats\n  resource: a\n  «steps:", "steps", "must be set"),
    "illegal subject": ("- type: stream\n  source: nats\n  «resource: a..b\n" + STEPS, "resource", "single dots"),
    "misplaced wildcard": ("- type: stream\n  source: nats\n  «resource: a.>.b\n" + STEPS, "resource", "last part"),
    "same route": (
        f"- {REQUEST}\n  resource: /a\n{STEPS}\n- name: b\n  {REQUEST}\n  «resource: /a\n{STEPS}",
        "resource",
        "is there already",
    ),
    "parameters of other names": (
        f"- {REQUEST}\n  resource: /api/v1/:a/x\n{STEPS}\n- {REQUEST}\n  «resource: /api/v1/:b/y\n{STEPS}",
        "resource",
        "cannot stand beside `/api/v1/:a/x`",
    ),
    "catch-all": (
        f"- {REQUEST}\n  resource: /f/*path\n{STEPS}\n- {REQUEST}\n  «resource: /f/a\n{STEPS}",
        "resource",
        "cannot stand beside",
    ),
    "websocket on a GET route": (
        f"- {REQUEST}\n  resource: /a\n{STEPS}\n- type: stream\n  «resource: /a\n{STEPS}",
        "resource",
        "is there already",
    ),
    "not a mapping": ("- «hello", "", "must be a mapping"),
    "nothing": ("-«", "", "nothing stands here"),
    "misspelt source": (
        "- type: stream\n  «sorce: nats\n  resource: a\n" + STEPS,
        "sorce",
        "did you mean `source`?",
    ),
    "unknown key": (
        "- type: stream\n  source: nats\n  resource: a\n  «worker: 2\n" + STEPS,
        "worker",
        "did you mean `workers`?",
    ),
}

KEYS = {
    "name with a dot": ("«name: a.b", "name", "letters, digits"),
    "name too long": (f"«name: {'a' * 65}", "name", "1 to 64"),
    "workers zero": ("«workers: 0", "workers", "from 1 to 1024"),
    "workers no number": ("«workers: many", "workers", "`many` is not a whole number"),
    "timeout": ("«timeout: 5 weeks", "timeout", "not a duration"),
    "timeout zero": ("«timeout: 0", "timeout", "not between"),
    "timeout with a colour": ('«timeout: "5\\e[31m"', "timeout", "'5\\x1b[31m' is not a duration"),
    "memoryLimit": ("«memoryLimit: 16MB", "memoryLimit", "not a size"),
    "memoryLimit too small": ("«memoryLimit: 1KiB", "memoryLimit", "not between 65536"),
    "isolation": ("«isolation: pool", "isolation", "did you mean `pooled`?"),
    "envelope": ("«envelope: grave", "envelope", "did you mean `grav`?"),
    "pool key": ("pool:\n  «wram: 1", "pool.wram", "did you mean `warm`?"),
    "pool warm over max": ("pool:\n  max: 2\n  «warm: 3", "pool.warm", "more than `max`, 2"),
    "retry attempts": ("retry: {«attempts: 0}", "retry.attempts", "from 1"),
    "retry jitter": ("retry: {«jitter: 2}", "retry.jitter", "from 0 to 1"),
    "retry delays": ("retry: {«initialDelay: 1m, maxDelay: 1s}", "retry.initialDelay", "longer than `maxDelay`"),
    "retry cause": ("retry:\n  on: [timeout, «tiemout]", "retry.on[1]", "`tiemout`"),
    "retry range": ("retry:\n  on: [«599-500]", "retry.on[0]", "ends before it begins"),
    "connection unknown": ("connection: «edge", "connection", "has no `edge`; there is `default`"),
    "group with blanks": ("«group: a b", "group", "without blanks"),
    "key of Kafka": ("«exactlyOnce: false", "exactlyOnce", "only for streams with source `kafka`"),
    "startAt of Kafka": ("«startAt: latest", "startAt", "only for streams with source `kafka`"),
    "response of no step": ("response: «hallo", "response", "did you mean `hello`?"),
    "respondTo wildcard": ("«respondTo: a.*", "respondTo", "wildcard"),
    "respondTo illegal": ("«respondTo: a..b", "respondTo", "single dots"),
    "respondTo itself": ("«respondTo: orders", "respondTo", "answer itself"),
    "respondTo mapping itself": ("respondTo:\n  «resource: orders", "respondTo.resource", "answer itself"),
    "respondTo without resource": ("«respondTo: {source: nats}", "respondTo.resource", "is missing"),
    "respondTo broker missing": ("respondTo: {resource: a, source: «kafka}", "respondTo.source", "`connections.kafka`"),
    "respondTo connection": ("respondTo: {resource: a, connection: «x}", "respondTo.connection", "has no `x`"),
    "respondTo key": ("respondTo: {resource: a, «key: x}", "respondTo.key", "only for Kafka"),
    "respondTo list": ("«respondTo: [a]", "respondTo", "must be a mapping"),
}

SEQUENCES = {
    "no function": ("[{fn: «halo}]", "[0].fn", "there is no function `halo`; did you mean `hello`?"),
    "function in a namespace": ("[{fn: «get}]", "[0].fn", "did you mean `db::get`?"),
    "another identifier": ("[{fn: «'other#default::hello@v1.0.0'}]", "[0].fn", "another application or version"),
    "another version": ("[{fn: «hello@v2.0.0}]", "[0].fn", "another application or version"),
    "neither fn nor group": ("[«{as: a}]", "[0]", "needs `fn` or `group`"),
    "fn and group": ("[{fn: hello, «group: [{fn: upper}]}]", "[0].group", "either `fn` or `group`"),
    "group empty": ("[{«group: []}, {fn: hello}]", "[0].group", "empty list"),
    "group member without fn": ("[{group: [«{as: x}]}, {fn: hello}]", "[0].group[0].fn", "is missing"),
    "group member unknown": ("[{group: [{fn: «x}]}, {fn: hello}]", "[0].group[0].fn", "no function `x`"),
    "as beside a group": ("[{group: [{fn: hello}], «as: x}, {fn: hello}]", "[0].as", "belongs to a function"),
    "group at the end": ("[{fn: hello}, «{group: [{fn: hello}]}]", "[1]", "`response`"),
    "forEach": ("[{«forEach: {in: a, fn: hello}}]", "[0].forEach", "removed in Atmo 0.4.0"),
    "with of an unknown key": ("[{fn: hello}, {fn: upper, with: {a: «helo}}]", "[1].with.a", "did you mean `hello`?"),
    "with of a later key": ("[{fn: upper, with: {a: «hello}}, {fn: hello}]", "[0].with.a", "the state is empty"),
    "with inside of a group": (
        "[{group: [{fn: hello}, {fn: upper, with: {a: «hello}}]}, {fn: hello}]",
        "[0].group[1].with.a",
        "no step",
    ),
    "with a list": ("[{fn: hello, «with: [a]}]", "[0].with", "must be a mapping"),
    "onErr any and code": (
        "[{fn: hello, onErr: {any: continue, «code: {404: return}}}]",
        "[0].onErr.code",
        "exclude each other",
    ),
    "onErr code and any": (
        "[{fn: hello, onErr: {code: {404: return}, «any: continue}}]",
        "[0].onErr.any",
        "exclude each other",
    ),
    "onErr other alone": ("[{fn: hello, onErr: {«other: continue}}]", "[0].onErr.other", "needs `code`"),
    "onErr any and other": ("[{fn: hello, onErr: {any: return, «other: return}}]", "[0].onErr.other", "exclude"),
    "onErr other beside empty code": ("[{fn: hello, onErr: {code: {}, «other: return}}]", "[0].onErr.other", "needs"),
    "onErr code with a zero in front": (
        "[{fn: hello, onErr: {code: {«0404: return}}}]",
        "[0].onErr.code.0404",
        "not an",
    ),
    "onErr value": ("[{fn: hello, onErr: {«any: ignore}}]", "[0].onErr.any", "`continue` or `return`"),
    "onErr code's value": ("[{fn: hello, onErr: {code: {«404: stop}}}]", "[0].onErr.code.404", "`stop`"),
    "onErr code": ("[{fn: hello, onErr: {code: {«4xx: return}}}]", "[0].onErr.code.4xx", "not an error code"),
    "transaction of a group": (
        "[{group: [{fn: hello}], «transaction: true}, {fn: hello}]",
        "[0].transaction",
        "a group has no transaction",
    ),
}

SCHEDULES = {
    "name missing": ("- «every: {seconds: 1}\n  steps: [{fn: hello}]", "[0].name", "is missing"),
    "every missing": ("- «name: a\n  steps: [{fn: hello}]", "[0].every", "is missing"),
    "every zero": ("- name: a\n  «every: {seconds: 0}\n  steps: [{fn: hello}]", "[0].every", "adds up to nothing"),
    "every empty": ("- name: a\n  «every: {}\n  steps: [{fn: hello}]", "[0].every", "adds up to nothing"),
    "every wrong": ("- name: a\n  every: {«hours: x}\n  steps: [{fn: hello}]", "[0].every.hours", "whole number"),
    "steps empty": ("- name: a\n  every: {days: 1}\n  «steps: []", "[0].steps", "empty list"),
    "name twice": (
        "- name: a\n  every: {days: 1}\n  steps: [{fn: hello}]\n- «name: a\n  every: {days: 1}\n  steps: [{fn: hello}]",
        "[1].name",
        "is taken",
    ),
    "state unknown": (
        "- name: a\n  every: {days: 1}\n  state: {x: y}\n  steps: [{fn: hello, with: {a: «z}}]",
        "[0].steps[0].with.a",
        "known here: `x`",
    ),
}

QUERIES = {
    "name missing": ("- «query: SELECT 1", "[0].name", "is missing"),
    "query missing": ("- «name: a", "[0].query", "is missing"),
    "type unknown": ("- name: a\n  query: SELECT 1\n  «type: selct", "[0].type", "did you mean `select`?"),
    "type not to be told": ("- name: a\n  «query: CREATE TABLE x ()", "[0].query", "set `type`"),
    "varCount negative": ("- name: a\n  query: SELECT 1\n  «varCount: -1", "[0].varCount", "whole number from 0"),
    "name twice": ("- name: a\n  query: SELECT 1\n- «name: a\n  query: SELECT 2", "[1].name", "is taken"),
    "no end": ("- name: a\n  «query: SELECT 'x", "[0].query", "has no end"),
    "database unknown": ("- name: a\n  query: SELECT 1\n  database: «x", "[0].database", "has no `x`"),
}

CONNECTIONS = {
    "address missing": ("«nats: {user: a}", "nats.serverAddress", "is missing"),
    "address empty": ("nats:\n  «serverAddress: ''", "nats.serverAddress", "must be set"),
    "address wrong": ("nats:\n  «serverAddress: 'localhost:x'", "nats.serverAddress", "is not an address"),
    "address of a list": ("nats:\n  serverAddress: [a, «'b:0']", "nats.serverAddress[1]", "outside of 1 to 65535"),
    "address with a scheme": ("nats:\n  «serverAddress: http://a", "nats.serverAddress", "unknown scheme"),
    "misspelt key": ("nats:\n  serverAddress: a\n  «usr: b", "nats.usr", "did you mean `user`?"),
    "unknown broker": ("«nast: {serverAddress: a}", "nast", "did you mean `nats`?"),
    "not a mapping": ("«nats: nats://user:secret@host", "nats", "must be a mapping"),
    "named connection": ("nats:\n  «main: {user: a}", "nats.main.serverAddress", "is missing"),
    "name of a connection": ("nats:\n  «ma.in: {serverAddress: a}", "nats.ma.in", "connection's name"),
    "named connection without anything": (
        "nats:\n  main: {serverAddress: a}\n  «edge:",
        "nats.edge",
        "nothing stands here",
    ),
    "named connection of a text": (
        "nats:\n  main: {serverAddress: a}\n  «edge: host",
        "nats.edge",
        "must be a mapping",
    ),
    "password without user": ("nats: {serverAddress: a, «password: secret}", "nats.password", "needs `user`"),
    "password beside an address with a user": (
        "nats: {serverAddress: nats://u@a, «password: secret}",
        "nats.password",
        "needs `user`",
    ),
    "key without certificate": (
        "redis: {serverAddress: a, tls: {«keyFile: /a.pem}}",
        "redis.tls.keyFile",
        "needs `certFile`",
    ),
    "kafka address with a user": ("kafka: {«brokerAddress: 'u:secret@a'}", "kafka.brokerAddress", "under `sasl`"),
    "redis database": ("redis: {serverAddress: a, «database: x}", "redis.database", "whole number from 0"),
    "redis database's reference": (
        "redis: {serverAddress: a, «database: env(1A)}",
        "redis.database",
        "environment variable",
    ),
    "kafka address": ("«kafka: {clientId: a}", "kafka.brokerAddress", "is missing"),
    "kafka protocol": ("kafka: {brokerAddress: a, «securityProtocol: TLS}", "kafka.securityProtocol", "`SASL_SSL`"),
    "kafka driver": ("kafka: {brokerAddress: a, «driver: confluent}", "kafka.driver", "`librdkafka`"),
    "sasl mechanism": ("kafka: {brokerAddress: a, «sasl: {username: b}}", "kafka.sasl.mechanism", "is missing"),
    "redis address": ("redis: {«serverAddress: 'a b'}", "redis.serverAddress", "is not an address"),
    "database type": (
        "database: {«type: postgres, connectionString: a}",
        "database.type",
        "did you mean `postgresql`?",
    ),
    "database string missing": ("«database: {type: mysql}", "database.connectionString", "is missing"),
    "database string wrong": (
        "database: {type: mysql, «connectionString: secret}",
        "database.connectionString",
        "the `/` is missing",
    ),
    "database twice": (
        "database: {type: sqlite, connectionString: /a}\ndatabases: {«default: {type: sqlite, connectionString: /b}}",
        "databases.default",
        "has this name already",
    ),
    "env name": ("nats: {serverAddress: a, user: a, «password: env(1A)}", "nats.password", "environment variable"),
    "credential name": ("nats: {serverAddress: a, «token: credential(../x)}", "nats.token", "credential"),
}


@pytest.mark.parametrize(("text", "key", "message"), TOP.values(), ids=TOP)
def test_top(text: str, key: str, message: str) -> None:
    problem = only_problem(text)
    assert problem.key == key
    assert message in problem.message


@pytest.mark.parametrize(("text", "key", "message"), HANDLERS.values(), ids=HANDLERS)
def test_handlers(text: str, key: str, message: str) -> None:
    problem = only_problem(with_handlers(text))
    assert problem.key.startswith("handlers[")
    assert problem.key.endswith(f"].{key}" if key else "]")
    assert message in problem.message


@pytest.mark.parametrize(("text", "key", "message"), KEYS.values(), ids=KEYS)
def test_keys_of_a_nats_handler(text: str, key: str, message: str) -> None:
    problem = only_problem(stream(text))
    assert problem.key == f"handlers[0].{key}"
    assert message in problem.message


@pytest.mark.parametrize(("steps", "key", "message"), SEQUENCES.values(), ids=SEQUENCES)
def test_steps(steps: str, key: str, message: str) -> None:
    problem = only_problem(stream(steps=steps))
    assert problem.key == f"handlers[0].steps{key}"
    assert message in problem.message


@pytest.mark.parametrize(("text", "key", "message"), SCHEDULES.values(), ids=SCHEDULES)
def test_schedules(text: str, key: str, message: str) -> None:
    problem = only_problem(with_handlers(text).replace("handlers:", "schedules:"))
    assert problem.key == f"schedules{key}"
    assert message in problem.message


@pytest.mark.parametrize(("text", "key", "message"), QUERIES.values(), ids=QUERIES)
def test_queries(text: str, key: str, message: str) -> None:
    problem = only_problem(with_handlers(text).replace("handlers:", "queries:"))
    assert problem.key == f"queries{key}"
    assert message in problem.message


@pytest.mark.parametrize(("text", "key", "message"), CONNECTIONS.values(), ids=CONNECTIONS)
def test_connections(text: str, key: str, message: str) -> None:
    head = HEAD.partition("  nats:")[0]
    problem = only_problem(head + "".join(f"  {line}\n" for line in text.split("\n")))
    assert problem.key == f"connections.{key}"
    assert message in problem.message
    assert "secret" not in str(problem)


def test_authentication_needs_a_value() -> None:
    """An empty value is told at its key."""
    problem = only_problem(HEAD + "authentication:\n  domains:\n    a.example: {«value: ''}\n")
    assert problem.key == "authentication.domains.a.example.value"


def test_nats_without_a_connection() -> None:
    """A source whose connection is not configured points at the source's value."""
    head = HEAD.partition("connections:")[0]
    text = "- type: stream\n  source: «nats\n  resource: a\n  steps: [{fn: hello}]"
    assert "`connections.nats` is not set" in only_problem(with_handlers(text, head)).message


def test_a_broken_connection_is_not_called_missing() -> None:
    """The handler of a connection that is wrong gets no problem of its own."""
    head = HEAD.replace("    serverAddress: localhost", "    «serverAddress: a b")
    text = "- type: stream\n  source: nats\n  resource: a\n  steps: [{fn: hello}]"
    assert "not an address" in only_problem(with_handlers(text, head)).message


def test_what_is_wrong_at_the_top_is_told_once() -> None:
    """A connection, an identifier or a version that cannot be read makes nothing wrong that refers to it."""
    handler = "- type: stream\n  source: nats\n  resource: a\n  steps: [{fn: 'com.example.shop#hello@v1.0.0'}]"
    head = HEAD.partition("connections:")[0]
    assert "must be a mapping" in only_problem(with_handlers(handler, head + "«connections: nats://a\n")).message
    assert (
        "`a b`"
        in only_problem(
            with_handlers(handler, HEAD.replace("identifier: com.example.shop", "«identifier: a b"))
        ).message
    )
    assert (
        "`one`" in only_problem(with_handlers(handler, HEAD.replace("appVersion: v1.0.0", "«appVersion: one"))).message
    )


def test_several_connections_need_a_choice() -> None:
    """Without `connection` and without one named default, the handler says what is missing."""
    text = "- «type: stream\n  source: nats\n  resource: a\n  steps: [{fn: hello}]"
    assert "`edge` or `main`" in only_problem(with_handlers(text, TWO)).message


def test_handler_names_collide() -> None:
    """Two equal default names ask for `name`; two equal names point at the later one."""
    one = "- type: stream\n  source: nats\n  resource: a.b\n  steps: [{fn: hello}]\n"
    two = one.replace("a.b", "a_b").replace("- type", "- «type")
    assert "give it a `name`; the other is on line 8" in only_problem(with_handlers(one + two)).message
    named = one.replace("- type", "- name: x\n  type")
    other = named.replace("a.b", "c").replace("- name", "- «name")
    assert "`x` is taken" in only_problem(with_handlers(named + other)).message


def test_a_name_is_taken_also_by_a_handler_with_problems() -> None:
    """A problem of the one does not hide that both have the same name."""
    text = "- name: x\n  type: strem\n- name: x\n  type: stream\n  source: nats\n  resource: a\n  steps: [{fn: hello}]"
    _, problems = read(with_handlers(text))
    assert [(problem.position.line, problem.key) for problem in problems] == [
        (8, "handlers[0].resource"),
        (8, "handlers[0].steps"),
        (9, "handlers[0].type"),
        (10, "handlers[1].name"),
    ]
    assert "is taken; the other is on line 8" in problems[-1].message


def test_a_default_name_can_be_too_long() -> None:
    """Over 64 characters a name is asked for."""
    text = f"- «type: stream\n  source: nats\n  resource: {'a' * 60}\n  steps: [{{fn: hello}}]"
    assert "give it a `name`" in only_problem(with_handlers(text)).message


def test_an_application_needs_a_function() -> None:
    """No .runnable.yaml at all is one problem of the whole file."""
    _, problems = read(HEAD, functions=())
    assert [(problem.position.line, problem.key) for problem in problems] == [(1, "runnables")]


def test_kafka_rules() -> None:
    """A topic is not a subject; `group: off` is for core NATS; a topic may not answer itself."""
    for keys, message in (
        ("«resource: a.*", "a topic is"),
        ("resource: a\n  «group: off", "core NATS only"),
        ("resource: a\n  «respondTo: a", "answer itself"),
        ("resource: a\n  «envelope: raaw", "did you mean `raw`?"),
        ("resource: a\n  «durable: x", "only for streams with source `nats`"),
    ):
        text = f"- type: stream\n  source: kafka\n  {keys}\n  steps: [{{fn: hello}}]"
        assert message in only_problem(with_handlers(text, KAFKA)).message


def test_a_websocket_answers_on_its_socket() -> None:
    """`respondTo` without a broker has no meaning there, and neither have keys of brokers."""
    text = "- type: stream\n  source: server\n  resource: /ws\n  «{}\n  steps: [{{fn: hello}}]"
    assert "answers on its socket" in only_problem(with_handlers(text.format("respondTo: a"))).message
    assert "`nats` and `kafka`" in only_problem(with_handlers(text.format("group: a"))).message


def test_all_problems_are_told_at_once_in_order() -> None:
    """Nothing hides what comes after it; Queries.yaml and .runnable.yaml count too."""
    text = (
        HEAD.replace("v1.0.0", "one") + "handlers:\n  - type: stream\n    source: nats\n    steps: [{fn: x}]\nhead: 1\n"
    )
    _, problems = read(text, queries="queries:\n  - name: q\n    qury: SELECT 1\n")
    assert [(problem.position.file, problem.position.line) for problem in problems] == [
        ("Directive.yaml", 2),
        ("Directive.yaml", 8),
        ("Directive.yaml", 10),
        ("Directive.yaml", 11),
        ("Queries.yaml", 2),
        ("Queries.yaml", 3),
    ]


def test_a_reference_elsewhere_is_text_with_a_warning() -> None:
    """`env(X)` outside of connections, authentication and secrets is what it says."""
    problem = only_problem(stream("«respondTo: env(TARGET)").replace("env(TARGET)", "env(TARGET)"), "warning")
    assert "taken as it is typed" in problem.message
    assert str(problem).startswith("Directive.yaml:12:5: warning: handlers[0].respondTo: ")


def test_a_group_that_overwrites_itself_is_warned_of() -> None:
    """Two results under one key: one is lost."""
    problem = only_problem(stream("response: hello", "[{group: [{fn: hello}, {fn: «hello}]}]"), "warning")
    assert "one is lost" in problem.message


@pytest.mark.parametrize("version", ["v0.0.1", "v1.2.3-rc.1", "v1.0.0-0a.b-c+001.x", "v10.20.30+build"])
def test_versions(version: str) -> None:
    assert good(HEAD.replace("v1.0.0", version)).app_version == version


def test_error_codes() -> None:
    """Any number that a function may answer with, also AssemblyScript's -1; `code: {}` is no `code`."""
    codes = "{-1: continue, 0: continue, 2147483647: continue}"
    steps = f"[{{fn: hello, onErr: {{code: {codes}}}}}, {{fn: upper, onErr: {{code: {{}}, any: continue}}}}]"
    first, second = (step.calls[0].on_err for step in good(stream(steps=steps)).handlers[0].steps)
    assert [first.decide(code) for code in (-1, 0, 2147483647, 404)] == ["continue"] * 3 + ["return"]
    assert second.decide(404) == "continue"


def test_the_first_pause_is_never_longer_than_the_longest() -> None:
    """Where only `maxDelay` is set, and below the first pause's default."""
    assert good(stream("retry: {maxDelay: 50ms}")).handlers[0].retry.initial_delay_s == 0.05


def test_a_hint_never_breaks_a_line() -> None:
    """The words that a message offers are shown as carefully as the user's own."""
    state = '{"a\\nb": x, "' + "y" * 500 + '": z}'
    text = f"- name: s\n  every: {{days: 1}}\n  state: {state}\n  steps: [{{fn: hello, with: {{a: {{}}}}}}]"
    for key in ("zzz", '"a\\nc"'):
        _, problems = read(with_handlers(text.replace("{}", key)).replace("handlers:", "schedules:"))
        assert len(problems) == 1
        assert str(problems[0]).isprintable()
        assert len(str(problems[0])) < 300


@pytest.mark.parametrize(
    "text",
    [
        HEAD + "".join(f"handlr{n}: x\n" for n in range(20_000)),
        with_handlers(
            "".join(
                f"- {{type: request, method: GET, resource: /a/b/{n}, steps: [{{fn: hello}}]}}\n" for n in range(2500)
            )
        ),
        stream(steps="[" + "".join(f"{{fn: hello, as: k{n}, with: {{a: x{n}}}}}," for n in range(5000)) + "]"),
        stream(steps="[" + "{fn: hell0}," * 10_000 + "]"),
    ],
    ids=["unknown keys", "routes", "state", "functions"],
)
def test_much_of_anything_takes_no_long_time(text: str) -> None:
    """Time grows with the length of the file and no faster, however many problems it has."""
    start = time.process_time()
    read(text)
    assert time.process_time() - start < 3


def test_keys_without_value_count_as_not_written() -> None:
    """As Go's YAML writes them: empty texts and nulls change nothing."""
    with_nulls = stream('name: ""\nmethod:\nresponse: ~\nrespondTo: null\ngroup:\nretry:\nconnection: ""')
    assert good(with_nulls) == good(stream())
