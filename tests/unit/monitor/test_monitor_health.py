"""When /ready is true, when not, and what it says then."""

from __future__ import annotations

from typing import Any

import pytest

from atmo_farm.ipc import gauges
from atmo_farm.ipc.arena import Field
from atmo_farm.ipc.cards import Kind, Life
from atmo_farm.ipc.gauges import SourceFigures
from atmo_farm.monitor import health
from tests.unit.monitor.made import MadeFarm, age


def found(farm: MadeFarm) -> dict[str, Any]:
    return health.health(*farm.seen())


def why(farm: MadeFarm, name: str = "a") -> list[str]:
    result = found(farm)
    entry = next(one for one in [*result["handlers"], *result["processes"]] if one["name"] == name)
    assert entry["ready"] is not bool(entry["why"])
    assert result["ready"] is False or not entry["why"]
    reasons: list[str] = entry["why"]
    return reasons


def test_ready_is_who_is_connected_and_has_nothing_to_do() -> None:
    """The monitor itself does not count, nor who leaves, nor what is left of those that are gone."""
    farm = MadeFarm()
    farm.worker("a")
    farm.worker("monitor", Kind.MONITOR, Life.DOWN)
    farm.worker("a", life=Life.DRAINING)
    farm.worker("old", life=Life.RETIRED)
    assert found(farm) == {
        "ready": True,
        "why": [],
        "handlers": [{"name": "a", "ready": True, "paused": False, "why": []}],
        "processes": [],
    }


@pytest.mark.parametrize(
    ("life", "card", "reason"),
    [
        (Life.WAITING, {"waits_for": "nats default (refused)"}, "waiting for nats default (refused)"),
        (Life.DOWN, {"failure": "exit 10 (boot failed)"}, "down: exit 10 (boot failed)"),
        (Life.STARTING, {}, "starting"),
    ],
)
def test_who_is_not_connected_is_not_ready(life: Life, card: dict[str, Any], reason: str) -> None:
    """Each worker counts; where there are several it is said which one."""
    farm = MadeFarm()
    farm.worker("a", life=life, number=1, **card)
    assert why(farm) == [reason]
    farm.worker("a", number=0)
    assert why(farm) == [f"worker 1: {reason}"]


def test_the_next_generation_does_not_count_before_it_is_in_force() -> None:
    """A reload leaves ready what was ready."""
    farm = MadeFarm()
    farm.doing("reloading")
    farm.worker("a")
    farm.worker("a", life=Life.STARTING, generation=4, joining=True)
    farm.worker("new", life=Life.STARTING, generation=4, joining=True)
    assert found(farm)["ready"] and len(found(farm)["handlers"]) == 1


def test_a_paused_handler_does_what_it_is_to_do() -> None:
    """Whatever state its workers are in, and whatever waits at the broker; others count as ever."""
    farm = MadeFarm()
    for life in Life:
        farm.worker("a", life=life, paused=True, waits_for="nats default")
    farm.worker("b")
    assert found(farm)["ready"] and [entry["paused"] for entry in found(farm)["handlers"]] == [True, False]
    farm.worker("b", life=Life.STARTING)
    assert not found(farm)["ready"]


def test_a_farm_that_starts_or_ends_is_not_ready() -> None:
    """Nor one whose master gives no sign of life, which after a while is not alive either."""
    farm = MadeFarm()
    farm.worker("a")
    for doing in ("starting", "stopping"):
        farm.doing(doing)
        assert found(farm)["why"] == [f"the farm is {doing}"] and not found(farm)["ready"]
    farm.doing("")
    age(farm.numbers, Field.HEARTBEAT_NS, 7)
    assert found(farm)["why"] == ["the master gave no sign of life for 7 s"]
    assert health.is_alive(farm.numbers)
    age(farm.numbers, Field.HEARTBEAT_NS, 31)
    assert not health.is_alive(farm.numbers)
    farm.card = None
    assert not found(farm)["ready"]


def test_who_holds_messages_has_to_settle_some() -> None:
    """Within its own patience; a retry is progress too, and who has just begun with one has all of it."""
    farm = MadeFarm()
    numbers = farm.worker("a")
    numbers[Field.IN_FLIGHT], numbers[Field.PENDING] = 2, 3
    age(numbers, Field.IDLE_NS, 59)
    assert why(farm) == []
    age(numbers, Field.IDLE_NS, 61)
    assert why(farm) == ["nothing was settled for 61 s, with 5 messages in hand"]
    age(numbers, Field.PROGRESS_NS, 59)
    assert why(farm) == []


def test_a_loop_that_stands_is_seen_before_it_is_replaced() -> None:
    """By its heartbeat."""
    farm = MadeFarm()
    age(farm.worker("a"), Field.HEARTBEAT_NS, 6)
    assert why(farm) == ["no sign of life for 6 s"]


def test_dropped_messages_are_seen_by_the_next_probes() -> None:
    """For half a minute."""
    farm = MadeFarm()
    numbers = farm.worker("a")
    age(numbers, Field.DROPPED_NS, 29)
    assert why(farm) == ["messages are dropped: it is slower than they come"]
    age(numbers, Field.DROPPED_NS, 31)
    assert why(farm) == []


def test_messages_that_wait_at_the_broker_have_to_be_taken() -> None:
    """By any of the workers: one that has none is no concern while another makes progress."""
    farm = MadeFarm()
    first, second = farm.worker("a", number=0), farm.worker("a", number=1)
    for numbers in (first, second):
        gauges.write_lag(numbers, {0: 7})
        age(numbers, Field.NO_LAG_NS, 29)
    assert why(farm) == []
    for numbers in (first, second):
        age(numbers, Field.NO_LAG_NS, 31)
    assert why(farm) == ["nothing was settled for 31 s, and 7 messages wait at the broker"]
    age(first, Field.PROGRESS_NS, 1)
    assert why(farm) == []
    age(first, Field.PROGRESS_NS, 40)
    second[Field.IN_FLIGHT] = 1  # long work; the worker's own patience decides
    assert why(farm) == []


def test_a_data_source_out_of_reach_is_named() -> None:
    """Until the breaker closes."""
    farm = MadeFarm()
    numbers = farm.worker("data-sources", Kind.DATA_SOURCES, sources=("redis", "database default"))
    gauges.write_source(numbers, 0, SourceFigures(is_up=True, connections=1, busy=0, waiting=0, outages=0))
    assert why(farm, "data-sources") == []
    gauges.write_source(numbers, 1, SourceFigures(is_up=False, connections=0, busy=0, waiting=0, outages=1))
    assert why(farm, "data-sources") == ["database default is out of reach"]
