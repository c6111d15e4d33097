"""One message's life: settled when and how, on the memory twin of a durable stream, with functions in Python.

Each test runs twice: with spans nothing else is otherwise, and each span that begins ends, once.
"""

from __future__ import annotations

import asyncio
import contextlib
import datetime
import functools
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from typing import Any

import attrs
import pytest
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind

from atmo_farm.capabilities.rules import Rules
from atmo_farm.capabilities.services import Capabilities
from atmo_farm.consumer import failures
from atmo_farm.consumer.attempts import Attempts
from atmo_farm.consumer.sequence import Runs, Sequence
from atmo_farm.consumer.tracing import TracedAttempts, TracedFunction, TracedWorker
from atmo_farm.consumer.worker import Worker
from atmo_farm.delivery.dead_letters import DeadLetters
from atmo_farm.directive.model import Handler, RespondTo, Retry
from atmo_farm.errors import DataSourceError, GuestTimedOut, PublishError, RunnableError
from atmo_farm.ipc.arena import Field
from atmo_farm.runtime.services import Services
from atmo_farm.streams.base import Message, Output
from atmo_farm.streams.memory import MemoryBroker
from atmo_farm.streams.memory_durable import DurableMemoryStream, MemoryLog
from atmo_farm.tracing.spans import tracer
from tests.streams import Watched, run
from tests.unit.consumer.functions import Body, Python, Silent, call, step

SOON = Retry(attempts=3, initial_delay_s=0.01, max_delay_s=0.05, jitter=0.0)
STEPS = (step(call("f")),)
HANDLER = Handler(
    name="h", type="stream", source="nats", resource="in", steps=STEPS, retry=SOON, respond_to=RespondTo("nats", "out")
)


traced = False
"""Whether workers of the running test have spans."""


@pytest.fixture(params=["plain", "traced"], autouse=True)
def _with_and_without_spans(request: pytest.FixtureRequest) -> None:
    global traced
    traced = request.param == "traced"


class Recorded(DurableMemoryStream):
    """The memory twin, which keeps what it is told, in order."""

    redelivers = True

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.told = Told()

    async def publish(self, output: Output) -> None:
        await asyncio.sleep(0.002)
        await super().publish(output)
        self.told.add("published", output.data)

    def ack(self, message: Message) -> None:
        self.told.add("ack", message.data)
        super().ack(message)

    def give_back(self, message: Message, delay_s: float) -> None:
        self.told.add(f"give back {delay_s:g}", message.data)
        super().give_back(message, delay_s)

    def terminate(self, message: Message) -> None:
        self.told.add("terminate", message.data)
        super().terminate(message)

    async def bury(self, letter: Output) -> None:
        await super().bury(letter)
        self.told.add("buried", letter.data)


class Told(Watched):
    """Words and payloads, in order."""

    def __init__(self) -> None:
        super().__init__()
        self.all: list[tuple[str, bytes]] = []

    def add(self, word: str, data: bytes) -> None:
        self.all.append((word, data))
        self._changed.set()

    def of(self, data: bytes) -> list[str]:
        return [word for word, told in self.all if told == data]

    async def settled(self, count: int) -> None:
        """So many messages came to their end."""
        await self.until(lambda: sum(word in ("ack", "terminate") for word, _ in self.all) >= count)


class NoSpool:
    """A disk without room."""

    async def keep(self, letter: Output) -> None:
        raise PublishError("no room", transient=False)


@attrs.define
class World:
    """A worker on a stream, whose function is `body`."""

    broker: MemoryBroker
    log: MemoryLog
    out: MemoryLog
    dead: MemoryLog
    stream: Recorded
    attempts: Attempts
    worker: Worker
    slot: memoryview
    suspects: dict[int, int]

    @property
    def told(self) -> Told:
        return self.stream.told

    def publish(self, *payloads: bytes, headers: Mapping[str, str] | None = None) -> None:
        for data in payloads:
            self.broker.publish("in", data, headers)

    async def consume(self) -> None:
        await self.stream.consume(self.worker.handle)


@contextlib.asynccontextmanager
async def world(
    body: Body,
    *,
    dead_letter: bool = True,
    redelivers: bool = True,
    **keys: Any,
) -> AsyncIterator[World]:
    broker = MemoryBroker()
    log, out, dead = (MemoryLog(broker, name) for name in ("in", "out", "dead"))
    consumer = log.consumer("in", ack_wait_s=0.05)
    stream = Recorded(broker, consumer)
    stream.redelivers = redelivers
    slot = memoryview(bytearray(4096)).cast("Q")
    ended = InMemorySpanExporter()
    traces = tracer({}, 1.0, SimpleSpanProcessor(ended))
    function: Runs = Python(body)
    if traced:
        function = TracedFunction("f", function, traces, {})
    sequence = Sequence(STEPS, "", {"default::f": function}, Capabilities(Rules(), Silent()))
    letters = DeadLetters("h", "app", 1, "dead", stream.bury, NoSpool(), spool_all=False) if dead_letter else None
    suspects: dict[int, int] = {}
    handler = attrs.evolve(HANDLER, **keys)
    parts = handler, sequence, stream, slot, "app.h"
    attempts = TracedAttempts(*parts, tracer=traces) if traced else Attempts(*parts)
    more = handler, attempts, stream, slot, letters, suspects
    worker = TracedWorker(*more, tracer=traces) if traced else Worker(*more)
    made = World(broker, log, out, dead, stream, attempts, worker, slot, suspects)
    try:
        yield made
    finally:
        stream.abandon()
        await worker.cancel()
    if traced:
        spans = ended.get_finished_spans()
        begun = {span.context.span_id for span in spans}
        assert len(begun) == len(spans)
        assert all(span.parent.span_id in begun for span in spans if span.kind != SpanKind.CONSUMER)


def on_loop(test: Callable[..., Awaitable[None]]) -> Callable[..., None]:
    @functools.wraps(test)
    def run_it(*args: Any, **keys: Any) -> None:
        run(test(*args, **keys))  # type: ignore[arg-type]

    return run_it


async def echo(data: bytes, services: Services) -> bytes | None:
    return data


def failing(*errors: Exception | None) -> Body:
    """Fails so at its first call, and so on; the last one for ever. None: it succeeds."""
    left = list(errors)

    async def body(data: bytes, services: Services) -> bytes | None:
        error = left.pop(0) if len(left) > 1 else left[0]
        if error is not None:
            raise error
        return data

    return body


BUSY = GuestTimedOut("killed")
WRONG = RunnableError(404, "gone")


@on_loop
async def test_ok_is_acknowledged_after_its_output_is_safe() -> None:
    """And the output has an id that is the message's and the handler's, the same at each delivery."""
    async with world(echo) as made:
        made.publish(b"a")
        await made.consume()
        await made.told.settled(1)
        assert made.told.all == [("published", b"a"), ("ack", b"a")]
        (output,) = made.out.messages
        assert (output.data, output.headers["Nats-Msg-Id"]) == (b"a", "in.1.app.h")
        assert made.slot[Field.OK] == made.slot[Field.PUBLISHED] == 1 and made.slot[Field.IN_FLIGHT] == 0


@on_loop
@pytest.mark.parametrize("own", ["", "traceparent", "Traceparent"])
async def test_an_output_goes_on_in_the_trace_of_its_message(own: str) -> None:
    """Unless the function names another; then once, however it writes that."""
    trace, span = "a" * 32, "b" * 16

    async def body(data: bytes, services: Services) -> bytes | None:
        if own:
            services.resp_set_header(own, f"00-{'c' * 32}-{span}-01")
        return data

    async with world(body) as made:
        made.publish(b"a", headers={"traceparent": f"00-{trace}-{span}-01", "tracestate": "s=1"})
        await made.consume()
        await made.told.settled(1)
        (output,) = made.out.messages
        found = [(name, value) for name, value in output.headers.items() if name.lower().startswith("trace")]
        if own:
            assert found == [(own, f"00-{'c' * 32}-{span}-01")]
        else:
            (_, parent), state = found
            assert state == ("tracestate", "s=1") and parent.split("-")[1] == trace
            assert (span in parent) is not traced


@on_loop
async def test_a_filter_publishes_nothing_and_is_acknowledged() -> None:
    """A function that returns nothing."""

    async def nothing(data: bytes, services: Services) -> bytes | None:
        return None

    async with world(nothing) as made:
        made.publish(b"a")
        await made.consume()
        await made.told.settled(1)
        assert made.told.all == [("ack", b"a")]


@on_loop
async def test_a_transient_failure_is_given_back() -> None:
    """With the policy's delay; the broker's deliveries are the attempts, which the function can read."""
    seen: list[bytes] = []

    async def body(data: bytes, services: Services) -> bytes | None:
        seen.append(services.request_get_field(2, "Atmo-Attempt"))
        if len(seen) < 3:
            raise BUSY
        return data

    async with world(body) as made:
        made.publish(b"a")
        await made.consume()
        await made.told.settled(1)
        assert made.told.of(b"a") == ["give back 0.01", "give back 0.02", "published", "ack"]
        assert seen == [b"1", b"2", b"3"]
        assert made.slot[Field.RETRIED] == made.slot[Field.REDELIVERED] == made.slot[Field.TIMEOUTS] == 2


@on_loop
async def test_attempts_are_used_up() -> None:
    """Deliveries to processes that died are attempts too."""
    async with world(failing(BUSY)) as made:
        made.publish(b"a")
        await made.consume()
        await made.told.settled(1)
        assert made.told.of(b"a") == ["give back 0.01", "give back 0.02", "buried", "terminate"]
        assert made.dead.messages[0].headers["Atmo-Dead-Attempts"] == "3"


@on_loop
async def test_where_the_broker_does_not_redeliver_it_is_tried_again_in_hand() -> None:
    """As Kafka needs it: nothing is given back, the attempts are counted here."""
    async with world(failing(BUSY, BUSY, None), redelivers=False) as made:
        made.publish(b"a")
        await made.consume()
        await made.told.settled(1)
        assert made.told.of(b"a") == ["published", "ack"]
        assert made.slot[Field.RETRIED] == 2


@on_loop
async def test_an_output_that_is_not_accepted_is_transient() -> None:
    """It runs again, and is acknowledged only when its output is safe."""
    async with world(echo, retry=attrs.evolve(SOON, attempts=100, multiplier=1.0)) as made:
        made.broker.refusing = True
        made.publish(b"a")
        await made.consume()
        await made.told.until(lambda: len(made.told.all) >= 3)
        assert set(made.told.of(b"a")) == {"give back 0.01"}
        made.broker.refusing = False
        await made.told.settled(1)
        assert made.told.of(b"a")[-2:] == ["published", "ack"]


@on_loop
async def test_an_output_that_can_never_be_published_is_permanent() -> None:
    """Too large for the broker."""

    async def large(data: bytes, services: Services) -> bytes | None:
        return b"x" * (2 << 20)

    async with world(large) as made:
        made.publish(b"a")
        await made.consume()
        await made.told.settled(1)
        assert made.told.all == [("buried", b"a"), ("terminate", b"a")]
        assert made.dead.messages[0].headers["Atmo-Dead-Cause"] == "publish"


@on_loop
async def test_a_permanent_failure_is_buried_first() -> None:
    """Its dead letter is safe before the broker may forget it; the letter says why, and is the message as it came."""
    async with world(failing(WRONG)) as made:
        made.publish(b"a", headers={"traceparent": "00-1-2-01"})
        await made.consume()
        await made.told.settled(1)
        assert made.told.all == [("buried", b"a"), ("terminate", b"a")]
        headers = made.dead.messages[0].headers
        wanted = {"Cause": "error", "Code": "404", "Text": "gone", "Function": "f", "Handler": "h", "Attempts": "1"}
        assert {name: headers[f"Atmo-Dead-{name}"] for name in wanted} == wanted
        assert headers["traceparent"] == "00-1-2-01"
        assert made.slot[Field.FAILED] == made.slot[Field.DEAD] == 1


@on_loop
async def test_a_dead_letter_says_when() -> None:
    """When its first attempt began, and when it was given up."""

    async def slow(data: bytes, services: Services) -> bytes | None:
        await asyncio.sleep(0.05)
        raise BUSY

    async with world(slow, redelivers=False) as made:
        made.publish(b"a")
        await made.consume()
        await made.told.settled(1)
        headers = made.dead.messages[0].headers
        first, last = (datetime.datetime.fromisoformat(headers[f"Atmo-Dead-{name}"]) for name in ("First", "Last"))
        assert 0.15 < (last - first).total_seconds() < 5


@on_loop
async def test_dead_letters_may_be_off() -> None:
    """Then it is terminated, and the log has it."""
    async with world(failing(WRONG), dead_letter=False) as made:
        made.publish(b"a")
        await made.consume()
        await made.told.settled(1)
        assert made.told.all == [("terminate", b"a")]
        assert (made.slot[Field.FAILED], made.slot[Field.DEAD]) == (1, 0)


@on_loop
async def test_a_dead_letter_that_nobody_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its message is held, neither settled nor given back, until it is taken; others go on."""
    monkeypatch.setattr(failures, "BURY_AGAIN_S", (0.01, 0.02))

    async def body(data: bytes, services: Services) -> bytes | None:
        if data == b"bad":
            raise WRONG
        return None

    async with world(body) as made:
        made.broker.refusing = True
        made.publish(b"bad", b"a", b"b")
        await made.consume()
        await made.told.settled(2)
        await asyncio.sleep(0.1)
        assert made.told.of(b"bad") == [] and made.slot[Field.IN_FLIGHT] == 1
        made.broker.refusing = False
        await made.told.settled(3)
        assert made.told.of(b"bad") == ["buried", "terminate"] and len(made.dead.messages) == 1


@pytest.mark.parametrize(
    ("idempotent", "told"), [(False, ["buried", "terminate"]), (True, ["give back 0.01", "published", "ack"])]
)
@on_loop
async def test_an_unknown_outcome(idempotent: bool, told: list[str]) -> None:
    """Not tried again, unless the handler says that this does no harm."""
    unknown = DataSourceError("a write without an answer", unknown=True)
    async with world(failing(unknown, None), idempotent=idempotent) as made:
        made.publish(b"a")
        await made.consume()
        await made.told.settled(1)
        assert made.told.of(b"a") == told
        assert [letter.headers["Atmo-Dead-Cause"] for letter in made.dead.messages] == (
            [] if idempotent else ["outcome unknown"]
        )


@on_loop
async def test_a_bug_of_ours_is_a_permanent_failure() -> None:
    """It is buried with cause `internal`, and not delivered for ever."""
    async with world(failing(ValueError("oops"))) as made:
        made.publish(b"a")
        await made.consume()
        await made.told.settled(1)
        assert made.told.of(b"a") == ["buried", "terminate"]
        assert made.dead.messages[0].headers["Atmo-Dead-Cause"] == "internal"


class Gate:
    """A function that is entered and waits until it is opened."""

    def __init__(self) -> None:
        self.entered: list[bytes] = []
        self.together = 0
        self._now = 0
        self.open = asyncio.Event()

    async def body(self, data: bytes, services: Services) -> bytes | None:
        self.entered.append(data)
        self._now += 1
        self.together = max(self.together, self._now)
        try:
            await self.open.wait()
        finally:
            self._now -= 1
        return None

    async def until_entered(self, count: int) -> None:
        while len(self.entered) < count:
            await asyncio.sleep(0.001)


@on_loop
async def test_max_in_flight() -> None:
    """So many run at the same time."""
    gate = Gate()
    async with world(gate.body, max_in_flight=3) as made:
        made.publish(*(b"%d" % number for number in range(10)))
        await made.consume()
        await gate.until_entered(3)
        await asyncio.sleep(0.01)
        assert len(gate.entered) == 3 == made.slot[Field.IN_FLIGHT]
        gate.open.set()
        await made.told.settled(10)
        assert gate.together == 3


@on_loop
async def test_a_process_that_ends_finishes_what_runs() -> None:
    """And settles it."""
    gate = Gate()
    async with world(gate.body) as made:
        made.publish(b"a", b"b")
        await made.consume()
        await gate.until_entered(2)
        made.worker.leave()
        await made.stream.stop()
        assert made.told.all == []
        gate.open.set()
        await made.worker.idle()
        assert made.told.all == [("ack", b"a"), ("ack", b"b")]


@pytest.mark.parametrize("redelivers", [True, False])
@on_loop
async def test_a_process_that_ends_lets_go_of_what_waits(redelivers: bool) -> None:
    """For another attempt, for its dead letter or for a place: at once; whether a broker takes it back or not."""
    late = Retry(attempts=5, initial_delay_s=60.0, max_delay_s=60.0)

    async def body(data: bytes, services: Services) -> bytes | None:
        raise BUSY if data == b"again" else WRONG

    async with world(
        body, redelivers=redelivers, retry=late, ordering="key", ordering_key="header:lane", max_in_flight=2
    ) as made:
        made.broker.refusing = True
        for data in (b"again", b"bad", b"later"):
            made.publish(data, headers={"Lane": data.decode()})
        await made.consume()
        while made.slot[Field.IN_FLIGHT] < 2 or made.slot[Field.RECEIVED] < 3:
            await asyncio.sleep(0.001)
        made.worker.leave()
        await made.stream.stop()
        await made.worker.idle()
        assert sorted(made.told.all) == [("give back 0", data) for data in (b"again", b"bad", b"later")]


@on_loop
async def test_cut_off_it_is_left_unsettled() -> None:
    """At the deadline: nobody acknowledges, gives back or buries what was in flight."""
    gate = Gate()
    async with world(gate.body) as made:
        made.publish(b"a", b"b")
        await made.consume()
        await gate.until_entered(2)
        made.stream.abandon()
        assert await made.worker.cancel() == 2
        assert made.told.all == [] and made.slot[Field.CANCELLED] == 2
        await made.stream.close()
        again = Recorded(made.broker, made.stream._consumer)
        handled: list[Message] = []

        async def handle(message: Message) -> None:
            handled.append(message)

        await again.consume(handle)
        while len(handled) < 2:
            await asyncio.sleep(0.001)
        assert [message.attempt for message in handled] == [2, 2]
        again.abandon()


@on_loop
async def test_a_suspect_of_one_death_runs_as_ever() -> None:
    """It may have been a coincidence."""
    gate = Gate()
    async with world(gate.body) as made:
        made.suspects[2] = 1
        made.publish(b"a", b"suspect", b"b")
        await made.consume()
        await gate.until_entered(3)


@on_loop
async def test_a_suspect_of_two_deaths_runs_alone() -> None:
    """What came before it has ended, and what comes after it waits."""
    gate = Gate()
    gate.open.set()
    order: list[str] = []

    async def body(data: bytes, services: Services) -> bytes | None:
        order.append(f"{data.decode()} begins")
        await asyncio.sleep(0.01)
        order.append(f"{data.decode()} ends")
        return None

    async with world(body) as made:
        made.suspects[3] = 2
        made.publish(b"a", b"b", b"suspect", b"c", b"d")
        await made.consume()
        await made.told.settled(5)
        assert order.index("suspect begins") == 4 and order[5] == "suspect ends"
        assert order[:2] == ["a begins", "b begins"] and order[6:8] == ["c begins", "d begins"]


@on_loop
async def test_a_suspect_of_three_deaths_does_not_run() -> None:
    """It is buried, others go on; also when it becomes one while the process runs."""
    seen: list[bytes] = []

    async def body(data: bytes, services: Services) -> bytes | None:
        seen.append(data)
        return None

    async with world(body) as made:
        made.publish(b"a")
        await made.consume()
        await made.told.settled(1)
        made.suspects[2] = 3
        made.publish(b"killer", b"b")
        await made.told.settled(3)
        assert seen == [b"a", b"b"]
        assert made.told.of(b"killer") == ["buried", "terminate"]
        assert made.dead.messages[0].headers["Atmo-Dead-Cause"] == "killed its process"


@pytest.mark.parametrize("ordering_key", ["subject", "header:lane", "field:lane"], ids=["subject", "header", "field"])
@on_loop
async def test_ordering_by_key(ordering_key: str) -> None:
    """A lane waits while its first is tried again in place; other lanes go on; nothing is given back."""
    order: list[bytes] = []
    failed = False

    async def body(data: bytes, services: Services) -> bytes | None:
        nonlocal failed
        if b'"a1"' in data and not failed:
            failed = True
            raise BUSY
        await asyncio.sleep(0)
        order.append(data)
        return None

    later = Retry(5, 0.05, 1.0, 2.0, 0.0)
    async with world(body, ordering="key", ordering_key=ordering_key, retry=later) as made:
        sent = [(lane, b'{"n": "%s%d", "lane": "%s"}' % (lane, n, lane)) for n in (1, 2, 3) for lane in (b"a", b"b")]
        for lane, data in sent:
            made.broker.publish("in", data, {"Lane": lane.decode()})
        await made.consume()
        await made.told.settled(6)
        lanes = [[data for lane, data in sent if lane == name] for name in (b"a", b"b")]
        if ordering_key == "subject":
            assert order == [data for _, data in sent]
        else:
            assert [[data for data in order if data in lane] for lane in lanes] == lanes
            assert order[:2] == lanes[1][:2]
        assert {word for word, _ in made.told.all} == {"ack"} and made.slot[Field.RETRIED] == 1


@on_loop
async def test_a_lane_whose_first_is_buried_goes_on() -> None:
    """In its order, after the dead letter is safe."""

    async def body(data: bytes, services: Services) -> bytes | None:
        if data == b"1":
            raise WRONG
        return None

    async with world(body, ordering="partition") as made:
        made.publish(b"1", b"2", b"3")
        await made.consume()
        await made.told.settled(3)
        assert made.told.all == [("buried", b"1"), ("terminate", b"1"), ("ack", b"2"), ("ack", b"3")]


@on_loop
async def test_a_lane_at_the_process_end() -> None:
    """The one that runs is finished; those behind it go back, unstarted and in their order."""
    gate = Gate()
    async with world(gate.body, ordering="partition") as made:
        made.publish(b"1", b"2", b"3")
        await made.consume()
        while made.slot[Field.RECEIVED] < 3:
            await asyncio.sleep(0.001)
        made.worker.leave()
        await made.stream.stop()
        gate.open.set()
        await made.worker.idle()
        assert made.told.all == [("ack", b"1"), ("give back 0", b"2"), ("give back 0", b"3")]
        assert gate.entered == [b"1"]


@on_loop
async def test_lanes_cut_off() -> None:
    """Nothing of a lane begins after that."""
    gate = Gate()
    async with world(gate.body, ordering="partition") as made:
        made.publish(b"1", b"2", b"3")
        await made.consume()
        while made.slot[Field.RECEIVED] < 3:
            await asyncio.sleep(0.001)
        assert await made.worker.cancel() == 3
        await asyncio.sleep(0.01)
        assert gate.entered == [b"1"] and made.told.all == []


@on_loop
async def test_a_long_lane_of_short_messages() -> None:
    """A thousand that end on their first poll, one after the other: no recursion."""

    async def slow_first(data: bytes, services: Services) -> bytes | None:
        if data == b"0":
            await asyncio.sleep(0.05)
        return None

    async with world(slow_first, ordering="partition", max_in_flight=5000) as made:
        made.stream._consumer._max_out = 5000
        made.publish(*(b"%d" % number for number in range(3000)))
        await made.consume()
        await made.told.settled(3000)
        assert made.told.all == [("ack", b"%d" % number) for number in range(3000)]
