"""Who may call us, and as which node of the network definition.

A node is known by called AE title, calling AE title and source address together, and by its TLS client certificate
where the definition asks for one.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import TYPE_CHECKING, Literal

# For their types alone: receivers import this module, and must not pay for pydantic and X.509 in each process.
if TYPE_CHECKING:
    from contracts.definition import Definition, Node
    from libs.dimse.certificate import Certificate

#: Node of a caller that the definition does not name, let in from this machine itself in the embedded profile.
UNKNOWN_NODE = "unknown"
#: Addresses of the host names in the definition, resolved outside.
Resolved = Mapping[str, Collection[str]]


@dataclass(frozen=True)
class Limits:
    """What a node may ask of us at once; None: nothing but what holds for all together.

    Attributes
    ----------
    associations
        Associations at a time.
    rate
        Instances a second, over all its associations; answers come later beyond it.
    object_size
        Longest dataset in bytes; a longer one is refused.
    """

    associations: int | None = None
    rate: float | None = None
    object_size: int | None = None


@dataclass(frozen=True)
class Admitted:
    """The caller is one of our nodes.

    Attributes
    ----------
    node, site, tenant
        Keys in the network definition.
    may
        What the node is allowed to ask of us.
    limits
        How much at once.
    sop_classes
        Which storage SOP classes its site takes: any, or those of PS3.4 only.
    commits
        Whether it answers storage commitment, so that it may report to us.
    tls_subject
        Subject of the certificate that it has proved by TLS; None without TLS.
    """

    node: str
    site: str
    tenant: str
    may: frozenset[str]
    limits: Limits = Limits()
    sop_classes: Literal["any", "standard"] = "any"
    commits: bool = False
    tls_subject: str | None = None


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
        Reason: for source 1 1 none given, 3 calling AE title not recognised, 7 called AE title not recognised; for
        source 3 1 temporary congestion, 2 local limit exceeded.
    source
        1 service user, 3 service provider (presentation).
    """

    reason: str
    permanent: bool
    diagnostic: Literal[1, 2, 3, 7]
    source: Literal[1, 3] = 1


NO_DEFINITION = Refusal(
    "there is no network definition yet: run `kivuko apply FILE`, then send again", permanent=False, diagnostic=1
)


def admit(
    definition: "Definition | None",
    called: str,
    calling: str,
    address: str,
    *,
    resolved: Resolved,
    loopback: bool,
    certificate: "Certificate | None" = None,
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
    certificate
        What the caller has proved by TLS to hold, issued by an authority that we trust; none without TLS.
    """
    if definition is None:
        return NO_DEFINITION
    if called not in definition.aets:
        ours = ", ".join(definition.aets)
        return Refusal(f"the called AE title is not one of ours ({ours})", permanent=True, diagnostic=7)
    source = _plain(address)
    known = _node(definition, called, calling, source, resolved, certificate)
    if isinstance(known, Admitted) and certificate is not None:
        return replace(known, tls_subject=certificate.subject)
    if known is not None:
        return known
    if loopback and source.is_loopback and len(definition.sites) <= 1:
        return _unnamed(definition, certificate)
    return _not_ours(
        "no node of the network definition has this calling AE title: add the node, then run `kivuko apply FILE`"
    )


def _node(
    definition: "Definition",
    called: str,
    calling: str,
    source: IPv4Address | IPv6Address,
    resolved: Resolved,
    certificate: "Certificate | None",
) -> Admitted | Refusal | None:
    of_title = {key: node for key, node in definition.nodes.items() if definition.aet_of(key) == calling}
    at_address = {key: node for key, node in of_title.items() if _calls_from(node, source, resolved)}
    calls_us = {key: node for key, node in at_address.items() if node.called in (None, called)}
    # Several when host names of theirs lead to one address: then the certificate tells which it is.
    objections = {key: _objection(definition, key, certificate) for key, node in calls_us.items() if not node.retired}
    for key, objection in objections.items():
        if objection is None:
            return _admitted(definition, key)
    for objection in objections.values():
        return _not_ours(str(objection))
    # A retired node last: its successor often has its AE title and address.
    for key in calls_us:
        return _not_ours(f"the node {key} is retired in the network definition")
    if at_address:
        expected = ", ".join(sorted({str(node.called) for node in at_address.values()}))
        return Refusal(f"this node must call us {expected}", permanent=True, diagnostic=7)
    if of_title:
        return _not_ours(
            f"the calling AE title is known, but not from this address: add it to `host` or `from` of the node "
            f"{', '.join(sorted(of_title))}"
        )
    return None


def _objection(definition: "Definition", key: str, certificate: "Certificate | None") -> str | None:
    """Say why a certificate, or that there is none, speaks against that the caller is this node."""
    wanted = definition.nodes[key].certificate
    if wanted is not None:
        if certificate is None:
            return f"the node {key} has a `certificate` in the network definition, so it must call with TLS"
        if certificate.says(wanted):
            return None
        return (
            f"the certificate shown is not the one of the node {key}: it was issued for another system; "
            f"if it is a new one ({certificate.fingerprint}), change `certificate` of the node"
        )
    return _belongs_to_another(definition, certificate)


def _belongs_to_another(definition: "Definition", certificate: "Certificate | None") -> str | None:
    """Object to a caller whose certificate says that it is a node other than one without a certificate."""
    if certificate is None:
        return None
    holders = [
        key
        for key, node in definition.nodes.items()
        if node.certificate is not None and not node.retired and certificate.says(node.certificate)
    ]
    if not holders:
        return None
    return (
        f"the certificate shown is the one of the node {', '.join(holders)}, which has another AE title or address: "
        f"mend the AE title or address at the caller, or name the certificate in each node that shares it"
    )


def _unnamed(definition: "Definition", certificate: "Certificate | None") -> Admitted | Refusal:
    from contracts.definition import DEFAULT_TENANT  # noqa: PLC0415 - as above; whoever has a definition has it already

    objection = _belongs_to_another(definition, certificate)
    if objection is not None:
        return _not_ours(objection)
    site, tenant = next(((key, site.tenant) for key, site in definition.sites.items()), ("local", DEFAULT_TENANT))
    classes: Literal["any", "standard"] = definition.sites[site].sop_classes if site in definition.sites else "any"
    return Admitted(UNKNOWN_NODE, site, tenant, frozenset({"store"}), sop_classes=classes)


def _admitted(definition: "Definition", key: str) -> Admitted:
    node = definition.nodes[key]
    site = definition.sites[node.site]
    limits = Limits(node.limits.associations, node.limits.rate, node.limits.object_size)
    return Admitted(key, node.site, site.tenant, frozenset(node.may), limits, site.sop_classes, node.commit)


def _not_ours(reason: str) -> Refusal:
    return Refusal(reason, permanent=True, diagnostic=3)


def nodes_at(
    definition: "Definition", address: str, *, resolved: Resolved, certificate: "Certificate | None" = None
) -> tuple[list[str], list[str]]:
    """Give the nodes that a caller may be who says no AE title, and what speaks against others at its address.

    Parameters
    ----------
    definition, address, resolved, certificate
        As for `admit`. Retired nodes call no more.
    """
    source = _plain(address)
    those = [key for key, node in definition.nodes.items() if not node.retired and _calls_from(node, source, resolved)]
    objections = {key: _objection(definition, key, certificate) for key in those}
    return [key for key in those if objections[key] is None], [each for each in objections.values() if each]


def host_names(definition: "Definition") -> set[str]:
    """List the host names of nodes that may call by them: what must be resolved before `admit`."""
    return {
        node.host
        for node in definition.nodes.values()
        if node.host is not None and not node.from_ and _address(node.host) is None
    }


def _calls_from(node: "Node", source: IPv4Address | IPv6Address, resolved: Resolved) -> bool:
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
