"""What this build does not run yet: read and checked like the rest; check warns, start refuses, both with the line."""

from __future__ import annotations

import pytest

from atmo_farm.directive import served
from tests.unit.directive.support import HEAD, good, marked, stream, with_handlers

KAFKA = HEAD + "  kafka:\n    brokerAddress: localhost\n"
TWO = HEAD.replace("    serverAddress: localhost", "    a: {serverAddress: a}\n    b: {serverAddress: b}")
NATS = "- {type: stream, source: nats, resource: a, connection: a, steps: [{fn: hello}], "
STEPS = "steps: [{fn: hello}]"

NOT_SERVED = {
    "request": (with_handlers(f"- {{«type: request, method: GET, resource: /a, {STEPS}}}"), "handlers[0].type"),
    "websocket": (with_handlers(f"- {{«type: stream, resource: /a, {STEPS}}}"), "handlers[0].type"),
    "websocket by name": (
        with_handlers(f"- {{type: stream, «source: server, resource: /a, {STEPS}}}"),
        "handlers[0].source",
    ),
    "schedules": (HEAD + f"«schedules: [{{name: s, every: {{days: 1}}, {STEPS}}}]\n", "schedules"),
    "headless": (HEAD + "«headless: true\n", "headless"),
    "nats over websocket": (
        HEAD.replace("serverAddress: localhost", "«serverAddress: [a, wss://b]"),
        "connections.nats.serverAddress",
    ),
    "authentication": (
        HEAD + "authentication:\n  «domains: {a.example: {value: x}}\n",
        "authentication.domains",
    ),
    **{
        f"capability {name}": (HEAD + f"capabilities:\n  «{name}: {value}\n", f"capabilities.{name}")
        for name, value in {
            "http": "{rules: {allowHTTP: false}}",
            "graphql": "{enabled: true}",
            "auth": "{headers: {a.example: {value: x}}}",
            "file": "{enabled: yes}",
        }.items()
    },
}


@pytest.mark.parametrize(("text", "key"), NOT_SERVED.values(), ids=NOT_SERVED)
def test_not_served(text: str, key: str) -> None:
    """One sentence with the place, for whatever this build would have to ignore."""
    plain, position = marked(text)
    found = [problem for problem in served.not_served(good(plain)) if problem.key == key]
    assert [problem.position for problem in found] == [position]
    assert "not served by this build yet" in found[0].message
    assert str(found[0]).startswith(f"{position}: warning: {key}: ")


SERVED = {
    "nothing but the head": HEAD,
    "a handler": stream("respondTo: b\nretry: {attempts: 2}\nenvelope: grav\ngroup: off\nisolation: fresh"),
    "keys of delivery": stream("durable: d\noutput: stream\nrespondTo: b\ndeadLetter: on\nidempotent: true"),
    "false in other words": stream("deadLetter: false", "[{fn: hello, transaction: no}]"),
    "order": stream("jetstream: {}\nordering: key\norderingKey: subject"),
    "nothing behind the key": stream("durable:\njetstream: ~\noutput: ''"),
    "empty lists": HEAD + "schedules: []\nqueries: []\nheadless: false\n",
    "capabilities that work": HEAD
    + "capabilities: {logger: {enabled: false}, requestHandler: {allowSetField: false}}\n",
    "secrets": HEAD + "capabilities: {secrets: {values: {NAME: value}}}\n",
    "capabilities that are off": HEAD + "capabilities: {http: {enabled: false}, cache: {enabled: off}}\n",
    "a named connection": with_handlers(NATS + "respondTo: {resource: b, connection: a}}", TWO),
    "another connection": with_handlers(NATS + "respondTo: {resource: b, connection: b}}", TWO),
    "another broker": with_handlers(
        f"- {{type: stream, source: nats, resource: a, {STEPS}, respondTo: {{resource: b, source: kafka}}}}", KAFKA
    ),
    "a connection that nobody uses": KAFKA,
    "kafka": with_handlers(
        f"- {{type: stream, source: kafka, resource: a, {STEPS}, startAt: earliest, exactlyOnce: true, respondTo: b}}",
        KAFKA,
    ),
    "authentication for nobody": HEAD + "authentication: {domains: {}}\n",
}


@pytest.mark.parametrize("text", SERVED.values(), ids=SERVED)
def test_served(text: str) -> None:
    """What works, and words that ask for what this build does anyway."""
    assert served.not_served(good(text)) == ()


def test_all_of_it_in_the_order_of_the_file() -> None:
    text = with_handlers(f"- {{type: request, method: GET, resource: /a, {STEPS}}}") + "headless: true\n"
    lines = [problem.position.line for problem in served.not_served(good(text))]
    assert lines == [8, 9]
