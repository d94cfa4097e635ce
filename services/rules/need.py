"""What the rules of a definition ask for beside the arrival itself: what no rule asks for is not looked up. Pure."""

from dataclasses import dataclass
from typing import Final

from contracts.definition import Definition, Rule
from contracts.routing import Trigger
from libs.definition.ruleset import RuleSet

#: What the name of a tag follows in conditions.
TAG: Final = "Tags."


@dataclass(frozen=True)
class Needs:
    """What is to be looked up before something is decided.

    Attributes
    ----------
    triggers
        Those that any rule has.
    health
        Those with a rule for which the health of destinations counts.
    aside
        Triggers with a rule that puts aside: what a person released is not put aside again.
    timers
        Rules that the clock triggers, by name.
    orders
        Triggers with a rule that reads what was ordered.
    apart
        Names of rules that neither images nor versions of studies trigger.
    tags
        Triggers with a rule that reads tags of the study.
    """

    triggers: frozenset[Trigger]
    health: frozenset[Trigger]
    aside: frozenset[Trigger]
    timers: dict[str, Rule]
    apart: frozenset[str]
    orders: frozenset[Trigger]
    tags: frozenset[Trigger]


def needs(rules: RuleSet) -> Needs:
    """Say what the rules of a definition need."""
    definition = rules.definition
    return Needs(
        triggers=frozenset(rule.trigger for rule in definition.rules),
        health=frozenset(rule.trigger for rule in definition.rules if _by_health(definition, rule))
        | rules.reads_health,
        aside=frozenset(rule.trigger for rule in definition.rules if rule.quarantine is not None),
        orders=rules.reads_orders,
        timers={rule.name: rule for rule in definition.rules if rule.trigger == "timer"},
        apart=frozenset(rule.name for rule in definition.rules if rule.trigger in ("timer", "order", "procedure")),
        tags=frozenset(
            trigger
            for trigger in {rule.trigger for rule in definition.rules}
            if any(key.startswith(TAG) for key in rules.attributes(trigger))
        ),
    )


def _by_health(definition: Definition, rule: Rule) -> bool:
    return any(_picks(definition, name, frozenset()) for name in rule.deliver)


def _picks(definition: Definition, name: str, above: frozenset[str]) -> bool:
    """Tell whether a destination is a group that picks by health, or has one in it."""
    target = definition.destinations.get(name)
    if target is None or target.group is None or name in above:
        return False
    return target.pick == "first-healthy" or any(_picks(definition, one, above | {name}) for one in target.group)
