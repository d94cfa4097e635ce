from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.egress.forecast import LATELY, Flow, Queue, chosen, rate, seconds_left

NOW = datetime(2026, 11, 20, 10, tzinfo=UTC)
queues = st.builds(
    lambda going, held, size, held_size: Queue(going + held, going + held, size + held_size, held, held_size, NOW),
    st.integers(0, 9),
    st.integers(0, 9),
    st.integers(0, 10**12),
    st.integers(0, 10**12),
)
flows = st.builds(
    Flow,
    st.integers(1, 1000),
    st.integers(0, 10**12),
    st.floats(0, LATELY.total_seconds()).map(lambda seconds: NOW - timedelta(seconds=seconds)),
)


def flow(instances: int, size: int, seconds: float) -> Flow:
    return Flow(instances, size, NOW - timedelta(seconds=seconds))


def test_a_queue_is_empty_when_its_bytes_have_gone_at_the_rate_of_late() -> None:
    assert rate(flow(3, 48_000, 10), NOW) == 4800
    assert seconds_left(Queue(2, 9, 96_000, 0, 0, NOW), flow(3, 48_000, 10), NOW) == 20


def test_what_is_held_does_not_count() -> None:
    assert seconds_left(Queue(2, 9, 96_000, 1, 48_000, NOW), flow(3, 48_000, 10), NOW) == 10
    assert seconds_left(Queue(2, 9, 96_000, 2, 96_000, NOW), None, NOW) == 0


@pytest.mark.parametrize("sent", [None, flow(1, 5, 0), flow(1, 0, 60)])
def test_nobody_knows_where_nothing_was_sent_or_only_just_now(sent: Flow | None) -> None:
    assert seconds_left(Queue(1, 1, 10, 0, 0, NOW), sent, NOW) is None
    assert seconds_left(None, sent, NOW) == 0


@given(queues, st.none() | flows)
def test_a_forecast_is_never_below_zero_and_none_only_without_a_rate(queue: Queue, sent: Flow | None) -> None:
    left = seconds_left(queue, sent, NOW)
    assert left is None or left >= 0
    if left is None:
        assert not rate(sent, NOW)


def test_the_last_minute_counts_where_enough_arrived_in_it() -> None:
    long = flow(100, 1000, 200)
    assert chosen(flow(10, 100, 30), long) == flow(10, 100, 30)
    assert chosen(flow(9, 100, 30), long) == long
    assert chosen(None, long) == long
