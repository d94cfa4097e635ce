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
