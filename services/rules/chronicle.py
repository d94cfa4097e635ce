"""What is recorded of a study when it is decided: enough to say why, and what other rules would have done. Pure.

A study of thousands of instances is recorded by their kinds: instances that say the same. What nearly every instance
says differently, such as its number, is left out of the kinds, and of it only the study's value is kept.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from types import MappingProxyType
from typing import Any, Final

from contracts.fact import Attributes, AttributeValue, Source
from services.rules.plan import Known, aggregate
from services.rules.route import Arrival, Route, add, arrival

#: Most kinds of one version.
MOST_KINDS: Final = 24
#: Most versions of one study: the first and the last ones.
MOST_VERSIONS: Final = 8


@dataclass(frozen=True)
class Kind:
    """Instances of a version that say the same.

    Attributes
    ----------
    source
        Where they came from.
    since
        Version that they were new in.
    attributes
        Base attributes and others that a rule read, by DICOM keyword, without those that were left out.
    arrivals
        How many came when, by minute.
    """

    source: Source
    since: int
    attributes: Attributes
    arrivals: tuple[Arrival, ...]

    @property
    def count(self) -> int:
        """Number of instances."""
        return sum(count for _, count, _ in self.arrivals)

    @property
    def size(self) -> int:
        """Bytes."""
        return sum(size for _, _, size in self.arrivals)


@dataclass(frozen=True)
class Version:
    """A version of a study as it was decided.

    Attributes
    ----------
    number
        Version of the study.
    decided_at
        When, UTC.
    network_version
        Version of the definition that decided.
    last_arrival
        When its last instance was durable.
    source
        The source that the conditions of study rules saw.
    attributes
        The study's, by DICOM keyword.
    kinds
        Its instances.
    left
        Of what was left out of the kinds, the study's value.
    looked_for
        Keywords beyond the base attributes that were looked for: what is not there was absent.
    unhealthy
        Destinations that were not healthy; none if no rule asked.
    lifted
        Rules that did not count, as a person had released what they put aside.
    order
        What was ordered, as far as rules asked for it.
    """

    number: int
    decided_at: datetime
    network_version: int
    last_arrival: datetime
    source: Source
    attributes: Attributes
    kinds: tuple[Kind, ...]
    left: Attributes = field(default_factory=dict)
    looked_for: frozenset[str] = frozenset()
    unhealthy: frozenset[str] | None = None
    lifted: frozenset[str] = frozenset()
    order: Mapping[str, str] = field(default_factory=dict)

    @property
    def count(self) -> int:
        """Number of instances."""
        return sum(kind.count for kind in self.kinds)

    @property
    def size(self) -> int:
        """Bytes."""
        return sum(kind.size for kind in self.kinds)


@dataclass(frozen=True)
class Record:
    """A study as it was decided, each version that it had, and where it goes by the last."""

    versions: tuple[Version, ...]
    routes: Mapping[str, Route]


def version(
    number: int,
    decided_at: datetime,
    network_version: int,
    last_arrival: datetime,
    source: Source,
    attributes: Attributes,
    chosen: Sequence[Known],
    named: Callable[[Known], Attributes],
    more: Mapping[int, Attributes],
    looked_for: Iterable[str],
    before: Record | None = None,
    *,
    unhealthy: frozenset[str] | None = None,
    lifted: frozenset[str] = frozenset(),
    order: Mapping[str, str] = MappingProxyType({}),
    most_kinds: int = MOST_KINDS,
) -> Version:
    """Record a version.

    Parameters
    ----------
    number, decided_at, network_version, last_arrival, source, attributes
        As in `Version`.
    chosen
        Its instances.
    named
        Gives the identity of an instance as attributes.
    more
        Attributes beyond the base ones, by row of the instance.
    looked_for
        Their keywords.
    before
        What was recorded of the study before.
    unhealthy, lifted, order
        As in `Version`.
    most_kinds
        How many kinds are told apart.
    """
    own = [{**more.get(one.id, {}), **named(one), **one.attributes} for one in chosen]
    varying = _varying(own)
    kept, left = _kept(own, varying, most_kinds)
    shared = {keyword: value for keyword, value in own[0].items() if keyword not in varying} if own else {}
    groups: dict[Any, list[Known]] = {}
    values: dict[Any, tuple[Source, int, Attributes]] = {}
    for one, said in zip(chosen, own, strict=True):
        new_in = since(one.received_at, number, before)
        key = (one.source, new_in, *(_hashable(said.get(keyword)) for keyword in kept))
        if key not in groups:
            groups[key] = []
            mine = {keyword: said[keyword] for keyword in kept if keyword in said}
            values[key] = (one.source, new_in, {**shared, **mine})
        groups[key].append(one)
    kinds = tuple(Kind(*values[key], _arrivals(group)) for key, group in groups.items())
    return Version(
        *(number, decided_at, network_version, last_arrival, source, attributes, kinds, left, frozenset(looked_for)),
        unhealthy=unhealthy,
        lifted=lifted,
        order=order,
    )


def since(received_at: datetime, number: int, before: Record | None) -> int:
    """Give the version that an instance was new in: the first that was not complete when it came."""
    versions = () if before is None else before.versions
    return next((each.number for each in versions if received_at <= each.last_arrival), number)


def added(before: Record | None, new: Version, routes: Mapping[str, Route]) -> Record:
    """Add a version to what is recorded of a study."""
    versions = (*(() if before is None else before.versions), new)
    if len(versions) > MOST_VERSIONS:
        versions = (versions[0], *versions[1 - MOST_VERSIONS :])
    return Record(versions, routes)


def _varying(own: Sequence[Attributes]) -> frozenset[str]:
    """Find the keywords of which not all say the same."""
    varying: set[str] = set()
    if own:
        first = own[0]
        for said in own[1:]:
            if said.keys() != first.keys():
                varying |= said.keys() ^ first.keys()
            varying.update([keyword for keyword, value in said.items() if first.get(keyword) != value])
    return frozenset(varying)


def _kept(own: Sequence[Attributes], varying: Iterable[str], most: int) -> tuple[list[str], Attributes]:
    """Choose the keywords that tell kinds apart; of the others give the study's value."""
    distinct = {keyword: len({_hashable(said.get(keyword)) for said in own}) for keyword in sorted(varying)}
    kept = [keyword for keyword, count in distinct.items() if count <= most]
    while len({tuple(_hashable(said.get(keyword)) for keyword in kept) for said in own}) > most:
        kept.remove(max(kept, key=lambda keyword: (distinct[keyword], keyword)))
    left: Attributes = {}
    for keyword in distinct:
        value = None if keyword in kept else aggregate(said[keyword] for said in own if keyword in said)
        if value is not None:
            left[keyword] = value
    return kept, left


def _hashable(value: AttributeValue | None) -> Any:
    return tuple(value) if isinstance(value, list) else value


def _arrivals(group: Iterable[Known]) -> tuple[Arrival, ...]:
    minutes: dict[int, tuple[int, int]] = {}
    for one in group:
        for minute, count, size in arrival(one):
            add(minutes, minute, count, size)
    return tuple((minute, count, size) for minute, (count, size) in sorted(minutes.items()))
