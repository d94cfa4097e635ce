"""Evaluations that are remembered by what they read: history repeats itself. Pure.

A rule matches if all parts of its condition hold. Each part is remembered by itself, for the values that it reads, so
that the few values of most attributes are looked at once for a whole history. What people rarely write twice, such as
a description, is looked at only where all else has left the rule open.
"""

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from contracts.definition import Definition, Rule
from contracts.fact import Attributes, Source
from contracts.routing import Trigger
from libs.definition.attributes import OBJECTS
from libs.definition.calendar import wall_clock, working
from libs.definition.condition import Condition, ConditionError, ConditionFailed, compile_condition
from libs.definition.inputs import Inputs, bind
from libs.definition.ruleset import Evaluation, Match, RuleSet
from services.rules.conjunct import conjuncts

#: Values that are remembered of parts that read the same.
_MOST: Final = 32_768
#: Surroundings, matches and results that are remembered.
_MOST_OTHERS: Final = 4096
#: Where inputs have a group of circumstances, if not under its own name.
_WHERE: Final = {"destination": "destinations"}
#: After so many evaluations it is looked again at which values repeat.
_SORTED_AGAIN: Final = 500


class Memory:
    """Evaluates as the rule set does, and remembers.

    Parameters
    ----------
    rules
        The rule set.
    """

    def __init__(self, rules: RuleSet) -> None:
        self._rules = rules
        self._by_trigger: dict[Trigger, _Rules] = {}
        self._surroundings: dict[tuple[int, str], tuple[Source, Inputs]] = {}
        self._moments: dict[tuple[str, datetime], tuple[dict[str, str], dict[str, bool]]] = {}

    def evaluate(
        self,
        trigger: Trigger,
        source: Source,
        tenant: str,
        at: datetime,
        attributes: Attributes,
        *,
        lifted: Collection[str] = (),
        unhealthy: Collection[str] = (),
        order: Mapping[str, str] | None = None,
    ) -> Evaluation:
        """Decide, as `RuleSet.evaluate` does on the circumstances of a source and attributes.

        The matches do not say what their conditions read.
        """
        if lifted or unhealthy:
            # Too rare to be remembered.
            inputs = self._rules.circumstances(source, tenant, at, dict.fromkeys(unhealthy, False))
            seen = looking(inputs.having(order=order or {}), trigger, attributes)
            return self._rules.evaluate(trigger, seen, lifted=lifted, unhealthy=unhealthy)
        those = self._of(trigger)
        inputs = self._surrounding(source, tenant, at, timed=those.reads_time)
        return those.evaluate(inputs.having(order=order) if order else inputs, attributes)

    def reads_time(self, trigger: Trigger) -> bool:
        """Whether any condition of a trigger reads the clock or a calendar."""
        return self._of(trigger).reads_time

    def _of(self, trigger: Trigger) -> "_Rules":
        found = self._by_trigger.get(trigger)
        if found is None:
            found = self._by_trigger[trigger] = _Rules(self._rules, trigger)
        return found

    def _surrounding(self, source: Source, tenant: str, at: datetime, *, timed: bool) -> Inputs:
        # By identity: who reads a history gives one object for equal sources, and a source is dear to compare.
        known = self._surroundings.get((id(source), tenant))
        if known is None:
            if len(self._surroundings) >= _MOST_OTHERS:
                self._surroundings.clear()
            known = source, self._rules.circumstances(source, tenant, at)
            self._surroundings[id(source), tenant] = known
        found = known[1]
        if not timed:
            return found
        clock, calendars = self._moment(self._rules.timezone_of(source.site), at)
        return found.having(now=at, clock=clock, calendars=calendars)

    def _moment(self, timezone: str, at: datetime) -> tuple[dict[str, str], dict[str, bool]]:
        """Give clock and calendars, which know of no seconds."""
        key = (timezone, at.replace(second=0, microsecond=0))
        found = self._moments.get(key)
        if found is None:
            if len(self._moments) >= _MOST_OTHERS:
                self._moments.clear()
            found = wall_clock(at, timezone), working(self._rules.definition.calendars, at, timezone)
            self._moments[key] = found
        return found


@dataclass(slots=True)
class _Seen:
    """What is known of the parts of a group for some values; a bit for each rule.

    Attributes
    ----------
    checked
        Rules whose parts were looked at.
    refuted
        Those of which a part is false.
    failed
        Those of which a part could not be decided, and why.
    """

    checked: int = 0
    refuted: int = 0
    failed: dict[int, str] | None = None


class _Group:
    """Parts of conditions that read the same."""

    def __init__(self, trigger: Trigger, attributes: Iterable[str], circumstances: Iterable[str]) -> None:
        self._trigger: Trigger = trigger
        self._attributes = sorted(attributes)
        self._circumstances = [name.partition(".") for name in sorted(circumstances)]
        #: Most groups read one attribute.
        self._only = self._attributes[0] if len(self._attributes) == 1 and not self._circumstances else None
        #: Parts by their text, each with the rules that have it.
        self._parts: dict[str, tuple[Condition, int]] = {}
        self._seen: dict[Any, _Seen] = {}
        self.rules = 0
        self.missed = 0

    def add(self, part: Condition, rule: int) -> None:
        """Add a part of a rule, which is a bit."""
        self.rules |= rule
        self._parts[part.text] = part, self._parts.get(part.text, (part, 0))[1] | rule

    def look(self, inputs: Inputs, attributes: Attributes, rules: int) -> _Seen:
        """Give what is known of the values, for some rules at least."""
        if self._only is not None:
            key: Any = attributes.get(self._only)
            if type(key) is list:
                key = tuple(key)
        else:
            key = self._key(inputs, attributes)
        seen = self._seen.get(key)
        if seen is None:
            if len(self._seen) >= _MOST:
                self._seen.clear()
            seen = self._seen[key] = _Seen()
            self.missed += 1
        wanted = rules & ~seen.checked
        if wanted:
            self._learn(seen, looking(inputs, self._trigger, attributes), wanted)
        return seen

    def _key(self, inputs: Inputs, attributes: Attributes) -> Any:
        values = [attributes.get(keyword) for keyword in self._attributes]
        return (
            *[tuple(value) if type(value) is list else value for value in values],
            *[
                inputs.now if group == "now" else getattr(inputs, _WHERE.get(group, group)).get(name)
                for group, _, name in self._circumstances
            ],
        )

    def _learn(self, seen: _Seen, inputs: Inputs, wanted: int) -> None:
        # They read the same, so what they read is brought into the form for evaluation once.
        bound = None
        for part, rules in self._parts.values():
            if rules & wanted:
                if bound is None:
                    bound = bind(inputs, self._trigger, part.scope)
                try:
                    if not part.holds(bound):
                        seen.refuted |= rules
                except ConditionFailed as failure:
                    seen.failed = {**(seen.failed or {}), **dict.fromkeys(_bits(rules), str(failure))}
        seen.checked |= wanted


class _Rules:
    """The rules of one trigger, each with a bit of its own."""

    def __init__(self, rules: RuleSet, trigger: Trigger) -> None:
        self._rules = rules
        groups: dict[tuple[frozenset[str], frozenset[str]], _Group] = {}
        self._those: list[Rule] = []
        for place, (rule, condition) in enumerate(rules.rules(trigger)):
            for part in _parts(condition.within(condition.reads), rules.definition):
                key = (part.attributes, part.circumstances)
                groups.setdefault(key, _Group(trigger, *key)).add(part, 1 << place)
            self._those.append(rule)
        self._by_node = [_depends_on_node(rules.definition, rule.deliver) for rule in self._those]
        self._groups = list(groups.values())
        self._everyone = (1 << len(self._those)) - 1
        self._matches: dict[tuple[int, str | None], Match] = {}
        self._any_by_node = any(self._by_node)
        self._results: dict[tuple[int, str | None], Evaluation] = {}
        self._evaluated = 0
        self.reads_time = any(
            name == "now" or name.startswith(("calendars.", "clock."))
            for _, circumstances in groups
            for name in circumstances
        )

    def evaluate(self, inputs: Inputs, attributes: Attributes) -> Evaluation:
        """Decide: rules fall away part by part, those first whose values repeat most."""
        self._evaluated += 1
        if self._evaluated % _SORTED_AGAIN == 0:
            self._groups.sort(key=lambda group: group.missed)
        left = self._everyone
        failed: dict[int, str] | None = None
        for group in self._groups:
            open_ = left & group.rules
            if open_:
                seen = group.look(inputs, attributes, open_)
                left &= ~seen.refuted
                if seen.failed is not None:
                    failed = {**(failed or {}), **seen.failed}
        node = inputs.source.get("node")
        if failed is not None:
            return self._found(list(_places(left)), failed, node)
        # Whoever gets the same result again may remember what follows from it.
        key = (left, node if self._any_by_node else None)
        found = self._results.get(key)
        if found is None:
            if len(self._results) >= _MOST_OTHERS:
                self._results.clear()
            found = self._results[key] = self._found(list(_places(left)), {}, node)
        return found

    def _found(self, places: Sequence[int], failed: dict[int, str], node: str | None) -> Evaluation:
        matches: list[Match] = []
        errors: list[str] = []
        for place in places:
            if 1 << place in failed:
                errors.append(f"rule `{self._those[place].name}` could not be decided: {failed[1 << place]}")
                continue
            match = self._match(place, node)
            matches.append(match)
            if match.stop:
                break
        return Evaluation(len(self._those), tuple(matches), tuple(errors))

    def _match(self, place: int, node: str | None) -> Match:
        key = (place, node if self._by_node[place] else None)
        found = self._matches.get(key)
        if found is None:
            if len(self._matches) >= _MOST_OTHERS:
                self._matches.clear()
            rule = self._those[place]
            found = self._matches[key] = self._rules.match(rule, self._rules.resolve(rule.deliver, node))
        return found


def _bits(mask: int) -> Iterator[int]:
    while mask:
        bit = mask & -mask
        yield bit
        mask ^= bit


def _places(mask: int) -> Iterator[int]:
    return (bit.bit_length() - 1 for bit in _bits(mask))


def _parts(condition: Condition, definition: Definition) -> list[Condition]:
    """Split a condition; one that can't be split stays whole."""
    texts = conjuncts(condition.text)
    if len(texts) == 1:
        return [condition]
    try:
        return [compile_condition(text, trigger=condition.trigger, calendars=definition.calendars) for text in texts]
    except ConditionError:
        return [condition]


def looking(inputs: Inputs, trigger: Trigger, attributes: Attributes) -> Inputs:
    """Give inputs in which the rules of a trigger look at something with these attributes."""
    match OBJECTS[trigger]:
        case "instance":
            return inputs.having(instance=attributes)
        case "series":
            return inputs.having(series=attributes)
        case _:
            return inputs.having(study=attributes)


def _depends_on_node(definition: Definition, names: Iterable[str], above: frozenset[str] = frozenset()) -> bool:
    """Tell whether which member of a group is chosen depends on the node that sent."""
    for name in names:
        target = definition.destinations.get(name)
        if target is None or target.group is None or name in above:
            continue
        if target.pick == "first-healthy" or _depends_on_node(definition, target.group, above | {name}):
            return True
    return False
