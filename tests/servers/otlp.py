"""A collector for traces: OTLP/HTTP with protobuf, read by the protocol's own classes.

`python -m tests.servers.otlp PORT FILE` is the server: each span that it takes is a line of FILE.
"""

from __future__ import annotations

import json
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import attrs

from tests.servers.process import ServerProcess, free_port

KINDS = {"SPAN_KIND_INTERNAL", "SPAN_KIND_CLIENT", "SPAN_KIND_PRODUCER", "SPAN_KIND_CONSUMER"}


@attrs.frozen
class Received:
    """One span as the collector has it; ids in hex."""

    name: str
    kind: str
    trace: str
    id: str
    parent: str
    state: str
    began_ns: int
    ended_ns: int
    error: str
    attributes: dict[str, str]
    resource: dict[str, str]


class OtlpServer(ServerProcess):
    """The server in a process of its own; what it took outlives it."""

    def __init__(self, folder: Path, answer: int = 200):
        folder.mkdir(parents=True, exist_ok=True)
        self.file = folder / "spans"
        self.file.touch()
        port = free_port()
        command = (sys.executable, "-m", "tests.servers.otlp", str(port), str(self.file), str(answer))
        super().__init__(command, port, folder)

    @property
    def address(self) -> str:
        """As ATMO_TRACER_COLLECTOR_ENDPOINT has it."""
        return f"127.0.0.1:{self.port}"

    def spans(self) -> list[Received]:
        """All that were taken, in the order of their ends as the farm sent them."""
        return [
            Received(**json.loads(line))
            for line in self.file.read_text().splitlines(keepends=True)
            if line[-1:] == "\n"
        ]

    def headers(self) -> str:
        """Of the requests, as lines of the log."""
        return self.log.read_text()


def lines(body: bytes) -> list[str]:
    """Its spans as `Received`, in JSON."""
    from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
    from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status

    found = []
    for resource in ExportTraceServiceRequest.FromString(body).resource_spans:
        whose = plain(resource.resource.attributes)
        for span in (span for scope in resource.scope_spans for span in scope.spans):
            kind = Span.SpanKind.Name(span.kind)
            assert kind in KINDS and len(span.trace_id) == 16 and len(span.span_id) == 8
            assert 0 < span.start_time_unix_nano <= span.end_time_unix_nano
            assert (span.status.code == Status.STATUS_CODE_ERROR) == bool(span.status.message)
            ids = span.trace_id.hex(), span.span_id.hex(), span.parent_span_id.hex()
            times = span.start_time_unix_nano, span.end_time_unix_nano
            told = (span.name, kind.removeprefix("SPAN_KIND_").lower(), *ids, span.trace_state, *times)
            received = Received(*told, span.status.message, plain(span.attributes), whose)
            found.append(json.dumps(attrs.asdict(received)))
    return found


def plain(attributes: Any) -> dict[str, str]:
    """Values as texts."""
    return {one.key: str(getattr(one.value, one.value.WhichOneof("value"))) for one in attributes}


class Handler(BaseHTTPRequestHandler):
    """POST /v1/traces."""

    protocol_version = "HTTP/1.1"
    file: Path
    answer = 200

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        status = self.answer
        if (self.path, self.headers["Content-Type"]) != ("/v1/traces", "application/x-protobuf"):
            status = 404
        elif status == 200:
            try:
                with self.file.open("a") as file:
                    file.writelines(f"{line}\n" for line in lines(body))
            except Exception as error:
                print(f"refused: {error!r}", flush=True)
                status = 400
        print(dict(self.headers), flush=True)
        self.send_response(status)
        self.send_header("Content-Type", "application/x-protobuf")
        self.send_header("Content-Length", "0")
        self.end_headers()


if __name__ == "__main__":
    Handler.file, Handler.answer = Path(sys.argv[2]), int(sys.argv[3])
    ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
