"""Metrics."""

import pytest
from prometheus_client.parser import text_string_to_metric_families

from libs.telemetry import metric

pytestmark = pytest.mark.unit


def test_what_was_counted_is_rendered_for_prometheus() -> None:
    metric.counter("kivuko_test_total", "A test.", ["site"]).labels(site="north").inc(2)
    metric.gauge("kivuko_test_now", "A test.").set(3)
    metric.histogram("kivuko_test_seconds", "A test.", buckets=metric.INGEST_RESPONSE).observe(0.7)
    body, content_type = metric.render()
    assert content_type.startswith("text/plain")
    samples = {
        (sample.name, tuple(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(body.decode())
        for sample in family.samples
    }
    assert samples["kivuko_test_total", (("site", "north"),)] == 2
    assert samples["kivuko_test_now", ()] == 3
    assert samples["kivuko_test_seconds_bucket", (("le", "0.75"),)] == 1
    assert samples["kivuko_test_seconds_bucket", (("le", "0.5"),)] == 0
    assert ("process_resident_memory_bytes", ()) in samples


@pytest.mark.parametrize("label", ["patient", "study_uid", "event_id"])
def test_a_label_that_could_identify_someone_is_refused(label: str) -> None:
    with pytest.raises(ValueError, match=label):
        metric.counter(f"kivuko_refused_{label}_total", "A test.", [label])
    assert f"kivuko_refused_{label}" not in metric.render()[0].decode()


def test_signed_limits_are_borders_of_buckets() -> None:
    assert 1.0 in metric.INGEST_RESPONSE
    assert 2.0 in metric.ROUTING_RESPONSE
    for buckets in (metric.INGEST_RESPONSE, metric.ROUTING_RESPONSE, metric.DELIVERY, metric.SIZE):
        assert list(buckets) == sorted(set(buckets))
