from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.egress.backoff import Backoff
from services.egress.outcome import Standing, Verdict, of_status

NOW = datetime(2026, 11, 20, 10, tzinfo=UTC)
BACKOFF = Backoff(2, 900)


def after(standing: Standing, *verdicts: Verdict) -> Standing:
    for verdict in verdicts:
        standing = standing.after(verdict, NOW, BACKOFF, lambda: 0.5, 3)
    return standing


@pytest.mark.parametrize(
    ("status", "verdict"),
    [
        (0x0000, Verdict.SENT),
        (0xB000, Verdict.WARNING),
        (0xB006, Verdict.WARNING),
        (0xB007, Verdict.WARNING),
        (0xA700, Verdict.LATER),
        (0xA7FF, Verdict.LATER),
        (0xA900, Verdict.REFUSED),
        (0xA9FF, Verdict.REFUSED),
        (0xC000, Verdict.REFUSED),
        (0xCFFF, Verdict.REFUSED),
        (0x0110, Verdict.REFUSED),
        (0x0111, Verdict.REFUSED),
        (0x0122, Verdict.REFUSED),
        (0x0124, Verdict.REFUSED),
        (0xFF00, Verdict.REFUSED),
        (0xB001, Verdict.REFUSED),
        (0x0001, Verdict.REFUSED),
    ],
)
def test_statuses_of_the_standard(status: int, verdict: Verdict) -> None:
    assert of_status(1, status).verdict is verdict


@given(st.integers(0, 0xFFFF))
def test_only_success_and_the_three_warnings_are_ever_sent(status: int) -> None:
    outcome = of_status(1, status)
    arrived = outcome.verdict in (Verdict.SENT, Verdict.WARNING)
    assert arrived == (status in (0x0000, 0xB000, 0xB006, 0xB007))
    assert outcome.status == f"{status:04X}"
    assert bool(outcome.reason) == (status != 0)


def test_a_refusal_is_final_at_the_third_time() -> None:
    twice = after(Standing(), Verdict.REFUSED, Verdict.REFUSED)
    assert twice.state == "pending"
    assert twice.next_attempt_at is not None
    assert twice.next_attempt_at > NOW
    assert after(twice, Verdict.REFUSED).state == "failed"


@given(st.integers(1, 200))
def test_a_receiver_without_room_uses_up_no_attempt(times: int) -> None:
    standing = after(Standing(), *[Verdict.LATER] * times, Verdict.REFUSED, Verdict.REFUSED)
    assert standing.state == "pending"
    assert standing.next_attempt_at is not None
    assert standing.attempts == times + 2


@given(st.lists(st.sampled_from([Verdict.LATER, Verdict.REFUSED]), max_size=2), st.sampled_from(["sent", "warning"]))
def test_success_is_success_whatever_came_before(before: list[Verdict], word: str) -> None:
    standing = after(Standing(), *before, Verdict(word))
    assert (standing.state, standing.next_attempt_at) == ("sent", None)


def test_a_damaged_object_goes_to_people_at_once() -> None:
    assert after(Standing(), Verdict.DAMAGED).state == "failed"
