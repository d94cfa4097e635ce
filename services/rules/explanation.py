"""Why each rule matched a study, or did not, from what is recorded of it. Pure."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any, Final

from contracts.definition import Rule
from contracts.fact import Attributes
from contracts.routing import TRIGGERS, Trigger
from libs.definition.condition import Condition, ConditionFailed
from libs.definition.explanation import Explanation, Part, explanation
from libs.definition.inputs import Inputs
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
        Rule before it that ended the evaluation for all of it, so that it did not count.
    why
        Its condition taken apart, for the first that did not match, or for the first of all where all matched.
    problem
        Why it could not be decided, or did not count for all instances.
    """

    rule: Rule
    trigger: Trigger
    matched: bool | None
    count: int = 0
    of: int = 0
    ended_by: str | None = None
    why: Explanation | None = None
    problem: str | None = None


@dataclass(frozen=True, eq=False)
class _Look:
    """What a condition looks at, and how many instances that stands for."""

    inputs: Inputs
    count: int


def explain(rules: RuleSet, tenant: str, version: Version) -> list[Said]:
    """Explain every rule on one version of a study, in the order of the definition."""
    found: dict[str, Said] = {}
    aside: dict[str, int] = {}
    used = {rule.trigger for rule in rules.definition.rules}
    for trigger in (one for one in TRIGGERS if one in used):
        those = rules.rules(trigger)
        if trigger in _TOLD:
            looks = list(_looks(rules, trigger, tenant, version))
            found |= {said.rule.name: _without(aside, said) for said in _each(those, looks, version.lifted)}
            if trigger == "instance":
                aside = {name: said.count for name, said in found.items() if _keeps_back(said)}
        else:
            said = "it waits for the clock, an order or a procedure: `kivuko study trace` tells what it did"
            found |= {rule.name: Said(rule, trigger, None, problem=said) for rule, _ in those}
    return [found[rule.name] for rule in rules.definition.rules]


def _keeps_back(said: Said) -> bool:
    aside = said.rule.quarantine is not None or said.rule.discard is not None
    return aside and said.ended_by is None and said.count > 0


def _without(aside: Mapping[str, int], said: Said) -> Said:
    """Say of a rule that matched a study or series how many of the images it can't deliver."""
    if not aside or not said.matched or not (said.rule.deliver or said.rule.notify):
        return said
    by = " and ".join(f"`{name}` ({count})" for name, count in aside.items())
    nowhere = f"{sum(aside.values())} of the instances go nowhere by it: they were kept back when they came, by {by}"
    return replace(said, problem=nowhere)


def _each(rules: Sequence[tuple[Rule, Condition]], looks: Sequence[_Look], lifted: Collection[str]) -> Iterator[Said]:
    """Explain the rules of one trigger: each counts for what no rule before it ended the evaluation of."""
    left = list(looks)
    of = sum(look.count for look in looks)
    ended: dict[str, int] = {}
    for rule, condition in rules:
        if rule.name in lifted:
            said = "a person has released what it put aside, so it counts no more for this study"
            yield Said(rule, rule.trigger, matched=False, of=of, problem=said)
            continue
        if not looks:
            yield Said(rule, rule.trigger, matched=False, problem="the study was not amended")
            continue
        if not left:
            yield replace(_explained(rule, condition, looks)[0], ended_by=next(iter(ended)))
            continue
        explained, matched = _explained(rule, condition, left)
        before = " and ".join(f"`{name}` for {count}" for name, count in ended.items())
        problem = explained.problem or (f"rules before it ended the evaluation: {before} of {of}" if before else None)
        yield replace(explained, of=of, problem=problem)
        if rule.ends and matched:
            ended[rule.name] = explained.count
            left = [look for look in left if look not in set(matched)]


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


def _explained(rule: Rule, condition: Condition, looks: Sequence[_Look]) -> tuple[Said, list[_Look]]:
    """Explain a rule; give also the looks that it matched."""
    matched: list[_Look] = []
    shown: _Look | None = None
    problem = None
    for look in looks:
        try:
            holds = condition.matches(look.inputs)
        except ConditionFailed as failure:
            holds, problem = False, str(failure)
        if holds:
            matched.append(look)
        elif shown is None:
            shown = look
    said = Said(
        rule,
        rule.trigger,
        bool(matched),
        sum(look.count for look in matched),
        sum(look.count for look in looks),
        why=explanation(condition, (shown or looks[0]).inputs),
        problem=problem,
    )
    return said, matched


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
