from ipaddress import IPv4Network
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from contracts.definition import Definition
from libs.dimse.admission import NO_DEFINITION, UNKNOWN_NODE, Admitted, Refusal, admit, host_names

pytestmark = pytest.mark.unit


def definition(nodes: dict[str, Any], sites: int = 2, aets: tuple[str, ...] = ("KIVUKO",)) -> Definition:
    return Definition.model_validate(
        {
            "kivuko": 1,
            "name": "n",
            "aets": list(aets),
            "sites": {f"s{number}": {"name": "S", "tenant": f"t{number}"} for number in range(sites)},
            "nodes": {key: {"site": "s0", "may": ["store"], **node} for key, node in nodes.items()},
        }
    )


def decide(
    network: Definition | None,
    calling: str = "CT",
    called: str = "KIVUKO",
    address: str = "10.0.0.5",
    *,
    loopback: bool = False,
    **resolved: list[str],
) -> Admitted | Refusal:
    return admit(network, called, calling, address, resolved=resolved, loopback=loopback)


def test_without_a_definition_nobody_is_let_in_and_may_try_again() -> None:
    assert decide(None, loopback=True, address="127.0.0.1") == NO_DEFINITION
    assert not NO_DEFINITION.permanent


@pytest.mark.parametrize(
    ("nodes", "call", "expected"),
    [
        ({"CT": {"host": "10.0.0.5"}}, {}, "CT"),
        ({"A": {"aet": "CT", "host": "10.0.0.5"}}, {}, "A"),
        ({"CT": {"host": "10.0.0.5"}}, {"address": "::ffff:10.0.0.5"}, "CT"),
        ({"CT": {"from": "10.0.0.0/8"}}, {}, "CT"),
        ({"CT": {"from": ["fd00::/8"]}}, {"address": "fd00::1%eth0"}, "CT"),
        ({"CT": {"host": "scanner"}}, {"scanner": ["10.0.0.4", "10.0.0.5"]}, "CT"),
        ({"A": {"aet": "CT", "host": "10.0.0.4"}, "B": {"aet": "CT", "host": "10.0.0.5"}}, {}, "B"),
        ({"CT": {"host": "10.0.0.5", "called": "KIVUKO"}}, {}, "CT"),
        ({"CT": {"host": "10.0.0.5"}}, {"called": "OTHER"}, 7),
        ({"CT": {"host": "10.0.0.5", "called": "SECOND"}}, {}, 7),
        ({"CT": {"host": "10.0.0.6"}}, {}, 3),
        ({"CT": {"host": "scanner"}}, {}, 3),
        ({"CT": {}}, {}, 3),
        # `from` stands in place of `host`, not beside it.
        ({"CT": {"host": "10.0.0.5", "from": "10.1.0.0/16"}}, {}, 3),
        ({"CT": {"host": "10.0.0.5", "retired": True}}, {}, 3),
        ({"MR": {"host": "10.0.0.5"}}, {}, 3),
    ],
)
def test_a_node_is_known_by_titles_and_address_together(
    nodes: dict[str, Any], call: dict[str, Any], expected: str | int
) -> None:
    found = decide(definition(nodes, aets=("KIVUKO", "SECOND")), **call)
    if isinstance(expected, str):
        assert isinstance(found, Admitted)
        assert (found.node, found.site, found.tenant) == (expected, "s0", "t0")
    else:
        assert isinstance(found, Refusal)
        assert (found.permanent, found.diagnostic) == (True, expected)


@pytest.mark.parametrize(
    ("loopback", "address", "sites", "let_in"),
    [(True, "127.0.0.1", 1, True), (True, "127.8.0.1", 0, True), (True, "127.0.0.1", 2, False),
     (False, "127.0.0.1", 1, False), (True, "10.0.0.5", 1, False)],
)  # fmt: skip
def test_an_unknown_caller_is_let_in_on_one_machine_with_one_site_only(
    loopback: bool, address: str, sites: int, let_in: bool
) -> None:
    found = decide(definition({}, sites=sites), address=address, loopback=loopback)
    assert isinstance(found, Admitted) == let_in
    if isinstance(found, Admitted):
        assert found.node == UNKNOWN_NODE


def test_a_retired_node_is_not_let_in_as_unknown() -> None:
    network = definition({"CT": {"host": "127.0.0.1", "retired": True}}, sites=1)
    assert isinstance(decide(network, address="127.0.0.1", loopback=True), Refusal)


@given(st.ip_addresses(v=4), st.ip_addresses(v=4), st.integers(0, 32))
def test_a_network_lets_in_its_addresses_and_no_other(address: Any, other: Any, prefix: int) -> None:
    network = IPv4Network((other, prefix), strict=False)
    found = decide(definition({"CT": {"from": str(network)}}), address=str(address))
    assert isinstance(found, Admitted) == (address in network)


def test_only_names_that_callers_are_known_by_are_looked_up() -> None:
    nodes = {"A": {"host": "one"}, "B": {"host": "10.0.0.1"}, "C": {"host": "two", "from": "10.0.0.0/8"}, "D": {}}
    assert host_names(definition(nodes)) == {"one"}
