"""A sink for traces: takes OTLP over HTTP and keeps the spans."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest


@dataclass(frozen=True)
class Span:
    """One span, as it was exported. Ids are hexadecimal; `parent` is empty for a root."""

    trace_id: str
    span_id: str
    parent: str
    name: str
    service: str
    attributes: dict[str, str]
    links: tuple[str, ...]


@dataclass
class Sink:
    """The spans so far, and all bytes as they came."""

    url: str
    spans: list[Span] = field(default_factory=list)
    raw: list[bytes] = field(default_factory=list)

    def take(self, body: bytes) -> None:
        """Keep the spans of one request."""
        self.raw.append(body)
        for resource in ExportTraceServiceRequest.FromString(body).resource_spans:
            common = {pair.key: pair.value.string_value for pair in resource.resource.attributes}
            for scope in resource.scope_spans:
                for span in scope.spans:
                    attributes = {pair.key: str(pair.value).strip() for pair in span.attributes}
                    self.spans.append(
                        Span(
                            trace_id=span.trace_id.hex(),
                            span_id=span.span_id.hex(),
                            parent=span.parent_span_id.hex(),
                            name=span.name,
                            service=common.get("service.name", ""),
                            attributes=attributes,
                            links=tuple(link.trace_id.hex() for link in span.links),
                        )
                    )

    def of(self, trace_id: str) -> list[Span]:
        """Give the spans of one trace."""
        return [span for span in self.spans if span.trace_id == trace_id]


@contextmanager
def otlp_sink() -> Iterator[Sink]:
    """Listen on a free port of loopback until the block ends."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            sink.take(self.rfile.read(int(self.headers["content-length"])))
            self.send_response(200)
            self.send_header("content-length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            """Say nothing: test output is for failures."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    sink = Sink(f"http://127.0.0.1:{server.server_port}")
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield sink
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
