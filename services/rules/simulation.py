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
from libs.definition.ruleset import Evaluation, Match, RuleSet
from services.rules.action import Emphasis, Tag, emphasis, emphasized, ending, tags
from services.rules.chronicle import Kind, Record, Version
from services.rules.hold import holding
from services.rules.memory import Memory
from services.rules.need import TAG, needs
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
from services.rules.reading import CARRIED, with_tags
from services.rules.route import Route, routed, routed_at_once

_MINUTE: Final = 60
#: Stands for the instances of a kind, of which no single one is known any more.
_ITEM: Final = DeliveryItem.model_construct(sop_instance_uid="", content_hash="")
_NONE: Final[frozenset[str]] = frozenset()
#: Results of evaluations of which it is remembered what follows.
_MOST_VERDICTS: Final = 4096


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


@dataclass(frozen=True)
class _Verdict:
    """What follows from the rules that matched, worked out once for all that they match alike.

    Attributes
    ----------
    evaluation
        What matched.
    rules, tags, conflicts, ended
        Names of the rules, tags that they set, where they contradict each other, and the rule that ended it.
    wanted, emphasis
        What is wished for; none if a rule holds, as that depends on when the study arrived.
    going
        By node and site of a source: wishes, without those back to it, and of partners that may not have it.
    """

    evaluation: Evaluation
    rules: tuple[str, ...]
    tags: tuple[Tag, ...]
    conflicts: tuple[Conflict, ...]
    ended: str | None
    wanted: Mapping[str, Wish] | None
    emphasis: Emphasis | None
    going: dict[tuple[str, str], Mapping[str, Wish]] = field(default_factory=dict)


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
        self._read = {trigger: rules.attributes(trigger) for trigger in self._beyond}
        self._tags_read = {
            trigger: [key for key in read if key.startswith(TAG)] for trigger, read in self._read.items()
        }
        self._asked = {
            trigger: read - STUDY_EXTRAS.keys() - set(self._tags_read[trigger]) for trigger, read in self._read.items()
        }
        self._at_once = not {"series", "amended"} & self._needs.triggers
        # By identity, as equal ones come from a memory; each is held here, so that no other takes its place.
        self._verdicts: dict[tuple[Trigger, int], _Verdict] = {}

    @property
    def beyond(self) -> frozenset[str]:
        """What the rules read that only header documents have."""
        return frozenset().union(*self._beyond.values())

    def outcome(self, tenant: str, record: Record) -> Outcome:
        """Decide on a study as it was recorded."""
        run = _Run(tenant)
        if len(record.versions) == 1 and self._at_once:
            routes = self._routes_at_once(record.versions[0], run)
            if routes is not None:
                run.outcome.routes = routes
                return run.outcome
            run = _Run(tenant)
        for version in record.versions:
            kinds = list(_kinds(version, run, alone=len(record.versions) == 1))
            for known, kind, new in kinds:
                if new:
                    self._instance(version, known, kind, run)
            self._study(version, kinds, run)
        run.outcome.routes = run.routes
        return run.outcome

    def _routes_at_once(self, version: Version, run: "_Run") -> Mapping[str, Route] | None:
        """Give the routes of a study that never changed, as most never do, without taking its instances one by one.

        None: a rule puts aside or holds, which takes the long way.
        """
        timed = self._memory.reads_time("instance")
        asked: list[Mapping[str, Wish]] = []
        for kind in version.kinds:
            arrived = datetime.fromtimestamp(kind.arrivals[0][0] * _MINUTE, UTC) if timed else version.decided_at
            verdict = self._evaluate("instance", version, kind.source, arrived, kind.attributes, run)
            if verdict is not None and (verdict.wanted is None or verdict.ended is not None):
                return None
            asked.append({} if verdict is None else self._wanted(verdict, kind.source, arrived, every=True))
        looked = Occasion("study", tuple(_known(0, kind, version) for kind in version.kinds))
        attributes = self._attributes(looked, version, run)
        verdict = self._evaluate("study", version, version.source, version.decided_at, attributes, run)
        if verdict is None:
            then: list[Mapping[str, Wish]] = [{}] * len(asked)
            return routed_at_once(version.kinds, asked, then, version.decided_at, None)
        if verdict.wanted is None or verdict.emphasis is None:
            return None
        if verdict.ended is not None:
            run.outcome.ended.add(verdict.ended)
        then = [self._wanted(verdict, kind.source, version.last_arrival, every=False) for kind in version.kinds]
        return routed_at_once(version.kinds, asked, then, version.decided_at, verdict.emphasis.priority)

    def _instance(self, version: Version, known: Known, kind: Kind, run: "_Run") -> None:
        arrived = datetime.fromtimestamp(kind.arrivals[0][0] * _MINUTE, UTC)
        at = arrived if self._memory.reads_time("instance") else version.decided_at
        verdict = self._evaluate("instance", version, kind.source, at, kind.attributes, run)
        if verdict is None:
            return
        if verdict.ended is not None:
            run.aside.add(known.id)
            run.outcome.ended.add(verdict.ended)
        for destination, wish in self._wanted(verdict, kind.source, arrived, every=True).items():
            key = (known.id, destination)
            if key not in run.standing:
                run.standing[key] = Requested(known, destination, wish)

    def _study(self, version: Version, kinds: "Sequence[_Each]", run: "_Run") -> None:
        free = [known for known, _, _ in kinds if known.id not in run.aside]
        going: list[Requested] = []
        more = Emphasis()
        stopped: set[int] = set()
        looks = occasions(self._needs.triggers, version.number, free)
        for look in looks:
            attributes = self._attributes(look, version, run)
            verdict = self._evaluate(look.trigger, version, version.source, version.decided_at, attributes, run)
            if verdict is None:
                continue
            of_all = look.trigger != "series"
            if of_all:
                more = more.and_(self._emphasis(verdict, version.last_arrival))
            left = [one for one in look.instances if one.id not in stopped]
            for one in left:
                wanted = self._wanted(verdict, one.source, version.last_arrival, every=not of_all)
                going += [Requested(one, destination, wish) for destination, wish in wanted.items()]
            if verdict.ended is not None:
                stopped |= {one.id for one in look.instances}
                run.outcome.ended.add(verdict.ended)
        if len(looks) > 1:
            going = gathered(going)
        mine = {known.id: (kind, new) for known, kind, new in kinds}
        standing = [one for key, one in run.standing.items() if key[0] in mine]
        everything, _ = united(standing, going)
        run.routes = routed(
            run.routes,
            [replace(one, wish=more.of(one.wish)) for one in everything] if more.rules else everything,
            asked=run.standing,
            arrivals=lambda one: mine[one.id][0].arrivals,
            is_new=lambda one: mine[one.id][1],
            decided_at=version.decided_at,
        )
        for each in going:
            run.standing.setdefault((each.instance.id, each.destination), each)

    def _wanted(self, verdict: _Verdict, source: Source, arrived: datetime, *, every: bool) -> Mapping[str, Wish]:
        """Give what is wished for something of a source; with what is asked for every delivery, or without."""
        if verdict.wanted is None:
            held = holding(arrived, self._rules.definition.timezone)
            wanted: Mapping[str, Wish] = wishes(verdict.evaluation.matches, held)[0]
            return self._kept(
                emphasized(wanted, emphasis(verdict.evaluation.matches, held)) if every else wanted, source
            )
        key = (source.node, source.site)
        found = verdict.going.get(key)
        if found is None:
            wanted = verdict.wanted
            if every and verdict.emphasis is not None:
                wanted = emphasized(wanted, verdict.emphasis)
            found = verdict.going[key] = self._kept(wanted, source)
        return found

    def _emphasis(self, verdict: _Verdict, arrived: datetime) -> Emphasis:
        if verdict.emphasis is not None:
            return verdict.emphasis
        return emphasis(verdict.evaluation.matches, holding(arrived, self._rules.definition.timezone))

    def _kept(self, wanted: Mapping[str, Wish], source: Source) -> Mapping[str, Wish]:
        """Leave out what goes back to where it came from, and partners that may not have it."""
        one = Known(0, _ITEM, "", datetime.min.replace(tzinfo=UTC), source, {}, "")
        made, _ = without_loops([one], wanted, self._rules.returns)
        going, _ = within_sites(made, self._rules.may_have)
        return {each.destination: each.wish for each in going}

    def _attributes(self, look: Occasion, version: Version, run: "_Run") -> Attributes:
        """Give what an occasion looks at, as the service would have found it."""
        if look.trigger == "series":
            attributes: Attributes = {"Sites": sorted({one.source.site for one in look.instances})}
        else:
            attributes = dict(version.attributes)
        for keyword in self._asked[look.trigger] - attributes.keys():
            value = aggregate(one.attributes[keyword] for one in look.instances if keyword in one.attributes)
            if value is None and look.trigger != "series":
                value = version.left.get(keyword)
            if value is not None:
                attributes[keyword] = value
        for key in self._tags_read[look.trigger]:
            attributes.pop(key, None)
        if run.tags:
            attributes = with_tags(attributes, run.tags, look.trigger)
        return attributes

    def _evaluate(
        self, trigger: Trigger, version: Version, source: Source, at: datetime, attributes: Attributes, run: "_Run"
    ) -> _Verdict | None:
        """Have the rules of a trigger look; give what follows, if any matched."""
        unhealthy = (version.unhealthy or _NONE) if trigger in self._needs.health else _NONE
        evaluation = self._memory.evaluate(
            trigger, source, run.tenant, at, attributes, lifted=version.lifted, unhealthy=unhealthy, order=version.order
        )
        outcome = run.outcome
        if evaluation.errors:
            outcome.problems.update(evaluation.errors)
        outcome.unknown.update(self._unknown(trigger, version))
        if not evaluation.matches:
            return None
        verdict = self._verdict(trigger, evaluation)
        outcome.rules.update(verdict.rules)
        outcome.conflicts.update(verdict.conflicts)
        run.tags += verdict.tags
        return verdict

    def _verdict(self, trigger: Trigger, evaluation: Evaluation) -> _Verdict:
        key = (trigger, id(evaluation))
        found = self._verdicts.get(key)
        if found is None:
            if len(self._verdicts) >= _MOST_VERDICTS:
                self._verdicts.clear()
            matches = evaluation.matches
            end = ending(matches)
            # A hold depends on the time of arrival.
            timeless = not any(match.hold for match in matches)
            held = holding(datetime.min.replace(tzinfo=UTC), self._rules.definition.timezone)
            found = self._verdicts[key] = _Verdict(
                evaluation,
                rules=tuple(match.rule for match in matches),
                tags=tuple(tags(matches, trigger, self._rules.definition)),
                conflicts=tuple(conflicts(matches)),
                ended=None if end is None else end.rule,
                wanted=wishes(matches, held)[0] if timeless else None,
                emphasis=emphasis(matches, held) if timeless else None,
            )
        return found

    def _unknown(self, trigger: Trigger, version: Version) -> Iterator[str]:
        read = self._read[trigger]
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
    tags: list[Tag] = field(default_factory=list)


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
