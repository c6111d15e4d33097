"""Ids of messages that bring none."""

from __future__ import annotations

import os
from uuid import UUID

from atmo_farm.streams.ids import new_ids


def test_they_have_the_form_of_random_uuids() -> None:
    """Version 4, variant 1, in lower case."""
    new_id = new_ids()
    for _ in range(100):
        made = new_id()
        uuid = UUID(made)
        assert made == str(uuid) and uuid.version == 4 and uuid.variant == "specified in RFC 4122"


def test_no_two_are_the_same() -> None:
    """Neither from one source nor from several."""
    sources = [new_ids() for _ in range(50)]
    assert len({source() for source in sources for _ in range(1000)}) == 50_000


def test_the_count_does_not_run_over(monkeypatch) -> None:  # type: ignore[no-untyped-def]
    """A source that starts at its highest number makes UUIDs for longer than any process lives."""
    monkeypatch.setattr(os, "urandom", lambda size: b"\xff" * size)
    new_id = new_ids()
    assert [str(UUID(made)) == made for made in (new_id(), new_id())] == [True, True]
