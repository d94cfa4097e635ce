"""What is recorded of a study when it is decided: enough to say why, and what other rules would have done. Pure.

A study of thousands of instances is recorded by their kinds: instances that say the same. What nearly every instance
says differently, such as its number, is left out of the kinds, and of it only the study's value is kept.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import lru_cache
from types import MappingProxyType
from typing import Any, Final

from contracts.fact import Attributes, AttributeValue, Source
from contracts.routing import PRIORITIES, Priority
from services.rules.plan import Known, Requested, aggregate

#: Most kinds of one version.
MOST_KINDS: Final = 24
#: Most versions of one study: the first and the last ones.
MOST_VERSIONS: Final = 8
_MINUTE: Final = 60
_HOUR: Final = 3600
#: Minute since 1970, instances, bytes.
Arrival = tuple[int, int, int]


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
class Route:
    """How a study goes to one destination.

    Attributes
    ----------
    priority
        The highest that was asked for.
    transforms
        Those of its instances, each once; none is the empty text.
    hours
        Hour since 1970 to instances and bytes that were first asked for then.
    held
        Whether a rule keeps any of it back.
    """

    priority: Priority
    transforms: tuple[str, ...]
    hours: Mapping[int, tuple[int, int]]
    held: bool = False

    @property
    def count(self) -> int:
        """Number of instances."""
        return sum(count for count, _ in self.hours.values())

    @property
    def size(self) -> int:
        """Bytes."""
        return sum(size for _, size in self.hours.values())


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


def routed(
    before: Mapping[str, Route],
    everything: Iterable[Requested],
    asked: Iterable[tuple[int, str]],
    arrivals: Callable[[Known], Iterable[Arrival]],
    is_new: Callable[[Known], bool],
    decided_at: datetime,
) -> dict[str, Route]:
    """Give the routes of a study after one more version.

    Parameters
    ----------
    before
        Its routes after the version before.
    everything
        What is requested of this version.
    asked
        Row of the instance and destination of what was requested before this decision.
    arrivals
        When instances came, and how many bytes.
    is_new
        Whether an instance is new in this version.
    decided_at
        When it is decided.
    """
    known = set(asked)
    now = hour(decided_at)
    found: dict[str, tuple[Priority, set[str], dict[int, tuple[int, int]]]] = {}
    held = set()
    for one in everything:
        destination = one.destination
        if destination not in found:
            earlier = before.get(destination)
            found[destination] = (one.wish.priority, set(), {} if earlier is None else dict(earlier.hours))
        priority, transforms, hours = found[destination]
        transforms.add(one.wish.transform or "")
        if one.wish.hold is not None:
            held.add(destination)
        if PRIORITIES.index(one.wish.priority) < PRIORITIES.index(priority):
            found[destination] = (one.wish.priority, transforms, hours)
        if (one.instance.id, destination) not in known:
            for _, count, size in arrivals(one.instance):
                _add(hours, now, count, size)
        elif is_new(one.instance):
            for minute, count, size in arrivals(one.instance):
                _add(hours, minute // _MINUTE, count, size)
    return {
        destination: Route(priority, tuple(sorted(transforms)), hours, destination in held)
        for destination, (priority, transforms, hours) in found.items()
    }


def arrival(one: Known) -> tuple[Arrival]:
    """Give the arrival of one instance."""
    return ((int(one.received_at.timestamp()) // _MINUTE, 1, one.item.size),)


def hour(at: datetime) -> int:
    """Give the hour since 1970."""
    return int(at.timestamp()) // _HOUR


def _add(hours: dict[int, tuple[int, int]], at: int, count: int, size: int) -> None:
    before = hours.get(at, (0, 0))
    hours[at] = (before[0] + count, before[1] + size)


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
            _add(minutes, minute, count, size)
    return tuple((minute, count, size) for minute, (count, size) in sorted(minutes.items()))


# --- as JSON -------------------------------------------------------------------------------------------------------


def as_json(record: Record) -> dict[str, Any]:
    """Write a record: attributes that all kinds of a version share stand there once."""
    return {
        "versions": [_version_json(each) for each in record.versions],
        "routes": {
            destination: {
                "priority": route.priority,
                "transforms": list(route.transforms),
                "hours": [[at, *both] for at, both in sorted(route.hours.items())],
                **({"held": True} if route.held else {}),
            }
            for destination, route in record.routes.items()
        },
    }


def from_json(data: Mapping[str, Any]) -> Record:
    """Read what `as_json` wrote."""
    return Record(
        tuple(map(_version_of, data["versions"])),
        {
            destination: Route(
                route["priority"],
                tuple(route["transforms"]),
                {at: (count, size) for at, count, size in route["hours"]},
                route.get("held", False),
            )
            for destination, route in data["routes"].items()
        },
    )


def _version_json(each: Version) -> dict[str, Any]:
    first = each.kinds[0].attributes if each.kinds else {}
    shared = {
        keyword: value
        for keyword, value in first.items()
        if all(keyword in kind.attributes and kind.attributes[keyword] == value for kind in each.kinds)
    }
    return {
        "number": each.number,
        "decided_at": each.decided_at.astimezone(UTC).isoformat(),
        "network_version": each.network_version,
        "last_arrival": each.last_arrival.astimezone(UTC).isoformat(),
        "source": each.source.model_dump(mode="json"),
        "study": each.attributes,
        "shared": shared,
        "kinds": [
            {
                "since": kind.since,
                "own": {key: value for key, value in kind.attributes.items() if key not in shared},
                "arrivals": [list(one) for one in kind.arrivals],
                **({} if kind.source == each.source else {"source": kind.source.model_dump(mode="json")}),
            }
            for kind in each.kinds
        ],
        "left": each.left,
        "looked_for": sorted(each.looked_for),
        **({} if each.unhealthy is None else {"unhealthy": sorted(each.unhealthy)}),
        **({"lifted": sorted(each.lifted)} if each.lifted else {}),
        **({"order": dict(each.order)} if each.order else {}),
    }


def _version_of(data: Mapping[str, Any]) -> Version:
    source = _source(data["source"])
    shared = data["shared"]
    return Version(
        number=data["number"],
        decided_at=datetime.fromisoformat(data["decided_at"]),
        network_version=data["network_version"],
        last_arrival=datetime.fromisoformat(data["last_arrival"]),
        source=source,
        attributes=data["study"],
        kinds=tuple(
            Kind(
                source if "source" not in kind else _source(kind["source"]),
                kind["since"],
                {**shared, **kind["own"]},
                tuple(map(tuple, kind["arrivals"])),
            )
            for kind in data["kinds"]
        ),
        left=data["left"],
        looked_for=frozenset(data["looked_for"]),
        unhealthy=frozenset(data["unhealthy"]) if "unhealthy" in data else None,
        lifted=frozenset(data.get("lifted", ())),
        order=data.get("order", {}),
    )


def _source(data: Mapping[str, Any]) -> Source:
    return _same_source(tuple(data.items()))


@lru_cache(maxsize=4096)
def _same_source(items: tuple[tuple[str, Any], ...]) -> Source:
    """Give one object for equal sources: a network has few, and its history names them a million times."""
    return Source.model_validate(dict(items))
