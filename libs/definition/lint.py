"""What is valid in a definition and yet likely a mistake: rules that never apply, contradict each other, go round."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final, Literal

from pydicom.datadict import dictionary_is_retired, dictionary_VR, tag_for_keyword

from contracts.definition import Definition, Rule
from contracts.routing import PRIORITIES, TRIGGERS, Trigger
from libs.definition.condition import Condition, compile_condition
from libs.definition.document import Document, Path, Problem
from libs.definition.loop import loops
from libs.definition.truth import Assignment, Comparison, Formula, Scalar, combinations, formula, implies, is_possible
from libs.definition.wording import alike

Level = Literal["warning", "note"]
#: A rule that has not matched for so long is said to be unused.
UNUSED: Final = timedelta(days=90)
#: Combinations of values that are tried for one definition: beyond it an apply would take too long.
_MOST_COMBINATIONS: Final = 400_000
#: Rules that a sentence names.
_NAMED: Final = 5
#: What values look like, by value representation: PS3.5 section 6.2.
_FORMS: Final[Mapping[str, tuple[re.Pattern[str], str]]] = {
    "CS": (re.compile(r"^[A-Z0-9_ ]{0,16}$"), "has up to 16 capital letters, digits, spaces and underscores"),
    "DA": (re.compile(r"^(\d{8})?$"), "is a date such as 20261120"),
    "UI": (re.compile(r"^([0-9]+(\.[0-9]+)*)?$"), "is a UID: digits and dots"),
    "AS": (re.compile(r"^(\d{3}[DWMY])?$"), "is an age such as 045Y"),
}


@dataclass(frozen=True)
class Finding:
    """Something that people should look at.

    Attributes
    ----------
    level
        warning: likely a mistake; note: good to know.
    kind
        never, always, unreachable, overlap, loop, unknown, retired, unused.
    problem
        What, where, and what to do.
    """

    level: Level
    kind: str
    problem: Problem


@dataclass(frozen=True)
class Use:
    """What is known of a rule's use.

    Attributes
    ----------
    since
        When a rule of this name came into force, with its offset.
    matched
        When it last matched; none if it never did.
    """

    since: datetime
    matched: datetime | None


@dataclass(frozen=True)
class _Read:
    position: int
    rule: Rule
    condition: Condition
    formula: Formula

    def path(self, *inside: str | int) -> Path:
        return ("rules", self.position, *inside)


def lint(document: Document, definition: Definition) -> list[Finding]:
    """Look through the rules of a document that has passed all checks; findings in the order of the lines."""
    rules = [_read(position, rule, definition) for position, rule in enumerate(definition.rules)]
    asked = _Questions()
    found = [*_values(document, definition, rules), *_retired(document, rules)]
    never = set()
    for one in rules:
        for finding in _constant(document, one):
            never.add(one.position)
            found.append(finding)
    counted = [one for one in rules if one.position not in never or one.rule.when is None]
    for trigger in TRIGGERS:
        same = [one for one in counted if one.rule.trigger == trigger]
        found += _unreachable(document, same, asked)
        found += _overlaps(document, definition, trigger, same, asked)
    found += _circles(document, definition, counted, asked)
    return sorted(found, key=lambda one: (one.problem.line, one.problem.column, one.problem.message))


def unused(document: Document, definition: Definition, uses: Mapping[str, Use], now: datetime) -> list[Finding]:
    """Find the rules that have not matched in 90 days, from figures that the service has.

    Parameters
    ----------
    document, definition
        What was applied.
    uses
        By name of the rule; of a rule that is not there nothing is known.
    now
        The moment, with its offset.
    """
    found = []
    for position, rule in enumerate(definition.rules):
        use = uses.get(rule.name)
        if use is None or now - max(use.since, use.matched or use.since) < UNUSED:
            continue
        when = "never" if use.matched is None else f"not since {use.matched.date().isoformat()}"
        found.append(
            _finding(
                "note",
                "unused",
                document.problem(
                    ("rules", position, "name"),
                    f"rule {rule.name} has matched {when}, and is in force since {use.since.date().isoformat()}",
                    "is it still needed? `kivuko rule explain STUDY` tells why it did not match",
                ),
            )
        )
    return found


class _Questions:
    """Questions about conditions, up to a number of combinations; beyond it the answer is always no."""

    def __init__(self) -> None:
        self._left = _MOST_COMBINATIONS

    def possible(self, *formulas: Formula, given: Assignment | None = None) -> bool:
        """Ask whether all of them can be true at once."""
        return self._goes_on(combinations(*formulas, given=given)) and is_possible(*formulas, given=given)

    def implied(self, one: Formula, other: Formula) -> bool:
        """Ask whether the other is true whenever the one is."""
        return self._goes_on(combinations(one, other)) and implies(one, other)

    def _goes_on(self, count: int) -> bool:
        self._left -= count
        return self._left >= 0


def _read(position: int, rule: Rule, definition: Definition) -> _Read:
    condition = compile_condition(
        rule.when, trigger=rule.trigger, calendars=definition.calendars, destinations=definition.destinations
    )
    return _Read(position, rule, condition, formula(condition))


def _finding(level: Level, kind: str, problem: Problem) -> Finding:
    return Finding(level, kind, problem)


def _constant(document: Document, one: _Read) -> Iterator[Finding]:
    if one.rule.when is None:
        return
    if not is_possible(one.formula):
        message = f"rule {one.rule.name} never applies: its condition is never true"
        hint = "two parts of it exclude each other: did you mean || or `any` instead of && or `all`?"
        yield _finding("warning", "never", document.problem(one.path("when"), message, hint))
    elif not is_possible(Formula(lambda values: not one.formula.holds(values), one.formula.names)):
        message = f"rule {one.rule.name} always applies: its condition is always true"
        yield _finding("note", "always", document.problem(one.path("when"), message, "if that is meant, leave it out"))


def _unreachable(document: Document, rules: list[_Read], asked: _Questions) -> Iterator[Finding]:
    for later in rules:
        for earlier in rules:
            if earlier.position >= later.position:
                break
            if earlier.rule.ends and asked.implied(later.formula, earlier.formula):
                line, _ = document.value_at(earlier.path("name"))
                yield _finding(
                    "warning",
                    "unreachable",
                    document.problem(
                        later.path("name"),
                        f"rule {later.rule.name} is never reached: whatever it matches, {earlier.rule.name} (line "
                        f"{line}) matches before, and ends there",
                        "put it above that rule, or narrow the condition of that rule",
                    ),
                )
                break


def _overlaps(
    document: Document, definition: Definition, trigger: Trigger, rules: list[_Read], asked: _Questions
) -> Iterator[Finding]:
    """Find rules that name one destination in different ways, and can match together."""
    by_destination: dict[str, list[_Read]] = {}
    for one in rules:
        for destination in sorted({member for name in one.rule.deliver for member in _members(definition, name)}):
            by_destination.setdefault(destination, []).append(one)
    said: set[tuple[int, str]] = set()
    for destination, those in by_destination.items():
        for later in those:
            for kind, differs in (("transform", _other_transform), ("priority", _other_priority)):
                if (later.position, kind) in said:
                    continue
                others = [
                    earlier
                    for earlier in those
                    if earlier.position < later.position
                    and differs(earlier.rule, later.rule)
                    and asked.possible(earlier.formula, later.formula)
                ]
                if others:
                    said.add((later.position, kind))
                    yield _overlap(document, destination, trigger, later, others, kind)


def _other_transform(one: Rule, other: Rule) -> bool:
    return one.transform != other.transform


def _other_priority(one: Rule, other: Rule) -> bool:
    return one.priority != other.priority and one.transform == other.transform


def _overlap(
    document: Document, destination: str, trigger: Trigger, later: _Read, others: list[_Read], kind: str
) -> Finding:
    names = ", ".join(one.rule.name for one in others[:_NAMED])
    more = f" and {len(others) - _NAMED} more" if len(others) > _NAMED else ""
    start = f"rule {later.rule.name} and {names}{more} can match the same {trigger}, and name destination {destination}"
    path = later.path(kind if getattr(later.rule, kind) is not None else "name")
    if kind == "priority":
        highest = min((one.rule.priority for one in (later, *others)), key=PRIORITIES.index)
        message = f"{start} with different priorities: {highest} wins where it matches"
        return _finding("note", "overlap", document.problem(path, message, "no need to act if that is meant"))
    chosen = min(
        (one.rule for one in (*others, later)),
        key=lambda rule: (PRIORITIES.index(rule.priority), rule.transform is None),
    )
    message = f"{start} with different transforms: one delivery is made, with {chosen.transform or 'none'} at best"
    hint = "make their conditions exclude each other, or give them the same transform"
    return _finding("warning", "overlap", document.problem(path, message, hint))


def _members(definition: Definition, name: str, above: frozenset[str] = frozenset()) -> Iterator[str]:
    target = definition.destinations[name]
    if target.group is None:
        yield name
        return
    for member in target.group:
        if member not in above:
            yield from _members(definition, member, above | {name})


def _circles(document: Document, definition: Definition, rules: list[_Read], asked: _Questions) -> Iterator[Finding]:
    """Find nodes of different sites that could send a study round: each may send to us what we have sent to it."""
    reached = {
        target.node
        for target in definition.destinations.values()
        if target.node is not None and "store" in definition.nodes[target.node].may
    }
    ways: dict[str, dict[str, _Read]] = {}
    for node in definition.nodes:
        if node not in reached:
            continue
        given = _given(definition, node)
        for one in rules:
            if not asked.possible(one.formula, given=given):
                continue
            for name in one.rule.deliver:
                for member in _members(definition, name):
                    target = definition.destinations[member].node
                    if target in reached and target != node:
                        ways.setdefault(node, {}).setdefault(str(target), one)
    for loop in loops({node: tuple(sorted(targets)) for node, targets in ways.items()}):
        if len({definition.nodes[node].site for node in loop}) < 2:  # noqa: PLR2004  # within one site people see it at once
            continue
        last = ways[loop[-1]][loop[0]]
        yield _finding(
            "warning",
            "loop",
            document.problem(
                last.path("deliver"),
                f"studies could go round: {' -> '.join((*loop, loop[0]))}; rule {last.rule.name} sends back what "
                f"{loop[-1]} sends, where it came from another site",
                f"leave out what comes from there, such as source.node != {_quoted(loop[-1])}, or take `store` from "
                "what the node may do; what is on its way back is stopped when it happens",
            ),
        )


def _given(definition: Definition, key: str) -> dict[str, Scalar]:
    node = definition.nodes[key]
    site = definition.sites[node.site]
    return {
        "source.node": key,
        "source.site": node.site,
        "source.tenant": site.tenant,
        "source.aet": definition.aet_of(key),
        "source.modality": node.modality or "",
        "site.key": node.site,
        "site.name": site.name,
        "site.tenant": site.tenant,
    }


def _values(document: Document, definition: Definition, rules: list[_Read]) -> Iterator[Finding]:
    """Find constants that nothing can ever be equal to."""
    known: dict[str, tuple[str, frozenset[str]]] = {
        "source.node": ("node", frozenset((*definition.nodes, "unknown"))),
        "source.site": ("site", frozenset(definition.sites)),
        "site.key": ("site", frozenset(definition.sites)),
        "source.tenant": ("tenant", frozenset(site.tenant for site in definition.sites.values())),
        "source.called": ("AE title of ours", frozenset(definition.aets)),
        "clock.day": ("day", frozenset(("mon", "tue", "wed", "thu", "fri", "sat", "sun"))),
    }
    for one in rules:
        said = set()
        for comparison in one.formula.comparisons:
            if comparison.operator not in ("_==_", "_!=_") or comparison in said or comparison.constant == "":
                continue
            said.add(comparison)
            yield from _never_equal(document, one, comparison, known)


def _never_equal(
    document: Document, one: _Read, comparison: Comparison, known: Mapping[str, tuple[str, frozenset[str]]]
) -> Iterator[Finding]:
    value = comparison.constant
    place, hint = one.path("when"), ""
    if comparison.name in known and isinstance(value, str):
        kind, names = known[comparison.name]
        if value in names:
            return
        message, hint = (
            f"{comparison.name} is never {_quoted(value)}: there is no {kind} of that name",
            alike(value, names),
        )
    else:
        # A tag of the study may be called as a keyword is, and is no attribute all the same.
        name = "" if ".Tags." in comparison.name else comparison.name
        tag = tag_for_keyword(name.rpartition(".")[2])
        form = None if tag is None else _FORMS.get(dictionary_VR(tag))
        if form is None or not isinstance(value, str) or form[0].match(value):
            return
        message = f"{comparison.name} is never {_quoted(value)}: in DICOM it {form[1]}"
        hint = f"did you mean {_quoted(value.upper())}?" if form[0].match(value.upper()) else ""
    yield _finding("warning", "unknown", document.problem(place, f"rule {one.rule.name}: {message}", hint))


def _retired(document: Document, rules: list[_Read]) -> Iterator[Finding]:
    for one in rules:
        for key in sorted(one.condition.attributes):
            keyword = key.rpartition(".")[2]
            tag = None if key.startswith(("(", "Tags.")) else tag_for_keyword(keyword)
            if tag is not None and dictionary_is_retired(tag):
                message = f"rule {one.rule.name} reads {keyword}, which DICOM has retired: newer systems do not send it"
                yield _finding("note", "retired", document.problem(one.path("when"), message))


def _quoted(text: object) -> str:
    return f'"{text}"'
