"""Keeping known secrets out of log lines."""

from __future__ import annotations

import re
from collections.abc import Iterable

SHORTEST = 4
"""Shorter values are not replaced: they would stand in half of all words."""

MARK = "[redacted]"


class Redactor:
    """Replaces each of some values wherever it stands in a text; of a value of several lines, each line too."""

    def __init__(self, secrets: Iterable[str] = ()):
        values = {part for secret in secrets for part in (secret, *secret.splitlines()) if len(part) >= SHORTEST}
        ordered = sorted(values, key=len, reverse=True)  # a secret that begins with another is replaced as a whole
        self._pattern = re.compile("|".join(map(re.escape, ordered))) if ordered else None
        self._longest = len(ordered[0]) if ordered else 0

    def head(self, text: str, length: int) -> str:
        """The first `length` characters of the text, with no part of a secret in what comes of them.

        Looks no further into a text than it must: a guest's line may be as long as its memory.
        """
        if self._pattern is None:
            return text[:length]
        parts: list[str] = []
        position = 0
        for match in self._pattern.finditer(text, 0, length + self._longest):
            if match.start() >= length:
                break
            parts += (text[position : match.start()], MARK)
            position = match.end()
        parts.append(text[position:length])
        return "".join(parts)
