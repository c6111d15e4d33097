"""What the Directive becomes: names, defaults, units, references between its parts."""

from __future__ import annotations

import pytest

from atmo_farm.directive import fqfn
from atmo_farm.directive.connections import Reference
from atmo_farm.directive.model import OnErr, RespondTo, Retry
from atmo_farm.settings import HandlerDefaults
from tests.guests import ROOT
from tests.unit.directive.support import HEAD, good, read, stream, with_handlers


@pytest.mark.parametrize(
    ("handler", "name"),
    [
        ("type: stream\n  source: nats\n  resource: orders.*.new", "nats-orders___new"),
        ("type: stream\n  source: nats\n  resource: a_b-c", "nats-a_b-c"),
        ("type: stream\n  resource: /ws/:id", "server-_ws__id"),
        ("type: request\n  method: GET\n  resource: /user", "request-GET-_user"),
        ("type: stream\n  source: nats\n  name: mine\n  resource: a", "mine"),
    ],
)
def test_names(handler: str, name: str) -> None:
    """A handler's identity is its name, else made from source and resource."""
    directive = good(with_handlers(f"- {handler}\n  steps: [{{fn: hello}}]"))
    assert directive.handlers[0].name == name
    assert directive.handlers[0].group == f"com_example_shop__{name}"


def test_one_path_with_several_methods_needs_no_names() -> None:
    """An Atmo project with GET and POST on one path runs unchanged."""
    text = "- {{type: request, method: {}, resource: /a, steps: [{{fn: hello}}]}}\n"
    assert len(good(with_handlers(text.format("GET") + text.format("POST"))).handlers) == 2


def test_defaults_are_the_settings() -> None:
    """What a handler leaves out comes from this machine's defaults."""
    defaults = HandlerDefaults(
        workers=3,
        max_in_flight=7,
        timeout_s=1.5,
        memory_limit=1 << 20,
        isolation="fresh",
        pool_warm=4,
        retry_attempts=9,
        retry_jitter=0.0,
    )
    directive, _ = read(stream("workers: 2"), defaults=defaults)
    assert directive is not None
    handler = directive.handlers[0]
    assert (handler.workers, handler.max_in_flight, handler.timeout_s) == (2, 7, 1.5)
    assert (handler.memory_limit, handler.isolation, handler.pool_warm, handler.pool_max) == (1 << 20, "fresh", 4, 7)
    assert handler.retry == Retry(attempts=9, jitter=0.0)


def test_the_default_pool_never_exceeds_its_maximum() -> None:
    """A small maximum bounds the warm instances that the settings ask for."""
    directive, _ = read(stream("pool: {max: 2}"), defaults=HandlerDefaults(pool_warm=8))
    assert directive is not None
    assert (directive.handlers[0].pool_warm, directive.handlers[0].pool_max) == (2, 2)


def test_built_in_defaults() -> None:
    handler = good(stream()).handlers[0]
    assert (handler.workers, handler.max_in_flight, handler.timeout_s, handler.memory_limit) == (1, 256, 30.0, 64 << 20)
    assert (handler.pool_warm, handler.pool_max, handler.envelope, handler.isolation) == (1, 256, "auto", "pooled")
    assert handler.retry == Retry()


def test_units() -> None:
    handler = good(stream("timeout: 250ms\nmemoryLimit: 16MiB\nretry: {initialDelay: 2, maxDelay: 1h}")).handlers[0]
    assert (handler.timeout_s, handler.memory_limit) == (0.25, 16 << 20)
    assert (handler.retry.initial_delay_s, handler.retry.max_delay_s) == (2.0, 3600.0)


def test_steps() -> None:
    """Calls, groups, aliases and error decisions, as written."""
    text = "[{fn: hello, as: a}, {group: [{fn: db::get, with: {x: a}}, {fn: upper, onErr: {any: continue}}]}]"
    single, group = good(stream("response: upper", text)).handlers[0].steps
    assert (single.is_group, single.calls[0].key, single.calls[0].function) == (False, "a", "default::hello")
    assert group.is_group
    get, upper = group.calls
    assert (get.fn, get.function, get.key, get.with_) == ("db::get", "db::get", "db::get", {"x": "a"})
    assert upper.on_err == OnErr(other="continue")


@pytest.mark.parametrize("fn", ["hello", "default::hello", "hello@v1.0.0", "com.example.shop#default::hello@v1.0.0"])
def test_ways_to_name_a_function(fn: str) -> None:
    call = good(stream(steps=f"[{{fn: '{fn}'}}]")).handlers[0].steps[0].calls[0]
    assert (call.function, call.key) == ("default::hello", fn)


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("getUser", ("", "default", "getUser", "")),
        ("db::get@v1", ("", "db", "get", "v1")),
        ("a.b#db::get@v1", ("a.b", "db", "get", "v1")),
        ("a#b#c::d::e@f@g", ("a", "b#c", "d::e", "f@g")),
        ("get@v1", ("", "default", "get", "v1")),
        ("", ("", "default", "", "")),
    ],
)
def test_fqfn(text: str, parts: tuple[str, str, str, str]) -> None:
    """Split at the first `#`, then `::`, then `@`."""
    parsed = fqfn.parse(text)
    assert (parsed.identifier, parsed.namespace, parsed.name, parsed.version) == parts


def test_respond_to() -> None:
    """A text is a subject on the handler's own broker and connection."""
    assert good(stream("respondTo: done")).handlers[0].respond_to == RespondTo("nats", "done")
    full = good(stream("respondTo: {resource: done, headers: {x-a: 1}}")).handlers[0].respond_to
    assert full == RespondTo("nats", "done", headers={"x-a": "1"})


def test_respond_to_on_another_connection_may_have_the_same_subject() -> None:
    """Only on its own connection would the handler get what it sends."""
    head = HEAD.replace("    serverAddress: localhost", "    a: {serverAddress: a}\n    b: {serverAddress: b}")
    text = "- type: stream\n  source: nats\n  resource: x\n  connection: a\n  respondTo: {resource: x, connection: b}\n"
    handler = good(with_handlers(text + "  steps: [{fn: hello}]", head)).handlers[0]
    assert handler.respond_to == RespondTo("nats", "x", "b")


def test_the_only_connection_is_the_default() -> None:
    """One named connection needs no choice."""
    text = "- type: stream\n  source: nats\n  resource: x\n  respondTo: y\n  steps: [{fn: hello}]"
    head = HEAD.replace("    serverAddress: localhost", "    main: {serverAddress: a}")
    handler = good(with_handlers(text, head)).handlers[0]
    assert handler.connection == "main"
    assert handler.respond_to == RespondTo("nats", "y", "main")


def test_schedules() -> None:
    """The parts of `every` add up; the initial state may be named."""
    text = "- name: tick\n  every: {minutes: 1, seconds: 30}\n  state: {a: 1}\n  steps: [{fn: hello, with: {x: a}}]"
    schedule = good(with_handlers(text).replace("handlers:", "schedules:")).schedules[0]
    assert (schedule.name, schedule.every_s, schedule.state) == ("tick", 90, {"a": "1"})


def test_connections() -> None:
    """Addresses are completed, lists and commas flattened, references kept."""
    directive = good(
        "identifier: a\nappVersion: v1.0.0\natmoVersion: v1.0.0\n"
        "connections:\n"
        "  nats: {serverAddress: ['a, tls://b:1', env(MORE)], tls: {caFile: /ca, handshakeFirst: yes}}\n"
        "  kafka: {brokerAddress: 'k1,k2:1', sasl: {mechanism: scram-sha-256, username: u, password: file(/p)}}\n"
        "  redis: {serverAddress: /run/redis.sock, database: 3}\n"
        "  databases: {main: {type: sqlite, connectionString: /a.db, statementTimeout: 2s}}\n"
    )
    nats = directive.connections.nats["default"]
    assert nats.server_addresses == ("nats://a:4222", "tls://b:1", Reference("env", "MORE"))
    assert nats.tls is not None
    assert (nats.tls.ca_file, nats.tls.handshake_first) == ("/ca", True)
    kafka = directive.connections.kafka["default"]
    assert kafka.broker_addresses == ("k1:9092", "k2:1")
    assert (kafka.sasl_mechanism, kafka.sasl_password) == ("SCRAM-SHA-256", Reference("file", "/p"))
    assert directive.connections.redis is not None
    assert directive.connections.redis.server_address == "unix:///run/redis.sock"
    assert directive.connections.databases["main"].statement_timeout_s == 2.0


def test_capabilities_are_plain_and_their_texts_are_kept() -> None:
    text = HEAD + "capabilities:\n  requestHandler: {allowSetField: no}\n  http: {enabled: false}\n"
    assert good(text).capabilities == {"requestHandler": {"allowSetField": False}, "http": {"enabled": False}}


def test_the_example_of_the_docs() -> None:
    """The whole example in docs/directive.md has no problem of any kind."""
    docs = (ROOT / "docs/directive.md").read_text(encoding="utf-8")
    example = docs.partition("## A whole example\n\n```yaml\n")[2].partition("```")[0]
    directive, problems = read(example, functions=("parse-order", "price::total", "customer", "confirm"))
    assert problems == ()
    assert directive is not None
    assert directive.not_served == ()
    assert (directive.handlers[0].name, len(directive.handlers[0].steps)) == ("orders", 3)


def test_positions_do_not_make_a_difference() -> None:
    """Moving things about in the file changes nothing."""
    assert good("\n\n# moved\n" + stream()) == good(stream())


def test_a_hand_written_runnables_list_has_no_effect_in_a_project() -> None:
    directive, problems = read(HEAD + "runnables:\n  - name: other\n")
    assert directive is not None
    assert [runnable.key for runnable in directive.runnables] == ["db::get", "default::hello", "default::upper"]
    assert [problem.severity for problem in problems] == ["warning"]
