from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from itertools import combinations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from services.egress.fairness import Group, Shares, turn

pytestmark = pytest.mark.unit

NOW = datetime(2026, 11, 20, 10, tzinfo=UTC)
LARGEST = 1000
#: Tenant and source node.
Flow = tuple[str, str]
FLOWS: list[Flow] = [("a", "CT1"), ("a", "CT2"), ("a", "MR"), ("b", "CT1"), ("b", "US"), ("c", "DX")]
sizes = st.integers(0, LARGEST)
#: Who waits at a turn, and the size of what is first in each.
steps = st.lists(st.tuples(st.frozensets(st.sampled_from(FLOWS), min_size=1), sizes), max_size=60)
#: The order of the oldest requests.
ages = st.permutations(FLOWS)


def waiting(flows: Collection[Flow], size: int, ages: Sequence[Flow] = FLOWS) -> list[Group[str]]:
    return [
        Group(tenant, source, NOW + timedelta(seconds=ages.index((tenant, source))), size, f"{tenant}/{source}")
        for tenant, source in sorted(flows)
    ]


@dataclass
class Lane:
    """A lane, and what it gave to whom."""

    shares: Shares = field(default_factory=Shares)
    bytes: Counter[Flow] = field(default_factory=Counter)

    def serve(self, groups: Sequence[Group[str]]) -> Flow:
        group, self.shares = turn(groups, self.shares)
        assert group in groups
        flow = (group.tenant, group.source)
        self.bytes[flow] += group.size
        return flow

    def of_tenant(self, tenant: str) -> int:
        return sum(count for (name, _), count in self.bytes.items() if name == tenant)


@given(st.sets(st.sampled_from(FLOWS), min_size=1), st.lists(st.integers(1, LARGEST), max_size=80), ages)
@example(set(FLOWS), [500] * 60, FLOWS)
def test_whoever_always_waits_gets_the_same_within_one_object(
    flows: set[Flow], objects: list[int], ages: list[Flow]
) -> None:
    lane = Lane()
    for count, size in enumerate(objects, 1):
        lane.serve(waiting(flows, size, ages))
        largest = max(objects[:count])
        for first, second in combinations(flows, 2):
            assert abs(lane.of_tenant(first[0]) - lane.of_tenant(second[0])) <= largest
            if first[0] == second[0]:
                assert abs(lane.bytes[first] - lane.bytes[second]) <= largest


@given(steps, st.lists(sizes, min_size=len(FLOWS) + 1, max_size=len(FLOWS) + 1), ages)
def test_a_new_tenant_waits_for_one_object_of_each_other_at_most(
    before: list[tuple[frozenset[Flow], int]], objects: list[int], ages: list[Flow]
) -> None:
    lane = Lane()
    for flows, size in before:
        lane.serve(waiting(flows, size, ages))
    turns: Counter[str] = Counter()
    for size in objects:
        tenant, _ = lane.serve([*waiting(FLOWS, size, ages), Group("new", "CT1", NOW, size, "new")])
        if tenant == "new":
            break
        turns[tenant] += 1
        assert turns[tenant] == 1
    else:
        pytest.fail("the new tenant had no turn")


@given(steps, ages)
def test_a_new_source_waits_for_one_object_of_each_other_of_its_tenant_at_most(
    before: list[tuple[frozenset[Flow], int]], ages: list[Flow]
) -> None:
    lane = Lane()
    for flows, size in before:
        lane.serve(waiting(flows, size, ages))
    turns: Counter[Flow] = Counter()
    while True:
        # Objects are alike here, so that its tenant has a turn soon.
        flow = lane.serve([*waiting(FLOWS, 100, ages), Group("a", "NEW", NOW, 100, "new")])
        if flow == ("a", "NEW"):
            return
        turns[flow] += 1
        assert flow[0] != "a" or turns[flow] == 1
        assert turns.total() <= 1000


@given(steps, ages)
def test_nobody_waits_for_more_than_two_objects_of_anyone_whoever_comes_and_goes(
    history: list[tuple[frozenset[Flow], int]], ages: list[Flow]
) -> None:
    lane = Lane()
    # What others had since a tenant, or a source, began to wait.
    behind: dict[str, Counter[str]] = {}
    behind_within: dict[Flow, Counter[str]] = {}
    for flows, size in history:
        tenants = {tenant for tenant, _ in flows}
        behind = {name: behind.get(name, Counter()) for name in tenants}
        behind_within = {flow: behind_within.get(flow, Counter()) for flow in flows}
        tenant, source = lane.serve(waiting(flows, size, ages))
        behind[tenant].clear()
        behind_within[tenant, source].clear()
        for name in tenants - {tenant}:
            behind[name][tenant] += size
            assert behind[name][tenant] <= 2 * LARGEST
        for flow in flows:
            if flow[0] == tenant and flow[1] != source:
                behind_within[flow][source] += size
                assert behind_within[flow][source] <= 2 * LARGEST


def test_of_those_level_the_oldest_goes_first_then_the_name_decides() -> None:
    def asked(flow: Flow, seconds: int) -> Group[str]:
        return Group(*flow, NOW + timedelta(seconds=seconds), 500, "")

    alike = [asked(flow, 0) for flow in FLOWS]
    older_later = [asked(flow, -number) for number, flow in enumerate(FLOWS)]
    for groups in (alike, alike[::-1]):
        assert Lane().serve(groups) == ("a", "CT1")
    for groups in (older_later, older_later[::-1]):
        assert Lane().serve(groups) == ("c", "DX")
        assert Lane().serve([group for group in groups if group.tenant == "a"]) == ("a", "MR")


@given(steps, ages)
def test_the_order_in_which_groups_are_told_does_not_matter(
    history: list[tuple[frozenset[Flow], int]], ages: list[Flow]
) -> None:
    one, other = Lane(), Lane()
    for flows, size in history:
        groups = waiting(flows, size, ages)
        assert one.serve(groups) == other.serve(list(reversed(groups)))
        assert one.shares == other.shares


def test_a_hundred_thousand_before_them_do_not_keep_three_waiting() -> None:
    lane, left = Lane(), {("big", "CT1"): 100_000, ("small", "CT1"): 3, ("big", "US"): 2}
    order = []
    for _ in range(9):
        groups = [
            Group(tenant, source, NOW + timedelta(hours=tenant == "small" or source == "US"), 500, "")
            for (tenant, source), count in left.items()
            if count
        ]
        flow = lane.serve(groups)
        left[flow] -= 1
        order.append(flow)
    ct, us, small = ("big", "CT1"), ("big", "US"), ("small", "CT1")
    assert order == [ct, small, us, small, ct, small, us, ct, ct]


def test_who_was_away_does_not_get_what_others_had_meanwhile() -> None:
    lane = Lane()
    for _ in range(1000):
        lane.serve(waiting([("a", "CT1")], 500))
    order = [lane.serve(waiting([("a", "CT1"), ("b", "US")], 500))[0] for _ in range(6)]
    assert sorted(order[:2]) == sorted(order[2:4]) == sorted(order[4:]) == ["a", "b"]


def test_empty_objects_take_turns_as_well() -> None:
    lane = Lane()
    groups = waiting([("a", "CT1")], 0) + waiting([("b", "US")], 500)
    assert {lane.serve(groups)[0] for _ in range(2)} == {"a", "b"}


@given(steps)
def test_only_who_was_served_lately_is_remembered(history: list[tuple[frozenset[Flow], int]]) -> None:
    lane = Lane()
    for flows, size in history:
        lane.serve(waiting(flows, size))
    for _ in range(2):
        lane.serve([Group("d", "CT1", NOW, 3 * LARGEST, "")])
    assert lane.shares == Shares({"d": 3 * LARGEST}, {"d": {"CT1": 3 * LARGEST}})


def test_where_nobody_waits_there_is_no_turn() -> None:
    with pytest.raises(ValueError, match="nobody waits"):
        turn([], Shares())
