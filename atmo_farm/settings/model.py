"""The settings as objects. Durations are seconds (`_s`), sizes are bytes."""

from __future__ import annotations

from pathlib import Path
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


@attrs.frozen
class DataSourceSettings:
    """How the data source process reaches databases and Redis; a Directive's own keys of a connection come first."""

    pool_size: int = 8
    """Connections to each database."""
    connect_timeout_s: float = 5.0
    statement_timeout_s: float | None = None
    """None: as long as the message that asks may take."""
    idle_timeout_s: float = 300.0
    redis_timeout_s: float = 5.0
    share: float = 0.75
    """The part of a database's connections that one handler may use at once."""
    max_rows: int = 10_000
    max_result_size: int = 16 << 20
    """Bytes of a result as JSON."""
    cache_size: int = 64 << 20
    """Bytes of the in-memory cache."""
    slow_query_s: float = 1.0
    """A query that takes longer gets a log line; 0: none does."""
    comments: bool = True
    """Statements carry a comment that names the application and the handler."""


@attrs.frozen
class Tracer:
    """Atmo's ATMO_TRACER_* values: whether traces are sent, and to whom (`tracing.collector`)."""

    type: Literal["none", "collector", "honeycomb"] = "none"
    probability: float = 0.5
    """Of messages that are in no trace yet."""
    service_name: str = "atmo"
    collector_endpoint: str = ""
    honeycomb_endpoint: str = ""
    honeycomb_api_key: str = attrs.field(default="", repr=False)
    honeycomb_dataset: str = ""


@attrs.frozen
class Settings:
    """All settings in force; `Settings()` is the defaults."""

    run_dir: Path | None = None
    """None: by the precedence of `folders.folders`."""
    state_dir: Path | None = None
    """None: by the precedence of `folders.folders`."""
    log_level: Literal["trace", "debug", "info", "warn", "error"] = "info"
    log_format: Literal["auto", "text", "json", "journal"] = "auto"
    """auto: text on a terminal, native entries under systemd's journal, JSON lines anywhere else."""
    log_file: Path | None = None
    """None: standard error."""
    monitor_address: str | None = None
    """Where metrics and health are served by HTTP: `off`, `unix:PATH` or HOST:PORT. None: 127.0.0.1:9464, or a free
    port when that is taken."""
    app_name: str = ""
    """What log lines call the application; empty: the Directive's identifier."""
    bundle_path: Path | None = None
    """The application that `start` runs when its command line names none."""
    wait: bool = False
    """Wait for the application's files to appear, looking each second."""
    watch: bool = False
    """Reload when the application's files have changed."""
    require_connections: bool = False
    """End with exit code 3 when a connection is down at the start, instead of waiting for it."""
    run_schedules: bool = True
    """False: the schedules of the Directive stay off."""
    headless: bool = False
    """Atmo's headless mode; not served by this build, `start` refuses it."""
    http_port: int = 8080
    """Of request handlers; unused while this build serves none."""
    tls_port: int = 443
    """Of request handlers; unused while this build serves none."""
    domain: str = ""
    """Of request handlers; unused while this build serves none."""
    heartbeat_timeout_s: float = 10.0
    """A child whose last heartbeat is older is killed and replaced."""
    drain_deadline_s: float = 25.0
    """How long a child that was told to stop may finish what it holds."""
    boot_timeout_s: float = 30.0
    """How long a child may take until it is ready or says what it waits for."""
    load_timeout_s: float = 60.0
    """How long reading, checking and compiling an application may take."""
    spool_size: int = 64 << 20
    """Bytes of dead letters that one handler may keep on this machine."""
    data_sources: DataSourceSettings = DataSourceSettings()
    tracer: Tracer = Tracer()
    defaults: HandlerDefaults = HandlerDefaults()
