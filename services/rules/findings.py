"""What a replay finds: routes before and after, counted up with a memory that does not grow with the history. Pure."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final, Literal, TypeVar

from services.rules.route import Route
from services.rules.simulation import Conflict, Outcome

#: Different changes that are counted each for itself; what is beyond is counted together.
MOST_CHANGES: Final = 2000
#: Different conflicts, problems and flows that are counted.
MOST_KINDS: Final = 5000
_HOUR: Final = 3600
_OTHERS: Final = "(others)"
#: What a change of a destination is.
What = Literal["gained", "lost", "more", "fewer", "priority", "transform", "hold"]


@dataclass(frozen=True)
class Change:
    """One destination that a study goes to in another way.

    Attributes
    ----------
    destination
        Which.
    what
        gained: it goes there now; lost: no more; more, fewer: with another number of instances; priority, transform,
        hold: in another way.
    before, after
        Number of instances, priority, or transforms.
    """

    destination: str
    what: What
    before: str
    after: str


def changes(before: Mapping[str, Route], after: Mapping[str, Route]) -> list[Change]:
    """Compare the routes of a study."""
    found = []
    for destination in sorted(before.keys() | after.keys()):
        old, new = before.get(destination), after.get(destination)
        if old is None and new is not None:
            found.append(Change(destination, "gained", "", new.priority))
        elif new is None and old is not None:
            found.append(Change(destination, "lost", old.priority, ""))
        elif old is not None and new is not None:
            found += _altered(destination, old, new)
    return found


def _altered(destination: str, old: Route, new: Route) -> Iterator[Change]:
    if old.count != new.count:
        what: What = "more" if new.count > old.count else "fewer"
        yield Change(destination, what, str(old.count), str(new.count))
    if old.priority != new.priority:
        yield Change(destination, "priority", old.priority, new.priority)
    if old.transforms != new.transforms:
        yield Change(destination, "transform", _said(old.transforms), _said(new.transforms))
    if old.held != new.held:
        yield Change(destination, "hold", "held" if old.held else "", "held" if new.held else "")


def _said(transforms: tuple[str, ...]) -> str:
    return ", ".join(one or "none" for one in transforms)


@dataclass
class Amount:
    """Studies, instances and bytes."""

    studies: int = 0
    instances: int = 0
    size: int = 0

    def add(self, studies: int, instances: int, size: int) -> None:
        """Add to it."""
        self.studies += studies
        self.instances += instances
        self.size += size

    def absorb(self, other: "Amount") -> None:
        """Add another one to it."""
        self.add(other.studies, other.instances, other.size)


@dataclass
class Both:
    """An amount before and after."""

    before: Amount = field(default_factory=Amount)
    after: Amount = field(default_factory=Amount)

    def absorb(self, other: "Both") -> None:
        """Add another one to it."""
        self.before.absorb(other.before)
        self.after.absorb(other.after)


@dataclass
class Seen:
    """How many studies, and the first of them."""

    studies: int
    example: str

    def absorb(self, other: "Seen") -> None:
        """Add another one to it."""
        self.studies += other.studies


Key = TypeVar("Key")
#: Destinations before and after.
Routes = tuple[tuple[str, ...], tuple[str, ...]]


@dataclass
class Findings:
    """What was found so far.

    Attributes
    ----------
    reread, gone, unread
        Studies of which header documents were read for what is not recorded, of which they are not kept any more, and
        of which they were not read, as that were too many.
    studies, changed
        Studies that were looked at, and those that go another way.
    size
        Bytes of those that were looked at.
    uncertain
        Studies of which something that the rules read is not recorded.
    nowhere
        Studies that go nowhere, before and after.
    destinations
        By destination.
    hours
        Bytes by destination and hour since 1970.
    flows
        By site and destination.
    routes
        Studies by where they go before and after, of those that change.
    altered
        Changes by destination and what.
    conflicts, problems, unknown
        Of the rules after.
    matched
        Studies by rule.
    """

    studies: int = 0
    changed: int = 0
    size: int = 0
    uncertain: int = 0
    reread: int = 0
    gone: int = 0
    unread: int = 0
    nowhere: list[int] = field(default_factory=lambda: [0, 0])
    destinations: dict[str, Both] = field(default_factory=dict)
    hours: dict[tuple[str, int], list[int]] = field(default_factory=dict)
    flows: dict[tuple[str, str], Both] = field(default_factory=dict)
    routes: dict[Routes, Seen] = field(default_factory=dict)
    altered: dict[tuple[str, str, str, str], Seen] = field(default_factory=dict)
    conflicts: dict[Conflict, Seen] = field(default_factory=dict)
    problems: dict[str, Seen] = field(default_factory=dict)
    unknown: dict[str, Seen] = field(default_factory=dict)
    matched: dict[str, int] = field(default_factory=dict)

    def add(self, uid: str, site: str, size: int, before: Mapping[str, Route], outcome: Outcome) -> list[Change]:
        """Take one study in; give what changes."""
        after = outcome.routes
        self.studies += 1
        self.size += size
        self.uncertain += bool(outcome.unknown)
        for side, routes in enumerate((before, after)):
            self.nowhere[side] += not routes
            for destination, route in routes.items():
                self._amount(site, destination, side, route)
        for rule in outcome.rules:
            self.matched[rule] = self.matched.get(rule, 0) + 1
        for conflict in outcome.conflicts:
            _see(self.conflicts, conflict, uid, MOST_KINDS)
        for problem in outcome.problems:
            _see(self.problems, problem, uid, MOST_KINDS)
        for attribute in outcome.unknown:
            _see(self.unknown, attribute, uid, MOST_KINDS)
        found = [] if before == after else changes(before, after)
        if found:
            self.changed += 1
            key: Routes = (tuple(sorted(before)), tuple(sorted(after)))
            _see(self.routes, key, uid, MOST_CHANGES, ((_OTHERS,), (_OTHERS,)))
            for change in found:
                word = (change.destination, change.what, change.before, change.after)
                if change.what in ("more", "fewer"):
                    word = (change.destination, change.what, "", "")
                _see(self.altered, word, uid, MOST_CHANGES)
        return found

    def _amount(self, site: str, destination: str, side: int, route: Route) -> None:
        count, size = 0, 0
        for hour, (instances, volume) in route.hours.items():
            count += instances
            size += volume
            pair = self.hours.get((destination, hour))
            if pair is None:
                pair = self.hours[destination, hour] = [0, 0]
            pair[side] += volume
        for both in (_both_of(self.destinations, destination), _both_of(self.flows, (site, destination))):
            (both.after if side else both.before).add(1, count, size)

    def absorb(self, other: "Findings") -> None:
        """Add what was found of other studies."""
        self.studies += other.studies
        self.changed += other.changed
        self.size += other.size
        self.uncertain += other.uncertain
        self.reread += other.reread
        self.gone += other.gone
        self.unread += other.unread
        self.nowhere = [one + two for one, two in zip(self.nowhere, other.nowhere, strict=True)]
        for key, pair in other.hours.items():
            mine = self.hours.setdefault(key, [0, 0])
            mine[0] += pair[0]
            mine[1] += pair[1]
        for rule, count in other.matched.items():
            self.matched[rule] = self.matched.get(rule, 0) + count
        for name in ("destinations", "flows"):
            table: dict[Any, Both] = getattr(self, name)
            for each, both in getattr(other, name).items():
                table.setdefault(each, Both()).absorb(both)
        for name in ("routes", "altered", "conflicts", "problems", "unknown"):
            most = MOST_CHANGES if name in ("routes", "altered") else MOST_KINDS
            instead = ((_OTHERS,), (_OTHERS,)) if name == "routes" else None
            for each, seen in getattr(other, name).items():
                _see(getattr(self, name), each, seen.example, most, instead, seen.studies)


def _both_of(table: dict[Key, Both], key: Key) -> Both:
    found = table.get(key)
    if found is None:
        found = table[key] = Both()
    return found


def _see(table: dict[Any, Seen], key: Any, uid: str, most: int, instead: Any = None, studies: int = 1) -> None:
    if key not in table and len(table) >= most:
        if instead is None:
            return
        key = instead
    found = table.get(key)
    if found is None:
        table[key] = Seen(studies, uid)
    else:
        found.studies += studies


def report(found: Findings) -> dict[str, Any]:
    """Write what was found as JSON; the largest first, hours in order as RFC 3339."""
    busiest: dict[str, list[int]] = {}
    for (destination, _), pair in found.hours.items():
        known = busiest.setdefault(destination, [0, 0])
        known[:] = max(known[0], pair[0]), max(known[1], pair[1])
    return {
        "studies": found.studies,
        "changed_studies": found.changed,
        "bytes": found.size,
        "uncertain_studies": found.uncertain,
        "headers": {"read": found.reread, "not_kept": found.gone, "too_many": found.unread},
        "nowhere": {"before": found.nowhere[0], "after": found.nowhere[1]},
        "routes": [
            {"before": list(before), "after": list(after), "studies": seen.studies, "example": seen.example}
            for (before, after), seen in _most(found.routes)
        ],
        "changes": [
            {
                "destination": destination,
                "change": what,
                "before": before,
                "after": after,
                "studies": seen.studies,
                "example": seen.example,
            }
            for (destination, what, before, after), seen in _most(found.altered)
        ],
        "destinations": [
            {
                "destination": destination,
                **_both(both),
                "busiest_hour_bytes_before": busiest[destination][0],
                "busiest_hour_bytes_after": busiest[destination][1],
            }
            for destination, both in sorted(found.destinations.items())
        ],
        "flows": [
            {"site": site, "destination": destination, **_both(both)}
            for (site, destination), both in sorted(found.flows.items())
        ],
        "hours": [
            {"hour": rfc3339(at), "destination": destination, "bytes_before": before, "bytes_after": after}
            for (destination, at), (before, after) in sorted(found.hours.items(), key=lambda one: (one[0][1], one[0]))
        ],
        "conflicts": [
            {
                "destination": one.destination,
                "rules": list(one.rules),
                "about": one.about,
                "studies": seen.studies,
                "example": seen.example,
            }
            for one, seen in _most(found.conflicts)
        ],
        "problems": [{"problem": text, "studies": seen.studies} for text, seen in _most(found.problems)],
        "not_recorded": [{"attribute": name, "studies": seen.studies} for name, seen in _most(found.unknown)],
        "rules": dict(sorted(found.matched.items())),
    }


def rfc3339(hour: int) -> str:
    """Write an hour since 1970."""
    return datetime.fromtimestamp(hour * _HOUR, UTC).isoformat().replace("+00:00", "Z")


def _most(table: Mapping[Any, Seen]) -> Iterable[tuple[Any, Seen]]:
    return sorted(table.items(), key=lambda one: (-one[1].studies, repr(one[0])))


def _both(both: Both) -> dict[str, int]:
    return {
        f"{name}_{side}": getattr(amount, name if name != "bytes" else "size")
        for side, amount in (("before", both.before), ("after", both.after))
        for name in ("studies", "instances", "bytes")
    }
