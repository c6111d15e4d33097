"""The farm's own settings on this machine: `conf/atmo-farm.yaml`, environment and flags."""

from __future__ import annotations

from typing import Literal

import attrs


@attrs.frozen
class HandlerDefaults:
    """What a handler gets where its Directive entry says nothing."""

    workers: int = 1
    max_in_flight: int = 256
    timeout_s: float = 30.0
    memory_limit: int = 64 << 20
    isolation: Literal["pooled", "fresh"] = "pooled"
    pool_warm: int = 1
    pool_max: int | None = None
    """None: as many as maxInFlight."""
    retry_attempts: int = 5
    retry_initial_delay_s: float = 0.2
    retry_max_delay_s: float = 30.0
    retry_multiplier: float = 2.0
    retry_jitter: float = 0.2
