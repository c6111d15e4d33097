"""What this build can run. The language is larger: everything else is read and checked, then refused by name.

Keys say it themselves, in their tables (`later=`); here are the kinds of handlers.
"""

from __future__ import annotations

from atmo_farm.directive.model import Directive
from atmo_farm.directive.report import Report
from atmo_farm.directive.section import Section
from atmo_farm.errors import Problem

_START = "remove the handler to start the farm"


def not_served(directive: Directive) -> tuple[Problem, ...]:
    """One sentence for each thing that this build cannot run yet: start and reload refuse them, check warns of them."""
    return directive.not_served


def check_handler(section: Section, type_: str, source: str, report: Report) -> None:
    """Note kinds of handlers that are not served."""
    if type_ == "request":
        report.later(
            section.at("type"), section.key("type"), f"HTTP requests are not served by this build yet; {_START}"
        )
    elif source == "server":
        at, name = (section.at("source"), "source") if section.is_written("source") else (section.at("type"), "type")
        report.later(at, section.key(name), f"websockets are not served by this build yet; {_START}")
