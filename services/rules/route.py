"""How studies go to destinations: counted by the hour, so that what a line carries can be added up. Pure."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from contracts.routing import PRIORITIES, Priority
from services.rules.plan import Known, Requested

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
