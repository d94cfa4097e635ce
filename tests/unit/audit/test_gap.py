from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.audit.gap import Arrivals

pytestmark = pytest.mark.unit


def _after(sequences: list[int]) -> Arrivals:
    arrivals = Arrivals()
    for sequence in sequences:
        arrivals = arrivals.arrived(sequence)
    return arrivals


@given(st.lists(st.integers(1, 60)))
def test_exactly_what_did_not_come_is_missing(sequences: list[int]) -> None:
    arrivals = _after(sequences)
    missing = {number for first, last in arrivals.missing for number in range(first, last + 1)}
    assert missing == set(range(1, max(sequences, default=0) + 1)) - set(sequences)
    assert arrivals.next_sequence == max(sequences, default=0) + 1


@given(st.permutations(range(1, 25)))
def test_in_whatever_order_all_come_nothing_is_missing_in_the_end(sequences: list[int]) -> None:
    assert _after(sequences) == Arrivals(25)


@given(st.lists(st.integers(1, 60), min_size=1), st.data())
def test_order_and_repetition_do_not_matter(sequences: list[int], data: st.DataObject) -> None:
    again = data.draw(st.permutations(sequences + sequences))
    once = sorted({n for first, last in _after(sequences).missing for n in range(first, last + 1)})
    twice = sorted({n for first, last in _after(again).missing for n in range(first, last + 1)})
    assert once == twice


@given(st.lists(st.integers(1, 60)))
def test_ranges_are_in_order_and_do_not_touch_each_other(sequences: list[int]) -> None:
    missing = _after(sequences).missing
    assert all(first <= last for first, last in missing)
    assert all(before[1] + 1 < after[0] for before, after in pairwise(missing))
