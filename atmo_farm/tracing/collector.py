"""Where spans go: the settings' collector, or Honeycomb."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.util import find_spec
from urllib.parse import urlsplit

import attrs

from atmo_farm.errors import CannotStart
from atmo_farm.settings import Tracer as TracerSettings

PATH = "/v1/traces"
"""Of OTLP/HTTP, below the collector's own."""

COLLECTOR = "http://127.0.0.1:4318"
HONEYCOMB = "https://api.honeycomb.io"

NEEDED = ("aiohttp", "opentelemetry.sdk.trace", "opentelemetry.exporter.otlp.proto.common.trace_encoder")
"""What the extra `otel` installs."""


@attrs.frozen
class Collector:
    """Whom to send to."""

    url: str
    headers: Mapping[str, str] = attrs.field(repr=False)


def collector(settings: TracerSettings) -> Collector | None:
    """None where nothing is traced. CannotStart if what is needed is not installed, or the address is none."""
    if settings.type == "none":
        return None
    if not all(map(_installed, NEEDED)):
        raise CannotStart("traces need the extra `otel`: pip install 'atmo-farm[otel]', or set ATMO_TRACER_TYPE=none")
    if settings.type == "collector":
        return Collector(url(settings.collector_endpoint or COLLECTOR, "http", "tracer.collector.endpoint"), {})
    if not settings.honeycomb_api_key:
        raise CannotStart("tracer.type is honeycomb, and there is no key; set ATMO_TRACER_HONEYCOMB_APIKEY")
    headers = {"x-honeycomb-team": settings.honeycomb_api_key}
    if settings.honeycomb_dataset:
        headers["x-honeycomb-dataset"] = settings.honeycomb_dataset
    return Collector(url(settings.honeycomb_endpoint or HONEYCOMB, "https", "tracer.honeycomb.endpoint"), headers)


def url(endpoint: str, scheme: str, key: str) -> str:
    """HOST:PORT or a URL, with or without the path, as the URL to send to; CannotStart for what is neither."""
    try:
        parts = urlsplit(endpoint if "://" in endpoint else f"{scheme}://{endpoint}")
        fits = parts.scheme in ("http", "https") and parts.hostname and not parts.query and parts.port != 0
    except ValueError:
        fits = False
    if not fits or not endpoint.isprintable() or " " in endpoint or "@" in endpoint:
        raise CannotStart(
            f"{key} is not HOST:PORT or http[s]://HOST:PORT; OTLP over HTTP is spoken, often at port 4318"
        )
    path = parts.path.rstrip("/")
    return f"{parts.scheme}://{parts.netloc}{path.removesuffix(PATH)}{PATH}"


def _installed(module: str) -> bool:
    try:
        return find_spec(module) is not None
    except ModuleNotFoundError:  # not even its package
        return False
