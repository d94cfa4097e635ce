"""Prometheus metrics: one registry for the process, label names from an allow-list, buckets fit for service levels.

Metrics never hold personal data, and no label may have a value for each study or event: both would stay for ever.
"""

from collections.abc import Sequence

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, disable_created_metrics, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST
from prometheus_client.gc_collector import GCCollector
from prometheus_client.platform_collector import PlatformCollector
from prometheus_client.process_collector import ProcessCollector

disable_created_metrics()  # type: ignore[no-untyped-call] # the library says nothing of its types here

#: All metrics of this process.
REGISTRY = CollectorRegistry()
ProcessCollector(registry=REGISTRY)
PlatformCollector(registry=REGISTRY)
GCCollector(registry=REGISTRY)

#: Labels with few values, none of which says anything about a person.
LABELS = frozenset(
    """
    service region site node destination tenant priority queue event outcome status reason method route check kind state
    dialect trigger direction rule
    """.split()  # noqa: SIM905 - as a list each word would take a line
)

#: From a request to its answer, seconds; 95% of C-STOREs are signed to be answered within 1 s.
INGEST_RESPONSE = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 0.75, 1.0, 1.5, 2.5, 5.0, 10.0, 30.0)
#: From a worklist query to its last answer, seconds; a modality's user waits for it.
WORKLIST_RESPONSE = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0)
#: From stored to acknowledged by the destination, seconds; 95% are signed to be within 2 s.
ROUTING_RESPONSE = (0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 1.5, 2.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0)
#: From requested to delivered, seconds: from a local archive to a line that is down for days.
DELIVERY = (0.1, 0.5, 1.0, 2.0, 5.0, 15.0, 60.0, 300.0, 900.0, 3600.0, 14_400.0, 86_400.0, 172_800.0, 604_800.0)
#: Lengths of files and messages, bytes.
SIZE = tuple(float(4**power) for power in range(4, 17))


def counter(name: str, text: str, labels: Sequence[str] = ()) -> Counter:
    """Make a counter; its name ends in `_total`."""
    return Counter(name, text, _allowed(labels), registry=REGISTRY)


def gauge(name: str, text: str, labels: Sequence[str] = ()) -> Gauge:
    """Make a gauge."""
    return Gauge(name, text, _allowed(labels), registry=REGISTRY)


def histogram(name: str, text: str, labels: Sequence[str] = (), *, buckets: Sequence[float]) -> Histogram:
    """Make a histogram; buckets are those above, in seconds or bytes."""
    return Histogram(name, text, _allowed(labels), registry=REGISTRY, buckets=buckets)


def render() -> tuple[bytes, str]:
    """Give the figures as Prometheus reads them, and their content type."""
    return generate_latest(REGISTRY), CONTENT_TYPE_LATEST


def _allowed(labels: Sequence[str]) -> Sequence[str]:
    unknown = set(labels) - LABELS
    if unknown:
        raise ValueError(
            f"labels {sorted(unknown)} are not in libs/telemetry/metric.py: add them if no value can identify anyone"
        )
    return labels
