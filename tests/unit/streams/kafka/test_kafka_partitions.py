"""What waits of each partition, whose turn it is, who stands still, and what may be committed."""

from __future__ import annotations

import attrs

from atmo_farm.streams.kafka.partitions import ENOUGH, PAUSE_AT, PAUSE_AT_BYTES, RESUME_AT, Partition, Partitions


@attrs.define
class Rec:
    """`driver.Record`."""

    offset: int
    value: bytes | None = b"v"
    key: bytes | None = None
    timestamp: int = 0
    headers: tuple[tuple[str, bytes | None], ...] = ()


def records(*offsets: int) -> list[Rec]:
    return [Rec(offset) for offset in offsets]


def taken(partitions: Partitions, most: int = 1000) -> list[tuple[Partition, int]]:
    """What is handed over until nothing more is, as (partition, offset)."""
    found: list[tuple[Partition, int]] = []
    while len(found) < most and (one := partitions.take()) is not None:
        found.append((one[0], one[1].offset))
    return found


def test_partitions_take_turns() -> None:
    """One that has much does not keep the others waiting."""
    ours = Partitions(100, share=False)
    ours.assigned([0, 1, 2])
    ours.add(0, records(*range(10)))
    ours.add(2, records(5, 6))
    assert [(one.number, offset) for one, offset in taken(ours, 5)] == [(0, 0), (2, 5), (0, 1), (2, 6), (0, 2)]
    assert len(ours) == 7


def test_one_that_does_not_end_holds_its_partition_alone() -> None:
    """Later ones run until so many are past it; then the partition stands still, the others go on."""
    ours = Partitions(4, share=False)
    ours.assigned([0, 1])
    ours.add(0, records(*range(20)))
    first = taken(ours)
    assert [offset for _, offset in first] == [0, 1, 2, 3]
    for partition, offset in first[1:]:
        assert not ours.end(partition, offset)
    assert taken(ours) == []
    ours.add(1, records(7))
    (other,) = taken(ours)
    assert ours.end(*other)
    assert ours.end(*first[0])
    assert first[0][0].mark.position == 4
    assert taken(ours) == []
    ours.committed({0: 4})
    assert [offset for _, offset in taken(ours)] == [4, 5, 6, 7]


def test_what_has_ended_and_is_not_committed_holds_it_too() -> None:
    """While nothing can be committed, no more than the bound will come twice; holes in the numbering count."""
    ours = Partitions(4, share=False)
    ours.assigned([0])
    ours.add(0, records(0, 1, 2, 90, 91))
    for partition, offset in reversed(taken(ours)):
        ours.end(partition, offset)
    assert taken(ours) == []
    ours.committed({0: 91, 7: 1})
    assert [offset for _, offset in taken(ours)] == [91]


def test_a_share_is_what_one_partition_may_have_in_hand() -> None:
    """So a slow one cannot take all places; it grows when partitions go."""
    ours = Partitions(8, share=True)
    ours.assigned([0, 1, 2, 3])
    ours.add(0, records(*range(20)))
    assert [offset for _, offset in taken(ours)] == [0, 1]
    ours.revoked([2, 3])
    assert [offset for _, offset in taken(ours)] == [2, 3]
    many = Partitions(2, share=True)
    many.assigned(range(5))
    many.add(4, records(0, 1))
    assert len(taken(many)) == 1


def test_what_is_revoked_is_dropped_and_what_is_in_hand_counts_nothing() -> None:
    """Also when the partition comes back: then it begins anew."""
    ours = Partitions(10, share=False)
    ours.assigned([0, 1])
    ours.add(0, records(0, 1, 2))
    ((partition, offset),) = taken(ours, 1)
    assert ours.revoked([0]) == 2
    assert not ours.end(partition, offset)
    assert taken(ours) == []
    ours.assigned([0])
    ours.add(0, records(0, 1))
    again = taken(ours)
    assert [one for _, one in again] == [0, 1]
    assert ours.end(*again[0])
    assert again[0][0].mark.position == 1


def test_a_topic_that_was_made_anew_begins_anew() -> None:
    """Its offsets go back; those of the old one count nothing any more, what waited of it is dropped."""
    ours = Partitions(10, share=False)
    ours.assigned([0])
    ours.add(0, records(100, 101))
    ((old, offset),) = taken(ours, 1)
    assert ours.add(0, records(0, 1)) == 1
    assert not ours.end(old, offset)
    fresh = taken(ours)
    assert [one for _, one in fresh] == [0, 1]
    assert ours.end(*fresh[0])


def test_a_partition_that_has_enough_is_paused_once() -> None:
    """By its number of records or their size, and resumed when little is left."""
    ours = Partitions(10**6, share=False)
    ours.assigned([0, 1])
    ours.add(0, records(*range(PAUSE_AT)))
    ours.add(1, [Rec(0, b"x" * PAUSE_AT_BYTES)])
    flow = ours.flow()
    size = flow.bytes
    assert (flow.pause, flow.resume) == ([0, 1], []) and size >= PAUSE_AT_BYTES
    assert (ours.flow().pause, ours.flow().resume) == ([], []), "told once"
    taken(ours, PAUSE_AT - RESUME_AT + 2)
    flow = ours.flow()
    assert (flow.pause, flow.resume) == ([], [0, 1]) and flow.bytes < size


def test_partitions_of_which_little_waits_are_named() -> None:
    """Less than their share of what is enough for all."""
    ours = Partitions(10, share=False)
    ours.assigned([0, 1])
    assert ours.flow().short == [0, 1]
    ours.add(0, records(*range(ENOUGH // 2)))
    assert ours.flow().short == [1]
    ours.revoked([1])
    assert ours.flow().short == [0]


def test_clearing_leaves_what_is_in_hand() -> None:
    """It may still be committed."""
    ours = Partitions(10, share=False)
    ours.assigned([0])
    ours.add(0, records(0, 1, 2))
    ((partition, offset),) = taken(ours, 1)
    assert ours.clear() == 2
    assert taken(ours) == []
    assert ours.end(partition, offset)
    assert partition.mark.position == 1
