"""The span of a C-STORE. Where nothing exports spans, only the ids that name it, which costs next to nothing."""

import hashlib
import os
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Final, Protocol

from libs.dicom import uid

_ENDPOINTS: Final = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")


class StoreSpan(Protocol):
    """One C-STORE in a study's trace.

    Attributes
    ----------
    traceparent
        W3C trace context; empty if there is none.
    """

    traceparent: str

    def end(self, status: int) -> None:
        """Say what was answered, and end."""
        ...


#: begin(tenant, study UID or empty, attributes): the span is below the root of the study's trace if the study is known.
Begin = Callable[[str, str, Mapping[str, str]], StoreSpan]


class Named:
    """A span that nobody records; those who come after it are in the same trace all the same."""

    def __init__(self, tenant: str, study_uid: str, noise: Callable[[int], bytes]) -> None:
        trace_id = _study_trace_id(tenant, study_uid) or noise(16).hex()
        self.traceparent = f"00-{trace_id}-{noise(8).hex()}-01"

    def end(self, status: int) -> None:
        """There is nothing to end."""


# Kept, as a study's instances come one after the other.
@lru_cache(256)
def _study_trace_id(tenant: str, study_uid: str) -> str:
    """Give a study's trace id; empty if the UID is none."""
    if not uid.is_valid(study_uid):
        return ""
    # As in `libs.telemetry.trace.study_trace_id`, which is not imported here for the memory that it takes.
    return hashlib.sha256(f"kivuko study\0{tenant}\0{study_uid}".encode()).hexdigest()[:32]


def exports(environment: Mapping[str, str] = os.environ) -> bool:
    """Tell whether spans leave this process: the standard `OTEL_` names say so."""
    wanted = environment.get("OTEL_TRACES_EXPORTER", "otlp").strip().lower() != "none"
    return wanted and any(environment.get(name) for name in _ENDPOINTS)


def naming(noise: Callable[[int], bytes]) -> Begin:
    """Give what begins spans that nobody records."""

    def begin(tenant: str, study_uid: str, _attributes: Mapping[str, str]) -> StoreSpan:
        return Named(tenant, study_uid, noise)

    return begin
