"""How much a handler may use and how often it tries: its own keys over this machine's defaults."""

from __future__ import annotations

import attrs

from atmo_farm.directive.connections import NOWHERE
from atmo_farm.directive.model import Handler, Retry
from atmo_farm.directive.report import Report
from atmo_farm.directive.section import Section
from atmo_farm.settings import HandlerDefaults


def with_limits(handler: Handler, section: Section, defaults: HandlerDefaults, report: Report) -> Handler:
    """The handler with workers, limits, pool and retries filled in."""
    in_flight = section.get("maxInFlight", defaults.max_in_flight)
    pool = section.section("pool") or Section("", NOWHERE)
    most = pool.get("max", defaults.pool_max or in_flight)
    if "warm" in pool.values and pool.get("warm", 0) > most:
        report.error(pool.at("warm"), pool.key("warm"), f"cannot be more than `max`, {most}")
    return attrs.evolve(
        handler,
        workers=section.get("workers", defaults.workers),
        max_in_flight=in_flight,
        timeout_s=section.get("timeout", defaults.timeout_s),
        memory_limit=section.get("memoryLimit", defaults.memory_limit),
        isolation=section.get("isolation", defaults.isolation),
        pool_warm=min(pool.get("warm", defaults.pool_warm), most),
        pool_max=most,
        retry=_retry(section.section("retry"), defaults, report),
    )


def _retry(section: Section | None, defaults: HandlerDefaults, report: Report) -> Retry:
    section = section or Section("", NOWHERE)
    initial = section.get("initialDelay", defaults.retry_initial_delay_s)
    longest = section.get("maxDelay", defaults.retry_max_delay_s)
    if "initialDelay" in section.values and initial > longest:
        report.error(
            section.at("initialDelay"), section.key("initialDelay"), f"is longer than `maxDelay`, {longest:g} s"
        )
    return Retry(
        attempts=section.get("attempts", defaults.retry_attempts),
        initial_delay_s=min(initial, longest),
        max_delay_s=longest,
        multiplier=section.get("multiplier", defaults.retry_multiplier),
        jitter=section.get("jitter", defaults.retry_jitter),
        on=section.get("on", Retry().on),
    )
