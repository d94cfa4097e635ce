import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.ingest.room import Margin, Room

pytestmark = pytest.mark.unit
HOUR = 3600.0
GB = 10**9
sizes = st.integers(0, 10**13)


@given(sizes, st.lists(st.tuples(sizes, sizes)))
def test_what_is_needed_is_never_given_away(needed: int, looks: list[tuple[int, int]]) -> None:
    margin = Margin(needed)
    for free, coming in looks:
        if margin.takes(free, coming):
            assert free - coming >= needed


@given(sizes)
def test_a_disk_that_was_full_takes_again_only_with_room_to_spare(needed: int) -> None:
    margin = Margin(needed)
    assert margin.takes(needed)
    assert not margin.takes(needed - 1)
    assert margin.takes(needed) == (needed // 8 == 0)
    assert margin.takes(needed + needed // 8)
    assert margin.takes(needed)


def make_room() -> Room:
    return Room(GB, share=0.1, hours=24)


def test_it_is_low_before_it_is_full_and_ample_again_with_room_to_spare() -> None:
    room = make_room()
    seen = [room.see(free, 100 * GB, at) for at, free in enumerate([50 * GB, 9 * GB, GB - 1, GB, 2 * GB, 10 * GB])]
    assert seen == ["ample", "low", "full", "full", "low", "low"]
    assert room.see(11 * GB, 100 * GB, 7.0) == "ample"
    assert room.see(10 * GB, 100 * GB, 8.0) == "ample"


def test_a_small_disk_is_low_at_twice_what_is_needed() -> None:
    assert make_room().see(2 * GB - 1, 10 * GB, 0.0) == "low"
    assert make_room().see(2 * GB, 10 * GB, 0.0) == "ample"


def test_a_disk_that_fills_fast_is_low_early() -> None:
    room = make_room()
    states = [room.see(900 * GB - minute * GB, 1000 * GB, minute * 60.0) for minute in range(62)]
    # 1 GB a minute: 840 of 1000 GB are free, and gone in 14 hours.
    assert states[:60] == ["ample"] * 60
    assert states[-1] == "low"
    assert room.hours_left == pytest.approx((900 - 61 - 1) / 60)


def test_a_short_burst_is_no_trend_and_a_disk_that_empties_is_none() -> None:
    room = make_room()
    assert room.see(900 * GB, 1000 * GB, 0.0) == "ample"
    assert room.see(500 * GB, 1000 * GB, 60.0) == "ample"
    assert room.hours_left is None
    assert room.see(950 * GB, 1000 * GB, 2 * HOUR) == "ample"
    assert room.hours_left is None


def test_the_rate_of_long_ago_is_forgotten() -> None:
    room = make_room()
    for minute in range(0, 10 * 60, 10):
        room.see(900 * GB - min(minute, 60) * GB, 1000 * GB, minute * 60.0)
    assert room.hours_left is None


@given(st.lists(st.tuples(st.integers(0, 100 * GB), st.floats(0, 10 * HOUR))))
def test_it_is_full_exactly_while_nothing_is_taken(looks: list[tuple[int, float]]) -> None:
    room, margin, at = make_room(), Margin(GB), 0.0
    for free, seconds in looks:
        at += seconds
        assert (room.see(free, 100 * GB, at) == "full") == (not margin.takes(free))
        assert room.hours_left is None or room.hours_left >= 0
