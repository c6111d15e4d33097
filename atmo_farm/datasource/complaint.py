"""What a server says against a statement, without the values that went into it.

Servers quote what they do not like: `invalid input syntax for type integer: "4111 1111 1111 1111"`. Guests log errors,
and values are nobody else's business. Names that the query itself holds, and names of the database's own things, stay.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Sequence

from atmo_farm.datasource.statement import Statement, Variable

_QUOTED = re.compile(
    r"\"([^\"]*)\"|'([^']*)'|`([^`]*)`|„([^“”]*)[“”]|“([^”]*)”|«([^»]*)»|»([^«]*)«",
)
_QUOTES = "\"'`„“”«»"
MAX_CHARACTERS = 1000

SHORT = 4
"""A value of fewer characters is taken out only where it stands in quotes: words happen to hold it."""


def without_values(
    message: str, statement: Statement | None, variables: Sequence[Variable], names: Collection[str] = ()
) -> str:
    """The message on one line, `$n` in place of the n-th variable, `…` in place of other quoted text that is neither in
    the statement nor among `names` (constraints, tables: what the driver tells beside the message)."""
    texts = [value if isinstance(value, str) else value.decode("utf-8", "backslashreplace") for value in variables]
    for index, text in sorted(enumerate(texts, 1), key=lambda pair: -len(pair[1])):  # one may be a part of another
        if text and text in message:
            message = _without(message, text, f"${index}")
    known = "".join(part for part in statement.parts if isinstance(part, str)) if statement is not None else ""

    def checked(match: re.Match[str]) -> str:
        inner = next(group for group in match.groups() if group is not None)
        if inner in known or inner in names or re.fullmatch(r"\$\d+", inner):
            return match[0]
        return f"{match[0][0]}…{match[0][-1]}"

    return one_line(_QUOTED.sub(checked, message))


def without_secrets(message: str, secrets: Iterable[str]) -> str:
    """The message on one line, `***` in place of each secret."""
    for secret in secrets:
        if secret:
            message = message.replace(secret, "***")
    return one_line(message)


def one_line(message: str) -> str:
    """All of its words on one line, cut at MAX_CHARACTERS."""
    return " ".join(message.split())[:MAX_CHARACTERS]


def _without(message: str, value: str, mark: str) -> str:
    if len(value) >= SHORT:
        return message.replace(value, mark)
    return re.sub(f"(?<=[{_QUOTES}]){re.escape(value)}(?=[{_QUOTES}])", lambda _: mark, message)
