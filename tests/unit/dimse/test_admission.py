from datetime import UTC, datetime
from ipaddress import IPv4Network
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from contracts.definition import Definition
from libs.dimse.admission import NO_DEFINITION, UNKNOWN_NODE, Admitted, Limits, Refusal, admit, host_names
from libs.dimse.certificate import Certificate

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
    certificate: Certificate | None = None,
    **resolved: list[str],
) -> Admitted | Refusal:
    return admit(network, called, calling, address, resolved=resolved, loopback=loopback, certificate=certificate)


def shown(name: str = "", *, dns: tuple[str, ...] = (), digit: str = "0") -> Certificate:
    at = datetime(2026, 1, 1, tzinfo=UTC)
    return Certificate(frozenset((name,)), frozenset(dns), f"sha256:{digit * 64}", at, at)


def test_an_archive_that_answers_commitment_is_known_as_one() -> None:
    network = definition({"CT": {"host": "10.0.0.5", "commit": True, "may": []}, "MR": {"host": "10.0.0.5"}})
    archive, scanner = decide(network), decide(network, "MR")
    assert isinstance(archive, Admitted)
    assert isinstance(scanner, Admitted)
    assert (archive.commits, scanner.commits) == (True, False)


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


FINGERPRINT = f"sha256:{'a' * 64}"


@pytest.mark.parametrize(
    ("wanted", "certificate", "let_in"),
    [
        ("ct1", shown("ct1"), True),
        ("ct1", shown("CT1"), False),
        ("ct1", shown("ct10"), False),
        ("ct1.luba.example", shown("x", dns=("ct1.luba.example",)), True),
        ("CT1.luba.example", shown("x", dns=("ct1.luba.example",)), True),
        ("ct1.luba.example", shown("x", dns=("*.luba.example",)), False),
        (FINGERPRINT, shown("ct1", digit="a"), True),
        (FINGERPRINT, shown("ct1", digit="b"), False),
        # A common name that looks like a fingerprint is none.
        (FINGERPRINT, shown(FINGERPRINT, digit="b"), False),
        ("ct1", None, False),
        (FINGERPRINT, None, False),
    ],
)
def test_a_node_with_a_certificate_must_show_it(wanted: str, certificate: Certificate | None, let_in: bool) -> None:
    network = definition({"CT": {"host": "10.0.0.5", "certificate": wanted}})
    found = decide(network, certificate=certificate)
    assert isinstance(found, Admitted) == let_in
    if isinstance(found, Refusal):
        assert (found.permanent, found.diagnostic, found.source) == (True, 3, 1)
        assert "TLS" in found.reason or "certificate shown" in found.reason


def test_a_certificate_never_replaces_title_and_address() -> None:
    network = definition({"CT": {"host": "10.0.0.5", "certificate": "ct1"}})
    assert isinstance(decide(network, certificate=shown("ct1"), address="10.0.0.6"), Refusal)
    assert isinstance(decide(network, certificate=shown("ct1"), calling="MR"), Refusal)


def test_a_certificate_of_another_node_lets_nobody_in_as_one_without() -> None:
    nodes: dict[str, dict[str, Any]] = {
        "CT": {"host": "10.0.0.5"},
        "MR": {"host": "10.0.0.6", "certificate": "mr1"},
    }
    assert isinstance(decide(definition(nodes), certificate=shown("ct1")), Admitted)
    found = decide(definition(nodes), certificate=shown("mr1"))
    assert isinstance(found, Refusal)
    assert "MR" in found.reason
    # The successor of a node that is retired often has its certificate.
    nodes["MR"]["retired"] = True
    assert isinstance(decide(definition(nodes), certificate=shown("mr1")), Admitted)


def test_a_certificate_of_a_node_lets_nobody_in_as_unknown() -> None:
    network = definition({"MR": {"host": "10.0.0.6", "certificate": "mr1"}}, sites=1)
    assert isinstance(decide(network, address="127.0.0.1", loopback=True, certificate=shown("mr1")), Refusal)
    assert isinstance(decide(network, address="127.0.0.1", loopback=True, certificate=shown("other")), Admitted)


@pytest.mark.parametrize("order", [("A", "B"), ("B", "A")])
@pytest.mark.parametrize(("name", "node"), [("b1", "B"), ("a1", "A")])
def test_the_certificate_tells_nodes_apart_that_resolve_to_one_address(
    order: tuple[str, str], name: str, node: str
) -> None:
    nodes = {key: {"aet": "CT", "host": key.lower(), "certificate": f"{key.lower()}1"} for key in order}
    found = decide(definition(nodes), certificate=shown(name), a=["10.0.0.5"], b=["10.0.0.5"])
    assert isinstance(found, Admitted)
    assert found.node == node


def test_limits_and_sop_classes_come_with_the_node() -> None:
    network = definition({"CT": {"host": "10.0.0.5", "limits": {"associations": 3, "rate": 5, "object-size": "4GB"}}})
    network.sites["s0"] = network.sites["s0"].model_copy(update={"sop_classes": "standard"})
    found = decide(network)
    assert isinstance(found, Admitted)
    assert (found.limits, found.sop_classes) == (Limits(3, 5.0, 4_000_000_000), "standard")


NAMES = st.sampled_from(["a1", "b1", "c1"])
OPTIONAL = st.none() | NAMES


@given(
    st.dictionaries(st.sampled_from("ABC"), st.fixed_dictionaries({
        "aet": st.sampled_from(["X", "Y"]),
        "host": st.sampled_from(["10.0.0.1", "10.0.0.2"]),
        "certificate": OPTIONAL,
        "retired": st.booleans(),
    })),
    st.sampled_from(["X", "Y", "Z"]),
    st.sampled_from(["10.0.0.1", "10.0.0.2", "10.0.0.3", "127.0.0.1"]),
    OPTIONAL,
    st.booleans(),
)  # fmt: skip
def test_nobody_passes_as_a_node_without_all_that_it_is_known_by(
    nodes: dict[str, dict[str, Any]], calling: str, address: str, name: str | None, loopback: bool
) -> None:
    network = definition(nodes, sites=1)
    certificate = None if name is None else shown(name)
    found = decide(network, calling, address=address, loopback=loopback, certificate=certificate)
    if not isinstance(found, Admitted):
        assert found.reason
        return
    holders = {key for key, node in nodes.items() if node["certificate"] == name and not node["retired"]}
    if found.node == UNKNOWN_NODE:
        assert loopback
        assert address == "127.0.0.1"
        assert name is None or not holders
        return
    node = nodes[found.node]
    assert (node["aet"], node["host"], node["retired"]) == (calling, address, False)
    assert node["certificate"] in (None, name)
    # Whoever holds the certificate of some node is that node, and no other.
    if name is not None and holders:
        assert found.node in holders
