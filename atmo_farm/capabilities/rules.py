"""The Directive's `capabilities:` as objects: what functions of this application may do."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import attrs


@attrs.frozen
class Rules:
    """What is on. Atmo has everything on unless the Directive says otherwise."""

    logger: bool = True
    get_field: bool = True
    set_field: bool = True

    @classmethod
    def from_directive(cls, capabilities: Mapping[str, Any]) -> Rules:
        """Read the validated `capabilities` mapping of a Directive; a missing key keeps its default."""
        handler = capabilities.get("requestHandler") or {}
        enabled = handler.get("enabled", True)
        return cls(
            logger=(capabilities.get("logger") or {}).get("enabled", True),
            get_field=enabled and handler.get("allowGetField", True),
            set_field=enabled and handler.get("allowSetField", True),
        )
