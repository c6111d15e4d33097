"""Dead letters on a terminal: nothing in them may be obeyed by it."""

from __future__ import annotations

import base64
import codecs
from collections.abc import Mapping
from typing import Any

from atmo_farm.log.lines import escape

LONGEST_CELL = 60
"""Characters of a text in a table."""


def cell(value: Any) -> str:
    """In a table."""
    text = escape(str(value)) or "-"
    return text if len(text) <= LONGEST_CELL else text[: LONGEST_CELL - 1] + "…"


def shown(letter: Mapping[str, Any], payload: bytes) -> list[str]:
    """What is known of it, the original's headers, the payload: nothing that a terminal would obey."""
    told = {"message" if name == "id" else name: value for name, value in letter["told"].items()}
    told = {"id": letter["id"], **told, "replays": str(letter["replays"])}
    lines = [f"{escape(name) + ':':<12} {escape(value)}" for name, value in told.items()]
    lines += ["", *(f"{escape(name)}: {escape(value)}" for name, value in letter["headers"]), ""]
    is_cut = len(payload) < letter["size"]
    try:
        text = codecs.getincrementaldecoder("utf-8")().decode(payload, final=not is_cut)
        lines += [escape(line) for line in text.replace("\t", "    ").split("\n")]
    except UnicodeDecodeError:
        lines += _hex(payload)
    if is_cut:
        lines.append(f"… {letter['size']} bytes in all; --raw writes them")
    return lines


def _hex(data: bytes) -> list[str]:
    """Rows of 16 bytes: offset, hexadecimal, text."""
    rows = []
    for start in range(0, len(data), 16):
        row = data[start : start + 16]
        text = "".join(chr(byte) if 32 <= byte < 127 else "." for byte in row)
        rows.append(f"{start:08x}  {row.hex(' '):<47}  {text}")
    return rows


def as_json(payload: bytes) -> dict[str, str]:
    """A payload in a JSON object: as text, or `payloadBase64`."""
    try:
        return {"payload": payload.decode()}
    except UnicodeDecodeError:
        return {"payloadBase64": base64.b64encode(payload).decode()}
