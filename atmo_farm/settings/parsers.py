"""From the text of one setting to its value. Every parser takes the text and the folder that relative paths start
from, and raises ValueError with a text that says what is accepted."""

from __future__ import annotations

import ipaddress
from collections.abc import Callable
from pathlib import Path
from typing import Any

from atmo_farm.units import parse_duration, parse_size

Parser = Callable[[str, Path], Any]

_BOOLEANS = {
    **dict.fromkeys(("true", "yes", "on", "1", "t"), True),
    **dict.fromkeys(("false", "no", "off", "0", "f"), False),
}


def text(value: str, _base: Path) -> str:
    """Any text."""
    return value


def path(value: str, base: Path) -> Path:
    """An absolute path; a relative one starts from `base`, `~` is the user's home folder."""
    if not value or "\0" in value:
        raise ValueError("is not a path")
    try:
        return (base / Path(value).expanduser()).absolute()
    except RuntimeError as error:
        raise ValueError(f"'{value}' names a home folder that cannot be determined") from error
    except OSError as error:
        what = "is relative to the working folder, and that is gone; write an absolute path"
        raise ValueError(f"'{value}' {what}") from error


def address(value: str, base: Path) -> str:
    """`off`, `unix:PATH`, or HOST:PORT with an IP address; 0 is any free port."""
    if value == "off":
        return value
    if value.startswith("unix:"):
        return f"unix:{path(value.removeprefix('unix:'), base)}"
    host, _, port = value.rpartition(":")
    host = "127.0.0.1" if host == "localhost" else host.removeprefix("[").removesuffix("]")
    try:
        found = ipaddress.ip_address(host)
        number = integer(0, 65535)(port, base)
    except ValueError:
        raise ValueError(f"'{value[:100]}' is not off, unix:PATH, or HOST:PORT with an IP address") from None
    return f"[{found}]:{number}" if found.version == 6 else f"{found}:{number}"


def boolean(value: str, _base: Path) -> bool:
    """true or false, and the spellings that Atmo's users have in their environment (1, on, yes, t)."""
    try:
        return _BOOLEANS[value.lower()]
    except KeyError:
        raise ValueError(f"'{value[:40]}' is not true or false") from None


def choice(*words: str) -> Parser:
    """One of a few words."""

    def parse(value: str, _base: Path) -> str:
        if value not in words:
            raise ValueError(f"'{value[:40]}' is not one of {', '.join(words)}")
        return value

    return parse


def integer(low: int, high: int) -> Parser:
    """A whole number of a range, both ends included."""

    def parse(value: str, _base: Path) -> int:
        if not (value.isascii() and value.isdigit() and len(value) < 20 and low <= int(value) <= high):
            raise ValueError(f"'{value[:40]}' is not a whole number from {low} to {high}")
        return int(value)

    return parse


def number(low: float, high: float) -> Parser:
    """A number of a range, both ends included."""

    def parse(value: str, _base: Path) -> float:
        try:
            parsed = float(value)
        except ValueError:
            parsed = float("nan")
        if not low <= parsed <= high:
            raise ValueError(f"'{value[:40]}' is not a number from {low:g} to {high:g}")
        return parsed

    return parse


def duration(low_s: float, high_s: float) -> Parser:
    """Seconds of a range, both ends included."""

    def parse(value: str, _base: Path) -> float:
        seconds = parse_duration(value)
        if not low_s <= seconds <= high_s:
            raise ValueError(f"{value} is not a duration from {low_s:g} to {high_s:g} seconds")
        return seconds

    return parse


def size(low: int, high: int) -> Parser:
    """Bytes of a range, both ends included."""

    def parse(value: str, _base: Path) -> int:
        parsed = parse_size(value)
        if not low <= parsed <= high:
            raise ValueError(f"{value} is not a size from {low} to {high} bytes")
        return parsed

    return parse
