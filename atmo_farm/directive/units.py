"""Durations and sizes as users write them."""

from __future__ import annotations

import re

DURATION = r"[0-9]+(\.[0-9]+)?(ms|s|m|h)?"
SIZE = r"[0-9]+(KiB|MiB|GiB)?"

_SECONDS = {"": 1.0, "ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}
_BYTES = {"": 1, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30}
_MAX_DIGITS = 15


def duration_s(text: str) -> float:
    """Seconds from `30`, `0.5`, `250ms`, `30s`, `5m` or `1h`; ValueError for anything else."""
    match = re.fullmatch(r"([0-9]+(?:\.[0-9]+)?)(ms|s|m|h)?", text, re.ASCII)
    if not match or len(match[1]) > _MAX_DIGITS:
        raise ValueError("must be a duration: seconds, or like `250ms`, `30s`, `5m`, `1h`")
    return float(match[1]) * _SECONDS[match[2] or ""]


def size_bytes(text: str) -> int:
    """Bytes from `65536`, `64KiB`, `16MiB` or `1GiB`; ValueError for anything else."""
    match = re.fullmatch(r"([0-9]+)(KiB|MiB|GiB)?", text, re.ASCII)
    if not match or len(match[1]) > _MAX_DIGITS:
        raise ValueError("must be a size: bytes, or like `64KiB`, `16MiB`, `1GiB`")
    return int(match[1]) * _BYTES[match[2] or ""]
