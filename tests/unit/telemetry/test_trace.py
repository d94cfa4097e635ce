"""One study is one trace, and no span holds what it must not."""

import json
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import get_current_span

from libs.settings import Settings
from libs.telemetry import trace
from libs.telemetry.allowed import SPAN_KEYS
from tests.support.otlp import otlp_sink
from tests.support.port import free_port

pytestmark = pytest.mark.unit
PERSONAL = st.text(st.characters(categories=["Lu", "Ll", "Nd"]), min_size=6, max_size=40).map("~{}~".format)
NOW = datetime(2026, 11, 20, 12, tzinfo=UTC)


@pytest.fixture
def exporter(monkeypatch: pytest.MonkeyPatch) -> Iterator[InMemorySpanExporter]:
    for name in ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"):
        monkeypatch.delenv(name, raising=False)
    trace.configure(Settings(), "ingest")
    memory = InMemorySpanExporter()
    trace.export_to(memory)
    yield memory
    trace.shutdown()


def test_a_study_is_one_trace_under_its_root(exporter: InMemorySpanExporter) -> None:
    with trace.tracer("services.ingest.scp").start_as_current_span("store", context=trace.study_context("t", "1.2")):
        carried = trace.traceparent()
    with trace.tracer("services.egress.sender").start_as_current_span("deliver", context=trace.context_of(carried)):
        pass
    trace.record_study_root("t", "1.2", NOW, NOW + timedelta(seconds=90), {"kivuko.instances": 3})
    store, deliver, root = exporter.get_finished_spans()
    assert {span.context.trace_id for span in (store, deliver, root)} == {trace.study_trace_id("t", "1.2")}
    assert root.parent is None
    assert root.context.span_id == trace.study_root_span_id("t", "1.2")
    assert store.parent is not None
    assert store.parent.span_id == root.context.span_id
    assert deliver.parent is not None
    assert deliver.parent.span_id == store.context.span_id
    assert (root.start_time, root.end_time) == (NOW.timestamp() * 1e9, (NOW.timestamp() + 90) * 1e9)
    services = [(span.attributes or {})["kivuko.service"] for span in (store, deliver, root)]
    assert services == ["ingest", "egress", "ingest"]


def test_ids_are_given_to_the_root_alone(exporter: InMemorySpanExporter) -> None:
    trace.record_study_root("t", "1.2", NOW, NOW)
    with trace.tracer("x").start_as_current_span("other"):
        pass
    root, other = exporter.get_finished_spans()
    assert other.context.trace_id != root.context.trace_id
    assert other.context.span_id != root.context.span_id


@given(st.text(), st.text(), st.text(), st.text())
def test_ids_belong_to_tenant_and_study(tenant: str, uid: str, tenant2: str, uid2: str) -> None:
    one = (trace.study_trace_id(tenant, uid), trace.study_root_span_id(tenant, uid))
    assert 0 < one[0] < 2**128
    assert 0 < one[1] < 2**64
    assert one == (trace.study_trace_id(tenant, uid), trace.study_root_span_id(tenant, uid))
    if (tenant, uid) != (tenant2, uid2) and "\0" not in tenant + tenant2:
        assert one != (trace.study_trace_id(tenant2, uid2), trace.study_root_span_id(tenant2, uid2))


def test_ids_stay_the_same_from_release_to_release() -> None:
    assert f"{trace.study_trace_id('default', '1.2.3'):032x}" == "c70ddce0bd1ee813c5b18bc56feaeac4"
    assert f"{trace.study_root_span_id('default', '1.2.3'):016x}" == "f56bb6980db74662"


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60, deadline=None)
@given(key=st.text(min_size=1).filter(lambda key: key not in SPAN_KEYS), value=PERSONAL)
def test_no_personal_value_gets_out(exporter: InMemorySpanExporter, key: str, value: str) -> None:
    exporter.clear()
    linked = trace.study_link("t", "1.2")
    with pytest.raises(KeyError):  # noqa: SIM117, PT012 - the span has to see it
        with trace.tracer("services.ingest").start_as_current_span(value, attributes={key: value}) as span:
            span.set_attribute("kivuko.reason", f"{value}^{value}")
            span.set_attribute("kivuko.error", [f"{value}^{value}"])
            span.set_attribute("kivuko.count", 1)
            span.add_event(value, {key: value})
            span.add_link(linked.context, {key: value})
            dict[str, str]()[value]
    (exported,) = exporter.get_finished_spans()
    # Decoded, so that nothing hides behind an escape.
    assert value not in json.dumps(json.loads(exported.to_json()), ensure_ascii=False)
    assert (exported.attributes or {})["kivuko.count"] == 1
    assert [dict(event.attributes or {}) for event in exported.events] == [{}, {"exception.type": "KeyError"}]
    assert [link.context for link in exported.links] == [linked.context]


@given(st.text() | st.none())
def test_a_malformed_trace_context_is_no_context(text: str | None) -> None:
    assert not get_current_span(trace.context_of(text)).get_span_context().is_valid
    assert list(trace.link_to(text)) == []


def test_outside_of_any_span_there_is_no_trace_context() -> None:
    assert trace.traceparent() is None
    assert trace.tracestate() is None


def test_a_context_can_be_made_the_present_one() -> None:
    with trace.attached(trace.study_context("t", "1.2")):
        carried = trace.traceparent()
    assert carried == f"00-{trace.study_trace_id('t', '1.2'):032x}-{trace.study_root_span_id('t', '1.2'):016x}-01"
    assert trace.traceparent() is None


PROGRAM = """
from datetime import UTC, datetime
from libs.settings import Settings
from libs.telemetry import trace
trace.configure(Settings(region="north"), "ingest")
for uid in range(40):
    with trace.tracer("services.ingest").start_as_current_span("store", context=trace.study_context("t", str(uid))):
        pass
    trace.record_study_root("t", str(uid), datetime.now(UTC), datetime.now(UTC))
trace.shutdown()
print("done")
"""


def run(environment: dict[str, str]) -> str:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True, env=environment, timeout=60
    )
    return done.stdout


def test_spans_go_to_the_endpoint_of_the_environment() -> None:
    with otlp_sink() as sink:
        assert run({"OTEL_EXPORTER_OTLP_ENDPOINT": sink.url}) == "done\n"
    assert len(sink.spans) == 80
    assert {span.service for span in sink.spans} == {"kivuko-ingest"}


def test_a_sampled_study_is_in_the_traces_as_a_whole() -> None:
    with otlp_sink() as sink:
        ratio = {"OTEL_TRACES_SAMPLER": "parentbased_traceidratio", "OTEL_TRACES_SAMPLER_ARG": "0.5"}
        run({"OTEL_EXPORTER_OTLP_ENDPOINT": sink.url, **ratio})
    traces = {span.trace_id for span in sink.spans}
    assert 0 < len(traces) < 40
    assert all(len(sink.of(one)) == 2 for one in traces)


@pytest.mark.parametrize(
    "environment",
    [
        {},
        {"OTEL_EXPORTER_OTLP_ENDPOINT": "URL", "OTEL_TRACES_EXPORTER": "none"},
        {"OTEL_EXPORTER_OTLP_ENDPOINT": "URL", "OTEL_SDK_DISABLED": "true"},
    ],
)
def test_nothing_is_exported_where_none_is_wanted(environment: dict[str, str]) -> None:
    with otlp_sink() as sink:
        assert run({name: value.replace("URL", sink.url) for name, value in environment.items()}) == "done\n"
    assert sink.raw == []


def test_an_endpoint_that_is_away_is_no_error() -> None:
    assert run({"OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{free_port()}"}) == "done\n"
