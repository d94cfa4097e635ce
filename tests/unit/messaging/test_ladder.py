"""The delay ladder."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from libs.messaging import ladder

pytestmark = pytest.mark.unit

LADDERS = st.lists(st.floats(min_value=0.001, max_value=1000), max_size=6)


def climb(rungs: list[float]) -> list[float]:
    waits: list[float] = []
    while (delay := ladder.next_delay(len(waits) + 1, rungs)) is not None:
        waits.append(delay)
    return waits


@given(LADDERS)
def test_each_rung_is_used_once_in_order_and_then_there_is_an_end(rungs: list[float]) -> None:
    assert climb(rungs) == rungs


def test_waits_grow_and_stay_far_below_the_brokers_patience() -> None:
    assert all(shorter < longer for shorter, longer in pairwise(ladder.LADDER))
    assert sum(ladder.LADDER) < 30 * 60


def test_rungs_of_different_length_never_share_a_queue() -> None:
    assert len({ladder.delay_name(seconds) for seconds in ladder.LADDER}) == len(ladder.LADDER)


@given(st.one_of(st.integers(), st.text(), st.none(), st.booleans(), st.floats()))
def test_a_foreign_attempt_header_never_breaks_or_shortens_the_ladder(value: object) -> None:
    assert ladder.attempt({ladder.ATTEMPT: value}) >= 0


def test_the_first_message_id_is_kept_over_all_tries() -> None:
    once = ladder.failed({"traceparent": "t"}, failures=1, reason="first", queue="q", message_id="original")
    twice = ladder.failed({**once, "x-death": []}, failures=2, reason="second", queue="q", message_id="another")
    assert twice == {
        "traceparent": "t",
        ladder.ATTEMPT: 2,
        ladder.REASON: "second",
        ladder.QUEUE: "q",
        ladder.MESSAGE_ID: "original",
    }


def test_a_replayed_message_starts_anew() -> None:
    dead = ladder.failed({"traceparent": "t"}, failures=6, reason="r", queue="q", message_id="m") | {ladder.REPLAY: "7"}
    assert ladder.fresh(dead) == {"traceparent": "t"}
