"""Which node of the network definition a message comes from, and how its messages are read. Pure."""

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from ipaddress import ip_address
from typing import Final
from zoneinfo import ZoneInfo

from contracts.definition import Definition, NodeHl7, OrderAction, Snapshot
from libs.definition.mappings import resolved as mapping_of
from libs.dimse.admission import UNKNOWN_NODE, Resolved, nodes_at
from libs.dimse.certificate import Certificate
from services.worklist.hl7 import Sender
from services.worklist.mapping import Surroundings
from services.worklist.rule import Rule, rules

_PLAIN: Final = NodeHl7()


@dataclass(frozen=True)
class Known:
    """A caller that may send.

    Attributes
    ----------
    nodes
        Keys of the nodes that it may be.
    certain
        Whether it is the only one; otherwise a message says which it is.
    """

    nodes: tuple[str, ...]
    certain: bool = True


@dataclass(frozen=True)
class Stranger:
    """A caller that may not send, and why, with what to do about it."""

    reason: str


def caller(
    snapshot: Snapshot | None,
    address: str,
    *,
    resolved: Resolved,
    loopback: bool,
    certificate: Certificate | None = None,
) -> Known | Stranger:
    """Decide who may be at the other end of a connection.

    Parameters
    ----------
    resolved
        Addresses of the host names in the definition.
    loopback
        Whether programs on this machine may send without being a node: the embedded profile with one site.
    certificate
        What the caller has proved by TLS to hold.
    """
    if snapshot is None:
        return Stranger("there is no network definition yet: run `kivuko apply FILE`, then send again")
    definition = snapshot.definition
    keys, objections = nodes_at(definition, address, resolved=resolved, certificate=certificate)
    senders = tuple(key for key in keys if definition.nodes[key].hl7 is not None)
    if senders:
        told_apart = any(_hl7(definition, key).application or _hl7(definition, key).facility for key in senders)
        return Known(senders, certain=len(senders) == 1 and not told_apart)
    if objections:
        return Stranger(objections[0])
    if keys:
        return Stranger(f"the node {keys[0]} may not send HL7: give it `hl7` in the network definition")
    if loopback and len(definition.sites) == 1 and ip_address(address.partition("%")[0]).is_loopback:
        return Known((UNKNOWN_NODE,))
    return Stranger(
        f"no node of the network definition sends HL7 from {address}: add a node with that host and with `hl7`, "
        "run `kivuko apply FILE`, then send again"
    )


def node_of(definition: Definition, nodes: tuple[str, ...], application: str, facility: str) -> str | Stranger:
    """Tell by MSH-3 and MSH-4 which of the nodes at an address sent a message; the one that says most of it."""
    fitting: dict[str, int] = {}
    for key in nodes:
        asked = _hl7(definition, key)
        wanted = ((asked.application, application), (asked.facility, facility))
        if all(value is None or value == given for value, given in wanted):
            fitting[key] = sum(value is not None for value, _ in wanted)
    if not fitting:
        return Stranger(
            f"sending application (MSH-3) and facility (MSH-4) are not those of {', '.join(nodes)} in the network "
            "definition: mend `application` and `facility` of its hl7"
        )
    return max(fitting, key=lambda key: fitting[key])


def charset_of(definition: Definition, node: str) -> tuple[str, bool]:
    """Give the character set for a node's messages without MSH-18, and whether it holds for all."""
    hl7 = _hl7(definition, node)
    return hl7.charset, hl7.charset_always


class Senders:
    """Gives the senders of a snapshot; what a mapping says is made ready once for each snapshot."""

    def __init__(self) -> None:
        self._of = lru_cache(maxsize=2)(_Made)

    def sender(self, snapshot: Snapshot, node: str) -> Sender:
        """Give what reading a node's messages needs."""
        # A version is never given twice with another content.
        return self._of(_Versioned(snapshot)).sender(node)


class _Versioned:
    def __init__(self, snapshot: Snapshot) -> None:
        self.snapshot = snapshot
        self._key = (snapshot.version, snapshot.document_hash)

    def __hash__(self) -> int:
        return hash(self._key)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Versioned) and other._key == self._key


class _Made:
    def __init__(self, versioned: _Versioned) -> None:
        self._definition = versioned.snapshot.definition
        self._senders: dict[str, Sender] = {}
        self._mappings: dict[str, tuple[dict[str, Rule], Mapping[str, OrderAction]]] = {}

    def sender(self, node: str) -> Sender:
        found = self._senders.get(node)
        if found is None:
            found = self._senders[node] = self._make(node)
        return found

    def _make(self, node: str) -> Sender:
        definition = self._definition
        key = _hl7(definition, node).mapping
        if key not in self._mappings:
            mapping = mapping_of(definition.hl7_mappings, key)
            self._mappings[key] = (rules(mapping.set), mapping.control)
        ready, control = self._mappings[key]
        known = definition.nodes.get(node)
        site = next(iter(definition.sites)) if known is None else known.site
        of_site = definition.sites[site]
        named = {"node.key": node, "site.key": site, "site.name": of_site.name}
        named["node.issuer"] = (known.issuer or "") if known is not None else ""
        return Sender(
            node=node,
            site=site,
            tenant=of_site.tenant,
            rules=ready,
            control=control,
            surroundings=Surroundings(
                named, ZoneInfo(of_site.timezone or definition.timezone), stations_of(definition, site)
            ),
        )


def _hl7(definition: Definition, key: str) -> NodeHl7:
    node = definition.nodes.get(key)
    return _PLAIN if node is None or node.hl7 is None else node.hl7


def stations_of(definition: Definition, site: str) -> Mapping[str, tuple[str, ...]]:
    """Give the AE titles of a site's nodes that may ask for a worklist, by modality."""
    found: dict[str, list[str]] = defaultdict(list)
    for key, node in definition.nodes.items():
        if node.site == site and node.modality and not node.retired and "worklist" in node.may:
            found[node.modality].append(definition.aet_of(key))
    return {modality: tuple(titles) for modality, titles in found.items()}
