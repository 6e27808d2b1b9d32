"""
A collector of OpenTelemetry: takes OTLP/HTTP, decodes it by the official messages, and keeps it.

    python -m tests.support.collector PORT FILE      each span and metric becomes a line of JSON
"""

from __future__ import annotations

import gzip
import json
import sys
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import (
    ExportMetricsServiceRequest,
    ExportMetricsServiceResponse,
)
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)

KINDS = ("unspecified", "internal", "server", "client", "producer", "consumer")


def spans(body: bytes) -> Iterator[dict[str, Any]]:
    """The spans of a request to ``/v1/traces``; times in nanoseconds."""
    message = ExportTraceServiceRequest.FromString(body)
    for of_resource in message.resource_spans:
        resource = attributes(of_resource.resource.attributes)
        for scope in of_resource.scope_spans:
            for span in scope.spans:
                yield {
                    "span": span.name,
                    "trace": span.trace_id.hex(),
                    "id": span.span_id.hex(),
                    "parent": span.parent_span_id.hex(),
                    "kind": KINDS[span.kind],
                    "begin": span.start_time_unix_nano,
                    "end": span.end_time_unix_nano,
                    "attributes": attributes(span.attributes),
                    "events": {event.name: event.time_unix_nano for event in span.events},
                    "failed": span.status.code == 2,
                    "why": span.status.message,
                    "resource": resource,
                    "scope": scope.scope.name,
                    "schema": scope.schema_url,
                }


def metrics(body: bytes) -> Iterator[dict[str, Any]]:
    """The metrics of a request to ``/v1/metrics``."""
    message = ExportMetricsServiceRequest.FromString(body)
    for of_resource in message.resource_metrics:
        resource = attributes(of_resource.resource.attributes)
        for scope in of_resource.scope_metrics:
            for metric in scope.metrics:
                kind = metric.WhichOneof("data")
                yield {
                    "metric": metric.name,
                    "unit": metric.unit,
                    "kind": kind,
                    "points": [point(one, kind) for one in getattr(metric, kind).data_points],
                    "resource": resource,
                }


def point(given: Any, kind: str) -> dict[str, Any]:
    """One value of a metric with its attributes."""
    found = {"attributes": attributes(given.attributes)}
    if kind == "histogram":
        buckets = [*given.bucket_counts]
        assert len(buckets) == len(given.explicit_bounds) + 1, given
        assert sum(buckets) == given.count, given
        return {**found, "count": given.count, "sum": given.sum, "buckets": buckets}
    return {**found, "value": getattr(given, given.WhichOneof("value"))}


def attributes(given: Any) -> dict[str, Any]:
    """Attributes by name."""
    return {one.key: value(one.value) for one in given}


def value(given: Any) -> Any:
    """The value of an attribute."""
    kind = given.WhichOneof("value")
    found = getattr(given, kind)
    return [value(one) for one in found.values] if kind == "array_value" else found


class Collector(ThreadingHTTPServer):
    """
    Listens on this machine, and answers in threads.

    :param keep: called with each span and metric, in one thread at a time
    :param port: 0 for any
    :ivar status: what it answers
    :ivar hangs: None, or what its answers wait for
    :ivar headers: of the last request
    """

    daemon_threads = True
    block_on_close = False

    def __init__(self, keep: Callable[[dict[str, Any]], object], port: int = 0) -> None:
        super().__init__(("127.0.0.1", port), _Handler)
        self.keep = keep
        self.lock = threading.Lock()
        self.status = 200
        self.hangs: threading.Event | None = None
        self.headers: Any = None
        self.asked = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Collector

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if self.headers["Content-Encoding"] == "gzip":
            body = gzip.decompress(body)
        self.server.headers = self.headers
        self.server.asked += 1
        if self.server.hangs is not None:
            self.server.hangs.wait()
            return
        answer: Any
        if self.path == "/v1/traces":
            found, answer = [*spans(body)], ExportTraceServiceResponse()
        elif self.path == "/v1/metrics":
            found, answer = [*metrics(body)], ExportMetricsServiceResponse()
        else:
            self.send_error(404)
            return
        if self.server.status == 200:
            with self.server.lock:
                for one in found:
                    self.server.keep(one)
        said = answer.SerializeToString()
        self.send_response(self.server.status)
        self.send_header("Content-Type", "application/x-protobuf")
        self.send_header("Content-Length", str(len(said)))
        self.end_headers()
        self.wfile.write(said)

    def log_message(self, *_: Any) -> None:
        pass


def main(port: str, path: str) -> None:
    """Serve until the end of the process."""
    with open(path, "a", buffering=1, encoding="utf-8") as file:
        Collector(lambda found: file.write(json.dumps(found) + "\n"), int(port)).serve_forever()


if __name__ == "__main__":
    main(*sys.argv[1:])
