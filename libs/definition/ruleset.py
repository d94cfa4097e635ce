"""The rules of a definition, compiled once, and what they decide."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Final
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from contracts.definition import Definition, Rule, RuleTest
from contracts.fact import Attributes, Source
from contracts.routing import TRIGGERS, Priority, Trigger
from libs.definition.attributes import CIRCUMSTANCES, coerce, type_of
from libs.definition.calendar import CalendarError, wall_clock, working
from libs.definition.condition import Bound, Condition, ConditionError, ConditionFailed, Inputs, bind, compile_condition
from libs.definition.diagnosis import did_you_mean, unknown_field
from libs.definition.lookup import Lookups, united, values_read
from libs.definition.shortlist import Shortlist

#: A moment for tests whose rules don't ask for the time.
_ANY_MOMENT: Final = datetime(2000, 1, 1, tzinfo=UTC)


class RuleSetError(ValueError):
    """The rules of a definition can't be used; the message says which and why."""


class RuleTestError(ValueError):
    """A test of the definition that can't be carried out; the message says why and what to write."""


@dataclass(frozen=True)
class Match:
    """A rule that applies.

    Attributes
    ----------
    rule
        Name of the rule.
    names
        Destinations as the rule names them.
    destinations
        The same with groups resolved, each once.
    priority, transform, notify
        As the rule says.
    inputs
        What the condition read: attributes by keyword, and such as `source.site`, `calendars.office`, `now` as text.
    hold, tags, quarantine, discard
        As the rule says.
    stop
        Whether the rules after it were not looked at because of it.
    """

    rule: str
    names: tuple[str, ...]
    destinations: tuple[str, ...]
    priority: Priority
    transform: str | None
    inputs: Attributes
    notify: tuple[str, ...] = ()
    hold: str | None = None
    tags: Mapping[str, str] = field(default_factory=dict)
    quarantine: str | None = None
    discard: str | None = None
    stop: bool = False


@dataclass(frozen=True)
class Evaluation:
    """What the rules of a trigger decided.

    Attributes
    ----------
    rules_evaluated
        Number of rules with this trigger.
    matches
        Rules that apply, in the order of the definition.
    errors
        Rules whose condition failed and attributes that could not be read, as sentences without values.
    """

    rules_evaluated: int
    matches: tuple[Match, ...]
    errors: tuple[str, ...]


class RuleSet:
    """The rules of a definition, ready to decide.

    Parameters
    ----------
    definition
        A valid definition.

    Raises
    ------
    RuleSetError
        If a condition, a calendar or the time zone can't be used.
    """

    def __init__(self, definition: Definition) -> None:
        self.definition: Final = definition
        try:
            for zone in {definition.timezone, *(site.timezone for site in definition.sites.values() if site.timezone)}:
                working(definition.calendars, _ANY_MOMENT, zone)
        except (CalendarError, ZoneInfoNotFoundError, ValueError) as error:
            raise RuleSetError(f"a calendar or the time zone can't be used: {error}") from error
        self._scopes: dict[Trigger, Lookups] = {}
        self._rules: dict[Trigger, tuple[tuple[Rule, Condition], ...]] = {}
        self._shortlists: dict[Trigger, Shortlist] = {}
        for trigger in TRIGGERS:
            compiled = [(rule, _compile(rule, definition)) for rule in definition.rules if rule.trigger == trigger]
            scope = united(condition.reads for _, condition in compiled)
            self._scopes[trigger] = scope
            self._rules[trigger] = tuple((rule, condition.within(scope)) for rule, condition in compiled)
            self._shortlists[trigger] = Shortlist(trigger, [condition for _, condition in compiled])

    def rules(self, trigger: Trigger) -> tuple[tuple[Rule, Condition], ...]:
        """Give the rules of a trigger with their conditions, in the order of the definition."""
        return self._rules.get(trigger, ())

    def match(self, rule: Rule, destinations: tuple[str, ...]) -> Match:
        """Give the match of a rule of which it is known by other means that it applies, without what it read."""
        return _match(rule, destinations, {})

    def attributes(self, trigger: Trigger) -> frozenset[str]:
        """Give what the conditions of a trigger read of its object, by keys as in `attributes.type_of`."""
        return self._scopes[trigger].attributes

    @property
    def reads_time(self) -> bool:
        """Whether any condition reads the clock or a calendar."""
        return any(
            name == "now" or name.startswith(("calendars.", "clock."))
            for rules in self._rules.values()
            for _, condition in rules
            for name in condition.circumstances
        )

    @property
    def reads_health(self) -> frozenset[Trigger]:
        """Triggers with a condition that reads the health of destinations."""
        return frozenset(
            trigger
            for trigger, rules in self._rules.items()
            for _, condition in rules
            if any(name.startswith("destination") for name in condition.circumstances)
        )

    @property
    def reads_orders(self) -> frozenset[Trigger]:
        """Triggers with a condition that reads what was ordered, and the trigger `order`, if there is a rule of it."""
        return frozenset(
            trigger
            for trigger, rules in self._rules.items()
            for _, condition in rules
            if trigger == "order" or any(name.startswith("order.") for name in condition.circumstances)
        )

    def circumstances(
        self, source: Source, tenant: str, now: datetime, destinations: Mapping[str, bool] | None = None
    ) -> Inputs:
        """Give the inputs that surround an arrival; attributes are added with `dataclasses.replace`.

        Parameters
        ----------
        source
            The arrival's.
        tenant
            Whose study it is.
        now
            The moment, with its offset.
        destinations
            Destination to whether it is healthy, as it was known at that moment.
        """
        node = self.definition.nodes.get(source.node)
        known = {
            "node": source.node,
            "aet": source.calling_aet,
            "called": source.called_aet,
            "address": source.address,
            "subject": source.tls_subject,
            "modality": None if node is None else node.modality,
        }
        inputs = self._surround(source.site, tenant, {key: value for key, value in known.items() if value}, now)
        return replace(inputs, destinations=destinations or {})

    def timezone_of(self, site: str | None) -> str:
        """Give the time zone of a site: its own, or the network's."""
        found = self.definition.sites.get(site or "")
        return self.definition.timezone if found is None or found.timezone is None else found.timezone

    def _surround(self, site_key: str | None, tenant: str | None, source: Mapping[str, str], now: datetime) -> Inputs:
        site = self.definition.sites.get(site_key or "")
        timezone = self.timezone_of(site_key)
        owner = tenant or (None if site is None else site.tenant)
        place = {"site": site_key, "tenant": owner}
        named = {"key": site_key, "name": None if site is None else site.name, "tenant": owner}
        return Inputs(
            now=now,
            source={**source, **{key: value for key, value in place.items() if value}},
            site={key: value for key, value in named.items() if value},
            clock=wall_clock(now, timezone),
            calendars=working(self.definition.calendars, now, timezone),
        )

    def evaluate(
        self,
        trigger: Trigger,
        inputs: Inputs,
        *,
        lifted: Collection[str] = (),
        unhealthy: Collection[str] = (),
    ) -> Evaluation:
        """Decide. A condition that fails is recorded, and the other rules go on.

        Parameters
        ----------
        trigger, inputs
            What is looked at.
        lifted
            Rules that do not count: a person has released what they put aside.
        unhealthy
            Destinations that a group with `pick: first-healthy` passes over, besides those that the inputs say.
        """
        rules = self._rules[trigger]
        bound = bind(inputs, trigger, self._scopes[trigger])
        errors = [f"attribute {keyword} {why}: taken as absent" for keyword, why in sorted(bound.unreadable.items())]
        unhealthy = {*unhealthy, *(key for key, healthy in inputs.destinations.items() if not healthy)}
        matches = []
        for position in self._shortlists[trigger].candidates(bound, inputs):
            rule, condition = rules[position]
            if rule.name in lifted:
                continue
            try:
                if not condition.holds(bound):
                    continue
            except ConditionFailed as failure:
                errors.append(f"rule `{rule.name}` could not be decided: {failure}")
                continue
            destinations = self.resolve(rule.deliver, inputs.source.get("node"), unhealthy)
            matches.append(_match(rule, destinations, _seen(condition, bound, inputs)))
            if rule.ends:
                break
        return Evaluation(len(rules), tuple(matches), tuple(errors))

    def resolve(
        self, names: tuple[str, ...], source_node: str | None, unhealthy: Collection[str] = ()
    ) -> tuple[str, ...]:
        """Resolve groups.

        `first-healthy` gives the first member that can be called, is healthy and didn't send the study; if none is
        healthy, the first that can be called: it waits there.
        """
        resolved: dict[str, None] = {}
        for name in names:
            resolved.update(dict.fromkeys(self._members(name, source_node, frozenset(), unhealthy)))
        return tuple(resolved)

    def returns(self, destination: str, node: str) -> bool:
        """Tell whether a delivery to a destination would go back to the node that sent it: a loop."""
        target = self.definition.destinations.get(destination)
        return target is not None and target.node == node

    def may_have(self, partner: str, site: str) -> bool:
        """Tell whether a partner may ever get what a site sent."""
        found = self.definition.partners.get(partner)
        return found is not None and site in found.sites

    def _members(
        self, name: str, source_node: str | None, above: frozenset[str], unhealthy: Collection[str]
    ) -> list[str]:
        target = self.definition.destinations.get(name)
        if target is None or target.group is None:
            return [name]
        inside = above | {name}
        inner = [self._members(one, source_node, inside, unhealthy) for one in target.group if one not in inside]
        if target.pick == "all":
            return [one for members in inner for one in members]
        usable = [members for members in inner if any(self._callable(one, source_node) for one in members)]
        healthy = (
            members
            for members in usable
            if any(one not in unhealthy and self._callable(one, source_node) for one in members)
        )
        return next(healthy, next(iter(usable or inner), []))

    def _callable(self, name: str, source_node: str | None) -> bool:
        target = self.definition.destinations.get(name)
        if target is None:
            return False
        if target.node is None:
            return True
        node = self.definition.nodes.get(target.node)
        return node is not None and not node.retired and node.port is not None and target.node != source_node


def _compile(rule: Rule, definition: Definition) -> Condition:
    try:
        return compile_condition(
            rule.when, trigger=rule.trigger, calendars=definition.calendars, destinations=definition.destinations
        )
    except ConditionError as error:
        raise RuleSetError(f"rule `{rule.name}`: {error}") from error


def _match(rule: Rule, destinations: tuple[str, ...], seen: Attributes) -> Match:
    return Match(
        rule=rule.name,
        names=rule.deliver,
        destinations=destinations,
        priority=rule.priority,
        transform=rule.transform,
        inputs=seen,
        notify=rule.notify,
        hold=rule.hold,
        tags=rule.tag,
        quarantine=rule.quarantine,
        discard=rule.discard,
        stop=rule.ends,
    )


def _seen(condition: Condition, bound: Bound, inputs: Inputs) -> Attributes:
    return values_read(condition.reads, bound.values, inputs.surroundings(condition.circumstances))


def explain(rule_set: RuleSet, test: RuleTest) -> dict[Trigger, Evaluation]:
    """Give what the rules of each trigger decide in a test, and why.

    The study's attributes serve as the instance's where a test gives none; `ModalitiesInStudy` and `Sites` follow from
    `Modality` and the source's site. Raises RuleTestError if it can't be carried out.
    """
    if test.at is None and rule_set.reads_time:
        raise RuleTestError("the rules ask for the time, and nothing says when: add `at`, such as 2026-11-20T10:00")
    surrounding = _surrounding(rule_set, test)
    instance = replace(surrounding, instance=_given("instance", test.instance or test.study))
    study = replace(surrounding, study=_study(test, surrounding))
    series = replace(surrounding, series=study.study)
    return {
        "instance": rule_set.evaluate("instance", instance),
        "series": rule_set.evaluate("series", series),
        "study": rule_set.evaluate("study", study),
    }


def _surrounding(rule_set: RuleSet, test: RuleTest) -> Inputs:
    definition = rule_set.definition
    for group, given in (("source", test.source), ("order", test.order)):
        for key in given:
            if key not in CIRCUMSTANCES[group]:
                raise RuleTestError(unknown_field(group, key, "study"))
    source = dict(test.source)
    node = source.get("node")
    if node is not None:
        if node not in definition.nodes:
            raise RuleTestError(f"there is no node `{node}`{did_you_mean(node, definition.nodes)}")
        known = definition.nodes[node]
        source = {"aet": definition.aet_of(node), "site": known.site, "modality": known.modality or "", **source}
    site = source.get("site")
    if site is not None and site not in definition.sites:
        raise RuleTestError(f"there is no site `{site}`{did_you_mean(site, definition.sites)}")
    inputs = rule_set._surround(site, source.get("tenant"), source, _moment(test.at, rule_set.timezone_of(site)))  # noqa: SLF001  # this module
    for name in test.unhealthy:
        if name not in definition.destinations:
            raise RuleTestError(f"there is no destination `{name}`{did_you_mean(name, definition.destinations)}")
    return replace(
        inputs,
        order={key: str(value) for key, value in test.order.items()},
        destinations=dict.fromkeys(test.unhealthy, False),
    )


def _moment(at: str | None, timezone: str) -> datetime:
    if at is None:
        return _ANY_MOMENT
    try:
        moment = datetime.fromisoformat(at)
    except ValueError:
        raise RuleTestError("`at` is not a time: write a local time such as 2026-11-20T10:00") from None
    return moment if moment.tzinfo is not None else moment.replace(tzinfo=ZoneInfo(timezone))


def _study(test: RuleTest, surrounding: Inputs) -> Attributes:
    study = _given("study", test.study)
    if "Modality" in study:
        study.setdefault("ModalitiesInStudy", [str(study["Modality"])])
    if "site" in surrounding.source:
        study.setdefault("Sites", [surrounding.source["site"]])
    return study


def _given(trigger: Trigger, attributes: Mapping[str, object]) -> Attributes:
    given: Attributes = {}
    for key, value in attributes.items():
        kind = type_of(key, trigger)
        if kind is None:
            raise RuleTestError(unknown_field(trigger, key, trigger))
        read = coerce(value, kind)
        if read is None:
            raise RuleTestError(f"the value of `{key}` is not {'a text' if kind.kind == 'text' else 'a number'}")
        given[key] = read
    return given
