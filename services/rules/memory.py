"""Evaluations of a rule set that are remembered by what its conditions read: history repeats itself. Pure."""

from collections.abc import Collection, Iterable
from dataclasses import replace
from datetime import datetime
from typing import Any, Final

from contracts.definition import Definition, Rule
from contracts.fact import Attributes, Source
from contracts.routing import Trigger
from libs.definition.condition import Inputs
from libs.definition.ruleset import Evaluation, Match, RuleSet

#: Evaluations that are remembered of rules that read the same.
_MOST: Final = 8192
#: Surroundings that are remembered.
_MOST_SURROUNDINGS: Final = 4096


class Memory:
    """Evaluates as the rule set does, and each group of rules that read the same only once for the same values.

    Parameters
    ----------
    rules
        The rule set.
    """

    def __init__(self, rules: RuleSet) -> None:
        self._rules = rules
        self._positions = {rule.name: place for place, rule in enumerate(rules.definition.rules)}
        self._groups: dict[Trigger, list[_Group]] = {}
        self._surroundings: dict[tuple[Source, str, datetime | None], Inputs] = {}

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
    ) -> Evaluation:
        """Decide, as `RuleSet.evaluate` does on the circumstances of a source and attributes."""
        inputs = self._surrounding(source, tenant, at)
        if lifted or unhealthy:
            # Too rare to be remembered.
            return self._rules.evaluate(
                trigger, looking(inputs, trigger, attributes), lifted=lifted, unhealthy=unhealthy
            )
        matches: list[Match] = []
        errors: dict[str, None] = {}
        for group in self._of(trigger):
            found = group.evaluate(inputs, attributes)
            matches += found.matches
            errors.update(dict.fromkeys(found.errors))
        if len(matches) > 1:
            matches.sort(key=lambda match: self._positions[match.rule])
            last = next((place for place, match in enumerate(matches, start=1) if match.stop), None)
            matches = matches[:last]
        return Evaluation(len(self._positions), tuple(matches), tuple(errors))

    def reads_time(self, trigger: Trigger) -> bool:
        """Whether any condition of a trigger reads the clock or a calendar."""
        return any(group.reads_time for group in self._of(trigger))

    def _of(self, trigger: Trigger) -> "list[_Group]":
        if trigger not in self._groups:
            self._groups[trigger] = list(_groups(self._rules, trigger))
        return self._groups[trigger]

    def _surrounding(self, source: Source, tenant: str, at: datetime) -> Inputs:
        key = (source, tenant, at if self._rules.reads_time else None)
        found = self._surroundings.get(key)
        if found is None:
            if len(self._surroundings) >= _MOST_SURROUNDINGS:
                self._surroundings.clear()
            found = self._surroundings[key] = self._rules.circumstances(source, tenant, at)
        return found


class _Group:
    """Rules of one trigger that read the same."""

    def __init__(
        self,
        rules: RuleSet,
        trigger: Trigger,
        attributes: Iterable[str],
        circumstances: Iterable[str],
        *,
        by_node: bool,
    ) -> None:
        self._rules = rules
        self._trigger = trigger
        self._attributes = sorted(attributes)
        self._circumstances = sorted({*circumstances, *(("source.node",) if by_node else ())})
        self._known: dict[tuple[Any, ...], Evaluation] = {}
        self.reads_time = any(name == "now" or name.startswith("calendars.") for name in self._circumstances)

    def evaluate(self, inputs: Inputs, attributes: Attributes) -> Evaluation:
        values = [attributes.get(keyword) for keyword in self._attributes]
        key = (
            *(tuple(value) if type(value) is list else value for value in values),
            *(_circumstance(inputs, name) for name in self._circumstances),
        )
        found = self._known.get(key)
        if found is None:
            if len(self._known) >= _MOST:
                self._known.clear()
            shown = looking(inputs, self._trigger, attributes)
            found = self._known[key] = self._rules.evaluate(self._trigger, shown)
        return found


def looking(inputs: Inputs, trigger: Trigger, attributes: Attributes) -> Inputs:
    """Give inputs in which the rules of a trigger look at something with these attributes."""
    return replace(inputs, instance=attributes) if trigger == "instance" else replace(inputs, study=attributes)


def _circumstance(inputs: Inputs, name: str) -> Any:
    group, _, part = name.partition(".")
    return inputs.now if group == "now" else getattr(inputs, group).get(part)


def _groups(rules: RuleSet, trigger: Trigger) -> Iterable[_Group]:
    definition = rules.definition
    reads: dict[tuple[frozenset[str], frozenset[str], bool], list[Rule]] = {}
    for rule, condition in rules.rules(trigger):
        key = (condition.attributes, condition.circumstances, _depends_on_node(definition, rule.deliver))
        reads.setdefault(key, []).append(rule)
    for (attributes, circumstances, by_node), alike in reads.items():
        alone = RuleSet(definition.model_copy(update={"rules": tuple(alike)}))
        yield _Group(alone, trigger, attributes, circumstances, by_node=by_node)


def _depends_on_node(definition: Definition, names: Iterable[str], above: frozenset[str] = frozenset()) -> bool:
    """Tell whether which member of a group is chosen depends on the node that sent."""
    for name in names:
        target = definition.destinations.get(name)
        if target is None or target.group is None or name in above:
            continue
        if target.pick == "first-healthy" or _depends_on_node(definition, target.group, above | {name}):
            return True
    return False
