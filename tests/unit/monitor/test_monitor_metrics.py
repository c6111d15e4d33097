"""What stands in /metrics, and that the dashboard and the alerts ask for nothing else."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus_client.openmetrics import parser as openmetrics
from prometheus_client.parser import text_string_to_metric_families

from atmo_farm.ipc import gauges, histogram
from atmo_farm.ipc.arena import Field
from atmo_farm.ipc.cards import Kind, Life
from atmo_farm.ipc.gauges import SourceFigures
from atmo_farm.ipc.histogram import Timed
from atmo_farm.monitor import metrics
from atmo_farm.monitor.metrics import FarmCollector, render
from tests.unit.monitor.made import MadeFarm

CONF = Path(__file__).parents[3] / "conf"
OPERATIONS = Path(__file__).parents[3] / "docs/operations.md"

Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]


def made() -> MadeFarm:
    """Everything that there may be."""
    farm = MadeFarm()
    for number in range(2):
        numbers = farm.worker("a", number=number, pid=os.getpid())
        numbers[Field.RECEIVED], numbers[Field.OK], numbers[Field.RETRIED] = 10, 7, 1
        numbers[Field.IN_FLIGHT] = 2
        numbers[Field.KILLED] = 1
        numbers[Field.PROGRESS_NS] = 1
        gauges.write_lag(numbers, {0: 5, 1: 3 + number})
        for seconds in (1e-6, 0.001, 0.5, 100.0):
            histogram.count(numbers, Timed.ATTEMPT, seconds)
        histogram.count(numbers, Timed.DATABASE, 0.01)
    gone = farm.worker("a", life=Life.RETIRED)
    gone[Field.RECEIVED], gone[Field.IN_FLIGHT] = 100, 99
    farm.worker("data-sources", Kind.DATA_SOURCES, sources=("cache", "database default"))
    figures = SourceFigures(is_up=False, connections=5, busy=3, waiting=2, outages=4)
    gauges.write_source(farm.workers[-1][1], 1, figures)
    farm.worker("monitor", Kind.MONITOR)
    return farm


def families(farm: MadeFarm) -> list[Any]:
    body, _ = render("text/plain", FarmCollector(*farm.seen()))
    return list(text_string_to_metric_families(body.decode()))


def samples(farm: MadeFarm) -> Samples:
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in families(farm)
        for sample in family.samples
    }


def value(found: Samples, metric: str, **labels: str) -> float:
    return found[f"atmo_farm_{metric}", frozenset(labels.items())]


def test_counts_of_workers_and_of_those_that_are_gone_are_added() -> None:
    """But what is, only over those that are there; a lag that all see counts once."""
    found = samples(made())
    assert value(found, "received_total", handler="a") == 120
    assert value(found, "settled_total", handler="a", outcome="ok") == 14
    assert value(found, "in_flight", handler="a") == 4
    assert value(found, "lag", handler="a", partition="0") == 5
    assert value(found, "lag", handler="a", partition="1") == 4
    assert value(found, "restarts_total", kind="consumer", name="a", cause="signal") == 2
    assert value(found, "workers", kind="consumer", name="a", state="ready") == 2
    assert value(found, "source_up", source="database default") == 0
    assert value(found, "source_connections", source="database default", state="idle") == 2
    assert value(found, "ready") == 0 and value(found, "handler_ready", handler="a") == 1
    assert value(found, "memory_bytes", kind="consumer", name="a", worker="0") > 1 << 20


def test_histograms_are_cumulative() -> None:
    """And have all in their last bucket, their count and sum beside."""
    found = samples(made())
    buckets = {
        float(dict(labels)["le"]): count
        for (name, labels), count in found.items()
        if name == "atmo_farm_attempt_seconds_bucket"
    }
    ordered = [buckets[bound] for bound in sorted(buckets)]
    assert ordered == sorted(ordered) and len(buckets) == 21
    assert [buckets[bound] for bound in (6.4e-05, 0.000512, 0.001024, 0.524288, 33.554432, float("inf"))] == [
        2, 2, 4, 6, 6, 8,
    ]  # fmt: skip
    assert value(found, "attempt_seconds_count", handler="a") == 8
    assert value(found, "attempt_seconds_sum", handler="a") == pytest.approx(201.002, abs=1e-3)


def test_both_formats_by_negotiation() -> None:
    """As their own parsers read them."""
    farm = made()
    body, kind = render("application/openmetrics-text; version=1.0.0, text/plain;q=0.5", FarmCollector(*farm.seen()))
    assert kind.startswith("application/openmetrics-text") and body.endswith(b"# EOF\n")
    named = {family.name for family in openmetrics.text_string_to_metric_families(body.decode())}
    body, kind = render("*/*", FarmCollector(*farm.seen()))
    assert kind.startswith("text/plain; version=0.0.4")
    assert {family.name.removesuffix("_info") for family in families(farm)} == {
        name.removesuffix("_info") for name in named
    }


def test_an_empty_farm_has_metrics_too() -> None:
    """Before the first card is written."""
    farm = MadeFarm()
    farm.card = None
    assert value(samples(farm), "ready") == 0


def test_labels_are_bounded() -> None:
    """Whatever happens: handlers, workers and partitions that there are, and words of ours."""
    farm = made()
    gauges.write_lag(farm.workers[0][1], dict.fromkeys(range(1000), 1))
    assert len(samples(farm)) < 300
    known = {"handler", "partition", "kind", "name", "state", "cause", "call", "outcome", "worker", "source", "le"}
    known |= {"app", "app_version", "version", "python"}
    assert {label for _, labels in samples(farm) for label, _ in labels} <= known


def asked() -> dict[str, str]:
    """Every expression of the alerts and the dashboard, by its title."""
    alerts = yaml.safe_load((CONF / "prometheus-alerts.yaml").read_text())
    found = {rule["alert"]: rule["expr"] for group in alerts["groups"] for rule in group["rules"]}
    dashboard = json.loads((CONF / "grafana-dashboard.json").read_text())
    for panel in dashboard["panels"]:
        for target in panel.get("targets", ()):
            found[f"{panel['title']} {target['refId']}"] = target["expr"]
    for variable in dashboard["templating"]["list"]:
        if variable["type"] == "query":
            found[variable["name"]] = variable["query"]["query"]
    return found


@pytest.mark.parametrize(("title", "expression"), asked().items(), ids=lambda text: text.split("(")[0][:40])
def test_dashboard_and_alerts_ask_for_what_there_is(title: str, expression: str) -> None:
    """Metrics, their labels, and the values of labels that are words of ours."""
    found = samples(made())
    labels_of: dict[str, set[str]] = {}
    values_of: dict[str, set[str]] = {}
    for name, labels in found:
        labels_of.setdefault(name, {"instance", "job", "le"}).update(dict(labels))
        for label, text in labels:
            values_of.setdefault(label, set()).add(text)
    names = re.findall(r"\batmo_farm_\w+", expression)
    assert names or title == "AtmoFarmDown"
    assert set(names) <= labels_of.keys(), title
    for name, selector in re.findall(r"\b(atmo_farm_\w+)\{([^}]*)\}", expression):
        for label, operator, text in re.findall(r'(\w+)\s*(=~|!=|=)\s*"([^"]*)"', selector):
            assert label in labels_of[name], (title, label)
            assert operator == "=~" or text in values_of[label], (title, text)
    for group in re.findall(r"\bby \(([^)]*)\)", expression):
        for label in re.split(r",\s*", group):
            assert all(label in labels_of[name] for name in names), (title, label)


def test_every_metric_is_explained() -> None:
    """In docs/operations.md; and that explains none that there is not."""
    text = OPERATIONS.read_text()
    explained = set(re.findall(r"^\| `(atmo_farm_\w+)", text, re.MULTILINE))
    assert explained == {family.name + ("_total" if family.type == "counter" else "") for family in families(made())}
    assert set(metrics.CAUSES) <= set(re.findall(r"`(\w+)`", text))
