"""Nodes that could not be told apart when they call."""

from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Network, ip_network
from itertools import combinations

from contracts.definition import Node

Network = IPv4Network | IPv6Network


@dataclass(frozen=True)
class Caller:
    """How a node is recognised when it calls: by called AE title, calling AE title and source address together.

    Attributes
    ----------
    aet
        Calling AE title, without the spaces around it, which carry no meaning (PS3.5 section 6.2).
    called
        AE title that it calls; None stands for any of ours.
    networks
        Addresses that it may call from.
    names
        Host names that it may call from, in lower case.
    """

    aet: str
    called: str | None
    networks: tuple[Network, ...]
    names: frozenset[str]

    def overlaps(self, other: "Caller") -> bool:
        """Tell whether one association could be either of the two.

        A host name overlaps only with the same name: what it resolves to is not known when a definition is checked.
        """
        if self.aet != other.aet or (self.called != other.called and None not in (self.called, other.called)):
            return False
        return bool(self.names & other.names) or any(
            one.version == two.version and one.overlaps(two) for one in self.networks for two in other.networks
        )


def caller(key: str, node: Node) -> Caller:
    """Give what a node is recognised by; addresses are `from`, and `host` where `from` is left out."""
    networks: tuple[Network, ...] = node.from_
    names: frozenset[str] = frozenset()
    if not networks and node.host is not None:
        try:
            networks = (ip_network(node.host),)
        except ValueError:
            names = frozenset((node.host.rstrip(".").lower(),))
    called = None if node.called is None else node.called.strip()
    return Caller((node.aet or key).strip(), called, tuple(map(_unmapped, networks)), names)


def clashes(nodes: Mapping[str, Node]) -> Iterator[tuple[str, str]]:
    """Give the pairs of nodes that can't be told apart, in the order of the definition. Retired nodes never call."""
    by_aet: dict[str, list[tuple[str, Caller]]] = defaultdict(list)
    for key, node in nodes.items():
        if not node.retired:
            known = caller(key, node)
            by_aet[known.aet].append((key, known))
    for group in by_aet.values():
        for (first, one), (second, two) in combinations(group, 2):
            if one.overlaps(two):
                yield first, second


def _unmapped(network: Network) -> Network:
    """Turn an IPv4 address that is written as IPv6 (RFC 4291 section 2.5.5.2) into IPv4."""
    mapped = network.network_address.ipv4_mapped if isinstance(network, IPv6Network) else None
    if mapped is None or network.prefixlen < 96:  # noqa: PLR2004 - length of the prefix ::ffff:0:0
        return network
    return IPv4Network((mapped, network.prefixlen - 96))
