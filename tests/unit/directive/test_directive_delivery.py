"""The keys of delivery: what they become in the model, and the rules between them."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from atmo_farm.directive.model import DeadLetter, Handler, JetStream
from atmo_farm.directive.resources import subject_matches, subjects_overlap
from atmo_farm.settings import HandlerDefaults
from tests.unit.directive.support import HEAD, good, only_problem, read, stream, with_handlers

KAFKA = HEAD + "  kafka:\n    brokerAddress: localhost\n"
STEPS = "steps: [{fn: hello}]"
NAME = "com_example_shop__nats-orders"


def handler(keys: str = "") -> Handler:
    """The handler of `stream`."""
    return good(stream(keys)).handlers[0]


def test_nothing_set() -> None:
    """Core NATS: no order, dead letters on, a message whose outcome is unknown does not run again."""
    plain = handler()
    assert plain.jetstream is None
    assert (plain.group, plain.output, plain.ordering, plain.ordering_key) == (NAME, "", "none", "")
    assert plain.dead_letter == DeadLetter("atmo.dead.com.example.shop.nats-orders", None)
    assert plain.idempotent is False
    assert handler("deadLetter: on") == handler("deadLetter: {}") == plain


@pytest.mark.parametrize("keys", ["durable: d", "jetstream: {durable: d}", "durable: d\njetstream: {durable: d}"])
def test_a_durable_is_jetstream_and_the_group(keys: str) -> None:
    assert handler(keys).jetstream == JetStream("d", 1000)
    assert handler(keys).group == "d"


def test_jetstream_alone_has_the_default_group_as_durable() -> None:
    assert handler("jetstream: {}").jetstream == JetStream(NAME, 1000)
    assert handler("jetstream: {}").group == NAME


def test_all_keys() -> None:
    keys = """
        jetstream:
          stream: S
          durable: d
          deliverPolicy: last_per_subject
          ackWait: 1500ms
          maxAckPending: 7
          filterSubjects: [orders]
        respondTo: done
        output: stream
        ordering: key
        orderingKey: field:customer
        deadLetter: {resource: dead.orders, maxAge: 1h}
        idempotent: true
    """
    full = handler(keys)
    assert full.jetstream == JetStream("d", 7, "S", "last_per_subject", 1.5, ("orders",))
    assert (full.output, full.ordering, full.ordering_key) == ("stream", "key", "field:customer")
    assert full.dead_letter == DeadLetter("dead.orders", 3600.0)
    assert full.idempotent is True
    assert handler("deadLetter: off").dead_letter is None


@pytest.mark.parametrize(
    ("keys", "pending"),
    [
        ("durable: d", 1000),
        ("durable: d\nworkers: 4", 2048),
        ("durable: d\nworkers: 2\nmaxInFlight: 1000", 4000),
        ("durable: d\nordering: partition", 256),
        ("durable: d\nordering: key\norderingKey: subject\nmaxInFlight: 9", 9),
        ("jetstream: {maxAckPending: 3}", 3),
    ],
)
def test_max_ack_pending(keys: str, pending: int) -> None:
    """Without an order enough for all workers twice; with one no more than one worker runs."""
    jetstream = handler(keys).jetstream
    assert jetstream is not None
    assert jetstream.max_ack_pending == pending


def test_this_machines_defaults_count() -> None:
    """Workers and maxInFlight that the handler does not set are the settings'."""
    directive, _ = read(stream("durable: d"), defaults=HandlerDefaults(workers=3, max_in_flight=500))
    assert directive is not None
    assert directive.handlers[0].jetstream == JetStream("d", 3000)
    text = stream("durable: d\nordering: partition\njetstream: {maxAckPending: 9}")
    assert read(text)[0] is not None
    for defaults, message in (
        (HandlerDefaults(workers=2), "needs `workers: 1`"),
        (HandlerDefaults(max_in_flight=8), "at most `maxInFlight`, 8"),
    ):
        _, problems = read(text, defaults=defaults)
        assert [message in problem.message for problem in problems] == [True]


def test_other_sources() -> None:
    """Requests and websockets have no dead letters; Kafka has its own defaults."""
    text = f"""
        - {{name: r, type: request, method: GET, resource: /a, idempotent: true, {STEPS}}}
        - {{name: w, type: stream, resource: /b, {STEPS}}}
        - {{name: k, type: stream, source: kafka, resource: c, {STEPS}}}
        - {{name: o, type: stream, source: kafka, resource: c, ordering: key, {STEPS}}}
    """
    request, websocket, kafka, keyed = good(with_handlers(text, KAFKA)).handlers
    assert request.dead_letter is websocket.dead_letter is None
    assert request.idempotent
    assert kafka.dead_letter == DeadLetter("com.example.shop.k.dead")
    assert (kafka.ordering, kafka.jetstream) == ("partition", None)
    assert (keyed.ordering, keyed.ordering_key) == ("key", "")


RULES = {
    "ordering on core NATS": ("«ordering: partition", "ordering", "core NATS keeps no order"),
    "ordering with workers": ("durable: d\n«ordering: partition\nworkers: 2", "ordering", "`workers: 1`"),
    "ordering with many pending": (
        "maxInFlight: 8\njetstream:\n  «maxAckPending: 9\nordering: partition",
        "jetstream.maxAckPending",
        "at most `maxInFlight`, 8",
    ),
    "ordering key without its key": ("durable: d\n«ordering: key", "ordering", "needs `orderingKey`"),
    "orderingKey alone": ("durable: d\n«orderingKey: subject", "orderingKey", "needs `ordering: key`"),
    "orderingKey form": ("durable: d\nordering: key\n«orderingKey: id", "orderingKey", "`id` is not"),
    "orderingKey of no header": ("durable: d\nordering: key\n«orderingKey: 'header:a:b'", "orderingKey", "is not"),
    "group off with a durable": ("durable: d\n«group: off", "group", "core NATS only"),
    "durable with group off": ("group: off\n«durable: d", "durable", "core NATS only"),
    "group with a durable": ("durable: d\n«group: g", "group", "group is its durable"),
    "jetstream with a group": ("group: g\n«jetstream: {durable: d}", "jetstream", "group is its durable"),
    "durable twice": ("durable: d\njetstream:\n  «durable: e", "jetstream.durable", "keep one"),
    "durable twice, the other first": ("jetstream: {durable: e}\n«durable: d", "durable", "keep one"),
    "durable with a dot": ("«durable: a.b", "durable", "no dots"),
    "ackWait": ("jetstream: {«ackWait: 500ms}", "jetstream.ackWait", "not between 1 and 86400 seconds"),
    "filter that is no subject": (
        "jetstream:\n  filterSubjects: [orders, «b..c]",
        "jetstream.filterSubjects[1]",
        "single dots",
    ),
    "filter outside": (
        "jetstream:\n  «filterSubjects: [b]",
        "jetstream.filterSubjects",
        "`b` is not inside of the handler's `resource`, `orders`",
    ),
    "filter twice": ("jetstream: {«filterSubjects: [orders, orders]}", "jetstream.filterSubjects", "overlap"),
    "output to a stream on core NATS": ("respondTo: done\n«output: stream", "output", "needs `durable`"),
    "output alone": ("«output: core", "output", "needs `respondTo`"),
    "deadLetter wildcard": ("deadLetter: {«resource: a.>}", "deadLetter.resource", "wildcard"),
    "deadLetter illegal": ("deadLetter: {«resource: a..b}", "deadLetter.resource", "single dots"),
    "deadLetter itself": ("deadLetter: {«resource: orders}", "deadLetter.resource", "would come back"),
    "deadLetter word": ("«deadLetter: of", "deadLetter", "did you mean `off`?"),
}


@pytest.mark.parametrize(("text", "key", "message"), RULES.values(), ids=RULES)
def test_rules(text: str, key: str, message: str) -> None:
    problem = only_problem(stream(text))
    assert problem.key == f"handlers[0].{key}"
    assert message in problem.message


SEVERAL = {
    "respondTo one of the filters": (
        "jetstream: {filterSubjects: [a.*, b]}\n  «respondTo: a.c",
        "respondTo",
        "handler itself gets (`a.*`)",
    ),
    "deadLetter one of the filters": (
        "jetstream: {filterSubjects: [a, b]}\n  deadLetter: {«resource: b}",
        "deadLetter.resource",
        "itself, which gets `b`",
    ),
    "filters that overlap": (
        "jetstream: {«filterSubjects: [a.*, b, a.c]}",
        "jetstream.filterSubjects",
        "`a.*` and `a.c` overlap",
    ),
    "dead letters of everything": ("«deadLetter: on", "deadLetter", "`deadLetter: off`"),
}


@pytest.mark.parametrize(("keys", "key", "message"), SEVERAL.values(), ids=SEVERAL)
def test_rules_with_several_subjects(keys: str, key: str, message: str) -> None:
    problem = only_problem(with_handlers(f"- type: stream\n  source: nats\n  resource: '>'\n  {keys}\n  {STEPS}"))
    assert problem.key == f"handlers[0].{key}"
    assert message in problem.message


def test_a_handler_of_everything_has_no_dead_letters() -> None:
    """They would come back to it: said at the resource where nothing else is written."""
    text = f"- type: stream\n  source: nats\n  «resource: '>'\n  {STEPS}"
    assert "`deadLetter: off`" in only_problem(with_handlers(text)).message
    assert good(with_handlers(text.replace("«", "") + "\n  deadLetter: off"))
    narrowed = text.replace("«", "") + "\n  jetstream: {filterSubjects: [a, b.>]}"
    assert good(with_handlers(narrowed)).handlers[0].dead_letter


def test_what_filters_leave_out_may_be_published() -> None:
    """Only what the consumer gets counts as the handler's own."""
    keys = "resource: a.>, jetstream: {filterSubjects: [a.b]}, respondTo: a.c"
    assert good(with_handlers(f"- {{type: stream, source: nats, {keys}, {STEPS}}}")).handlers[0].respond_to


def test_output_is_about_nats() -> None:
    assert handler("respondTo: done\noutput: core").output == "core"
    keys = "resource: a, respondTo: {resource: b, source: kafka}, «output: core"
    text = f"- {{type: stream, source: nats, {keys}, {STEPS}}}"
    assert "`respondTo` of NATS" in only_problem(with_handlers(text, KAFKA)).message


def test_exactly_once_is_of_one_connection() -> None:
    """A transaction cannot hold what goes to another cluster; without an output it is about offsets and letters."""
    two = HEAD + "  kafka:\n    a: {brokerAddress: x}\n    b: {brokerAddress: y}\n"
    text = f"- {{type: stream, source: kafka, resource: c, connection: a, {STEPS}, «exactlyOnce: true, %s}}"
    for answer in ("respondTo: {resource: d, source: nats}", "respondTo: {resource: d, connection: b}"):
        problem = only_problem(with_handlers(text % answer, two))
        assert problem.key == "handlers[0].exactlyOnce" and "connection that the messages come from" in problem.message
    for answer in ("respondTo: d", "respondTo: {resource: d, connection: a}", "workers: 2"):
        assert good(with_handlers(text.replace("«", "") % answer, two)).handlers[0].exactly_once
    assert (
        not good(with_handlers(text.replace("«", "").replace("true", "false") % "group: g", two))
        .handlers[0]
        .exactly_once
    )


def test_two_handlers_with_one_durable() -> None:
    """They would take each other's messages; in two streams, or on two connections, they do not."""
    one = f"- {{type: stream, source: nats, resource: a, durable: d, {STEPS}}}\n"
    two = f"- {{type: stream, source: nats, resource: b, jetstream: {{«durable: d}}, {STEPS}}}"
    problem = only_problem(with_handlers(one + two))
    assert problem.key == "handlers[1].jetstream.durable"
    assert "that of line 8 too" in problem.message
    assert good(with_handlers(one + two.replace("{«", "{stream: S, ")))


TOKENS = st.sampled_from(["a", "b", "*"])
PATTERNS = st.builds(
    lambda tokens, tail: ".".join([*tokens, *tail]),
    st.lists(TOKENS, max_size=3),
    st.sampled_from([[">"], ["a"], ["*"]]),
)
SUBJECTS = [".".join(tokens) for length in range(1, 6) for tokens in itertools.product("ab", repeat=length)]


@given(PATTERNS, PATTERNS)
def test_patterns_are_what_they_match(one: str, other: str) -> None:
    """Inside means every subject of the other, overlapping means one of both: counted out over short subjects."""
    first = {subject for subject in SUBJECTS if subject_matches(one, subject)}
    second = {subject for subject in SUBJECTS if subject_matches(other, subject)}
    assert subject_matches(one, other) == (second <= first)
    assert subjects_overlap(one, other) == subjects_overlap(other, one) == bool(first & second)
