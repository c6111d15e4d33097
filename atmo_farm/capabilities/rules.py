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
    cache_get: bool = True
    cache_set: bool = True
    database: bool = True
    secrets: Mapping[str, str] | None = attrs.field(default=None, repr=False)
    """What functions may ask for; None: that is off, as it is unless the Directive has secrets."""

    @classmethod
    def from_directive(cls, capabilities: Mapping[str, Any]) -> Rules:
        """Read the validated `capabilities` mapping of a Directive; a missing key keeps its default."""
        handler = capabilities.get("requestHandler") or {}
        enabled = handler.get("enabled", True)
        cache = capabilities.get("cache") or {}
        cache_enabled, cache_rules = cache.get("enabled", True), cache.get("rules") or {}
        secrets = capabilities.get("secrets") or {"enabled": False}
        return cls(
            logger=(capabilities.get("logger") or {}).get("enabled", True),
            get_field=enabled and handler.get("allowGetField", True),
            set_field=enabled and handler.get("allowSetField", True),
            cache_get=cache_enabled and cache_rules.get("allowGet", True),
            cache_set=cache_enabled and cache_rules.get("allowSet", True),
            database=(capabilities.get("db") or {}).get("enabled", True),
            secrets=(secrets.get("values") or {}) if secrets.get("enabled", True) else None,
        )
