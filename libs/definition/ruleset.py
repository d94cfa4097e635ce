"""The rules of a definition, compiled once, and what they decide."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Final
from zoneinfo import ZoneInfoNotFoundError

from contracts.definition import Definition, Rule
from contracts.fact import Attributes, Source
from contracts.routing import TRIGGERS, Priority, Trigger
from libs.definition.calendar import CalendarError, wall_clock, working
from libs.definition.condition import Condition, ConditionError, ConditionFailed, compile_condition
from libs.definition.inputs import Bound, Inputs, bind
from libs.definition.lookup import Lookups, united, values_read
from libs.definition.shortlist import Shortlist

#: A moment for tests whose rules don't ask for the time.
_ANY_MOMENT: Final = datetime(2000, 1, 1, tzinfo=UTC)


class RuleSetError(ValueError):
    """The rules of a definition can't be used; the message says which and why."""


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
        inputs = self.surroundings(source.site, tenant, {key: value for key, value in known.items() if value}, now)
        return replace(inputs, destinations=destinations or {})

    def timezone_of(self, site: str | None) -> str:
        """Give the time zone of a site: its own, or the network's."""
        found = self.definition.sites.get(site or "")
        return self.definition.timezone if found is None or found.timezone is None else found.timezone

    def surroundings(
        self, site_key: str | None, tenant: str | None, source: Mapping[str, str], now: datetime
    ) -> Inputs:
        """Give the inputs of a moment at a site; what the source is besides stands in `source` already."""
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
