"""Cards in the arena: what is read is what was written, or what was there before."""

from __future__ import annotations

import os
import signal
import time

import attrs
import pytest

from atmo_farm import log
from atmo_farm.ipc import cards
from atmo_farm.ipc.arena import SLOTS, Arena, Field
from atmo_farm.ipc.cards import HEAD, CardReader, FarmCard, Kind, Life, WorkerCard

CARD = WorkerCard(Kind.CONSUMER, "echo", 3, Life.WAITING, 7, 2, 1.5, 4, "nats default (refused)", "")


def test_what_is_written_is_read() -> None:
    """Each slot and the farm's have one; a slot without one says so; the numbers below it are another's."""
    arena = Arena()
    last, farm = arena.slot(SLOTS - 1), arena.farm
    assert CardReader(last, WorkerCard).read() is None
    last[Field.OK] = 2**64 - 1
    cards.write(last, CARD)
    assert CardReader(last, WorkerCard).read() == CARD
    assert last[Field.OK] == 2**64 - 1 and CardReader(farm, FarmCard).read() is None
    told = FarmCard("com.example.app", "v1", 2, 7, 1.5, "reloading", "last reload refused", 3)
    cards.write(farm, told)
    assert CardReader(farm, FarmCard).read() == told and CardReader(last, WorkerCard).read() == CARD
    last[HEAD] = 0
    assert CardReader(last, WorkerCard).read() is None


@pytest.mark.parametrize("char", ["x", "ü", "\U0001f600", '"', "\\", "\x1b", "\udcff"])
def test_long_and_odd_texts_are_cut(char: str) -> None:
    """Whatever a reason holds, the card is whole and fits."""
    slot = Arena().slot(0)
    cards.write(slot, attrs.evolve(CARD, waits_for=char * 5000, failure=char * 5000))
    card = CardReader(slot, WorkerCard).read()
    assert card is not None and card.name == "echo"
    assert len(card.failure) in cards.TEXT_LIMITS and card.failure.isprintable()


def test_a_card_shows_no_secret() -> None:
    """What is kept out of the log is kept out of what `status` tells as well; also where a text is cut."""
    slot = Arena().slot(0)
    log.redact(["hunter2hunter2"])
    try:
        cards.write(slot, attrs.evolve(CARD, waits_for="nats (hunter2hunter2)", failure="x" * 395 + "hunter2hunter2"))
    finally:
        log.redact([])
    card = CardReader(slot, WorkerCard).read()
    assert card is not None and card.waits_for == "nats ([redacted])" and "hunter" not in card.failure


def test_half_a_write_is_not_believed() -> None:
    """A writer that stands between text and head, or whose text a mad child has written over: the last card holds."""
    slot = Arena().slot(0)
    reader = CardReader(slot, WorkerCard)
    cards.write(slot, CARD)
    assert reader.read() == CARD
    head = slot[HEAD]
    cards.write(slot, attrs.evolve(CARD, number=9))
    newer = slot[HEAD]
    slot[HEAD] = head
    assert CardReader(slot, WorkerCard).read() is None
    assert reader.read() == CARD
    slot[HEAD] = newer
    assert reader.read() == attrs.evolve(CARD, number=9)
    slot[HEAD + 1] ^= 1
    slot[HEAD] = 2**64 - 1
    assert reader.read() == attrs.evolve(CARD, number=9)


def test_torn_writes_are_noticed() -> None:
    """Another process writes cards of very different lengths without a pause: each that is read was written so."""
    slot = Arena().slot(0)
    long = attrs.evolve(CARD, number=1, failure="y" * 400, waits_for="z" * 400)
    written = (CARD, long)
    writer = os.fork()
    if writer == 0:
        while True:
            for card in written:
                cards.write(slot, card)
    try:
        seen = set()
        reader = CardReader(slot, WorkerCard)
        end = time.monotonic() + 0.5
        while time.monotonic() < end or len(seen) < len(written):
            card = reader.read()
            assert card is None or card in written
            seen |= {card} - {None}
    finally:
        os.kill(writer, signal.SIGKILL)
        os.waitpid(writer, 0)
