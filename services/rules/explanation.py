"""Why each rule matched a study, or did not, from what is recorded of it. Pure."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any, Final

from contracts.definition import Rule
from contracts.fact import Attributes
from contracts.routing import Trigger
from libs.definition.condition import Condition, ConditionFailed, Inputs, bind
from libs.definition.ruleset import RuleSet
from services.rules.chronicle import Kind, Version
from services.rules.memory import looking
from services.rules.plan import aggregate

_MINUTE: Final = 60
#: Triggers that look at what arrived; the others look at what comes later.
_TOLD: Final[frozenset[Trigger]] = frozenset(("instance", "series", "study", "amended"))


@dataclass(frozen=True)
class Part:
    """One part of a condition.

    Attributes
    ----------
    text
        The part as the condition has it.
    depth
        How deep it stands inside the condition; the whole is at 0.
    holds
        Whether it is true; none if it could not be decided, or is not a yes or no.
    values
        What it read, by name.
    """

    text: str
    depth: int
    holds: bool | None
    values: Mapping[str, Any]


@dataclass(frozen=True)
class Explanation:
    """What one rule said of a study.

    Attributes
    ----------
    rule
        The rule.
    trigger
        Its trigger.
    matched
        Whether it matched; none if nobody can tell any more.
    count, of
        How many instances matched, and were looked at.
    ended_by
        Rule before it that ended the evaluation, so that it did not count.
    parts
        Its condition, for the first that did not match, or for the first of all where all matched.
    problem
        Why it could not be decided.
    """

    rule: Rule
    trigger: Trigger
    matched: bool | None
    count: int = 0
    of: int = 0
    ended_by: str | None = None
    parts: tuple[Part, ...] = ()
    problem: str | None = None


@dataclass(frozen=True)
class _Look:
    """What a condition looks at, and how many instances that stands for."""

    inputs: Inputs
    count: int


def explain(rules: RuleSet, tenant: str, version: Version) -> list[Explanation]:
    """Explain every rule on one version of a study, in the order of the definition."""
    found: dict[str, Explanation] = {}
    for trigger in dict.fromkeys(rule.trigger for rule in rules.definition.rules):
        if trigger not in _TOLD:
            said = "it is triggered by what comes after the arrival: see the decisions of the study"
            found |= {rule.name: Explanation(rule, trigger, None, problem=said) for rule, _ in rules.rules(trigger)}
            continue
        looks = list(_looks(rules, trigger, tenant, version))
        ended: str | None = None
        for rule, condition in rules.rules(trigger):
            explained = replace(_explained(rule, condition, looks), ended_by=ended)
            found[rule.name] = explained
            if ended is None and rule.ends and explained.matched and explained.count == explained.of:
                ended = rule.name
    return [found[rule.name] for rule in rules.definition.rules]


def _looks(rules: RuleSet, trigger: Trigger, tenant: str, version: Version) -> Iterator[_Look]:
    if trigger == "instance":
        for kind in version.kinds:
            at = datetime.fromtimestamp(kind.arrivals[0][0] * _MINUTE, UTC)
            inputs = rules.circumstances(kind.source, tenant, at)
            yield _Look(looking(inputs, trigger, kind.attributes), kind.count)
        return
    inputs = rules.circumstances(version.source, tenant, version.decided_at)
    if trigger == "series":
        for kinds in _series(version.kinds):
            yield _Look(looking(inputs, trigger, _common(kinds)), sum(kind.count for kind in kinds))
    elif trigger == "study" or version.number > 1:
        known = {**version.left, **_common(version.kinds), **version.attributes}
        yield _Look(looking(inputs, trigger, known), version.count)


def _series(kinds: Sequence[Kind]) -> Iterator[Sequence[Kind]]:
    by_uid: dict[Any, list[Kind]] = {}
    for kind in kinds:
        by_uid.setdefault(kind.attributes.get("SeriesInstanceUID"), []).append(kind)
    yield from by_uid.values()


def _explained(rule: Rule, condition: Condition, looks: Sequence[_Look]) -> Explanation:
    count, of = 0, sum(look.count for look in looks)
    shown: _Look | None = None
    problem = None
    for look in looks:
        try:
            holds = condition.matches(look.inputs)
        except ConditionFailed as failure:
            holds, problem = False, str(failure)
        if holds:
            count += look.count
        elif shown is None:
            shown = look
    if not looks:
        return Explanation(rule, rule.trigger, matched=False, problem="the study was not amended")
    return Explanation(
        rule, rule.trigger, count > 0, count, of, parts=parts(condition, (shown or looks[0]).inputs), problem=problem
    )


def _common(kinds: Sequence[Kind]) -> Attributes:
    """Give the value that a study or series has of each attribute of its instances."""
    found: Attributes = {}
    for keyword in dict.fromkeys(keyword for kind in kinds for keyword in kind.attributes):
        value = aggregate(kind.attributes[keyword] for kind in kinds if keyword in kind.attributes)
        if value is not None:
            found[keyword] = value
    return found


def parts(condition: Condition, inputs: Inputs) -> tuple[Part, ...]:
    """Take a condition apart: which part was true, which was not, and with what values."""
    bound = bind(inputs, condition.trigger, condition.scope)
    values: dict[str, Any] = {
        f"{condition.trigger}.{keyword}": bound.values.get(keyword) for keyword in sorted(condition.attributes)
    }
    try:
        holds: bool | None = condition.holds(bound)
    except ConditionFailed:
        holds = None
    return (Part(condition.text.strip(), 0, holds, values),)
