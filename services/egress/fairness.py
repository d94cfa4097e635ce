"""Whose turn is next within a lane of one destination, so that nobody's backlog keeps another one waiting.

Start-time fair queueing (Goyal, Vin, Cheng, 1996), counted in bytes: tenants share the lane alike, and the source nodes
of a tenant share what the tenant gets. What somebody did not use is not saved up: who comes back starts level with the
others.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Generic, TypeVar

Head = TypeVar("Head")


@dataclass(frozen=True)
class Group(Generic[Head]):
    """What waits in a lane from one source node of one tenant; only its first matters, not how many there are.

    Attributes
    ----------
    tenant, source
        Tenant, and key of the node that it came from.
    since
        When the first was requested, UTC.
    size
        Bytes that go in its turn.
    head
        What goes in its turn, as the caller knows it.
    """

    tenant: str
    source: str
    since: datetime
    size: int
    head: Head


@dataclass(frozen=True)
class Shares:
    """How many bytes each is ahead of who is next; who is not named is level. Begin with an empty one.

    It holds no more than who was served lately, and may be forgotten at any time: then all are level.

    Attributes
    ----------
    tenants
        By tenant.
    sources
        By tenant and source node, of those of the same tenant.
    """

    tenants: Mapping[str, int] = field(default_factory=dict)
    sources: Mapping[str, Mapping[str, int]] = field(default_factory=dict)


def turn(groups: Sequence[Group[Head]], shares: Shares) -> tuple[Group[Head], Shares]:
    """Choose who is next and charge its size, whatever becomes of it.

    Of those level the oldest request goes first, then the names decide: the same groups and shares give the same
    choice, in whatever order they are given.

    Parameters
    ----------
    groups
        Everybody who has something to send now, each tenant and source once.
    shares
        As the last turn in this lane left them.

    Raises
    ------
    ValueError
        Nobody waits: check it before.
    """
    if not groups:
        raise ValueError("nobody waits in this lane")
    oldest: dict[str, datetime] = {}
    for group in groups:
        oldest[group.tenant] = min(group.since, oldest.get(group.tenant, group.since))
    tenant = min(oldest, key=lambda name: (shares.tenants.get(name, 0), oldest[name], name))
    ahead = shares.sources.get(tenant, {})
    chosen = min(
        (group for group in groups if group.tenant == tenant),
        key=lambda group: (ahead.get(group.source, 0), group.since, group.source),
    )
    tenants = _served(shares.tenants, tenant, chosen.size)
    sources = {name: leads for name, leads in shares.sources.items() if name in oldest or name in tenants}
    return chosen, Shares(tenants, sources | {tenant: _served(ahead, chosen.source, chosen.size)})


def _served(ahead: Mapping[str, int], name: str, size: int) -> dict[str, int]:
    """Make the one who is served the measure of all others, then charge it."""
    level = ahead.get(name, 0)
    # An empty object counts as well, or one who has nothing else would always be next.
    others = {other: lead - level for other, lead in ahead.items() if other != name and lead > level}
    return others | {name: max(1, size)}
