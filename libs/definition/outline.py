"""A condition in CEL, shown as a structure: what the structured form can't say stays CEL inside it."""

import json
import re
from typing import Any, Final

from contracts.routing import Trigger
from libs.definition.attributes import CIRCUMSTANCES, OBJECTS
from libs.definition.clause import Clause, clauses, operands, tokens
from libs.definition.diagnosis import ConditionError
from libs.definition.lookup import Known
from libs.definition.structured import Writer

_BOUNDS: Final = {">=": "at-least", "<=": "at-most", ">": "above", "<": "below"}
_NAME: Final = r"(?P<name>[a-z]+(?:\.\w+)+)"
_TEXT: Final = r"(?P<text>\"(?:\\.|[^\"\\])*\")"
_FORMS: Final = tuple(
    (re.compile(f"^{pattern}$"), kind)
    for pattern, kind in (
        (rf"calendars\[{_TEXT}\]", "calendar"),
        (rf"destination\[{_TEXT}\]\.healthy", "healthy"),
        (rf"{_TEXT}\s*in\s*study\.Tags", "tag"),
        (rf"has\(\s*{_NAME}\s*\)", "present"),
        (rf"{_NAME}\.startsWith\(\s*{_TEXT}\s*\)", "starts-with"),
        (rf"{_NAME}\.endsWith\(\s*{_TEXT}\s*\)", "ends-with"),
        (rf"{_NAME}\.contains\(\s*{_TEXT}\s*\)", "contains"),
        (rf"{_NAME}\.matches\(\s*{_TEXT}\s*\)", "matches"),
        (rf"{_NAME}\.inNetwork\(\s*{_TEXT}\s*\)", "in-network"),
    )
)


def outline(text: str, *, trigger: Trigger, known: Known) -> Any:
    """Show a condition that the checker has accepted as a structure that compiles to the same.

    Returns
    -------
    Any
        A mapping as `compile_condition` takes it, or the text itself where nothing in it can be shown otherwise.
    """
    return _outlined(clauses(text), text, Writer(trigger, known, lambda *_: None))


def _outlined(clause: Clause, text: str, writer: Writer) -> Any:
    if clause.kind in ("all", "any"):
        return {clause.kind: [_outlined(part, text, writer) for part in clause.parts]}
    if clause.kind == "not":
        return {"not": _outlined(clause.parts[0], text, writer)}
    said = text[clause.start : clause.end]
    for candidate in _candidates(said, writer.trigger):
        try:
            written = writer.write(candidate)
        except ConditionError:
            continue
        # Only what is written back token by token says the same.
        if [one.text for one in tokens(written)] == [one.text for one in tokens(said)]:
            return candidate
    return said


def _candidates(said: str, trigger: Trigger) -> list[Any]:
    for form, kind in _FORMS:
        found = form.match(said)
        if found is None:
            continue
        given = found.groupdict()
        value = True if kind == "present" else _value(given["text"])
        if "name" not in given:
            return [{kind: value}]
        return [_placed(given["name"], {kind: value}, trigger)]
    sides = operands(said)
    if not sides or not re.fullmatch(_NAME, sides[0]):
        return []
    value = _value(sides[1])
    sign = said[len(sides[0]) : len(said) - len(sides[1])].strip()
    if value is None:
        return []
    test = value if sign in ("==", "in") else {_BOUNDS.get(sign, sign): value}
    return [_placed(sides[0], test, trigger)]


def _placed(name: str, test: Any, trigger: Trigger) -> dict[str, Any]:
    owner, _, rest = name.partition(".")
    if owner == OBJECTS[trigger] and owner not in CIRCUMSTANCES:
        return {rest: test}
    return {owner: {rest: test}}


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return None
