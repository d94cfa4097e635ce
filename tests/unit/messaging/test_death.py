"""The record of deaths in a message's headers."""

from datetime import UTC, datetime
from typing import Any, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from libs.messaging.death import DeathReason, deaths, with_death, without_broker_headers

pytestmark = pytest.mark.unit

DIED = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
HISTORY = st.lists(
    st.tuples(st.sampled_from(["work", "delay"]), st.sampled_from(get_args(DeathReason))), min_size=1, max_size=12
)


def die(headers: dict[str, Any], queue: str, reason: DeathReason) -> dict[str, Any]:
    return with_death(headers, queue=queue, reason=reason, exchange="kivuko.events", routing_key="a.b", time=DIED)


@given(HISTORY)
def test_every_death_is_counted_and_the_latest_comes_first(history: list[tuple[str, DeathReason]]) -> None:
    headers: dict[str, Any] = {"mine": 1}
    for queue, reason in history:
        headers = die(headers, queue, reason)
    entries = deaths(headers)
    assert sum(entry["count"] for entry in entries) == len(history)
    assert (entries[0]["queue"], entries[0]["reason"]) == history[-1]
    assert len({(entry["queue"], entry["reason"]) for entry in entries}) == len(entries)
    assert (headers["x-first-death-queue"], headers["x-first-death-reason"]) == history[0]
    assert (headers["x-last-death-queue"], headers["x-last-death-reason"]) == history[-1]


@given(HISTORY)
def test_the_messages_own_headers_are_found_again(history: list[tuple[str, DeathReason]]) -> None:
    own = {"traceparent": "00-1", "x-attempt": 2}
    headers: dict[str, Any] = {**own, "x-delivery-count": 3}
    for queue, reason in history:
        headers = die(headers, queue, reason)
    assert without_broker_headers(headers) == own


def test_a_foreign_value_of_the_header_counts_as_none() -> None:
    assert deaths({"x-death": "nonsense"}) == []
    assert deaths({"x-death": ["nonsense"]}) == []
