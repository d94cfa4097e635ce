"""Limits: whatever comes and goes, no bound is ever passed, and what has gone leaves no trace."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from libs.dimse.admission import Limits
from libs.dimse.limits import Associations, Pace

pytestmark = pytest.mark.unit

NODES = st.sampled_from(["A", "B", "C"])
ADDRESSES = st.sampled_from(["10.0.0.1", "10.0.0.2"])
NUMBERS = st.integers(0, 20)


class Coming(RuleBasedStateMachine):
    """Associations come and go in any order, some twice, some that never came."""

    def __init__(self) -> None:
        super().__init__()
        self.associations = Associations(most=6, most_an_address=5)
        self.open: dict[str, tuple[str, str]] = {}

    @rule(number=NUMBERS, node=NODES, address=ADDRESSES, limit=st.none() | st.integers(1, 4))
    def come(self, number: int, node: str, address: str, limit: int | None) -> None:
        if str(number) in self.open:
            return
        refusal = self.associations.open(str(number), node, address, Limits(associations=limit))
        full = (
            len(self.open) >= 6
            or (limit is not None and sum(each[0] == node for each in self.open.values()) >= limit)
            or sum(each[1] == address for each in self.open.values()) >= 5
        )
        assert (refusal is not None) == full
        if refusal is None:
            self.open[str(number)] = node, address
        else:
            # PS3.8 table 9-21: rejected-transient by the presentation provider, local limit exceeded.
            assert (refusal.permanent, refusal.source, refusal.diagnostic) == (False, 3, 2)
            assert "later" in refusal.reason

    @rule(number=NUMBERS)
    def go(self, number: int) -> None:
        node, _ = self.open.pop(str(number), (None, None))
        assert self.associations.close(str(number)) == node

    @invariant()
    def counted(self) -> None:
        assert len(self.associations) == len(self.open)
        for node in ("A", "B", "C"):
            assert self.associations.of(node) == sum(each[0] == node for each in self.open.values())
        for name, (node, _) in self.open.items():
            assert self.associations.node(name) == node


TestComing: Any = Coming.TestCase


RATES = st.floats(0.1, 1000)
GAPS = st.lists(st.floats(0, 5), min_size=1, max_size=60)


@given(RATES, GAPS)
def test_answers_never_come_faster_than_the_rate(rate: float, gaps: list[float]) -> None:
    pace, now = Pace(), 1000.0
    answers: list[float] = []
    for gap in gaps:
        now += gap
        answers.append(now + pace.take(rate, now))
    for first, start in enumerate(answers):
        for last in range(first, len(answers)):
            most = rate * (answers[last] - start) + max(rate, 1)
            assert last - first + 1 <= most * (1 + 1e-9) + 1e-6


@given(RATES, GAPS)
def test_a_sender_that_waits_for_its_answers_is_not_slower_than_its_rate(rate: float, gaps: list[float]) -> None:
    pace, start = Pace(), 50.0
    now = start
    for _ in gaps:
        now += pace.take(rate, now)
    assert now - start <= max(0.0, (len(gaps) - 1) / rate) * (1 + 1e-9) + 1e-6


@given(RATES, st.integers(1, 100))
def test_who_keeps_to_the_rate_never_waits(rate: float, count: int) -> None:
    pace, now = Pace(), 0.0
    for _ in range(count):
        assert pace.take(rate, now) <= 1e-6
        now += 1 / rate


def test_a_changed_rate_holds_from_the_next_instance() -> None:
    pace = Pace()
    for _ in range(20):
        pace.take(10, 0.0)
    assert pace.take(10, 0.0) == pytest.approx(1.1)
    assert pace.take(1000, 0.0) == pytest.approx(1.101)
