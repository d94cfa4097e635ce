from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.egress.backoff import Backoff, Circuit

NOW = datetime(2026, 11, 20, 10, tzinfo=UTC)
BACKOFF = Backoff(first=2, cap=900)
chances = st.floats(0, 1, exclude_max=True)
failures = st.integers(1, 10_000)


@given(failures, chances)
def test_a_wait_is_between_half_of_its_ceiling_and_its_ceiling(count: int, chance: float) -> None:
    wait = (BACKOFF.after(count, NOW, lambda: chance) - NOW).total_seconds()
    ceiling = BACKOFF.ceiling(count)
    assert ceiling / 2 - 1e-6 <= wait <= ceiling + 1e-6
    assert 0 < ceiling <= BACKOFF.cap


@given(failures)
def test_ceilings_never_fall(count: int) -> None:
    assert BACKOFF.ceiling(count) <= BACKOFF.ceiling(count + 1)


def test_ceilings_double_up_to_the_cap() -> None:
    assert [BACKOFF.ceiling(n) for n in (1, 2, 3, 9, 10, 11)] == [2, 4, 8, 512, 900, 900]


def test_there_is_no_wait_without_a_failure() -> None:
    with pytest.raises(ValueError, match="before the first failure"):
        BACKOFF.ceiling(0)


@given(st.integers(1, 64), st.lists(chances, min_size=1, max_size=30))
def test_an_unreachable_destination_gets_one_probe_and_only_when_it_is_due(
    associations: int, luck: list[float]
) -> None:
    circuit = Circuit()
    assert circuit.allowance(NOW, associations) == associations
    for chance in luck:
        circuit = circuit.failed("no answer", NOW, BACKOFF, lambda chance=chance: chance)  # type: ignore[misc] # lambda default
        assert circuit.retry_at is not None
        assert circuit.allowance(NOW, associations) == 0
        assert circuit.allowance(circuit.retry_at - timedelta(microseconds=1), associations) == 0
        assert circuit.allowance(circuit.retry_at, associations) == 1
    assert circuit.failures == len(luck)


@given(st.integers(0, 5), st.integers(1, 64))
def test_a_paused_destination_gets_nothing_and_stays_paused_when_it_fails(failures: int, associations: int) -> None:
    circuit = Circuit(failures, None, None, paused=True)
    assert circuit.allowance(NOW, associations) == 0
    assert circuit.failed("x", NOW, Backoff(2, 900), lambda: 0.5).paused


@given(st.lists(st.floats(0, 600), min_size=1, max_size=20), chances)
def test_out_of_reach_counts_from_the_first_failure_in_a_row(steps: list[float], chance: float) -> None:
    circuit, now = Circuit(), NOW
    for step in steps:
        circuit = circuit.failed("no answer", now, BACKOFF, lambda: chance)
        now += timedelta(seconds=step)
    assert circuit.failing_since == NOW
    assert circuit.out_of_reach(now, 900) == (now - NOW >= timedelta(seconds=900))
    # The clock was put back: nobody knows how long.
    assert not circuit.out_of_reach(NOW - timedelta(days=1), 900)
    assert not circuit.anew().out_of_reach(now, 0.1)


def test_what_is_on_our_side_does_not_make_a_destination_unreachable() -> None:
    circuit = Circuit().failed("no answer", NOW, BACKOFF, lambda: 0).failed("x", NOW, BACKOFF, lambda: 0, there=False)
    assert circuit.failures == 2
    assert not circuit.out_of_reach(NOW + timedelta(days=1), 900)


def test_a_probe_that_nobody_made_is_overlooked() -> None:
    circuit = Circuit().failed("no answer", NOW, BACKOFF, lambda: 0)
    assert circuit.retry_at is not None
    assert not circuit.overlooked(circuit.retry_at + timedelta(seconds=60), 60)
    assert circuit.overlooked(circuit.retry_at + timedelta(seconds=61), 60)
    assert not Circuit().overlooked(NOW, 60)
