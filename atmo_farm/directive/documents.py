"""What the key tables write for editors and people: `conf/directive.schema.json` and the keys in docs/directive.md.

`python -m atmo_farm.directive.documents`, at the root of the repository, writes both; a test tells when they are old.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

from atmo_farm.directive.keys.files import DIRECTIVE, QUERIES_FILE, RUNNABLE
from atmo_farm.directive.keys.kinds import Kind
from atmo_farm.directive.keys.shapes import Either, Key, ListOf, MapOf, OneOrNamed, Table
from atmo_farm.directive.schema import json_schema

SCHEMA = Path("conf/directive.schema.json")
REFERENCE = Path("docs/directive.md")
BEGIN = "<!-- made from atmo_farm/directive/keys: begin -->\n"
END = "<!-- made from atmo_farm/directive/keys: end -->\n"


def schema_text() -> str:
    """The file in conf/."""
    return json.dumps(json_schema(), indent=2, ensure_ascii=False) + "\n"


def reference_text(current: str) -> str:
    """The file in docs/ with the tables of keys made anew; the text around them is kept."""
    head, begin, rest = current.partition(BEGIN)
    _, end, tail = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"{REFERENCE} lacks its marks: {BEGIN.strip()} … {END.strip()}")
    return head + begin + "\n" + "\n".join(_part(table) for table in _all_tables()) + "\n" + end + tail


def _all_tables() -> list[Table]:
    """Each table once, those that hold others before them."""
    found: dict[str, Table] = {}
    for top in (DIRECTIVE, QUERIES_FILE, RUNNABLE):
        for table in _tables(top):
            found.setdefault(table.name, table)
    return list(found.values())


def _tables(kind: Kind) -> Iterator[Table]:
    if isinstance(kind, Table):
        yield kind
        for key in kind.keys:
            yield from _tables(key.kind)
    elif isinstance(kind, ListOf):
        yield from _tables(kind.item)
    elif isinstance(kind, MapOf):
        yield from _tables(kind.value)
    elif isinstance(kind, Either):
        yield from _tables(kind.scalar)
        yield from _tables(kind.parts)
    elif isinstance(kind, OneOrNamed):
        yield from _tables(kind.table)


def _part(table: Table) -> str:
    lines = [
        f"### {table.name}",
        "",
        f"{table.doc[0].upper()}{table.doc[1:]}.",
        "",
        "| key | value | meaning | default |",
    ]
    lines += ["|---|---|---|---|", *(_row(key) for key in table.keys), ""]
    return "\n".join(lines)


def _row(key: Key) -> str:
    notes = [key.doc]
    if key.sources:
        notes.append("only for " + " and ".join(f"`{source}`" for source in key.sources))
    if key.later:
        notes.append("**not served yet**")
    default = "**required**" if key.required else key.default
    cells = (f"`{key.name}`", key.kind.words(), "; ".join(notes), default)
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def main() -> None:
    """Write both files, below the current folder."""
    SCHEMA.write_text(schema_text(), encoding="utf-8")
    REFERENCE.write_text(reference_text(REFERENCE.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    main()
