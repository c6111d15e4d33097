"""What stands in the last part of a slot (`arena`): of a consumer how far it lags, of the proxy how its sources are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import attrs

from atmo_farm.ipc.arena import FIRST_GAUGE, HISTOGRAMS, NUMBERS

OTHERS = -1
"""Stands for all partitions that have no place of their own."""

_PARTITIONS = (NUMBERS - FIRST_GAUGE) // 2
_FIELDS = 4
SOURCES = (NUMBERS - FIRST_GAUGE) // _FIELDS
"""Of so many sources of one Directive there are figures."""

_UNKNOWN, _UP, _DOWN = range(3)


def write_lag(slot: memoryview, lag: Mapping[int, int]) -> None:
    """Partition → messages that the broker keeps for the handler and has not delivered.

    Where there are more partitions than places, those that lag most have one each, and the rest one together.
    """
    rows = sorted(lag.items(), key=lambda item: -item[1])
    if len(rows) > _PARTITIONS:
        rest = rows[_PARTITIONS - 1 :]
        rows = [*rows[: _PARTITIONS - 1], (OTHERS, sum(count for _, count in rest))]
    for place in range(_PARTITIONS):
        at = FIRST_GAUGE + 2 * place
        slot[at], slot[at + 1] = (rows[place][0] + 2, rows[place][1]) if place < len(rows) else (0, 0)


def read_lag(slot: memoryview) -> dict[int, int]:
    """What `write_lag` has written; empty where the broker keeps nothing, or it is not known."""
    numbers = slot[FIRST_GAUGE : FIRST_GAUGE + 2 * _PARTITIONS].tolist()
    return {number - 2: count for number, count in zip(numbers[::2], numbers[1::2], strict=True) if number}


@attrs.frozen
class SourceFigures:
    """One data source of the proxy."""

    is_up: bool
    connections: int
    busy: int
    """Of these."""
    waiting: int
    """Calls that wait for one."""
    outages: int
    """How often it went out of reach."""


def write_source(slot: memoryview, place: int, figures: SourceFigures) -> None:
    """`place`: that of the source in its Directive, the cache first, then the databases; over SOURCES there is none."""
    if place < SOURCES:
        at = FIRST_GAUGE + _FIELDS * place
        state = _UP if figures.is_up else _DOWN
        values = (state, figures.connections, figures.busy, figures.waiting)
        for offset, value in enumerate(values):
            slot[at + offset] = value
        slot[HISTOGRAMS + place] = figures.outages


def outages(slot: memoryview, place: int) -> int:
    """What was counted in this slot so far."""
    return int(slot[HISTOGRAMS + place]) if place < SOURCES else 0


def read_sources(slot: memoryview, names: Sequence[str]) -> dict[str, SourceFigures]:
    """By name, those of which something is known."""
    found = {}
    for place, name in enumerate(names[:SOURCES]):
        at = FIRST_GAUGE + _FIELDS * place
        state, connections, busy, waiting = slot[at : at + _FIELDS].tolist()
        if state != _UNKNOWN:
            found[name] = SourceFigures(state == _UP, connections, busy, waiting, slot[HISTOGRAMS + place])
    return found
