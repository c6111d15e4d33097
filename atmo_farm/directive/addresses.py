"""Addresses of brokers and caches, with or without scheme and port.

The checks take what a user wrote and give the full form that clients connect to. Their ValueErrors never hold the
text, because an address may hold a password.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from typing import Any

Check = Callable[[str], Any]

_HOST = r"(?:\[[0-9A-Fa-f:.%a-z]+\]|[A-Za-z0-9_](?:[A-Za-z0-9_.-]*))"
_ADDRESS = re.compile(
    rf"(?:(?P<scheme>[a-z+]+)://)?(?:(?P<user>[^@/\s]*)@)?(?P<host>{_HOST})(?::(?P<port>\d{{1,5}}))?/?", re.ASCII
)


def nats(text: str) -> tuple[str, ...]:
    """`nats://host:4222` for each address of a comma-separated text; schemes nats, tls, ws and wss."""
    return tuple(_full(part, ("nats", "tls", "ws", "wss"), 4222) for part in _parts(text))


def kafka(text: str) -> tuple[str, ...]:
    """`host:9092` for each address of a comma-separated text; a scheme is dropped."""
    full = (_full(part, ("kafka", "tcp", "plaintext", "ssl"), 9092) for part in _parts(text))
    plain = tuple(address.partition("://")[2] for address in full)
    if any("@" in address for address in plain):
        raise ValueError("holds a user; write it under `sasl`")
    return plain


def redis(text: str) -> str:
    """`redis://host:6379`, `rediss://…` or `unix:///path`; a text that begins with `/` is a socket's path."""
    path = text.removeprefix("unix://")
    if path.startswith("/"):
        if "?" in path or path.endswith("/"):
            raise ValueError("must be `host:port`, `rediss://host:port` or `unix:///path`")
        return f"unix://{path}"
    base, slash, database = text.rpartition("/")
    if slash and database.isdigit() and "://" in base:
        return f"{_full(base, ('redis', 'rediss'), 6379)}/{int(database)}"
    return _full(text, ("redis", "rediss"), 6379)


def one_of(options: Iterable[str]) -> Check:
    """A check that a word is one of these, in any case; gives it in the options' case."""
    known = {option.upper(): option for option in options}

    def check(text: str) -> str:
        if text.upper() not in known:
            raise ValueError("must be one of " + ", ".join(f"`{option}`" for option in known.values()))
        return known[text.upper()]

    return check


def _parts(text: str) -> list[str]:
    parts = [part.strip() for part in text.split(",") if part.strip()]
    if not parts:
        raise ValueError("holds no address; write `host:port`")
    return parts


def _full(text: str, schemes: tuple[str, ...], port: int) -> str:
    match = _ADDRESS.fullmatch(text)
    if match is None:
        raise ValueError("is not an address; write `host`, `host:port` or `scheme://host:port`")
    scheme = match["scheme"] or schemes[0]
    if scheme not in schemes:
        raise ValueError("has an unknown scheme; known are " + ", ".join(f"`{known}://`" for known in schemes))
    number = int(match["port"] or _default_port(scheme, port))
    if not 1 <= number <= 65535:
        raise ValueError("has a port outside of 1 to 65535")
    user = f"{match['user']}@" if match["user"] else ""
    return f"{scheme}://{user}{match['host']}:{number}"


def _default_port(scheme: str, port: int) -> int:
    return {"ws": 80, "wss": 443}.get(scheme, port)
