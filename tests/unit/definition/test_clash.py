"""Which nodes can't be told apart when they call."""

from ipaddress import ip_address, ip_network

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from contracts.definition import Definition, Node
from libs.definition.clash import Caller, caller, clashes
from libs.dimse.admission import Admitted, admit

pytestmark = pytest.mark.unit


def pairs(**nodes: dict[str, object]) -> list[tuple[str, str]]:
    return list(clashes({key: Node.model_validate({"site": "s"} | node) for key, node in nodes.items()}))


@pytest.mark.parametrize(
    ("first", "second", "clash"),
    [
        pytest.param({"host": "10.0.0.1"}, {"host": "10.0.0.1"}, True, id="same address"),
        pytest.param({"host": "10.0.0.1"}, {"host": "10.0.0.2"}, False, id="other address"),
        pytest.param({"host": "10.0.0.1"}, {"from": "10.0.0.0/24"}, True, id="address in network"),
        pytest.param(
            {"from": ["10.2.0.0/16", "10.0.0.0/25"]}, {"from": "10.0.0.0/24"}, True, id="overlapping networks"
        ),
        pytest.param(
            {"host": "10.0.0.1", "from": "10.9.0.0/24"}, {"host": "10.0.0.1"}, False, id="from counts, not host"
        ),
        pytest.param({"host": "ct.example"}, {"host": "CT.example."}, True, id="same name"),
        pytest.param({"host": "ct.example"}, {"host": "mr.example"}, False, id="other name"),
        pytest.param({"host": "ct.example"}, {"host": "10.0.0.1"}, False, id="name and address"),
        pytest.param(
            {"host": "10.0.0.1", "called": "A"}, {"host": "10.0.0.1", "called": "B"}, False, id="call other titles"
        ),
        pytest.param({"host": "10.0.0.1", "called": "A"}, {"host": "10.0.0.1"}, True, id="one calls any title"),
        pytest.param({"host": "10.0.0.1", "retired": True}, {"host": "10.0.0.1"}, False, id="one is retired"),
        pytest.param({"host": "::1"}, {"from": "::/64"}, True, id="version 6"),
        pytest.param({"host": "10.0.0.1"}, {"from": "::ffff:10.0.0.0/120"}, True, id="version 4 in version 6"),
        pytest.param({"host": "10.0.0.1"}, {"from": "::/0"}, False, id="version 4 and 6"),
        pytest.param({}, {}, False, id="may not call at all"),
    ],
)
def test_two_nodes_of_one_title(first: dict[str, object], second: dict[str, object], clash: bool) -> None:
    assert pairs(A=first | {"aet": "CT"}, B=second | {"aet": "CT"}) == ([("A", "B")] if clash else [])
    assert pairs(B=second | {"aet": "CT"}, A=first | {"aet": "CT"}) == ([("B", "A")] if clash else [])
    assert pairs(A=first | {"aet": "CT"}, B=second | {"aet": "MR"}) == []


def test_the_title_is_the_key_where_no_other_is_given_and_spaces_around_it_carry_no_meaning() -> None:
    assert pairs(CT={"host": "10.0.0.1"}, X={"host": "10.0.0.1", "aet": " CT "}) == [("CT", "X")]


ADDRESSES = st.integers(0, 15).map(lambda last: f"10.0.0.{last}")
NETWORKS = st.tuples(st.integers(0, 15), st.integers(28, 32)).map(
    lambda given: str(ip_network(f"10.0.0.{given[0]}/{given[1]}", strict=False))
)
NODES = st.fixed_dictionaries(
    {"aet": st.sampled_from(["CT", "MR"]), "site": st.just("s")},
    optional={
        "host": ADDRESSES | st.sampled_from(["a.example", "b.example"]),
        "from": st.lists(NETWORKS, min_size=1, max_size=2),
        "called": st.sampled_from(["ONE", "TWO"]),
    },
).map(Node.model_validate)


@settings(deadline=None)
@given(NODES, NODES)
def test_clashing_is_symmetric_and_a_node_clashes_with_its_twin(one: Node, two: Node) -> None:
    first, second = caller("A", one), caller("B", two)
    assert first.overlaps(second) == second.overlaps(first)
    assert first.overlaps(first) == bool(first.networks or first.names)


@settings(deadline=None)
@given(NODES, NODES, ADDRESSES, st.sampled_from(["CT", "MR"]), st.sampled_from(["ONE", "TWO"]))
def test_whoever_passes_admission_is_one_node_whatever_the_order(
    one: Node, two: Node, address: str, calling: str, called: str
) -> None:
    """Without a clash, the order of nodes in the document never decides who a caller is."""
    if caller("A", one).overlaps(caller("B", two)):
        return
    as_written, turned_round = (
        admit(definition(nodes), called, calling, address, resolved={}, loopback=False)
        for nodes in ({"A": one, "B": two}, {"B": two, "A": one})
    )
    assert isinstance(as_written, Admitted) == isinstance(turned_round, Admitted)
    if isinstance(as_written, Admitted) and isinstance(turned_round, Admitted):
        assert as_written.node == turned_round.node


def definition(nodes: dict[str, Node]) -> Definition:
    site = {"s": {"name": "S"}}
    empty = Definition.model_validate({"kivuko": 1, "name": "n", "aets": ["ONE", "TWO"], "sites": site})
    return empty.model_copy(update={"nodes": nodes})


@settings(deadline=None)
@given(NODES, NODES)
def test_an_overlap_is_an_address_that_both_call_from(one: Node, two: Node) -> None:
    first, second = caller("A", one), caller("B", two)
    both = [last for last in range(16) if _calls(first, last) and _calls(second, last)]
    expected = first.aet == second.aet and (None in (first.called, second.called) or first.called == second.called)
    assert first.overlaps(second) == (expected and bool(both or first.names & second.names))


def _calls(known: Caller, last: int) -> bool:
    return any(ip_address(f"10.0.0.{last}") in network for network in known.networks)


def test_the_successor_of_a_retired_node_is_admitted_though_it_has_its_title_and_address() -> None:
    old = Node.model_validate({"site": "s", "aet": "CT", "host": "10.0.0.1", "retired": True})
    new = Node.model_validate({"site": "s", "aet": "CT", "host": "10.0.0.1"})
    answer = admit(definition({"OLD": old, "NEW": new}), "ONE", "CT", "10.0.0.1", resolved={}, loopback=False)
    assert isinstance(answer, Admitted)
    assert answer.node == "NEW"
