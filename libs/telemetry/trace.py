"""Traces: one study is one trace, from C-STORE to delivery.

The trace id and the id of the root span follow from tenant and Study Instance UID. So every association, service and
day adds to the same trace without having to hear of it, and the root span is recorded once, when the study completes.
Spans are exported only where an endpoint is set by the standard `OTEL_` names.
"""

import hashlib
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import datetime
from typing import TYPE_CHECKING

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import Event, ReadableSpan, Span, SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SimpleSpanProcessor, SpanExporter
from opentelemetry.sdk.trace.id_generator import IdGenerator, RandomIdGenerator
from opentelemetry.sdk.trace.sampling import Decision
from opentelemetry.trace import Link, NonRecordingSpan, SpanContext, Status, TraceFlags, Tracer
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from libs.telemetry import metric
from libs.telemetry.allowed import SPAN_KEYS, clean, clean_name

if TYPE_CHECKING:
    from opentelemetry.util.types import Attributes

    from libs.settings import Settings

_ENDPOINTS = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
_DROPPED = metric.counter("kivuko_span_attributes_dropped_total", "Attributes of spans that no allow-list names.")
_PROPAGATOR = TraceContextTextMapPropagator()
_given_ids: ContextVar[tuple[int, int] | None] = ContextVar("given_ids", default=None)


class _Ids(IdGenerator):
    """Random ids, but those that were given for the root span of a study."""

    def __init__(self) -> None:
        self._random = RandomIdGenerator()

    def generate_trace_id(self) -> int:
        given = _given_ids.get()
        return self._random.generate_trace_id() if given is None else given[0]

    def generate_span_id(self) -> int:
        given = _given_ids.get()
        return self._random.generate_span_id() if given is None else given[1]


class _Outlet(SpanProcessor):
    """The one way out for spans: what is not allowed is dropped here, whoever put it there."""

    def __init__(self) -> None:
        self._processors: tuple[SpanProcessor, ...] = ()

    def add(self, processor: SpanProcessor) -> None:
        self._processors += (processor,)

    def on_start(self, span: Span, parent_context: Context | None = None) -> None:  # noqa: ARG002 - the SDK's
        scope = span.instrumentation_scope
        parts = (scope.name if scope is not None else "").split(".")
        if parts[0] == "services" and len(parts) > 1:
            span.set_attribute("kivuko.service", parts[1])

    def on_end(self, span: ReadableSpan) -> None:
        if self._processors:
            scrubbed = _scrubbed(span)
            for processor in self._processors:
                processor.on_end(scrubbed)

    def shutdown(self) -> None:
        processors, self._processors = self._processors, ()
        for processor in processors:
            processor.shutdown()

    def force_flush(self, timeout_millis: int = 30_000) -> bool:
        flushed = [processor.force_flush(timeout_millis) for processor in self._processors]
        return all(flushed)


_outlet = _Outlet()


def configure(settings: "Settings", service: str) -> None:
    """Set up tracing for this process.

    Parameters
    ----------
    settings
        Gives the region and the replica.
    service
        Name of the service; `embedded` where all run in one process.
    """
    if not isinstance(trace.get_tracer_provider(), TracerProvider):
        resource = Resource.create(
            {
                "service.name": os.environ.get("OTEL_SERVICE_NAME", f"kivuko-{service}"),
                "service.namespace": settings.region,
                "service.instance.id": settings.instance,
            }
        )
        # Not at exit: shutting down with an unreachable endpoint takes seconds, so the process says when.
        provider = TracerProvider(resource=resource, id_generator=_Ids(), shutdown_on_exit=False)
        provider.add_span_processor(_outlet)
        trace.set_tracer_provider(provider)
    wanted = os.environ.get("OTEL_TRACES_EXPORTER", "otlp").strip().lower() != "none"
    if wanted and any(os.environ.get(name) for name in _ENDPOINTS):
        # Most processes export nothing and need not carry this.
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter  # noqa: PLC0415

        _outlet.add(BatchSpanProcessor(OTLPSpanExporter()))


def export_to(exporter: SpanExporter) -> None:
    """Have each span exported as soon as it ends, besides the endpoint; after `configure`."""
    _outlet.add(SimpleSpanProcessor(exporter))


def shutdown() -> None:
    """Export what is left and stop exporting; at once where no endpoint is set."""
    _outlet.shutdown()


def tracer(name: str) -> Tracer:
    """Give the tracer of a module, `services.ingest.scp`, whose spans carry the service as `kivuko.service`."""
    return trace.get_tracer(name)


def study_trace_id(tenant: str, study_uid: str) -> int:
    """Give the trace id of a study: the first 16 bytes of SHA-256 over tenant and Study Instance UID."""
    return int.from_bytes(_digest(tenant, study_uid)[:16]) or 1


def study_root_span_id(tenant: str, study_uid: str) -> int:
    """Give the id of a study's root span: the next 8 bytes."""
    return int.from_bytes(_digest(tenant, study_uid)[16:24]) or 1


def study_context(tenant: str, study_uid: str) -> Context:
    """Give the context in which a span becomes part of a study's trace, right below its root."""
    return trace.set_span_in_context(NonRecordingSpan(_study_span(tenant, study_uid)), Context())


def study_link(tenant: str, study_uid: str) -> Link:
    """Give a link to a study's root span, for spans that belong to several studies or to a later day."""
    return Link(_study_span(tenant, study_uid))


def record_study_root(
    tenant: str,
    study_uid: str,
    start: datetime,
    end: datetime,
    attributes: Mapping[str, str | int | float | bool] | None = None,
) -> None:
    """Record the root span of a study, under the ids that `study_context` has promised.

    Parameters
    ----------
    tenant, study_uid
        The study.
    start, end
        First arrival, and completion.
    attributes
        Names as in `libs.telemetry.allowed`.
    """
    given = _given_ids.set((study_trace_id(tenant, study_uid), study_root_span_id(tenant, study_uid)))
    try:
        span = tracer("services.ingest").start_span(
            "study",
            context=Context(),
            attributes={"kivuko.tenant": tenant, "kivuko.study_uid": study_uid, **(attributes or {})},
            start_time=_nanoseconds(start),
        )
    finally:
        _given_ids.reset(given)
    span.end(_nanoseconds(end))


def traceparent(context: Context | None = None) -> str | None:
    """Give the W3C trace context of the present span or of `context`; None outside of any span."""
    return _carrier(context).get("traceparent")


def tracestate(context: Context | None = None) -> str | None:
    """Give the W3C trace state that goes with `traceparent`, mostly None."""
    return _carrier(context).get("tracestate")


def context_of(parent: str | None, state: str | None = None) -> Context:
    """Read a W3C trace context; one that is missing or malformed gives the empty context."""
    carrier = {name: value for name, value in (("traceparent", parent), ("tracestate", state)) if value}
    return _PROPAGATOR.extract(carrier, context=Context())


def link_to(parent: str | None) -> Sequence[Link]:
    """Give a link to the span of a W3C trace context, or none: for what happens days later."""
    found = trace.get_current_span(context_of(parent)).get_span_context()
    return [Link(found)] if found.is_valid else []


@contextmanager
def attached(context: Context) -> Iterator[None]:
    """Make `context` the present one until the block ends."""
    with trace.use_span(trace.get_current_span(context), record_exception=False, set_status_on_exception=False):
        yield


def _carrier(context: Context | None) -> dict[str, str]:
    carrier: dict[str, str] = {}
    _PROPAGATOR.inject(carrier, context=context)
    return carrier


def _digest(tenant: str, study_uid: str) -> bytes:
    return hashlib.sha256(f"kivuko study\0{tenant}\0{study_uid}".encode()).digest()


def _study_span(tenant: str, study_uid: str) -> SpanContext:
    trace_id = study_trace_id(tenant, study_uid)
    provider = trace.get_tracer_provider()
    sampled = True
    if isinstance(provider, TracerProvider):
        # As the root span will be sampled: a study is in the traces as a whole or not at all.
        decision = provider.sampler.should_sample(Context(), trace_id, "study").decision
        sampled = decision is Decision.RECORD_AND_SAMPLE
    flags = TraceFlags(TraceFlags.SAMPLED if sampled else TraceFlags.DEFAULT)
    return SpanContext(trace_id, study_root_span_id(tenant, study_uid), is_remote=True, trace_flags=flags)


def _nanoseconds(time: datetime) -> int:
    return round(time.timestamp() * 1_000_000) * 1000


def _scrubbed(span: ReadableSpan) -> ReadableSpan:
    return ReadableSpan(
        name=clean_name(span.name),
        context=span.context,
        parent=span.parent,
        resource=span.resource,
        attributes=_allowed(span.attributes),
        # Of an exception the type is kept; its message and stack trace may hold values.
        events=[
            Event(clean_name(event.name), _allowed(event.attributes), timestamp=event.timestamp)
            for event in span.events
        ],
        links=[Link(link.context, _allowed(link.attributes)) for link in span.links],
        kind=span.kind,
        status=Status(span.status.status_code),
        start_time=span.start_time,
        end_time=span.end_time,
        instrumentation_scope=span.instrumentation_scope,
    )


def _allowed(attributes: "Attributes") -> dict[str, str | int | float | bool]:
    given = attributes or {}
    kept = {name: clean(value) for name, value in given.items() if name in SPAN_KEYS}
    _DROPPED.inc(len(given) - len(kept))
    return kept
