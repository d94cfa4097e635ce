"""Tests of a definition: what its rules do with a case, beside what the test expects."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from contracts.definition import RuleTest
from contracts.routing import PRIORITIES, Priority, Trigger
from libs.definition.case import RuleTestError, explain
from libs.definition.ruleset import Match, RuleSet


@dataclass
class Result:
    """What the rules do with a case.

    Attributes
    ----------
    delivers, held
        Destinations as the rules name them, groups by their own name; those that a rule holds.
    priority, transform
        By destination.
    notifies
        Partners.
    tags
        Value by name.
    quarantined, discarded
        Whether a rule puts it aside, or discards it.
    rules
        Names of the rules that match.
    """

    delivers: set[str] = field(default_factory=set)
    held: set[str] = field(default_factory=set)
    priority: dict[str, Priority] = field(default_factory=dict)
    transform: dict[str, str | None] = field(default_factory=dict)
    notifies: set[str] = field(default_factory=set)
    tags: dict[str, str] = field(default_factory=dict)
    quarantined: bool = False
    discarded: bool = False
    rules: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Unmet:
    """One thing that a test expects and the rules do not do.

    Attributes
    ----------
    key
        Key of the test.
    expected, got
        As people write it.
    """

    key: str
    expected: str
    got: str


def carry_out(rule_set: RuleSet, test: RuleTest) -> Result:
    """Carry out a test. Raises RuleTestError if that can't be done."""
    found = Result()
    evaluations = explain(rule_set, test)
    errors = [error for evaluation in evaluations.values() for error in evaluation.errors]
    if errors:
        raise RuleTestError("; ".join(errors))
    matches: list[tuple[Trigger, Match]] = []
    for trigger, evaluation in evaluations.items():
        matches += [(trigger, match) for match in evaluation.matches]
        last = evaluation.matches[-1] if evaluation.matches else None
        if last is not None and (last.quarantine is not None or last.discard is not None):
            # What is put aside when it comes is looked at by no later trigger.
            found.quarantined, found.discarded = last.quarantine is not None, last.discard is not None
            break
    _deliveries([match for _, match in matches], found)
    # Of several rules that set a tag the one with the later trigger wins, of one trigger the first.
    for trigger in dict.fromkeys(trigger for trigger, _ in matches):
        mine = [match for other, match in matches if other == trigger]
        for match in reversed(mine):
            found.tags.update(match.tags)
    found.rules = [match.rule for _, match in matches]
    return found


def _deliveries(matches: Iterable[Match], found: Result) -> None:
    matches = list(matches)
    for name in {name for match in matches for name in match.names}:
        asked = [match for match in matches if name in match.names]
        first = min(asked, key=lambda match: (PRIORITIES.index(match.priority), match.transform is None))
        found.delivers.add(name)
        found.priority[name], found.transform[name] = first.priority, first.transform
        if any(match.hold is not None for match in asked if match.priority == first.priority):
            found.held.add(name)
    for match in matches:
        found.notifies.update(match.notify)
        if match.names or match.notify:
            continue
        if match.priority in ("stat", "urgent"):
            for name, before in found.priority.items():
                found.priority[name] = min(before, match.priority, key=PRIORITIES.index)
        if match.hold is not None:
            found.held |= found.delivers


def unmet(test: RuleTest, found: Result) -> Iterator[Unmet]:
    """Give what the test expects and the rules do not do; what it does not mention is not looked at."""
    for key, expected, got in (
        ("delivers", test.delivers, found.delivers),
        ("held", test.held, found.held),
        ("notifies", test.notifies, found.notifies),
    ):
        if expected is not None and set(expected) != got:
            yield Unmet(key, _listed(expected), _listed(got))
    for key, wanted, each in (
        ("priority", test.priority, found.priority),
        ("transform", test.transform, found.transform),
    ):
        if wanted is None:
            continue
        by_name = wanted if isinstance(wanted, Mapping) else dict.fromkeys(found.delivers, wanted)
        for name, value in by_name.items():
            if name not in found.delivers or each[name] != value:
                got_value = _said(each[name]) if name in found.delivers else "no delivery"
                yield Unmet(key, f"{_said(value)} for {name}", got_value)
    if test.tags is not None and test.tags != found.tags:
        yield Unmet("tags", _tags(test.tags), _tags(found.tags))
    for key, said, is_so in (
        ("quarantined", test.quarantined, found.quarantined),
        ("discarded", test.discarded, found.discarded),
    ):
        if said is not None and said != is_so:
            yield Unmet(key, str(said).lower(), str(is_so).lower())


def _listed(names: Iterable[str]) -> str:
    return f"[{', '.join(sorted(names))}]"


def _said(value: Any) -> str:
    return "none" if value is None else str(value)


def _tags(tags: Mapping[str, str]) -> str:
    return f"{{{', '.join(f'{name}: {value}' for name, value in sorted(tags.items()))}}}"
