"""What a rule set would have decided on what is recorded of studies. Pure.

It takes the same steps as the service: each version in turn, first the rules with trigger `instance` on what is new in
it, then those with trigger `study`; what is requested stays requested.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final

from contracts.delivery import DeliveryItem
from contracts.routing import Trigger
from libs.definition.attributes import STUDY_EXTRAS
from libs.definition.ruleset import Evaluation, Match, RuleSet
from libs.dicom.header import BASE_KEYWORDS
from services.rules.chronicle import Kind, Record, Route, Version, routed
from services.rules.memory import Memory
from services.rules.plan import Known, Requested, Wish, aggregate, united, wishes, within_sites, without_loops

_MINUTE: Final = 60
#: What events and the instance's row say, whatever rules there are.
_CARRIED: Final = frozenset({*BASE_KEYWORDS, "TransferSyntaxUID"})
#: Stands for the instances of a kind, of which no single one is known any more.
_ITEM: Final = DeliveryItem.model_construct(sop_instance_uid="", content_hash="")
_NOWHERE: Final[Mapping[str, Route]] = {}


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
    conflicts
        Where rules that matched want different things.
    problems
        What could not be decided, as sentences without values.
    unknown
        Attributes that the rules read and that are not recorded, such as `instance.InstanceNumber`: taken as absent.
    """

    routes: Mapping[str, Route] = field(default_factory=dict)
    rules: set[str] = field(default_factory=set)
    conflicts: set[Conflict] = field(default_factory=set)
    problems: set[str] = field(default_factory=set)
    unknown: set[str] = field(default_factory=set)


@dataclass
class _Requests:
    """What is requested of a study so far; the first request for an instance and destination stands."""

    standing: dict[tuple[int, str], Requested] = field(default_factory=dict)
    ids: dict[Any, int] = field(default_factory=dict)

    def add(self, made: list[Requested]) -> None:
        for one in made:
            self.standing.setdefault((one.instance.id, one.destination), one)


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

    def outcome(self, tenant: str, record: Record) -> Outcome:
        """Decide on a study as it was recorded."""
        outcome = Outcome()
        requests = _Requests()
        routes: Mapping[str, Route] = _NOWHERE
        for version in record.versions:
            kinds = list(_kinds(version, requests, alone=len(record.versions) == 1))
            for known, kind, new in kinds:
                if new:
                    self._instance(tenant, version, known, kind, requests, outcome)
            chosen = [known for known, _, _ in kinds]
            going = self._study(tenant, version, chosen, outcome)
            mine = {known.id for known in chosen}
            before = [one for key, one in requests.standing.items() if key[0] in mine]
            everything, _ = united(before, going)
            by_id = {known.id: (kind, new) for known, kind, new in kinds}
            routes = routed(
                routes,
                everything,
                asked=requests.standing,
                arrivals=lambda one, by_id=by_id: by_id[one.id][0].arrivals,  # type: ignore[misc]  # bound at once
                is_new=lambda one, by_id=by_id: by_id[one.id][1],  # type: ignore[misc]  # bound at once
                decided_at=version.decided_at,
            )
            requests.add(going)
        outcome.routes = routes
        return outcome

    def _instance(
        self,
        tenant: str,
        version: Version,
        known: Known,
        kind: Kind,
        requests: _Requests,
        outcome: Outcome,
    ) -> None:
        at = version.decided_at
        if self._memory.reads_time("instance"):
            at = datetime.fromtimestamp(kind.arrivals[0][0] * _MINUTE, UTC)
        evaluation = self._memory.evaluate("instance", kind.source, tenant, at, kind.attributes)
        self._note("instance", version, evaluation, outcome)
        wanted = self._wanted(evaluation, outcome)
        going, _ = without_loops([known], wanted, self._rules.returns)
        going, _ = within_sites(going, self._rules.may_have)
        requests.add(going)

    def _study(self, tenant: str, version: Version, chosen: list[Known], outcome: Outcome) -> list[Requested]:
        attributes = dict(version.attributes)
        for keyword in self._rules.attributes("study") - attributes.keys() - STUDY_EXTRAS.keys():
            value = version.left.get(keyword)
            if value is None:
                value = aggregate(one.attributes[keyword] for one in chosen if keyword in one.attributes)
            if value is not None:
                attributes[keyword] = value
        evaluation = self._memory.evaluate("study", version.source, tenant, version.decided_at, attributes)
        self._note("study", version, evaluation, outcome)
        going, _ = without_loops(chosen, self._wanted(evaluation, outcome), self._rules.returns)
        going, _ = within_sites(going, self._rules.may_have)
        return going

    def _wanted(self, evaluation: Evaluation, outcome: Outcome) -> dict[str, Wish]:
        wanted, _ = wishes(evaluation.matches)
        if len(evaluation.matches) > 1:
            outcome.conflicts |= set(conflicts(evaluation.matches))
        outcome.rules.update(match.rule for match in evaluation.matches)
        return wanted

    def _note(self, trigger: Trigger, version: Version, evaluation: Evaluation, outcome: Outcome) -> None:
        outcome.problems.update(evaluation.errors)
        read = self._rules.attributes(trigger)
        unknown = read - _CARRIED - STUDY_EXTRAS.keys() - version.looked_for - version.attributes.keys()
        if trigger == "instance":
            unknown |= read & version.left.keys()
        outcome.unknown.update(f"{trigger}.{keyword}" for keyword in unknown)


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


def _kinds(version: Version, requests: _Requests, *, alone: bool) -> Iterator[tuple[Known, Kind, bool]]:
    """Give the kinds of a version, each with a row that stands for it in all versions, and whether it is new."""
    for position, kind in enumerate(version.kinds):
        identity = position if alone else (kind.source, kind.since, repr(sorted(kind.attributes.items())))
        new = identity not in requests.ids
        row = requests.ids.setdefault(identity, len(requests.ids) + 1)
        yield _known(row, kind, version), kind, new


def _known(row: int, kind: Kind, version: Version) -> Known:
    return Known(row, _ITEM, "", version.last_arrival, kind.source, kind.attributes, "")
