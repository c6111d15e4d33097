"""`schedules`: from sections to the model."""

from __future__ import annotations

from atmo_farm.directive.model import Schedule
from atmo_farm.directive.parse_steps import Functions, steps
from atmo_farm.directive.report import Report, shown
from atmo_farm.directive.section import Section


def schedules(sections: tuple[Section, ...], functions: Functions, report: Report) -> tuple[Schedule, ...]:
    """All schedules that could be read."""
    result: dict[str, Schedule] = {}
    for section in sections:
        initial = section.section("state")
        state: dict[str, str] = dict(initial.values) if initial else {}
        sequence = steps(section, functions, set(state), report)
        every = section.section("every")
        seconds = _seconds(every) if every else 0
        if every and not seconds and not any(every.is_wrong(unit) for unit in every.places):
            report.error(
                section.at("every"), section.key("every"), "adds up to nothing; set seconds, minutes, hours or days"
            )
        name = section.text("name")
        if name in result:
            message = f"the schedule name {shown(name)} is taken; the other is on line {result[name].position.line}"
            report.error(section.at("name"), section.key("name"), message)
        elif name:
            result[name] = Schedule(name, seconds, sequence, state, section.position)
    return tuple(result.values())


def _seconds(every: Section) -> int:
    units = {"seconds": 1, "minutes": 60, "hours": 3600, "days": 86400}
    return sum(every.get(unit, 0) * length for unit, length in units.items())
