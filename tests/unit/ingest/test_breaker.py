"""Callers are turned away after failures, one is let through now and then, and all are after a success."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.ingest.breaker import Breaker

pytestmark = pytest.mark.unit


class Seconds:
    """A clock that is moved by hand."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def test_one_failure_turns_nobody_away() -> None:
    breaker = Breaker(Seconds())
    assert not breaker.failed("away")
    assert breaker.refuses() is None


def test_it_is_tried_again_ever_later_and_at_least_each_ten_seconds() -> None:
    seconds = Seconds()
    breaker = Breaker(seconds)
    breaker.failed("away")
    assert breaker.failed("away")
    waits = []
    for _ in range(6):
        since = seconds.now
        while breaker.refuses() is not None:
            seconds.now += 0.5
        waits.append(seconds.now - since)
        assert not breaker.failed("away")
    assert waits == [1, 2, 4, 8, 10, 10]
    assert breaker.worked()
    assert not breaker.worked()
    assert breaker.refuses() is None


@given(st.lists(st.sampled_from(["failed", "worked", "look", "wait"]), max_size=60))
def test_whatever_happens_it_is_tried_again_within_ten_seconds(steps: list[str]) -> None:
    seconds = Seconds()
    breaker = Breaker(seconds)
    turns = []
    for step in steps:
        match step:
            case "failed":
                turns.append(breaker.failed("away"))
            case "worked":
                turns.append(breaker.worked())
                assert breaker.refuses() is None
            case "look":
                if breaker.refuses() is None and breaker.why is not None:
                    # Only one is let through.
                    assert breaker.refuses() == "away"
            case "wait":
                seconds.now += 0.7
    # It says each change once: away, back, away, ...
    assert sum(turns) % 2 == (breaker.why is not None)
    seconds.now += 10
    assert breaker.refuses() is None
