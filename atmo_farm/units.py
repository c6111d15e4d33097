"""Durations and sizes as users write them."""

from __future__ import annotations

import math
import re

_NUMBER = re.compile(r"([0-9]{1,15}(?:\.[0-9]{1,15})?|\.[0-9]{1,15})\s*([A-Za-z]*)")
_SECONDS = {"": 1.0, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}
_BYTES = {"": 1, "B": 1, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30}


def parse_duration(text: str) -> float:
    """Seconds of `2.5`, `250ms`, `30s`, `5m` or `1h`; ValueError says what is accepted."""
    match = _NUMBER.fullmatch(text.strip())
    if not match or match[2] not in _SECONDS:
        raise ValueError(f"'{text[:40]}' is not a duration; write seconds, or a number with ms, s, m or h, like 30s")
    return float(match[1]) * _SECONDS[match[2]]


def parse_size(text: str) -> int:
    """Bytes of `65536`, `64KiB`, `16MiB` or `1GiB`; ValueError says what is accepted."""
    match = _NUMBER.fullmatch(text.strip())
    if not match or match[2] not in _BYTES or (not match[2] and not match[1].isdigit()):
        raise ValueError(f"'{text[:40]}' is not a size; write bytes, or a number with KiB, MiB or GiB, like 64MiB")
    return math.ceil(float(match[1]) * _BYTES[match[2]])


def format_duration(seconds: float) -> str:
    """The shortest text that `parse_duration` reads as the same value."""
    if 0 < seconds < 1:
        return f"{seconds * 1000:g}ms"
    for unit, length in (("h", 3600), ("m", 60)):
        if seconds and seconds % length == 0:
            return f"{seconds / length:g}{unit}"
    return f"{seconds:g}s"


def format_size(size: int) -> str:
    """The shortest text that `parse_size` reads as the same value."""
    for unit, length in (("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)):
        if size and size % length == 0:
            return f"{size // length}{unit}"
    return str(size)
