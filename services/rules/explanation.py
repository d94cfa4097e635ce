"""Why each rule matched a study, or did not, from what is recorded of it. Pure."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any, Final

from contracts.definition import Rule
from contracts.fact import Attributes
from contracts.routing import Trigger
from libs.definition.condition import Condition, ConditionFailed, Inputs
from libs.definition.explanation import Explanation, Part, explanation
from libs.definition.ruleset import RuleSet
from services.rules.chronicle import Kind, Version
from services.rules.memory import looking
from services.rules.plan import aggregate

_MINUTE: Final = 60
#: Triggers that look at what arrived; the others look at what comes later.
_TOLD: Final[frozenset[Trigger]] = frozenset(("instance", "series", "study", "amended"))


@dataclass(frozen=True)
class Said:
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
    why
        Its condition taken apart, for the first that did not match, or for the first of all where all matched.
    problem
        Why it could not be decided.
    """

    rule: Rule
    trigger: Trigger
    matched: bool | None
    count: int = 0
    of: int = 0
    ended_by: str | None = None
    why: Explanation | None = None
    problem: str | None = None


@dataclass(frozen=True)
class _Look:
    """What a condition looks at, and how many instances that stands for."""

    inputs: Inputs
    count: int


def explain(rules: RuleSet, tenant: str, version: Version) -> list[Said]:
    """Explain every rule on one version of a study, in the order of the definition."""
    found: dict[str, Said] = {}
    for trigger in dict.fromkeys(rule.trigger for rule in rules.definition.rules):
        if trigger not in _TOLD:
            said = "it is triggered by what comes after the arrival: see the decisions of the study"
            found |= {rule.name: Said(rule, trigger, None, problem=said) for rule, _ in rules.rules(trigger)}
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
    health = dict.fromkeys(version.unhealthy or (), False)
    if trigger == "instance":
        for kind in version.kinds:
            at = datetime.fromtimestamp(kind.arrivals[0][0] * _MINUTE, UTC)
            inputs = replace(rules.circumstances(kind.source, tenant, at), destinations=health, order=version.order)
            yield _Look(looking(inputs, trigger, kind.attributes), kind.count)
        return
    inputs = replace(rules.circumstances(version.source, tenant, version.decided_at, health), order=version.order)
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


def _explained(rule: Rule, condition: Condition, looks: Sequence[_Look]) -> Said:
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
        return Said(rule, rule.trigger, matched=False, problem="the study was not amended")
    return Said(
        rule,
        rule.trigger,
        count > 0,
        count,
        of,
        why=explanation(condition, (shown or looks[0]).inputs),
        problem=problem,
    )


def _common(kinds: Sequence[Kind]) -> Attributes:
    """Give the value that a study or series has of each attribute of its instances."""
    found: Attributes = {}
    for keyword in dict.fromkeys(keyword for kind in kinds for keyword in kind.attributes):
        value = aggregate(kind.attributes[keyword] for kind in kinds if keyword in kind.attributes)
        if value is not None:
            found[keyword] = value
    return found


def document(each: Said, *, with_values: bool) -> dict[str, Any]:
    """Write what a rule said as JSON; without what it saw for those who may not see it."""
    return {
        "rule": each.rule.name,
        "trigger": each.trigger,
        "matched": each.matched,
        "instances": each.count,
        "of": each.of,
        "ended_by": each.ended_by,
        "problem": each.problem,
        "because": [_sentence(part, with_values=with_values) for part in each.why.because()] if each.why else [],
        "condition": None if each.why is None else _part(each.why.root, with_values=with_values),
        "asks": {key: value for key, value in written(each.rule).items() if key not in ("name", "trigger", "when")},
    }


def written(rule: Rule) -> dict[str, Any]:
    """Write a rule as the definition has it; what it does not say is left out."""
    return rule.model_dump(mode="json", by_alias=True, exclude_defaults=True)


def _sentence(part: Part, *, with_values: bool) -> str:
    return (part if with_values else replace(part, values={}, absent=(), computed={})).sentence()


def _part(part: Part, *, with_values: bool) -> dict[str, Any]:
    return {
        "text": part.text,
        "kind": part.kind,
        "holds": part.holds,
        "decisive": part.decisive,
        "values": part.values if with_values else None,
        "absent": list(part.absent) if with_values else None,
        "computed": part.computed if with_values else None,
        "failure": part.failure,
        "parts": [_part(one, with_values=with_values) for one in part.parts],
    }
