"""The farm in numbers, from the cards and counts of the arena: what `status` tells."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from atmo_farm import __version__, clock
from atmo_farm.ipc.arena import COUNTS, Field
from atmo_farm.ipc.cards import FarmCard, Kind, Life, WorkerCard

GAUGES = (Field.IN_FLIGHT, Field.PENDING, Field.POOL)

SILENT_S = 5.0
"""A master that gave no sign of life for so long is said to be silent; it gives one each second."""

PAUSED = "paused"
"""The state of a worker that is ready and takes no messages, as it should."""

Seen = tuple[WorkerCard, memoryview]
"""A worker, or what is left of gone ones, and its numbers."""


def report(farm: FarmCard | None, numbers: memoryview, seen: Sequence[Seen]) -> dict[str, Any]:
    """`{"farm": {…}, "handlers": [{…, "workers": [{…}]}], "processes": [as handlers], "totals": {…}}`.

    Durations are seconds. `handlers` are by name; `processes` are the data sources and the monitor. A count
    of a handler is the sum over its workers and those that are gone; `totals` are the sums over all there ever were.
    """
    groups: dict[tuple[str, str], list[Seen]] = {}
    for card, counts in seen:
        groups.setdefault((card.kind, card.name), []).append((card, counts))
    entries = [_entry(kind, name, group) for (kind, name), group in sorted(groups.items()) if _is_there(group)]
    handlers = [entry for entry in entries if entry["kind"] == Kind.CONSUMER]
    processes = [entry for entry in entries if entry["kind"] != Kind.CONSUMER]
    serving = [entry for entry in entries if entry["kind"] != Kind.MONITOR]
    return {
        "farm": _farm(farm, numbers, serving),
        "handlers": handlers,
        "processes": processes,
        "totals": _counts(counts for _, counts in seen),
    }


def silent_s(numbers: memoryview) -> float:
    """Seconds since the master's last sign of life."""
    return max(0.0, (clock.monotonic_ns() - numbers[Field.HEARTBEAT_NS]) / 1e9)


def unready(found: Mapping[str, Any]) -> list[str]:
    """Why the farm of a report is not ready, one text for each reason; empty: it is."""
    farm = found["farm"]
    reasons = [] if farm["state"] == "ready" else [farm["state"]]
    for entry in [*found["handlers"], *found["processes"]]:
        if _is_short(entry):
            why = entry["waits_for"] or entry["failure"] or entry["state"]
            reasons.append(f"{entry['name']}: {entry['ready']} of {entry['wanted']} ready, {why}")
    return reasons


def _farm(card: FarmCard | None, numbers: memoryview, serving: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    silence = silent_s(numbers)
    ready, wanted = (sum(entry[key] for entry in serving) for key in ("ready", "wanted"))
    state = "starting" if card is None else card.doing or ("not ready" if any(map(_is_short, serving)) else "ready")
    return {
        "app": card.app if card else "",
        "app_version": card.app_version if card else "",
        "atmo_farm": __version__,
        "state": "silent" if silence > SILENT_S else state,
        "generation": card.generation if card else 0,
        "pid": card.pid if card else 0,
        "uptime_s": round(clock.monotonic() - card.since, 1) if card else 0.0,
        "ready": ready,
        "wanted": wanted,
        "note": card.note if card else "",
        "master_silent_s": round(silence, 1),
    }


def _is_short(entry: Mapping[str, Any]) -> bool:
    """Whether more of it should be ready."""
    return entry["kind"] != Kind.MONITOR and not entry["paused"] and entry["ready"] < entry["wanted"]


def _is_there(group: Iterable[Seen]) -> bool:
    return any(card.life != Life.RETIRED for card, _ in group)


def _entry(kind: str, name: str, group: Sequence[Seen]) -> dict[str, Any]:
    cards = [card for card, _ in group if card.life != Life.RETIRED]
    workers = [_worker(card, numbers) for card, numbers in group if card.life != Life.RETIRED]
    workers.sort(key=lambda worker: (worker["number"], worker["generation"]))
    staying = [worker for worker in workers if worker["state"] != Life.DRAINING and not worker["joining"]]
    states = [worker["state"] for worker in staying or workers]
    return {
        "kind": kind,
        "name": name,
        "state": states[0] if len(set(states)) == 1 else _counted(states),
        "ready": sum(worker["state"] in (Life.READY, PAUSED) for worker in staying),
        "wanted": len(staying),
        "paused": any(card.paused for card in cards),
        "scaled_from": max(card.scaled_from for card in cards) or None,
        "waits_for": next((worker["waits_for"] for worker in staying if worker["waits_for"]), ""),
        "failure": next((worker["failure"] for worker in staying if worker["failure"]), ""),
        "restarts": sum(worker["restarts"] for worker in workers),
        **{field.name.lower(): sum(worker[field.name.lower()] for worker in workers) for field in GAUGES},
        **_counts(numbers for _, numbers in group),
        "workers": workers,
    }


def _counted(states: Sequence[str]) -> str:
    """`1 ready, 2 starting`."""
    return ", ".join(f"{states.count(state)} {state}" for state in sorted(set(states)))


def _worker(card: WorkerCard, numbers: memoryview) -> dict[str, Any]:
    beat = numbers[Field.HEARTBEAT_NS]
    return {
        "number": card.number,
        "state": PAUSED if card.life == Life.READY and numbers[Field.PAUSED] else card.life,
        "pid": card.pid,
        "generation": card.generation,
        "uptime_s": round(clock.monotonic() - card.since, 1) if card.pid else 0.0,
        "silent_s": round(max(0.0, (clock.monotonic_ns() - beat) / 1e9), 1) if beat else None,
        "joining": card.joining,
        "restarts": card.restarts,
        "waits_for": card.waits_for,
        "failure": card.failure,
        **{field.name.lower(): numbers[field] for field in GAUGES},
    }


def _counts(numbers: Iterable[memoryview]) -> dict[str, int]:
    found = list(numbers)
    return {field.name.lower(): sum(one[field] for one in found) for field in COUNTS}
