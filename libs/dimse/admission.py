"""Who may call us, and as which node of the network definition: called and calling AE title and source address."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Literal

from contracts.definition import DEFAULT_TENANT, Definition, May, Node

#: Node of a caller that the definition does not name, let in from this machine itself in the embedded profile.
UNKNOWN_NODE = "unknown"
#: Addresses of the host names in the definition, resolved outside.
Resolved = Mapping[str, Collection[str]]


@dataclass(frozen=True)
class Admitted:
    """The caller is one of our nodes.

    Attributes
    ----------
    node, site, tenant
        Keys in the network definition.
    may
        What the node is allowed to ask of us.
    """

    node: str
    site: str
    tenant: str
    may: frozenset[May]


@dataclass(frozen=True)
class Refusal:
    """The caller is turned away: A-ASSOCIATE-RJ, PS3.8 section 9.3.4.

    Attributes
    ----------
    reason
        Why and what to do, as a sentence without personal data.
    permanent
        Result 1 (rejected-permanent), else 2 (rejected-transient).
    diagnostic
        Reason for source 1 (service user): 1 none given, 3 calling AE title not recognised, 7 called AE title not
        recognised.
    """

    reason: str
    permanent: bool
    diagnostic: Literal[1, 3, 7]


NO_DEFINITION = Refusal(
    "there is no network definition yet: run `kivuko apply FILE`, then send again", permanent=False, diagnostic=1
)


def admit(
    definition: Definition | None, called: str, calling: str, address: str, *, resolved: Resolved, loopback: bool
) -> Admitted | Refusal:
    """Decide who the caller is.

    Parameters
    ----------
    definition
        The network definition in force, if there is one.
    called, calling
        AE titles of the association, without padding.
    address
        Source address of the connection, without the port.
    resolved
        Addresses of the host names in the definition.
    loopback
        Whether an unknown caller on this machine is let in: the embedded profile, bound to loopback. It counts as the
        node `unknown` of the only site, and is refused if there is more than one site to choose from.
    """
    if definition is None:
        return NO_DEFINITION
    if called not in definition.aets:
        ours = ", ".join(definition.aets)
        return Refusal(f"the called AE title is not one of ours ({ours})", permanent=True, diagnostic=7)
    source = _plain(address)
    known = _node(definition, called, calling, source, resolved)
    if known is not None:
        return known
    if loopback and source.is_loopback and len(definition.sites) <= 1:
        site, tenant = next(((key, site.tenant) for key, site in definition.sites.items()), ("local", DEFAULT_TENANT))
        return Admitted(UNKNOWN_NODE, site, tenant, frozenset({"store"}))
    return Refusal(
        "no node of the network definition has this calling AE title: add the node, then run `kivuko apply FILE`",
        permanent=True,
        diagnostic=3,
    )


def _node(
    definition: Definition, called: str, calling: str, source: IPv4Address | IPv6Address, resolved: Resolved
) -> Admitted | Refusal | None:
    of_title = {key: node for key, node in definition.nodes.items() if definition.aet_of(key) == calling}
    at_address = {key: node for key, node in of_title.items() if _calls_from(node, source, resolved)}
    # A retired node last: its successor often has its AE title and address.
    for key, node in sorted(at_address.items(), key=lambda each: each[1].retired):
        if node.called is not None and node.called != called:
            continue
        if node.retired:
            return Refusal(f"the node {key} is retired in the network definition", permanent=True, diagnostic=3)
        return Admitted(key, node.site, definition.tenant_of(key), frozenset(node.may))
    if at_address:
        expected = ", ".join(sorted({str(node.called) for node in at_address.values()}))
        return Refusal(f"this node must call us {expected}", permanent=True, diagnostic=7)
    if of_title:
        return Refusal(
            f"the calling AE title is known, but not from this address: add it to `host` or `from` of the node "
            f"{', '.join(sorted(of_title))}",
            permanent=True,
            diagnostic=3,
        )
    return None


def host_names(definition: Definition) -> set[str]:
    """List the host names of nodes that may call by them: what must be resolved before `admit`."""
    return {
        node.host
        for node in definition.nodes.values()
        if node.host is not None and not node.from_ and _address(node.host) is None
    }


def _calls_from(node: Node, source: IPv4Address | IPv6Address, resolved: Resolved) -> bool:
    if node.from_:
        return any(source in network for network in node.from_)
    if node.host is None:
        return False
    literal = _address(node.host)
    if literal is not None:
        return source == literal
    return any(source == _plain(each) for each in resolved.get(node.host, ()))


def _plain(address: str) -> IPv4Address | IPv6Address:
    found = ip_address(address.partition("%")[0])
    # A socket for both families shows IPv4 callers as ::ffff:a.b.c.d.
    mapped = found.ipv4_mapped if isinstance(found, IPv6Address) else None
    return mapped or found


def _address(host: str) -> IPv4Address | IPv6Address | None:
    try:
        return _plain(host)
    except ValueError:
        return None
