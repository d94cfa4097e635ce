"""What conditions name that is never there: names of the network, values of no such form, retired attributes."""

import re
from collections.abc import Iterator, Mapping
from typing import Final

from pydicom.datadict import dictionary_is_retired, dictionary_VR, tag_for_keyword

from contracts.definition import Definition
from libs.definition.document import Document
from libs.definition.finding import Finding, Reading
from libs.definition.truth import Comparison
from libs.definition.wording import alike

#: What values look like, by value representation: PS3.5 section 6.2.
_FORMS: Final[Mapping[str, tuple[re.Pattern[str], str]]] = {
    "CS": (re.compile(r"^[A-Z0-9_ ]{0,16}$"), "has up to 16 capital letters, digits, spaces and underscores"),
    "DA": (re.compile(r"^(\d{8})?$"), "is a date such as 20261120"),
    "UI": (re.compile(r"^([0-9]+(\.[0-9]+)*)?$"), "is a UID: digits and dots"),
    "AS": (re.compile(r"^(\d{3}[DWMY])?$"), "is an age such as 045Y"),
}


def unknown(document: Document, definition: Definition, rules: list[Reading]) -> Iterator[Finding]:
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
    document: Document, one: Reading, comparison: Comparison, known: Mapping[str, tuple[str, frozenset[str]]]
) -> Iterator[Finding]:
    value = comparison.constant
    place, hint = one.path("when"), ""
    if comparison.name in known and isinstance(value, str):
        kind, names = known[comparison.name]
        if value in names:
            return
        message, hint = (
            f"{comparison.name} is never {quoted(value)}: there is no {kind} of that name",
            alike(value, names),
        )
    else:
        # A tag of the study may be called as a keyword is, and is no attribute all the same.
        name = "" if ".Tags." in comparison.name else comparison.name
        tag = tag_for_keyword(name.rpartition(".")[2])
        form = None if tag is None else _FORMS.get(dictionary_VR(tag))
        if form is None or not isinstance(value, str) or form[0].match(value):
            return
        message = f"{comparison.name} is never {quoted(value)}: in DICOM it {form[1]}"
        hint = f"did you mean {quoted(value.upper())}?" if form[0].match(value.upper()) else ""
    yield Finding("warning", "unknown", document.problem(place, f"rule {one.rule.name}: {message}", hint))


def retired(document: Document, rules: list[Reading]) -> Iterator[Finding]:
    """Find attributes that newer systems do not send."""
    for one in rules:
        for key in sorted(one.condition.attributes):
            keyword = key.rpartition(".")[2]
            tag = None if key.startswith(("(", "Tags.")) else tag_for_keyword(keyword)
            if tag is not None and dictionary_is_retired(tag):
                message = f"rule {one.rule.name} reads {keyword}, which DICOM has retired: newer systems do not send it"
                yield Finding("note", "retired", document.problem(one.path("when"), message))


def quoted(text: object) -> str:
    """Give a value as a condition writes a text."""
    return f'"{text}"'
