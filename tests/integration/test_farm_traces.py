"""Traces of a real farm, at a collector that reads them with OpenTelemetry's own classes."""

from __future__ import annotations

import re
import time
import urllib.request
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from kafka import KafkaProducer

from atmo_farm.tracing.exporter import MOST_WAITING
from tests.data import Asker, Refused, data_directive, sqlite
from tests.farm import Farm, nats_directive, wait_for, write_app
from tests.kafka import new_topic, read_all
from tests.servers.kafka import KafkaServer
from tests.servers.nats import NatsServer
from tests.servers.otlp import OtlpServer, Received
from tests.servers.process import free_port

TRACE, SPAN = "a" * 32, "b" * 16
PARENT = f"00-{TRACE}-{SPAN}-01"


@pytest.fixture
def collector(tmp_path: Path) -> Iterator[OtlpServer]:
    server = OtlpServer(tmp_path / "otlp")
    server.start()
    yield server
    server.stop()


def tracing(collector: OtlpServer, probability: str = "1") -> dict[str, str]:
    return {
        "ATMO_TRACER_TYPE": "collector",
        "ATMO_TRACER_COLLECTOR_ENDPOINT": collector.address,
        "ATMO_TRACER_PROBABILITY": probability,
        "ATMO_TRACER_SERVICENAME": "shop",
    }


def named(spans: list[Received], name: str) -> Received:
    (found,) = [span for span in spans if span.name == name]
    return found


def metric(address: str, name: str) -> int:
    """Of the only handler."""
    with urllib.request.urlopen(f"http://{address}/metrics", timeout=10) as answer:
        return int(float(re.findall(rf"^atmo_farm_{name}\{{.*\}} (\S+)$", answer.read().decode(), re.MULTILINE)[0]))


def test_one_trace_from_header_to_answer(nats_server: NatsServer, tmp_path: Path, collector: OtlpServer) -> None:
    """The message's span belongs to the sender's, and holds the functions, the query and what is published, in whose
    span the receiver goes on."""
    database = sqlite(tmp_path / "shop.db")
    database.run("CREATE TABLE items (id INTEGER PRIMARY KEY, name TEXT)")
    handlers = (
        "resource: traced.db\nname: reader\nsteps: [{fn: hello}, {fn: querying}]\nresponse: hello",
        "resource: traced.fail\nname: failer\nsteps: [{fn: failing}]",
    )
    queries = {"Items": "SELECT id, name FROM items"}
    directive = data_directive(nats_server.url, *handlers, databases={"default": database.yaml()}, queries=queries)
    app = write_app(tmp_path / "app", directive, ("c", "hello"), ("c", "querying"), ("c", "failing"))
    ask = Asker(nats_server.url)
    with Farm(app, environ=tracing(collector)):
        headers = {"traceparent": PARENT, "tracestate": "vendor=1"}
        answer = ask.message("traced.db", "select Items", headers)
        with pytest.raises(Refused):
            ask("traced.fail", "418 no coffee")
        wait_for(lambda: len(collector.spans()) == 7)
    spans = collector.spans()
    whole = {span.name: span for span in spans if span.trace == TRACE}
    message, send = whole["process traced.db"], whole["send answer"]
    assert (message.parent, message.kind, message.state, message.error) == (SPAN, "consumer", "vendor=1", "")
    assert (send.parent, send.kind) == (message.id, "producer")
    assert answer.headers == {"traceparent": f"00-{TRACE}-{send.id}-01", "tracestate": "vendor=1"}
    for name in ("default::hello", "default::querying"):
        assert (whole[name].parent, whole[name].kind) == (message.id, "internal")
    query = whole["query Items"]
    assert (query.parent, query.kind) == (whole["default::querying"].id, "client")
    assert {"db.system.name": "sqlite", "db.operation.name": "select"}.items() <= query.attributes.items()
    assert message.began_ns <= whole["default::querying"].began_ns <= query.began_ns
    assert query.ended_ns <= whole["default::querying"].ended_ns <= send.began_ns <= send.ended_ns <= message.ended_ns
    assert {
        "messaging.system": "nats",
        "messaging.destination.name": "traced.db",
        "atmo.handler": "reader",
        "atmo.attempt": "1",
    }.items() <= message.attributes.items()
    assert {"service.name": "shop", "atmo.app": "com.example.test"}.items() <= message.resource.items()
    failed = named(spans, "process traced.fail")
    assert (failed.parent, failed.error, failed.attributes["error.type"]) == ("", "no coffee", "error")
    assert named(spans, "default::failing").error and named(spans, "default::failing").parent == failed.id


@pytest.mark.parametrize("driver", ["kafka-python", "librdkafka"])
def test_a_trace_over_kafka(tmp_path: Path, kafka_server: KafkaServer, collector: OtlpServer, driver: str) -> None:
    """In by a record's header, out by the output's."""
    incoming, outgoing = new_topic(kafka_server), new_topic(kafka_server)
    directive = (
        f"connections:\n  kafka: {{brokerAddress: {kafka_server.address()}, driver: {driver}}}\nhandlers:\n"
        f"  - {{type: stream, source: kafka, resource: {incoming}, startAt: earliest, steps: [{{fn: hello}}], "
        f"respondTo: {outgoing}, deadLetter: off}}\n"
    )
    with closing(KafkaProducer(bootstrap_servers=kafka_server.address())) as producer:
        headers = [("traceparent", PARENT.encode()), ("tracestate", b"v=1")]
        producer.send(incoming, b"you", headers=headers).get(30)
    with Farm(write_app(tmp_path / "app", directive, ("c", "hello")), environ=tracing(collector)):
        (output,) = wait_for(lambda: read_all(kafka_server, outgoing))
        wait_for(lambda: len(collector.spans()) == 3)
    spans = collector.spans()
    message, send = named(spans, f"process {incoming}"), named(spans, f"send {outgoing}")
    assert (message.trace, message.parent, message.attributes["messaging.system"]) == (TRACE, SPAN, "kafka")
    assert dict(output.headers) == {"traceparent": f"00-{TRACE}-{send.id}-01".encode(), "tracestate": b"v=1"}


def test_sampling(nats_server: NatsServer, tmp_path: Path, collector: OtlpServer) -> None:
    """Who begins a trace decides for all that follows; of those that begin here, the share that the settings say."""
    app = write_app(
        tmp_path / "app", nats_directive(nats_server.url, "resource: sampled\nsteps: [{fn: hello}]"), ("c", "hello")
    )
    ask = Asker(nats_server.url)
    with Farm(app, environ=tracing(collector, probability="0.3")):
        for number in range(200):
            trace, flags = f"{number + 1:032x}", number % 2
            answer = ask.message("sampled", b"", {"traceparent": f"00-{trace}-{SPAN}-0{flags}"})
            assert answer.headers["traceparent"].startswith(f"00-{trace}-")
            assert answer.headers["traceparent"].endswith(f"-0{flags}")
        begun = [ask.message("sampled", b"").headers["traceparent"] for _ in range(300)]
        sampled = {parent.split("-")[1] for parent in begun if int(parent[-2:], 16) & 1}
        wait_for(lambda: len(collector.spans()) == 3 * (100 + len(sampled)))
    traces = {span.trace for span in collector.spans()}
    assert {trace for trace in traces if int(trace, 16) <= 200} == {f"{number + 1:032x}" for number in range(1, 200, 2)}
    assert {trace for trace in traces if int(trace, 16) > 200} == sampled
    assert 45 < len(sampled) < 135  # 90 expected, 5 standard deviations off


def test_a_collector_that_is_away(nats_server: NatsServer, tmp_path: Path, collector: OtlpServer) -> None:
    """It stands, ends and comes back: messages do not notice, what does not fit is counted, and no end waits for it."""
    app = write_app(
        tmp_path / "app", nats_directive(nats_server.url, "resource: away\nsteps: [{fn: hello}]"), ("c", "hello")
    )
    ask, http = Asker(nats_server.url), f"127.0.0.1:{free_port()}"
    with Farm(app, environ=tracing(collector) | {"ATMO_FARM_MONITOR_ADDRESS": http}) as farm:
        collector.pause()
        answers = ask.together(*[("away", b"")] * 2000)
        assert set(answers) == {b"hello, "}
        collector.kill()
        farm.wait_log(level="warn", collector=f"http://{collector.address}/v1/traces")
        collector.start()
        farm.wait_log(message="traces are taken again")
        wait_for(lambda: metric(http, "spans_total") + metric(http, "spans_dropped_total") == 6000)
        assert metric(http, "spans_dropped_total") == 6000 - MOST_WAITING
        assert len(collector.spans()) == MOST_WAITING
        assert len([line for line in farm.log() if "collector" in line]) == 2
        collector.pause()
        ask("away", "the last one")
        began = time.monotonic()
        assert farm.stop() == 0
        assert time.monotonic() - began < 3


def test_a_collector_that_refuses(nats_server: NatsServer, tmp_path: Path) -> None:
    """For good: counted, not sent once more, told once. The key of Honeycomb goes to it, and nowhere else."""
    app = write_app(
        tmp_path / "app", nats_directive(nats_server.url, "resource: refused\nsteps: [{fn: hello}]"), ("c", "hello")
    )
    server = OtlpServer(tmp_path / "otlp", answer=401)
    server.start()
    environ = {
        "ATMO_TRACER_TYPE": "honeycomb",
        "ATMO_TRACER_PROBABILITY": "1",
        "ATMO_TRACER_HONEYCOMB_ENDPOINT": f"http://{server.address}",
        "ATMO_TRACER_HONEYCOMB_APIKEY": "canary-of-honeycomb",
        "ATMO_TRACER_HONEYCOMB_DATASET": "shop",
    }
    with Farm(app, environ=environ) as farm:
        Asker(nats_server.url)("refused", "")
        line = farm.wait_log(level="warn", handler="nats-refused")
        assert line["reason"] == "it answered 401"
        assert "canary-of-honeycomb" not in farm.log_file.read_text()
    server.stop()
    assert "'x-honeycomb-team': 'canary-of-honeycomb', 'x-honeycomb-dataset': 'shop'" in server.log.read_text()


@pytest.mark.parametrize(
    ("environ", "told"),
    [
        ({"ATMO_TRACER_TYPE": "honeycomb"}, "there is no key; set ATMO_TRACER_HONEYCOMB_APIKEY"),
        (
            {"ATMO_TRACER_TYPE": "collector", "ATMO_TRACER_COLLECTOR_ENDPOINT": "grpc://c:4317"},
            "tracer.collector.endpoint is not HOST:PORT or http[s]://HOST:PORT",
        ),
    ],
)
def test_settings_that_cannot_be(tmp_path: Path, environ: dict[str, str], told: str) -> None:
    """One line, exit code 3."""
    app = write_app(
        tmp_path / "app", nats_directive("nats://127.0.0.1:1", "resource: a\nsteps: [{fn: hello}]"), ("c", "hello")
    )
    farm = Farm(app, environ=environ).start()
    assert farm.process is not None
    assert farm.process.wait(20) == 3
    assert told in (farm.folder / "stderr").read_text()
