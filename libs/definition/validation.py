"""Checks a document: a definition, or all that is wrong with it at once."""

import re
from collections.abc import Iterator
from typing import Final

from contracts.definition import Definition
from libs.definition.case import RuleTestError
from libs.definition.condition import ConditionError, compile_condition
from libs.definition.document import Document, Path, Problem, dotted
from libs.definition.draft import Draft, draft
from libs.definition.expectation import carry_out, unmet
from libs.definition.reference import misfits
from libs.definition.ruleset import RuleSet

#: Senders wait so long for an answer at least, as a rule; then they abort.
_LONGEST_WAIT_S: Final = 30

#: Code String, PS3.5 section 6.2.
_MODALITY: Final = re.compile(r"^[A-Z0-9_ ]{1,16}$")


def check(document: Document) -> Definition | list[Problem]:
    """Give the definition, or every problem in the order of the lines.

    The definition's own tests run only when nothing else is wrong, as they need all rules.
    """
    made, problems = draft(document)
    if made is None:
        return _ordered(problems)
    problems += [*misfits(made), *_limits(made), *_conditions(made), *_assembly(made)]
    if not problems:
        problems = list(_tests(made))
    return _ordered(problems) if problems else made.definition


def _ordered(problems: list[Problem]) -> list[Problem]:
    return sorted(problems, key=lambda problem: (problem.line, problem.column, problem.message))


def _limits(draft: Draft) -> Iterator[Problem]:
    """Find nodes whose limits would keep a sender waiting until it gives up, and sends it all again."""
    for key, node in draft.definition.nodes.items():
        limits = node.limits
        if limits.rate is None or limits.associations / limits.rate <= _LONGEST_WAIT_S:
            continue
        yield draft.document.problem(
            ("nodes", key, "limits", "rate"),
            f"{limits.associations} associations at {limits.rate:g} instances a second would wait "
            f"{limits.associations / limits.rate:.0f} s for an answer, and most senders give up after 30 s",
            f"allow fewer associations (limits: associations: {max(1, int(limits.rate * _LONGEST_WAIT_S))}), "
            "or a higher rate",
        )


def _conditions(draft: Draft) -> Iterator[Problem]:
    document = draft.document
    for position, rule in enumerate(draft.definition.rules):
        path = draft.path("rules", position, "when")
        try:
            compile_condition(
                rule.when,
                trigger=rule.trigger,
                calendars=draft.names.get("calendars", frozenset()),
                destinations=draft.names.get("destinations", frozenset()),
            )
        except ConditionError as error:
            part = (*path, *error.path)
            if isinstance(part[-1], str) and part[-1] not in ("when", "not", "calendar"):
                yield document.problem(part, error.message, key=True)
            else:
                line, column = document.inside(part, error.line, error.column)
                yield Problem(document.filename, line, column, dotted(part), error.message)


def _assembly(draft: Draft) -> Iterator[Problem]:
    """Find quiet times that can't have an effect: of what is no modality, or longer than the longest wait."""
    assembly = draft.definition.assembly
    times: dict[Path, int] = {("assembly", "modalities", code): each for code, each in assembly.modalities.items()}
    for path, code in zip(times, assembly.modalities, strict=True):
        if not _MODALITY.match(code):
            yield draft.document.problem(
                path,
                f"{code!r} is no modality as images have it",
                "write it as in Modality (0008,0060): capital letters and digits, such as CT or MR",
                key=True,
            )
    if assembly.quiet is not None:
        times[("assembly", "quiet")] = assembly.quiet
    for path, seconds in times.items():
        if seconds > assembly.at_most:
            yield draft.document.problem(
                path,
                f"a quiet time of {seconds} s is never over: a study waits {assembly.at_most} s at most",
                "make it shorter, or `at-most` longer",
            )


def _tests(draft: Draft) -> Iterator[Problem]:
    definition = draft.definition
    rules = RuleSet(definition)
    for position, test in enumerate(definition.tests):
        try:
            found = carry_out(rules, test)
        except RuleTestError as error:
            yield draft.document.problem(draft.path("tests", position), f"the test cannot be carried out: {error}")
            continue
        because = f"rules that match: {', '.join(found.rules)}" if found.rules else "no rule matches"
        for one in unmet(test, found):
            yield draft.document.problem(
                draft.path("tests", position, one.key),
                f"the test expects {one.expected}, but the rules give {one.got}; {because}",
                "mend the rule or the test",
            )
