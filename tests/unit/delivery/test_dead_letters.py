"""What a dead letter holds, and where it goes when its first place does not take it."""

from __future__ import annotations

import pytest

from atmo_farm.delivery.dead_letters import LONGEST_TEXT, DeadLetters
from atmo_farm.delivery.letters import Letter
from atmo_farm.delivery.outcome import Outcome, failure
from atmo_farm.errors import GuestTimedOut, PublishError, RunnableError
from atmo_farm.streams import grav
from atmo_farm.streams import headers as wire_headers
from atmo_farm.streams.base import Kept, Message, Output
from atmo_farm.streams.codec import Codec
from tests.streams import run

BLOCK = (
    b"NATS/1.0\r\nX-Way: a\r\nx-way: b\r\nX-Way:c\r\nTraceparent: 00-aa-bb-01\r\nnats-msg-id: m7\r\n"
    b"Nats-Expected-Stream: S\r\nNats-TTL: 1s\r\nAtmo-Dead-Cause: forged\r\nAtmo-Replays: 2\r\n"
    b"Sch\xc3\xbcssel mit: W\xc3\xb6rt\xff\xfe\r\nempty:\r\n\r\n"
)
FAILED = failure(RunnableError(404, "no such\r\nuser"), "find")


class Place:
    """Where letters go; `error` is what it says."""

    def __init__(self, error: PublishError | None = None):
        self.error = error
        self.letters: list[Output] = []

    async def keep(self, letter: Output) -> None:
        if self.error is not None:
            raise self.error
        self.letters.append(letter)


def dead_letters(bury: Place, spool: Place, *, spool_all: bool = False) -> DeadLetters:
    return DeadLetters("find-user", "com.example.app", 3, "atmo.dead.x", bury.keep, spool, spool_all)


def letter_of(message: Message, outcome: Outcome = FAILED) -> Output:
    return dead_letters(Place(), Place()).letter(message, outcome, attempts=5, first_s=1_700_000_000.5)


def read(letter: Output) -> Letter:
    """As it arrives at the other end of a wire."""
    headers = wire_headers.pairs(wire_headers.encode_all(letter.original, letter.headers))
    return Letter(Kept("1", letter.id, headers, len(letter.data), 0.0, data=letter.data))


def received(data: bytes, block: bytes = BLOCK) -> Message:
    return Codec("auto").message("users.find", "_INBOX.1", wire_headers.decode(block), data, block)


def test_what_it_says() -> None:
    """Origin, ids, handler, function, attempts, cause, code, text in one line, times, generation."""
    letter = letter_of(received(b"x"))
    told = dict(read(letter).told)
    assert told.pop("last").endswith("Z")
    assert told == {
        "origin": "users.find",
        "id": "m7",
        "handler": "find-user",
        "function": "find",
        "attempts": "5",
        "cause": "error",
        "code": "404",
        "text": "no such user",
        "first": "2023-11-14T22:13:20.500Z",
        "generation": "3",
        "msg-id": "m7",
    }
    assert letter.subject == "atmo.dead.x"
    assert letter.id == "m7.com.example.app.find-user.dead"


def test_the_original_comes_back_as_it_was() -> None:
    """Names as they were written, repeated ones, bytes that are no text; without what the broker would act on, and
    without what only looks like ours."""
    assert read(letter_of(received(b"x"))).original == (
        ("X-Way", "a"),
        ("x-way", "b"),
        ("X-Way", "c"),
        ("Traceparent", "00-aa-bb-01"),
        ("Schüssel mit", "Wört\udcff\udcfe"),
        ("empty", ""),
    )


def test_it_carries_the_count_of_replays_on() -> None:
    """A replayed message that dies again knows how often it was replayed."""
    assert read(letter_of(received(b"x"))).replays == 2


@pytest.mark.parametrize("data", [b"", bytes(range(256)) * 40, b'{"a": 1}'])
def test_the_payload(data: bytes) -> None:
    """Byte for byte."""
    assert letter_of(received(data)).data == data


def test_the_payload_of_an_envelope() -> None:
    """A message that came in a Grav envelope is kept in it, so that its replay comes in one."""
    data = grav.wrap(b"inside", "users.find")
    message = received(data)
    assert message.data == b"inside"
    assert letter_of(message).data == data


def test_a_text_without_end() -> None:
    """Is cut."""
    letter = letter_of(received(b""), failure(RunnableError(1, "x" * 10_000)))
    assert letter.headers["Atmo-Dead-Text"] == "x" * LONGEST_TEXT


TRANSIENT, PERMANENT = PublishError("for now", transient=True), PublishError("for good", transient=False)


@pytest.mark.parametrize(
    ("error", "spool_all", "in_spool"),
    [
        (None, False, False),
        (None, True, False),
        (PERMANENT, False, True),
        (PERMANENT, True, True),
        (TRANSIENT, True, True),
    ],
)
def test_the_spool_takes_what_the_broker_does_not(error: PublishError | None, spool_all: bool, in_spool: bool) -> None:
    """What it can never take; of a stream that keeps nothing, also what it cannot take now."""
    bury, spool = Place(error), Place()
    outcome = failure(GuestTimedOut("killed"))
    run(dead_letters(bury, spool, spool_all=spool_all).put(received(b"x"), outcome, 1, 0.0))
    assert (len(bury.letters), len(spool.letters)) == ((0, 1) if in_spool else (1, 0))


@pytest.mark.parametrize(("bury", "spool"), [(TRANSIENT, None), (PERMANENT, TRANSIENT)])
def test_a_letter_that_is_nowhere_is_an_error(bury: PublishError, spool: PublishError | None) -> None:
    """A durable stream waits for its broker; and a full disk is told."""
    places = Place(bury), Place(spool)
    with pytest.raises(PublishError, match="for now"):
        run(dead_letters(*places).put(received(b"x"), FAILED, 1, 0.0))
    assert not places[1].letters
