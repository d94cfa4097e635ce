"""The span of a C-STORE, recorded and exported. Imported only where spans are."""

from collections.abc import Mapping

from opentelemetry.trace import SpanKind, Tracer, set_span_in_context

from libs.dicom import uid
from libs.settings import Settings
from libs.telemetry import trace
from services.ingest.span import Begin, StoreSpan


class Recorded:
    """A span that is exported."""

    def __init__(self, tracer: Tracer, tenant: str, study_uid: str, attributes: Mapping[str, str]) -> None:
        context = trace.study_context(tenant, study_uid) if uid.is_valid(study_uid) else None
        self._span = tracer.start_span("C-STORE", context=context, kind=SpanKind.SERVER, attributes=dict(attributes))
        self.traceparent = trace.traceparent(set_span_in_context(self._span)) or ""

    def end(self, status: int) -> None:
        """Say what was answered, and end."""
        self._span.set_attribute("dicom.status", status)
        self._span.end()


def configured(region: str, instance: str) -> Begin:
    """Set tracing up for this process and give what begins its spans; `trace.shutdown` sends the last."""
    trace.configure(Settings(region=region, instance=instance), "ingest")
    tracer = trace.tracer("services.ingest.receiver")

    def begin(tenant: str, study_uid: str, attributes: Mapping[str, str]) -> StoreSpan:
        return Recorded(tracer, tenant, study_uid, attributes)

    return begin
