"""Where spans go, by the settings."""

from __future__ import annotations

import pytest

from atmo_farm import tracing
from atmo_farm.errors import CannotStart
from atmo_farm.settings import Tracer
from atmo_farm.tracing.collector import collector


@pytest.mark.parametrize(
    ("endpoint", "url"),
    [
        ("", "http://127.0.0.1:4318/v1/traces"),
        ("c:4318", "http://c:4318/v1/traces"),
        ("c", "http://c/v1/traces"),
        ("[::1]:4318", "http://[::1]:4318/v1/traces"),
        ("https://c:443/", "https://c:443/v1/traces"),
        ("http://c:1/otlp", "http://c:1/otlp/v1/traces"),
        ("http://c:1/v1/traces", "http://c:1/v1/traces"),
    ],
)
def test_addresses(endpoint: str, url: str) -> None:
    """With or without scheme and path."""
    found = collector(Tracer(type="collector", collector_endpoint=endpoint))
    assert found is not None and (found.url, found.headers) == (url, {})


@pytest.mark.parametrize(
    "endpoint", ["grpc://c:4317", "http://", "c:99999", "c:x", "c d", "u:p@c", "http://c/?a=b", "c\n"]
)
def test_what_is_no_address(endpoint: str) -> None:
    """The setting is named."""
    with pytest.raises(CannotStart, match=r"tracer\.collector\.endpoint"):
        collector(Tracer(type="collector", collector_endpoint=endpoint))


def test_honeycomb() -> None:
    """By https, with its own headers, which no text of the object shows."""
    found = collector(Tracer(type="honeycomb", honeycomb_api_key="k3y", honeycomb_dataset="d"))
    assert found is not None and found.url == "https://api.honeycomb.io/v1/traces"
    assert found.headers == {"x-honeycomb-team": "k3y", "x-honeycomb-dataset": "d"}
    assert "k3y" not in repr(found)
    with pytest.raises(CannotStart, match="ATMO_TRACER_HONEYCOMB_APIKEY"):
        collector(Tracer(type="honeycomb"))


def test_nothing_is_traced() -> None:
    """Unless the settings say so."""
    assert collector(Tracer()) is None


@pytest.mark.parametrize("module", ["opentelemetry.not_there", "not_there.at_all"])
def test_without_the_extra(module: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What to install is named; where nothing is traced nothing is missed."""
    monkeypatch.setattr(tracing.collector, "NEEDED", ("aiohttp", module))
    with pytest.raises(CannotStart, match=r"pip install 'atmo-farm\[otel\]'"):
        collector(Tracer(type="collector"))
    assert collector(Tracer()) is None
