"""What a rule set would have decided on what is recorded of studies. Pure.

It takes the same steps as the service: each version in turn, first the rules with trigger `instance` on what is new in
it, then those of series and study; what is requested stays requested. What the clock, orders and procedures trigger is
left out: it follows from what came later.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any, Final

from contracts.definition import Definition
from contracts.delivery import DeliveryItem
from contracts.fact import Attributes, Source
from contracts.routing import Trigger
from libs.definition.attributes import STUDY_EXTRAS
from libs.definition.ruleset import Match, RuleSet
from services.rules.action import Emphasis, Tag, emphasis, emphasized, ending, tags
from services.rules.chronicle import Kind, Record, Route, Version, routed
from services.rules.hold import holding
from services.rules.memory import Memory
from services.rules.need import needs
from services.rules.occasion import Occasion, occasions
from services.rules.plan import (
    Known,
    Requested,
    Wish,
    aggregate,
    gathered,
    united,
    wishes,
    within_sites,
    without_loops,
)
from services.rules.reading import CARRIED, TAG

_MINUTE: Final = 60
#: Stands for the instances of a kind, of which no single one is known any more.
_ITEM: Final = DeliveryItem.model_construct(sop_instance_uid="", content_hash="")
_NONE: Final[frozenset[str]] = frozenset()


@dataclass(frozen=True)
class Conflict:
    """Two rules that name one destination and want it differently.

    Attributes
    ----------
    destination
        The destination.
    rules
        Their names, in the order of the definition.
    about
        `priority` or `transform`.
    """

    destination: str
    rules: tuple[str, str]
    about: str


@dataclass
class Outcome:
    """What a rule set would have done with one study.

    Attributes
    ----------
    routes
        Where it would go.
    rules
        Rules that matched.
    ended
        Rules that would put it, or some of it, aside, or discard it.
    conflicts
        Where rules that matched want different things.
    problems
        What could not be decided, as sentences without values.
    unknown
        What the rules read and is not recorded, such as `instance.InstanceNumber`: taken as absent.
    """

    routes: Mapping[str, Route] = field(default_factory=dict)
    rules: set[str] = field(default_factory=set)
    ended: set[str] = field(default_factory=set)
    conflicts: set[Conflict] = field(default_factory=set)
    problems: set[str] = field(default_factory=set)
    unknown: set[str] = field(default_factory=set)


class Simulation:
    """Carries a rule set out on records.

    Parameters
    ----------
    rules
        The rule set.
    """

    def __init__(self, rules: RuleSet) -> None:
        self._rules = rules
        self._memory = Memory(rules)
        self._needs = needs(rules)
        self._beyond: dict[Trigger, frozenset[str]] = {
            trigger: frozenset(
                keyword
                for keyword in rules.attributes(trigger) - CARRIED - STUDY_EXTRAS.keys()
                if not keyword.startswith(TAG)
            )
            for trigger in ("instance", *self._needs.triggers, "study")
        }
        self._nothing_to_emphasize = not any(
            rule.priority in ("stat", "urgent") or rule.hold for rule in rules.definition.rules if not rule.deliver
        )

    def outcome(self, tenant: str, record: Record) -> Outcome:
        """Decide on a study as it was recorded."""
        run = _Run(tenant)
        for version in record.versions:
            kinds = list(_kinds(version, run, alone=len(record.versions) == 1))
            for known, kind, new in kinds:
                if new:
                    self._instance(version, known, kind, run)
            self._study(version, kinds, run)
        run.outcome.routes = run.routes
        return run.outcome

    def _instance(self, version: Version, known: Known, kind: Kind, run: "_Run") -> None:
        at = version.decided_at
        arrived = datetime.fromtimestamp(kind.arrivals[0][0] * _MINUTE, UTC)
        if self._memory.reads_time("instance"):
            at = arrived
        matches = self._evaluate("instance", version, kind.source, at, kind.attributes, run)
        if not matches:
            return
        held = holding(arrived, self._rules.definition.timezone)
        end = ending(matches)
        if end is not None:
            run.aside.add(known.id)
            run.outcome.ended.add(end.rule)
        wanted, _ = wishes(matches, held)
        wanted = emphasized(wanted, emphasis(matches, held))
        run.standing.update({key: one for key, one in self._going([known], wanted) if key not in run.standing})

    def _study(self, version: Version, kinds: "Sequence[_Each]", run: "_Run") -> None:
        free = [known for known, _, _ in kinds if known.id not in run.aside]
        held = holding(version.last_arrival, self._rules.definition.timezone)
        going: list[Requested] = []
        more = Emphasis()
        stopped: set[int] = set()
        for look in occasions(self._needs.triggers, version.number, free):
            attributes = self._attributes(look, version, run)
            matches = self._evaluate(look.trigger, version, version.source, version.decided_at, attributes, run)
            if not matches:
                continue
            wanted, _ = wishes(matches, held)
            if look.trigger == "series":
                wanted = emphasized(wanted, emphasis(matches, held))
            elif not self._nothing_to_emphasize:
                more = more.and_(emphasis(matches, held))
            left = [one for one in look.instances if look.trigger != "study" or one.id not in stopped]
            going += [one for _, one in self._going(left, wanted)]
            end = ending(matches)
            if end is not None:
                stopped |= {one.id for one in look.instances}
                run.outcome.ended.add(end.rule)
        going = gathered(going)
        mine = {known.id: (kind, new) for known, kind, new in kinds}
        everything, _ = united([one for key, one in run.standing.items() if key[0] in mine], going)
        run.routes = routed(
            run.routes,
            [replace(one, wish=more.of(one.wish)) for one in everything] if more.rules else everything,
            asked=run.standing,
            arrivals=lambda one: mine[one.id][0].arrivals,
            is_new=lambda one: mine[one.id][1],
            decided_at=version.decided_at,
        )
        for one in going:
            run.standing.setdefault((one.instance.id, one.destination), one)

    def _going(
        self, known: Sequence[Known], wanted: Mapping[str, Wish]
    ) -> "Iterator[tuple[tuple[int, str], Requested]]":
        going, _ = without_loops(known, wanted, self._rules.returns)
        going, _ = within_sites(going, self._rules.may_have)
        for one in going:
            yield (one.instance.id, one.destination), one

    def _attributes(self, look: Occasion, version: Version, run: "_Run") -> Attributes:
        """Give what an occasion looks at, as the service would have found it."""
        read = self._rules.attributes(look.trigger)
        if look.trigger == "series":
            attributes: Attributes = {"Sites": sorted({one.source.site for one in look.instances})}
        else:
            attributes = dict(version.attributes)
        for keyword in read - attributes.keys() - STUDY_EXTRAS.keys():
            value = aggregate(one.attributes[keyword] for one in look.instances if keyword in one.attributes)
            if value is None and look.trigger != "series":
                value = version.left.get(keyword)
            if value is not None:
                attributes[keyword] = value
        for key in [key for key in read if key.startswith(TAG)]:
            attributes.pop(key, None)
        if run.tags:
            attributes |= {f"{TAG}{name}": tag.value for name, tag in run.tags.items()}
        return attributes

    def _evaluate(
        self, trigger: Trigger, version: Version, source: Source, at: datetime, attributes: Attributes, run: "_Run"
    ) -> tuple[Match, ...]:
        unhealthy = (version.unhealthy or _NONE) if trigger in self._needs.health else _NONE
        evaluation = self._memory.evaluate(
            trigger, source, run.tenant, at, attributes, lifted=version.lifted, unhealthy=unhealthy, order=version.order
        )
        outcome = run.outcome
        if evaluation.errors:
            outcome.problems.update(evaluation.errors)
        outcome.unknown.update(self._unknown(trigger, version))
        if evaluation.matches:
            outcome.rules.update([match.rule for match in evaluation.matches])
            for tag in tags(evaluation.matches, trigger, self._rules.definition):
                if tag.name not in run.tags or tag.rank < run.tags[tag.name].rank:
                    run.tags[tag.name] = tag
            if len(evaluation.matches) > 1:
                outcome.conflicts |= set(conflicts(evaluation.matches))
        return evaluation.matches

    def _unknown(self, trigger: Trigger, version: Version) -> Iterator[str]:
        read = self._rules.attributes(trigger)
        for keyword in self._beyond[trigger] - version.looked_for:
            if keyword not in version.attributes:
                yield f"{trigger}.{keyword}"
        if "Delivered" in read and "Delivered" not in version.attributes:
            yield "study.Delivered"
        if version.left and trigger in ("instance", "series"):
            yield from (f"{trigger}.{keyword}" for keyword in read & version.left.keys())
        if trigger in self._needs.health and version.unhealthy is None:
            yield "health of destinations"


#: A row that stands for a kind, the kind, and whether it is new in the version.
_Each = tuple[Known, Kind, bool]


@dataclass
class _Run:
    """One study, while it is decided anew; the first request for an instance and destination stands."""

    tenant: str
    outcome: Outcome = field(default_factory=Outcome)
    routes: Mapping[str, Route] = field(default_factory=dict)
    standing: dict[tuple[int, str], Requested] = field(default_factory=dict)
    ids: dict[Any, int] = field(default_factory=dict)
    aside: set[int] = field(default_factory=set)
    tags: dict[str, Tag] = field(default_factory=dict)


def left_out(definition: Definition) -> list[str]:
    """Name the rules that history can't tell of: they look at what came later."""
    return [rule.name for rule in definition.rules if rule.trigger in ("timer", "order", "procedure")]


def conflicts(matches: tuple[Match, ...]) -> Iterator[Conflict]:
    """Find the rules that name one destination and want it differently."""
    first: dict[str, Match] = {}
    for match in matches:
        for destination in match.destinations:
            other = first.setdefault(destination, match)
            if other.priority != match.priority:
                yield Conflict(destination, (other.rule, match.rule), "priority")
            if other.transform != match.transform:
                yield Conflict(destination, (other.rule, match.rule), "transform")


def _kinds(version: Version, run: _Run, *, alone: bool) -> Iterator[_Each]:
    """Give the kinds of a version, each with a row that stands for it in all versions, and whether it is new."""
    for position, kind in enumerate(version.kinds):
        identity = position if alone else (kind.source, kind.since, repr(sorted(kind.attributes.items())))
        new = identity not in run.ids
        row = run.ids.setdefault(identity, len(run.ids) + 1)
        yield _known(row, kind, version), kind, new


def _known(row: int, kind: Kind, version: Version) -> Known:
    series = str(kind.attributes.get("SeriesInstanceUID", ""))
    return Known(row, _ITEM, series, version.last_arrival, kind.source, kind.attributes, "")
