import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.ingest.numbers import Ranges, join, missing, ranges_of

pytestmark = pytest.mark.unit
numbers = st.lists(st.integers(-5, 40), max_size=25)


@given(st.sets(st.integers(-5, 40)), st.randoms(use_true_random=False))
def test_ranges_hold_exactly_the_numbers(given_numbers: set[int], random: object) -> None:
    shuffled = sorted(given_numbers, key=lambda _: random.random())  # type: ignore[attr-defined] # hypothesis types it as Random
    ranges = ranges_of(shuffled)
    assert ranges is not None
    assert [n for first, last in ranges for n in range(first, last + 1)] == sorted(given_numbers)
    assert all(before[1] + 1 < after[0] for before, after in itertools.pairwise(ranges))


@given(numbers, st.lists(st.integers(0, 3), max_size=25))
def test_batches_and_order_change_nothing(whole: list[int], into: list[int]) -> None:
    batches: dict[int, list[int]] = {}
    for index, number in enumerate(whole):
        batches.setdefault(into[index] if index < len(into) else 0, []).append(number)
    joined: Ranges | None = ()
    for batch in batches.values():
        joined = join(joined, ranges_of(batch))
    assert joined == ranges_of(whole)
    assert (joined is None) == (len(set(whole)) < len(whole))


@pytest.mark.parametrize(
    ("present", "holes"),
    [
        (range(1, 21), 0),
        ([*range(1, 10), *range(12, 21)], 2),
        # Where a series begins is its vendor's habit.
        (range(20), 0),
        (range(101, 121), 0),
        # By twos, as two echoes share the numbers; two of three; the last run cut short.
        (range(1, 40, 2), 0),
        ([1, 2, 4, 5, 7, 8, 10], 0),
        # A lost one breaks the pattern of none.
        ([1, 2, 3, 5], 1),
        ([1, 3], 1),
        # More holes than instances: they are not counted through.
        ([1, 100], 0),
        ([1001, 2001, 3001], 0),
        ([], 0),
        ([7], 0),
    ],
)
def test_what_is_missing_between_others(present: list[int], holes: int) -> None:
    assert missing(ranges_of(present)) == holes


def test_repeated_numbers_are_of_no_use() -> None:
    assert ranges_of([1, 2, 2]) is None
    assert join(((1, 5),), ((5, 6),)) is None
    assert join(None, ((5, 6),)) is None
    assert missing(None) == 0


def test_what_is_full_of_holes_is_not_kept() -> None:
    assert ranges_of(range(0, 20_000, 2)) is not None
    assert ranges_of(range(0, 20_002, 2)) is None
