"""How studies go to destinations: counted by the hour, so that what a line carries can be added up. Pure."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final, Protocol

from contracts.routing import PRIORITIES, Priority
from services.rules.plan import Known, Requested, Wish

_MINUTE: Final = 60
_HOUR: Final = 3600
#: Minute since 1970, instances, bytes.
Arrival = tuple[int, int, int]


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


class Came(Protocol):
    """Instances that came together."""

    @property
    def arrivals(self) -> Sequence[Arrival]:
        """How many came when."""
        ...


class _Track:
    """A route while it is put together."""

    __slots__ = ("hours", "priority", "transforms")

    def __init__(self, priority: Priority) -> None:
        self.priority = priority
        self.transforms: set[str] = set()
        self.hours: dict[int, tuple[int, int]] = {}


def routed_at_once(
    came: Iterable[Came],
    asked: Iterable[Mapping[str, Wish]],
    then: Iterable[Mapping[str, Wish]],
    decided_at: datetime,
    lane: Priority | None,
) -> dict[str, Route]:
    """Give the routes of a study with one version, of which nothing is held.

    Parameters
    ----------
    came
        Its instances.
    asked, then
        By destination what each of these is wished to do when it comes, and when the study is complete.
    decided_at
        When it was.
    lane
        That all of it has at least.
    """
    tracks: dict[str, _Track] = {}
    now = hour(decided_at)
    for those, first, second in zip(came, asked, then, strict=True):
        for wanted, is_first in ((first, True), (second, False)):
            for destination, wish in wanted.items():
                track = tracks.get(destination)
                if track is None:
                    track = tracks[destination] = _Track(wish.priority)
                elif track.priority != wish.priority:
                    track.priority = min(track.priority, wish.priority, key=PRIORITIES.index)
                earlier = None if is_first else first.get(destination)
                # A transform once asked for stands.
                track.transforms.add((wish if earlier is None else earlier).transform or "")
                if earlier is None:
                    for minute, count, size in those.arrivals:
                        add(track.hours, minute // _MINUTE if is_first else now, count, size)
    return {
        destination: Route(
            track.priority if lane is None else min(track.priority, lane, key=PRIORITIES.index),
            tuple(sorted(track.transforms)),
            track.hours,
        )
        for destination, track in tracks.items()
    }


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
        if one.wish.priority != priority and PRIORITIES.index(one.wish.priority) < PRIORITIES.index(priority):
            found[destination] = (one.wish.priority, transforms, hours)
        if (one.instance.id, destination) not in known:
            for _, count, size in arrivals(one.instance):
                add(hours, now, count, size)
        elif is_new(one.instance):
            for minute, count, size in arrivals(one.instance):
                add(hours, minute // _MINUTE, count, size)
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


def add(hours: dict[int, tuple[int, int]], at: int, count: int, size: int) -> None:
    """Add instances and bytes to those of an hour, or a minute."""
    before = hours.get(at, (0, 0))
    hours[at] = (before[0] + count, before[1] + size)
