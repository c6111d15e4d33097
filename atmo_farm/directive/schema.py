"""The JSON Schema of Directive.yaml, for editors; made from the same tables that read it."""

from __future__ import annotations

from typing import Any

from atmo_farm.directive.keys.files import DIRECTIVE, QUERIES_FILE, RUNNABLE


def json_schema() -> dict[str, Any]:
    """The schema of Directive.yaml; `$defs` also holds `Queries` and `Runnable` for the other files.

    It knows every key and kind of value. What needs more than one key to be judged (functions that exist, routes,
    state keys) is `atmo-farm check`'s.
    """
    definitions: dict[str, Any] = {}
    reference = DIRECTIVE.schema(definitions)
    QUERIES_FILE.schema(definitions)
    RUNNABLE.schema(definitions)
    top = definitions.pop(DIRECTIVE.name)
    assert reference == {"$ref": f"#/$defs/{DIRECTIVE.name}"}
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "Directive.yaml of an Atmo application, as atmo-farm reads it",
        **top,
        "$defs": dict(sorted(definitions.items())),
    }
