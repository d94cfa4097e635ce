"""What a node sees of the worklist, by the network definition. Pure."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Literal

from contracts.definition import Definition

ALL = "all"


@dataclass(frozen=True)
class View:
    """What one node sees.

    Attributes
    ----------
    tenant
        Nothing of any other.
    sites
        Whose items.
    stations
        AE titles of which an item has to name one, unless it names none; None: any.
    modalities
        Of which an item has to have one; None: any.
    charset
        Terms of Specific Character Set that it can show, or `auto`, or `ASCII`.
    limit
        Most items in one answer.
    names
        How person names are matched.
    """

    tenant: str
    sites: frozenset[str]
    stations: frozenset[str] | None
    modalities: frozenset[str] | None
    charset: tuple[str, ...]
    limit: int
    names: Literal["exact", "fold"]

    def hides(self, site: str, stations: Collection[str], modality: str) -> bool:
        """Tell whether it does not see an item of its tenant."""
        return (
            site not in self.sites
            or (self.modalities is not None and modality not in self.modalities)
            or (self.stations is not None and bool(stations) and self.stations.isdisjoint(stations))
        )

    def objections(self, tenant: str, site: str, stations: Sequence[str], modality: str) -> list[str]:
        """Say why it does not see an item: each reason with what would change it."""
        found = []
        if tenant != self.tenant:
            found.append("it belongs to another tenant: nothing is shared between tenants")
        elif site not in self.sites:
            seen = ", ".join(sorted(self.sites))
            found.append(f"it is of the site {site}, and the node sees {seen} (`worklist: sites` of the node)")
        if self.modalities is not None and modality not in self.modalities:
            seen = ", ".join(sorted(self.modalities))
            said = modality or "not said"
            found.append(f"its modality is {said}, and the node sees {seen} (`worklist: modalities` of the node)")
        if self.stations is not None and stations and self.stations.isdisjoint(stations):
            found.append(
                f"it is scheduled for {', '.join(stations)}, and the node sees its own items only "
                "(`worklist: stations` of the node)"
            )
        return found


def view_of(definition: Definition, node_key: str) -> View | None:
    """Give what a node sees; none for a node that is not there, or may not ask."""
    node = definition.nodes.get(node_key)
    site = None if node is None else definition.sites.get(node.site)
    if node is None or site is None or node.retired or "worklist" not in node.may:
        return None
    said = node.worklist
    of_tenant = frozenset(key for key, each in definition.sites.items() if each.tenant == site.tenant)
    sites = of_tenant if ALL in said.sites else frozenset(said.sites or (node.site,)) & of_tenant
    return View(
        tenant=site.tenant,
        sites=sites,
        stations=frozenset({definition.aet_of(node_key)}) if said.stations == "own" else None,
        modalities=frozenset(said.modalities) or None,
        charset=said.charset,
        limit=said.limit,
        names=said.names,
    )
