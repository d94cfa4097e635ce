"""What is wrong with a condition, in a person's words: translates the messages of the CEL checker."""

import difflib
import re
from collections.abc import Collection
from typing import Final

from contracts.routing import Trigger
from libs.definition.attributes import (
    CIRCUMSTANCES,
    OBJECTS,
    circumstances_of,
    dicom_attributes,
    is_dicom_keyword,
    offered_attributes,
    sequences,
)

FUNCTIONS: Final = (
    "all", "contains", "double", "duration", "endsWith", "exists", "exists_one", "filter", "getDate", "getDayOfMonth",
    "getDayOfWeek", "getDayOfYear", "getFullYear", "getHours", "getMinutes", "getMonth", "getSeconds", "has",
    "inNetwork", "indexOf", "int", "join", "lowerAscii", "map", "matches", "private", "replace", "size", "split",
    "startsWith", "string", "substring", "timestamp", "trim", "upperAscii",
)  # fmt: skip
_TYPES: Final = {
    "string": "text",
    "int": "a whole number",
    "uint": "a whole number",
    "double": "a decimal number",
    "bool": "true or false",
    "timestamp": "a time",
    "google.protobuf.timestamp": "a time",
    "duration": "a length of time",
    "google.protobuf.duration": "a length of time",
    "null_type": "null",
    "dyn": "values of several types",
    "bytes": "bytes",
}
_REPORT: Final = re.compile(
    r"^(?:INVALID_ARGUMENT: )?ERROR: <input>:(\d+):(\d+): (.*?)(?: \[INVALID_ARGUMENT\])?$", re.MULTILINE
)
_WORDS: Final = {"and": "&&", "or": "||", "not": "!"}
_COMPARED: Final = frozenset({"_==_", "_!=_", "_<_", "_<=_", "_>_", "_>=_"})
_SYMBOLS: Final = re.compile(r"[^\w]+")


class ConditionError(ValueError):
    """A condition that can't be used.

    Attributes
    ----------
    message
        What is wrong and what to write instead, without the place.
    line, column
        Place in the condition's text, from 1, in characters.
    path
        For a structured condition: keys and indices down to the part that is wrong.
    """

    def __init__(self, message: str, line: int = 1, column: int = 1, path: tuple[str | int, ...] = ()) -> None:
        super().__init__(f"{message} (line {line}, column {column})")
        self.message = message
        self.line = line
        self.column = column
        self.path = path


def translate(report: str, text: str, trigger: Trigger) -> ConditionError:
    """Turn a report of the CEL checker into one error: its first, which mostly causes the others.

    Parameters
    ----------
    report
        What the checker said.
    text
        The condition.
    trigger
        Trigger that it was checked for.
    """
    first = _REPORT.search(report)
    if first is None:
        deep = "recursion" in report
        return ConditionError(
            "the condition is nested too deeply; split it into several rules"
            if deep
            else "the condition can't be read as CEL"
        )
    line, column, said = int(first[1]), int(first[2]), first[3]
    if field := re.match(r"undefined field '(.+)' not found in struct '(?:\w+\.)*(\w+)'", said):
        return ConditionError(unknown_field(field[2].lower(), field[1], trigger), line, column + 1)
    if name := re.match(r"undeclared reference to '(.+?)'", said):
        called = re.search(rf"\.\s*{re.escape(name[1])}\s*\(", text)
        unknown = _unknown_function(name[1]) if called else _unknown_name(name[1], trigger)
        return ConditionError(unknown, line, _start_of(name[1], text, line, column))
    if overload := re.match(r"found no matching overload for '(.+)' applied to '\((.*)\)'", said):
        return ConditionError(_misapplied(overload[1], _split_types(overload[2])), line, column)
    if said.startswith("Syntax error"):
        return _syntax(said, text, line, column)
    operand = re.match(r"expression of type '(.+)' cannot be the operand of a select operation", said)
    return ConditionError(
        f"nothing can follow the dot: {_type(operand[1])} has no parts" if operand else said, line, column
    )


def did_you_mean(name: str, known: Collection[str]) -> str:
    """Give `; did you mean X?` if a known name is close, else nothing."""
    folded = {one.lower(): one for one in known}
    close = difflib.get_close_matches(name.lower(), folded, n=1, cutoff=0.75)
    return f"; did you mean `{folded[close[0]]}`?" if close else ""


def unknown_field(owner: str, field: str, trigger: Trigger) -> str:
    """Say that `owner.field` doesn't exist."""
    if owner in CIRCUMSTANCES:
        fields = CIRCUMSTANCES[owner]
        return f"`{owner}` has no `{field}`{did_you_mean(field, fields) or '; it has ' + ', '.join(fields)}"
    if field in sequences():
        return f"`{field}` is a sequence: name what stands inside it, `{field}.KEYWORD`"
    if is_dicom_keyword(field):
        return f"`{field}` is binary in DICOM, which conditions can't read"
    offered = dicom_attributes() if owner == "sequence" else offered_attributes(trigger)
    return f"`{field}` is not a DICOM keyword{did_you_mean(field, {**offered, **dict.fromkeys(sequences())})}"


#: What a trigger sees, by the object that it is about.
_SEES: Final = {
    "instance": "that instance and its source only: other images of the study may not be there yet",
    "series": "one series as a whole",
    "study": "the study as a whole",
    "order": "the order only: there is no image yet",
    "procedure": "the procedure step and its order only",
}
_OBJECTS_OF_ATTRIBUTES: Final = ("instance", "series", "study")


def _elsewhere(name: str, trigger: Trigger) -> str:
    about = OBJECTS[trigger]
    if about in _OBJECTS_OF_ATTRIBUTES:
        instead = f"write `{about}.` instead of `{name}.`, or use trigger `{name}`"
    else:
        instead = f"use trigger `{name}`"
    return f"a rule with trigger `{trigger}` sees {_SEES[about]}; {instead}"


def _unknown_name(name: str, trigger: Trigger) -> str:
    root = name.split(".", maxsplit=1)[0]
    about = OBJECTS[trigger]
    if root in (*_OBJECTS_OF_ATTRIBUTES, "procedure"):
        return _elsewhere(root, trigger)
    if root in offered_attributes(trigger):
        return f"write `{about}.{root}`: attributes belong to the {about}"
    if root.lower() in _WORDS:
        return f"write `{_WORDS[root.lower()]}` instead of `{root}`"
    if root in FUNCTIONS:
        return f"`{root}` is used with the wrong number of values"
    known = tuple(dict.fromkeys((about, *circumstances_of(trigger), "calendars", "destination", "now")))
    guess = did_you_mean(root, (*known, *FUNCTIONS))
    return f"unknown name `{root}`{guess or '; a condition knows ' + ', '.join(known)}"


def _unknown_function(name: str) -> str:
    if name in FUNCTIONS:
        return f"`{name}` is used with the wrong number of values"
    return f"there is no `{name}`{did_you_mean(name, FUNCTIONS) or '; there are ' + ', '.join(FUNCTIONS)}"


def _start_of(name: str, text: str, line: int, column: int) -> int:
    """Find where a name starts that the checker reports at its last dot or at the bracket after it."""
    lines = text.splitlines()
    written = lines[line - 1] if line <= len(lines) else ""
    for start in (column - 1 - len(name.rpartition(".")[0]), column - 1 - len(name)):
        if start >= 0 and written.startswith(name, start):
            return start + 1
    return column


def _split_types(types: str) -> list[str]:
    """Split at the commas outside brackets."""
    parts, depth = [""], 0
    for character in types:
        depth += (character == "(") - (character == ")")
        if character == "," and depth == 0:
            parts.append("")
        else:
            parts[-1] += character
    return [part.strip() for part in parts if part.strip()]


def _type(name: str) -> str:
    if name.startswith("list("):
        inner = {"string": "texts", "int": "whole numbers", "double": "decimal numbers"}.get(name[5:-1], "values")
        return f"a list of {inner}"
    return _TYPES.get(name, "a group of attributes" if "kivuko." in name else "a value")


def type_in_words(name: str) -> str:
    """Name a CEL type in a person's words."""
    return _type(name.lower())


def _misapplied(function: str, types: list[str]) -> str:
    operator = _SYMBOLS.search(function.replace("_", " ").strip().replace("@in", "in"))
    symbol = function.strip("_@") if operator is None else function.replace("_", "").replace("@", "")
    kinds = [_type(one) for one in types]
    pair = set(types)
    first, last = (types[0], types[-1]) if types else ("", "")
    told = (
        (pair == {"int", "double"}, "needs two numbers of one kind: write a whole number as 1.0, or use double()"),
        (
            function in ("_==_", "_!=_") and any(one.startswith("list(") for one in types),
            f'can\'t compare {" with ".join(kinds)}: write `"VALUE" in ATTRIBUTE`',
        ),
        (
            function in _COMPARED and "string" in pair and pair & {"int", "double"},
            "can't compare text with a number: in quotes it is text, and int() or double() makes a number of text",
        ),
        (
            function == "contains" and first.startswith("list("),
            'looks into a text: of a list write `"VALUE" in ATTRIBUTE`',
        ),
        (
            function == "_[_]" and "kivuko." in first,
            "can't take one item of a sequence: `SEQUENCE.KEYWORD` is the list of the values of all items",
        ),
        (
            function == "@in" and last == "string",
            'needs a list: write `in ["A", "B"]`, or `.contains("A")` for a part of a text',
        ),
        (
            function in ("_&&_", "_||_", "!_", "_?_:_"),
            f"needs true or false, not {next((one for one in kinds if one != 'true or false'), 'a value')}",
        ),
        (
            "null_type" in pair,
            "can't be used with null: an absent attribute is empty; use has() to ask whether it is there",
        ),
    )
    said = next((text for applies, text in told if applies), f"can't be used with {' and '.join(kinds)}")
    return f"`{symbol}` {said}"


def _syntax(said: str, text: str, line: int, column: int) -> ConditionError:
    if not text.strip():
        return ConditionError("the condition is empty; leave `when` out for a rule that always applies", line, column)
    lines = text.splitlines()
    written = lines[line - 1] if line <= len(lines) else ""
    before, rest = written[: column - 1], written[column - 1 :]
    word, word_before = re.match(r"\w+", rest), re.search(r"\w+(?=\s*$)", before)
    if word and word[0].lower() in _WORDS:
        return ConditionError(f"write `{_WORDS[word[0].lower()]}` instead of `{word[0]}`", line, column)
    if word_before and word_before[0].lower() in _WORDS:
        instead = f"write `{_WORDS[word_before[0].lower()]}` instead of `{word_before[0]}`"
        return ConditionError(instead, line, word_before.start() + 1)
    missing = re.search(r"missing '(.)' at '<EOF>'", said)
    if missing:
        return ConditionError(f"`{missing[1]}` is missing at the end", line, column)
    if "'<EOF>'" in said and "mismatched input" in said:
        return ConditionError("the condition ends too early", line, column)
    return ConditionError(
        _misspelt(rest, before) or f"`{word[0] if word else rest[:1]}` is not expected here", line, column
    )


def _misspelt(rest: str, before: str) -> str | None:
    """Give the advice for what people often write that isn't CEL."""
    if rest.startswith("=") and not rest.startswith("=="):
        return "write `==` to compare"
    if rest.startswith(">") and before.endswith("<"):
        return "write `!=` for not equal"
    if rest[:1] in "“”‘’„" and rest:  # noqa: RUF001  # these are the characters that people paste
        return 'write straight quotes, `"`'
    if rest[:1] in ('"', "'"):
        return "this text doesn't end, or holds a backslash that must be doubled"
    return None
