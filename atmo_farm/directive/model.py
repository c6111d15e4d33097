"""The Directive as Python objects: what parse makes and everything else reads. All frozen, with defaults filled in.

Durations are seconds (float, `_s`), sizes are bytes (int). `position` is where the item stands in the user's file; it
does not take part in comparisons, so that moving a handler in the file is no change.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import attrs

from atmo_farm.directive.connections import NOWHERE, Connections, Value
from atmo_farm.errors import Position, Problem


@attrs.frozen
class OnErr:
    """What a step does when its function answers with an error."""

    codes: Mapping[int, Literal["continue", "return"]] = attrs.field(factory=dict)
    other: Literal["continue", "return"] = "return"
    """For codes that are not in `codes`; `any: X` is this alone."""

    def decide(self, code: int) -> Literal["continue", "return"]:
        """Whether the sequence goes on after an error of this code."""
        return self.codes.get(code, self.other)


@attrs.frozen
class Call:
    """One function of a step."""

    fn: str
    """As written: `getUser`, `db::get`, or a whole FQFN."""
    function: str
    """The runnable that it names, `namespace::name`."""
    key: str
    """Where its result goes in the state: `as`, else `fn`."""
    with_: Mapping[str, str] = attrs.field(factory=dict)
    """alias → key of the state."""
    on_err: OnErr = OnErr()
    position: Position = attrs.field(default=NOWHERE, eq=False, repr=False)


@attrs.frozen
class Step:
    """One step: a single call, or a group of calls that run concurrently."""

    calls: tuple[Call, ...]
    is_group: bool = False
    transaction: bool = False
    position: Position = attrs.field(default=NOWHERE, eq=False, repr=False)


@attrs.frozen
class RespondTo:
    """Where a handler's result is published."""

    source: Literal["nats", "kafka"]
    resource: str
    connection: str = "default"
    key: str = ""
    headers: Mapping[str, str] = attrs.field(factory=dict)
    position: Position = attrs.field(default=NOWHERE, eq=False, repr=False)


@attrs.frozen
class Retry:
    """How transient failures are tried again; `attempts` counts the first one too."""

    attempts: int = 5
    initial_delay_s: float = 0.2
    max_delay_s: float = 30.0
    multiplier: float = 2.0
    jitter: float = 0.2
    """The share of each delay that is random: 0.2 means ± 20 %."""
    on: tuple[str, ...] = ("timeout", "datasource", "publish")
    """Causes (timeout, datasource, publish, trap, error) and error codes (`429`, `500-599`) that count as transient."""


@attrs.frozen
class JetStream:
    """How a handler consumes from JetStream: a durable pull consumer that all its workers and farms share."""

    durable: str
    """The consumer's name, default filled in."""
    max_ack_pending: int
    """Messages that may be out and not settled yet, over all workers and farms."""
    stream: str = ""
    """Empty: the one that holds the handler's `resource`."""
    deliver_policy: Literal["all", "last", "new", "last_per_subject"] = "all"
    """Where a new consumer begins."""
    ack_wait_s: float = 30.0
    """An unsettled message of which nothing is heard so long is delivered again."""
    filter_subjects: tuple[str, ...] = ()
    """What is consumed, all of it inside of the handler's `resource` and disjoint; empty: `resource` itself."""


@attrs.frozen
class DeadLetter:
    """Where a handler's messages go that cannot be processed."""

    resource: str
    """A subject or topic, default filled in."""
    max_age_s: float | None = None
    """How long they are kept; None: as long as the stream keeps them."""


@attrs.frozen
class Handler:
    """One entry of `handlers`."""

    name: str
    """Its identity: `name`, else made from source and resource; unique, `[A-Za-z0-9_-]{1,64}`."""
    type: Literal["request", "stream"]
    source: Literal["", "server", "nats", "kafka"]
    """Empty for type request."""
    resource: str
    steps: tuple[Step, ...]
    method: str = ""
    response: str = ""
    respond_to: RespondTo | None = None
    connection: str = "default"
    group: str = ""
    """The queue or consumer group, default filled in; `off`: every worker gets every message (core NATS only).
    On JetStream it is the durable."""
    workers: int = 1
    max_in_flight: int = 256
    timeout_s: float = 30.0
    memory_limit: int = 64 << 20
    isolation: Literal["pooled", "fresh"] = "pooled"
    pool_warm: int = 1
    pool_max: int = 256
    retry: Retry = Retry()
    envelope: Literal["auto", "raw", "grav"] = "auto"
    jetstream: JetStream | None = None
    """Set: it consumes from JetStream; None: from core NATS (or Kafka)."""
    output: Literal["", "stream", "core"] = ""
    """Whether `respond_to` is published with JetStream's acknowledgement; empty: if the server has a stream for it."""
    ordering: Literal["none", "partition", "key"] = "none"
    ordering_key: str = ""
    """With ordering `key`: `subject`, `header:NAME` or `field:NAME` (a field of the JSON body)."""
    dead_letter: DeadLetter | None = None
    """None: `off`, or a source without dead letters."""
    idempotent: bool = False
    """Whether a message whose outcome is unknown may run again."""
    exactly_once: bool = False
    """Kafka: outputs, dead letters and offsets are written in transactions."""
    start_at: Literal["earliest", "latest"] | float = "latest"
    """Kafka: where a partition begins for which the group has committed nothing; a number is seconds since 1970."""
    position: Position = attrs.field(default=NOWHERE, eq=False, repr=False)


@attrs.frozen
class Schedule:
    """One entry of `schedules`."""

    name: str
    every_s: int
    steps: tuple[Step, ...]
    state: Mapping[str, str] = attrs.field(factory=dict)
    position: Position = attrs.field(default=NOWHERE, eq=False, repr=False)


@attrs.frozen
class Query:
    """One named SQL query."""

    name: str
    query: str = attrs.field(repr=False)
    type: Literal["select", "insert", "update", "delete"]
    var_count: int
    database: str = "default"
    position: Position = attrs.field(default=NOWHERE, eq=False, repr=False)


@attrs.frozen
class Runnable:
    """One function of the application."""

    name: str
    namespace: str
    lang: str = ""
    version: str = ""
    """The Directive's appVersion unless the Runnable says otherwise."""
    fqfn: str = ""
    """`identifier#namespace::name@version`."""
    interface: Literal["runnable", "wasi-command"] = "runnable"
    module: str = ""
    """The file name of its module inside a bundle: `name.wasm`, or `namespace.name.wasm` where two share a name."""
    position: Position = attrs.field(default=NOWHERE, eq=False, repr=False)

    @property
    def key(self) -> str:
        """`namespace::name`, by which calls name it."""
        return f"{self.namespace}::{self.name}"


@attrs.frozen
class Directive:
    """A whole application file, valid, with queries and runnables merged in."""

    identifier: str
    app_version: str
    atmo_version: str
    headless: bool = False
    connections: Connections = attrs.field(factory=Connections)
    authentication: Mapping[str, tuple[Value, Value]] = attrs.field(factory=dict, repr=False)
    """host → (headerType, value)."""
    capabilities: Mapping[str, Any] = attrs.field(factory=dict, repr=False)
    """As written, in plain dicts; `auth.headers` holds secrets."""
    handlers: tuple[Handler, ...] = ()
    schedules: tuple[Schedule, ...] = ()
    queries: tuple[Query, ...] = ()
    runnables: tuple[Runnable, ...] = ()
    """In the order of their keys."""
    not_served: tuple[Problem, ...] = attrs.field(default=(), eq=False, repr=False)
    """All that this build cannot run yet, a sentence each."""
    referred: tuple[str, ...] = attrs.field(default=(), eq=False, repr=False)
    """Once resolved: the texts that came from elsewhere, but for addresses, numbers, choices and names of files."""

    def runnable(self, key: str) -> Runnable:
        """The runnable of `namespace::name`; KeyError if there is none."""
        for runnable in self.runnables:
            if runnable.key == key:
                return runnable
        raise KeyError(key)
