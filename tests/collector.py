"""A collector for OTLP over HTTP on a port of this machine, which keeps what it is sent."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import KeyValue
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from stockflow.embedded.process import LOOPBACK


class Collector:
    """What came in so far; `address` is where to send it."""

    def __init__(self, address: str) -> None:
        self.address = address
        self.spans: list[Span] = []
        self.resources: list[dict[str, Any]] = []
        self.arrived = threading.Event()

    def take(self, body: bytes) -> None:
        for group in ExportTraceServiceRequest.FromString(body).resource_spans:
            self.resources.append(values(group.resource.attributes))
            self.spans += [span for scope in group.scope_spans for span in scope.spans]
        self.arrived.set()


def values(attributes: Any) -> dict[str, Any]:
    """Attributes as plain values."""

    def plain(attribute: KeyValue) -> Any:
        return getattr(attribute.value, str(attribute.value.WhichOneof("value")))

    return {attribute.key: plain(attribute) for attribute in attributes}


@contextmanager
def collecting() -> Iterator[Collector]:
    """A collector while the block runs."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            assert self.path == "/v1/traces"
            collector.take(self.rfile.read(int(self.headers["Content-Length"])))
            self.send_response(200)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:
            """Nobody reads it."""

    server = ThreadingHTTPServer((LOOPBACK, 0), Handler)
    collector = Collector(f"http://{LOOPBACK}:{server.server_address[1]}")
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield collector
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
