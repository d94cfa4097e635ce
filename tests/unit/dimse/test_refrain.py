"""A caller that comes again and again is told of once in a while, and nobody is left out of the counts."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from libs.dimse.refrain import Refrain

pytestmark = pytest.mark.unit


@given(st.lists(st.tuples(st.floats(0, 30), st.sampled_from(["192.0.2.1", "192.0.2.2"])), max_size=60))
def test_one_line_a_minute_and_address_with_every_one_before_it_counted(calls: list[tuple[float, str]]) -> None:
    now = 0.0
    refrain = Refrain(60.0, lambda: now)
    said: dict[str, list[tuple[float, int]]] = {}
    since: dict[str, int] = {}
    for pause, address in calls:
        now += pause
        since[address] = since.get(address, 0) + 1
        count = refrain.count(address)
        if count is None:
            assert now - said[address][-1][0] < 60
        else:
            assert count == since.pop(address)
            assert address not in said or now - said[address][-1][0] >= 60
            said.setdefault(address, []).append((now, count))


def test_very_many_addresses_are_forgotten_again() -> None:
    refrain = Refrain(60.0, lambda: 0.0)
    for number in range(10_001):
        assert refrain.count(str(number)) == 1
    assert refrain.count("10000") is None
    assert refrain.count("0") == 1
