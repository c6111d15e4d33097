"""Every setting, once: its key in the settings file, its field, its variable and its flag."""

from __future__ import annotations

import re

import attrs

from atmo_farm.settings.parsers import Parser, address, boolean, choice, duration, integer, number, path, size, text


@attrs.frozen
class Key:
    """One setting."""

    path: str
    """In the settings file: `log.level`."""
    field: str
    """In `Settings`: `log_level`, `defaults.workers`."""
    parse: Parser = attrs.field(repr=False)
    atmo: str = ""
    """The variable that Atmo reads for it; empty: only ATMO_FARM_… below."""
    flag: str = ""
    """The option of `atmo-farm start`, if there is one."""
    secret: bool = False
    """Never shown."""

    @property
    def environment(self) -> str:
        """The variable that sets it: Atmo's own, else ATMO_FARM_ and the key in capitals."""
        return self.atmo or "ATMO_FARM_" + re.sub(r"([A-Z])", r"_\1", self.path).replace(".", "_").upper()

    @property
    def is_duration(self) -> bool:
        """Whether the value is seconds; the unit is in the field's name."""
        return self.field.endswith("_s")

    @property
    def is_size(self) -> bool:
        """Whether the value is bytes."""
        return self.field.endswith(("memory_limit", "_size")) and self.field != "data_sources.pool_size"


_DAY = 86400.0

KEYS = (
    Key("runDir", "run_dir", path, flag="--run-dir"),
    Key("stateDir", "state_dir", path, flag="--state-dir"),
    Key("log.level", "log_level", choice("trace", "debug", "info", "warn", "error"), "ATMO_LOG_LEVEL", "--log-level"),
    Key("log.format", "log_format", choice("auto", "text", "json", "journal"), flag="--log-format"),
    Key("log.file", "log_file", path, "ATMO_LOG_FILE"),
    Key("monitor.address", "monitor_address", address, flag="--monitor-address"),
    Key("app.name", "app_name", text, "ATMO_APP_NAME", "--app-name"),
    Key("app.bundlePath", "bundle_path", path, "ATMO_BUNDLE_PATH"),
    Key("app.wait", "wait", boolean, "ATMO_WAIT"),
    Key("app.watch", "watch", boolean, flag="--watch"),
    Key("app.runSchedules", "run_schedules", boolean, "ATMO_RUN_SCHEDULES"),
    Key("app.headless", "headless", boolean, "ATMO_HEADLESS"),
    Key("requireConnections", "require_connections", boolean, flag="--require-connections"),
    Key("http.port", "http_port", integer(0, 65535), "ATMO_HTTP_PORT"),
    Key("http.tlsPort", "tls_port", integer(0, 65535), "ATMO_TLS_PORT"),
    Key("http.domain", "domain", text, "ATMO_DOMAIN"),
    Key("timeouts.heartbeat", "heartbeat_timeout_s", duration(2, _DAY)),  # beats come each second
    Key("timeouts.drain", "drain_deadline_s", duration(0, _DAY)),
    Key("timeouts.boot", "boot_timeout_s", duration(0.5, _DAY)),
    Key("timeouts.load", "load_timeout_s", duration(1, _DAY)),
    Key("defaults.workers", "defaults.workers", integer(1, 1024), flag="--workers"),
    Key("defaults.maxInFlight", "defaults.max_in_flight", integer(1, 65536)),
    Key("defaults.timeout", "defaults.timeout_s", duration(0.001, _DAY)),
    Key("defaults.memoryLimit", "defaults.memory_limit", size(64 << 10, 4 << 30)),
    Key("defaults.isolation", "defaults.isolation", choice("pooled", "fresh")),
    Key("defaults.pool.warm", "defaults.pool_warm", integer(0, 65536)),
    Key("defaults.pool.max", "defaults.pool_max", integer(1, 65536)),
    Key("defaults.retry.attempts", "defaults.retry_attempts", integer(1, 1_000_000)),
    Key("defaults.retry.initialDelay", "defaults.retry_initial_delay_s", duration(0, _DAY)),
    Key("defaults.retry.maxDelay", "defaults.retry_max_delay_s", duration(0, _DAY)),
    Key("defaults.retry.multiplier", "defaults.retry_multiplier", number(1, 100)),
    Key("defaults.retry.jitter", "defaults.retry_jitter", number(0, 1)),
    Key("deadLetters.spoolSize", "spool_size", size(1 << 10, 1 << 40)),
    Key("dataSources.poolSize", "data_sources.pool_size", integer(1, 1000)),
    Key("dataSources.connectTimeout", "data_sources.connect_timeout_s", duration(0.05, _DAY)),
    Key("dataSources.statementTimeout", "data_sources.statement_timeout_s", duration(0.001, _DAY)),
    Key("dataSources.idleTimeout", "data_sources.idle_timeout_s", duration(1, _DAY)),
    Key("dataSources.redisTimeout", "data_sources.redis_timeout_s", duration(0.05, _DAY)),
    Key("dataSources.share", "data_sources.share", number(0.01, 1)),
    Key("dataSources.maxRows", "data_sources.max_rows", integer(1, 10_000_000)),
    Key("dataSources.maxResult", "data_sources.max_result_size", size(1 << 10, 64 << 20)),
    Key("dataSources.cacheSize", "data_sources.cache_size", size(1 << 10, 64 << 30)),
    Key("dataSources.slowQuery", "data_sources.slow_query_s", duration(0, _DAY)),
    Key("dataSources.comments", "data_sources.comments", boolean),
    Key("tracer.type", "tracer.type", choice("none", "collector", "honeycomb"), "ATMO_TRACER_TYPE"),
    Key("tracer.probability", "tracer.probability", number(0, 1), "ATMO_TRACER_PROBABILITY"),
    Key("tracer.serviceName", "tracer.service_name", text, "ATMO_TRACER_SERVICENAME"),
    Key("tracer.collector.endpoint", "tracer.collector_endpoint", text, "ATMO_TRACER_COLLECTOR_ENDPOINT"),
    Key("tracer.honeycomb.endpoint", "tracer.honeycomb_endpoint", text, "ATMO_TRACER_HONEYCOMB_ENDPOINT"),
    Key("tracer.honeycomb.apiKey", "tracer.honeycomb_api_key", text, "ATMO_TRACER_HONEYCOMB_APIKEY", secret=True),
    Key("tracer.honeycomb.dataset", "tracer.honeycomb_dataset", text, "ATMO_TRACER_HONEYCOMB_DATASET"),
)
