from datetime import UTC, datetime, timedelta
from functools import reduce

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.egress.delivery import Closing, Order, Request, Tally, asks_again, delivery_id, lane, standing

NOW = datetime(2026, 11, 20, 10, tzinfo=UTC)
closings = st.none() | st.builds(Closing, st.integers(1, 5), st.integers(1, 900))
requests = st.builds(
    Request,
    lane=st.integers(0, 3),
    first=st.tuples(st.integers(0, 50).map(lambda s: NOW + timedelta(seconds=s)), st.sampled_from(["CT1", "MR1"])),
    network_version=st.integers(1, 9),
    closing=closings,
)


@given(st.lists(requests, min_size=1, max_size=8), st.randoms(use_true_random=False))
def test_requests_merge_to_the_same_in_any_order_and_repeated(some: list[Request], luck: object) -> None:
    again = [*some, *some[: len(some) // 2]]
    luck.shuffle(again)  # type: ignore[attr-defined] # hypothesis gives a random.Random
    assert reduce(Request.merged, again) == reduce(Request.merged, some)


@given(requests, requests)
def test_merging_never_lowers_the_lane_nor_the_version(one: Request, other: Request) -> None:
    merged = one.merged(other)
    assert merged.lane == min(one.lane, other.lane)
    assert merged.first == min(one.first, other.first)
    for each in (one, other):
        if each.closing is not None:
            assert merged.closing is not None
            assert merged.closing.study_version >= each.closing.study_version


def test_stat_is_the_first_lane() -> None:
    assert lane("stat") < lane("urgent") < lane("routine") < lane("bulk")


def test_the_identifier_follows_from_the_business_key() -> None:
    assert delivery_id("a", "1.2", "pacs") == delivery_id("a", "1.2", "pacs")
    assert len({delivery_id("a", "1.2", "pacs"), delivery_id("b", "1.2", "pacs"), delivery_id("a", "1.2", "x")}) == 3


tallies = st.builds(
    Tally,
    instances=st.integers(0, 5),
    due=st.integers(0, 3),
    next_attempt_at=st.just(NOW),
    sent=st.integers(0, 5),
    failed=st.integers(0, 3),
)


@given(tallies, closings, st.none() | st.just("no way"), st.none() | st.just("not committed"))
def test_done_only_when_closed_complete_and_every_instance_was_answered(
    tally: Tally, closing: Closing | None, obstacle: str | None, unconfirmed: str | None
) -> None:
    found = standing(tally, closing, NOW, obstacle=obstacle, unconfirmed=unconfirmed)
    complete = closing is not None and tally.instances == closing.expected_count
    all_sent = not (tally.due or tally.failed)
    assert (found.state == "done") == (complete and all_sent and unconfirmed is None)
    assert (found.reason is not None) == (found.state in ("held", "failed", "waiting"))


@pytest.mark.parametrize(
    ("tally", "state"),
    [
        (Tally(instances=2, due=1, sent=1, next_attempt_at=NOW), "open"),
        (Tally(instances=2, due=1, sent=1, next_attempt_at=NOW + timedelta(seconds=1)), "waiting"),
        (Tally(instances=2, due=1, failed=1, next_attempt_at=NOW), "open"),
        (Tally(instances=2, sent=1, failed=1), "failed"),
        (Tally(instances=1, sent=1), "open"),
        (Tally(instances=3, sent=3), "open"),
        (Tally(instances=2, sent=2), "done"),
    ],
)
def test_states(tally: Tally, state: str) -> None:
    assert standing(tally, Closing(1, 2), NOW, obstacle=None, unconfirmed=None).state == state


def test_the_right_number_of_other_instances_is_not_done() -> None:
    sent = Tally(instances=2, sent=2)
    for expected, found, state in (("a", "a", "done"), ("a", "b", "open"), (None, "b", "done")):
        closing = Closing(1, 2, expected)
        assert standing(sent, closing, NOW, obstacle=None, unconfirmed=None, set_hash=found).state == state


def test_an_obstacle_holds_what_is_not_sent_and_nothing_else() -> None:
    unsent, sent = Tally(instances=2, due=1, sent=1, next_attempt_at=NOW), Tally(instances=2, sent=2)
    held = standing(unsent, Closing(1, 2), NOW, obstacle="retired", unconfirmed=None)
    assert (held.state, held.reason) == ("held", "retired")
    assert standing(sent, Closing(1, 2), NOW, obstacle="retired", unconfirmed=None).state == "done"


orders = st.builds(Order, st.sampled_from(["held", "cancelled"]), st.just("op"), st.just(NOW), st.none() | st.just("x"))


@given(tallies, closings, st.none() | st.just("no way"), st.none() | st.just("not committed"), orders)
def test_what_a_person_ordered_comes_before_everything_else(
    tally: Tally, closing: Closing | None, obstacle: str | None, unconfirmed: str | None, order: Order
) -> None:
    found = standing(tally, closing, NOW, obstacle=obstacle, unconfirmed=unconfirmed, order=order)
    assert (found.state, found.reason) == (order.kind, order.reason)


@given(tallies, closings, st.none() | st.just("no way"))
def test_a_pause_keeps_what_is_not_sent_and_changes_nothing_else(
    tally: Tally, closing: Closing | None, obstacle: str | None
) -> None:
    pause = Order("paused", "op", NOW, "new disks")
    found = standing(tally, closing, NOW, obstacle=obstacle, unconfirmed=None, order=pause)
    if tally.due:
        assert (found.state, found.reason) == ("held", pause.reason)
    else:
        assert found == standing(tally, closing, NOW, obstacle=obstacle, unconfirmed=None)


def test_an_order_is_told_with_who_when_and_why() -> None:
    assert Order("cancelled", "op", NOW, "phantom").reason == "cancelled by op since 2026-11-20 10:00 UTC: phantom"
    assert Order("paused", "op", NOW).reason == "its destination is paused by op since 2026-11-20 10:00 UTC"


@pytest.mark.parametrize(
    ("before", "after", "again"),
    [(None, None, False), (None, 1, False), (None, 2, True), (1, 1, False), (1, 2, True), (3, 3, False)],
)
def test_a_later_version_asks_again_the_first_one_does_not(before: int | None, after: int | None, again: bool) -> None:
    closing = [None if version is None else Closing(version, 1) for version in (before, after)]
    assert asks_again(closing[0], closing[1]) is again
