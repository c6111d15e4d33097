"""Values of options that several verbs may take."""

from __future__ import annotations

import math
import time
from datetime import datetime
from typing import Any

import click

from atmo_farm.units import parse_duration


class Text(click.ParamType[str]):
    """Any but an empty one, which a variable of the shell that is not set leaves there: it must not mean all."""

    name = "text"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """The text as it is."""
        text = str(value)
        if not text.strip():
            self.fail("it is empty", param, ctx)
        return text


class Seconds(click.FloatRange):
    """From 0 on, and finite: `inf` and `nan` are numbers for Python."""

    def __init__(self) -> None:
        super().__init__(min=0)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """The seconds; a usage error says what is accepted."""
        seconds = float(super().convert(value, param, ctx))
        if not math.isfinite(seconds):
            self.fail(f"{value!r} is no number of seconds", param, ctx)
        return seconds


class Since(click.ParamType[float]):
    """`30m`: so long ago, or a time of RFC 3339; the value is wall-clock seconds."""

    name = "since"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """The seconds; a usage error says what is accepted."""
        if isinstance(value, float):
            return value
        try:
            return time.time() - parse_duration(value)
        except ValueError:
            pass
        try:
            return datetime.fromisoformat(value).astimezone().timestamp()
        except ValueError:
            self.fail(f"{value!r} is neither a duration (30s, 5m, 24h) nor a time (2026-01-31T12:00:00Z)", param, ctx)


class Rate(click.ParamType[float]):
    """`10`, `10/s`, `600/m`, `5/h`: letters in a second."""

    name = "rate"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """The rate; a usage error says what is accepted."""
        if isinstance(value, float):
            return value
        number, _, unit = str(value).partition("/")
        try:
            rate = float(number) / {"": 1, "s": 1, "m": 60, "h": 3600}[unit.strip()]
        except (ValueError, KeyError):
            rate = 0.0
        if not 1e-6 <= rate <= 1e6:
            self.fail(f"{value!r} is no rate; write 10/s, 600/m or 5/h", param, ctx)
        return rate
