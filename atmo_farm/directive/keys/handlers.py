"""The keys of `handlers`."""

from __future__ import annotations

import datetime

from atmo_farm.directive import resources
from atmo_farm.directive.keys.connections import NAME
from atmo_farm.directive.keys.kinds import Choice, Duration, Flag, Integer, Number, Size, Text
from atmo_farm.directive.keys.shapes import Either, Key, ListOf, MapOf, Table
from atmo_farm.directive.keys.steps import STATE_KEY, STEP

METHODS = ("GET", "HEAD", "OPTIONS", "POST", "PUT", "PATCH", "DELETE")
STREAM_SOURCES = ("server", "nats", "kafka")
BROKERS = ("nats", "kafka")
MAX_IN_FLIGHT = 65536

_DURABLE = Text("a durable's name (no dots, blanks or wildcards)", r"[^\s.*>/\\]{1,200}")

RESPOND_TO = Table(
    "RespondTo",
    "where a handler's result is published",
    (
        Key("resource", Text("a subject or topic"), "the subject or topic", True),
        Key("source", Choice(BROKERS), "the broker", default="the handler's own `source`"),
        Key(
            "connection", Text("a connection's name", NAME), "which of several connections", default="the handler's own"
        ),
        Key("key", Text("a text"), "the key of the Kafka record", default="the incoming record's key"),
        Key("headers", MapOf(Text("a text"), "a header's name", r"[!-9;-~]{1,128}"), "headers of every result"),
    ),
)


def _range_problem(cause: str) -> str:
    low, dash, high = cause.partition("-")
    return "ends before it begins" if dash and int(low) > int(high) else ""


def _time_problem(start: str) -> str:
    try:
        if start not in ("earliest", "latest"):
            datetime.datetime.fromisoformat(start)
    except ValueError:
        return "there is no such day or time"
    return ""


RETRY = Table(
    "Retry",
    "how transient failures are tried again",
    (
        Key("attempts", Integer(1, 1000), "how often in all, the first time counted", default="5"),
        Key("initialDelay", Duration(), "the first pause", default="`200ms`"),
        Key("maxDelay", Duration(), "the longest pause", default="`30s`"),
        Key("multiplier", Number(1, 100), "how much longer each pause is than the one before", default="2"),
        Key("jitter", Number(0, 1), "the random share of each pause", default="0.2"),
        Key(
            "on",
            ListOf(
                Text(
                    "`timeout`, `datasource`, `publish`, `trap`, `error`, an error code or a range like `500-599`",
                    r"timeout|datasource|publish|trap|error|[0-9]{1,9}(-[0-9]{1,9})?",
                    check=_range_problem,
                )
            ),
            "which failures are transient",
            default="`[timeout, datasource, publish]`",
        ),
    ),
)

POOL = Table(
    "Pool",
    "how many instances of each function a worker keeps",
    (
        Key("warm", Integer(0, 8192), "made before the first message", default="1"),
        Key("max", Integer(1, MAX_IN_FLIGHT), "never more", default="`maxInFlight`"),
    ),
)

JETSTREAM = Table(
    "JetStream",
    "how a JetStream consumer is made",
    (
        Key(
            "stream",
            Text("a stream's name", r"[^\s.*>/\\]{1,200}"),
            "the stream",
            default="the one that holds `resource`",
        ),
        Key(
            "durable",
            _DURABLE,
            "the consumer's name, as the handler's key `durable`",
            default="`<identifier, . as _>__<name>`",
        ),
        Key(
            "deliverPolicy",
            Choice(("all", "last", "new", "last_per_subject")),
            "where a new consumer begins",
            default="`all`",
        ),
        Key(
            "ackWait",
            Duration(1, 86400),
            "when a message that nobody works on is delivered again",
            default="`30s`",
        ),
        Key(
            "maxAckPending",
            Integer(1, 1_000_000),
            "messages that may be out and not settled, over all workers and farms",
            default="with an `ordering` `maxInFlight`; else 2 × `maxInFlight` × `workers`, at least 1000",
        ),
        Key(
            "filterSubjects",
            ListOf(Text("a subject", check=resources.subject_problem)),
            "subjects inside of `resource`, of which none overlaps another: only these are consumed",
            default="`resource`",
        ),
    ),
)

DEAD_LETTER = Table(
    "DeadLetter",
    "where messages go that cannot be processed",
    (
        Key("resource", Text("a subject or topic"), "the subject or topic", default="`atmo.dead.<identifier>.<name>`"),
        Key("maxAge", Duration(high_s=3650 * 86400.0), "how long dead letters are kept"),
    ),
)

HANDLER = Table(
    "Handler",
    "an entry of `handlers`",
    (
        Key(
            "name",
            Text("a name of 1 to 64 letters, digits, `_` and `-`", NAME),
            "its identity; unique",
            default="`<source>-<resource>`, every other character as `_`",
        ),
        Key("type", Choice(("request", "stream")), "HTTP requests, or a stream of messages", True),
        Key("source", Text("`server`, `nats` or `kafka`"), "where a stream comes from", default="`server` (websocket)"),
        Key("method", Choice(METHODS), "the HTTP method of a request"),
        Key(
            "resource",
            Text("a path, subject or topic"),
            "the HTTP path, NATS subject (wildcards allowed) or Kafka topic",
            True,
        ),
        Key("steps", ListOf(STEP, least=1), "what runs, in this order", True),
        Key("response", STATE_KEY, "the state key that holds the result", default="the last function's result"),
        Key(
            "respondTo",
            Either(Text("a subject or topic"), RESPOND_TO),
            "where the result is published",
            default="the message's reply subject, if it has one",
        ),
        Key(
            "connection",
            Text("a connection's name", NAME),
            "which of several connections",
            default="`default`",
            sources=BROKERS,
        ),
        Key(
            "group",
            Text("a group's name without blanks, or `off`", r"[^\s]{1,200}"),
            "the queue or consumer group; `off`: every worker gets every message (core NATS only)",
            default="`<identifier, . as _>__<name>`",
            sources=BROKERS,
        ),
        Key("workers", Integer(1, 1024), "processes that serve it", default="1"),
        Key("maxInFlight", Integer(1, MAX_IN_FLIGHT), "messages at once in each worker", default="256"),
        Key("timeout", Duration(), "the deadline of one message", default="`30s`"),
        Key("memoryLimit", Size(65536, 4 << 30), "memory of one instance of a function", default="`64MiB`"),
        Key(
            "isolation",
            Choice(("pooled", "fresh")),
            "instances are used again, or new for each message",
            default="`pooled`",
        ),
        Key("pool", POOL, "instances of each function"),
        Key("retry", RETRY, "how transient failures are tried again"),
        Key(
            "envelope",
            Choice(("auto", "raw", "grav")),
            "whether Grav envelopes are unwrapped",
            default="`auto`",
            sources=BROKERS,
        ),
        Key(
            "durable",
            _DURABLE,
            "consume from JetStream, as the durable consumer of this name; it takes the place of `group`",
            sources=("nats",),
        ),
        Key("jetstream", JETSTREAM, "consume from JetStream, with these settings", sources=("nats",)),
        Key(
            "output",
            Choice(("stream", "core")),
            "how `respondTo` is published: into a stream, which confirms it, or by core NATS, which does not",
            default="on JetStream `stream` where the server has one for it, else `core`",
            sources=("nats",),
        ),
        Key(
            "ordering",
            Choice(("none", "partition", "key")),
            "what stays in order",
            default="`none`; Kafka: `partition`",
            sources=BROKERS,
        ),
        Key(
            "orderingKey",
            Text("`subject`, `header:NAME` or `field:NAME`", r"subject|header:[!-9;-~]{1,128}|field:\S+"),
            "what messages that stay in order have in common",
            default="Kafka: the record's key",
            sources=BROKERS,
        ),
        Key(
            "deadLetter",
            Either(Choice(("on", "off")), DEAD_LETTER),
            "where messages go that cannot be processed",
            default="on",
            sources=BROKERS,
        ),
        Key(
            "idempotent",
            Flag(),
            "whether a message whose outcome is unknown may run again",
            default="`false`",
        ),
        Key(
            "exactlyOnce",
            Flag(),
            "outputs, dead letters and offsets in transactions; `respondTo` of the same connection",
            default="`false`",
            sources=("kafka",),
        ),
        Key(
            "startAt",
            Text(
                "`earliest`, `latest` or a time like `2026-01-31T12:00:00Z`",
                r"earliest|latest|\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?(Z|[+-]\d\d:\d\d)",
                check=_time_problem,
            ),
            "where a new consumer group begins",
            default="`latest`",
            sources=("kafka",),
        ),
    ),
)
