"""Structured conditions such as `{all: [{Modality: [CT, MR]}, {not: {calendar: office}}]}`, written as CEL."""

import json
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from ipaddress import ip_network
from typing import Final

from contracts.routing import Trigger
from libs.definition.attributes import (
    OBJECTS,
    AttributeType,
    Kind,
    circumstances_of,
    coerce,
    private_key,
    type_of,
)
from libs.definition.diagnosis import ConditionError, did_you_mean, unknown_field
from libs.definition.lookup import TAG, Known

Path = tuple[str | int, ...]
_MAX_DEPTH: Final = 16
#: Values that one list may have: more would make a condition that is too long anyway.
_MAX_VALUES: Final = 1_000
_JOINS: Final = {"all": " && ", "any": " || "}
_TEXT: Final = AttributeType("text")
#: Tests of a value: what they need, and how CEL writes them for a name and a constant.
_BOUNDS: Final = {"at-least": ">=", "at-most": "<=", "above": ">", "below": "<"}
_TEXTS: Final = {"starts-with": "startsWith", "ends-with": "endsWith", "contains": "contains", "matches": "matches"}
_TESTS: Final = ("is", "is-not", *_BOUNDS, "between", *_TEXTS, "in-network", "present", "ignore-case")
_WORDS: Final[Mapping[Kind, str]] = {
    "text": "a text: put it in quotes",
    "integer": "a whole number",
    "decimal": "a number",
}


@dataclass(frozen=True)
class Writer:
    """Writes structured conditions of one trigger as CEL.

    Attributes
    ----------
    trigger
        Whose attributes they name.
    known
        What the definition names.
    check
        Checks a CEL text inside the structure; raises ConditionError.
    """

    trigger: Trigger
    known: Known
    check: Callable[[str, Path], None]

    def write(self, given: object, path: Path = ()) -> str:
        """Write a condition.

        Parameters
        ----------
        given
            A CEL text, or a mapping, all keys of which must hold:

            - `all`, `any`: lists of conditions; `not`: a condition;
            - a keyword, or keywords down into sequences, `RequestAttributesSequence.RequestedProcedureID`: the value or
              values that it may have, or tests, see `_TESTS`;
            - `private`: `creator`, `element` and tests; `tag`: names of tags with values or tests;
            - `source`, `site`, `order`, `procedure`, `clock`: their parts with values or tests;
            - `calendar`: names, true in working time; `healthy`: names of destinations.
        path
            Where it stands in the whole.

        Raises
        ------
        ConditionError
            With the path to the part that is wrong.
        """
        if len(path) > _MAX_DEPTH:
            raise ConditionError("the condition is nested too deeply; split it into several rules", path=path)
        if isinstance(given, str):
            self.check(given, path)
            return f"({given}\n)"  # the line break ends a comment
        if not isinstance(given, Mapping) or not given:
            raise ConditionError(
                "a condition is a CEL text or a mapping with `all`, `any`, `not`, `calendar` or DICOM keywords",
                path=path,
            )
        return " && ".join(self._entry(str(key), value, (*path, str(key))) for key, value in given.items())

    def _entry(self, key: str, value: object, path: Path) -> str:
        if key in _JOINS:
            if not isinstance(value, list | tuple) or not value:
                raise ConditionError(f"`{key}` takes a list of at least one condition", path=path)
            return f"({_JOINS[key].join(f'({self.write(one, (*path, index))})' for index, one in enumerate(value))})"
        if key == "not":
            return f"!({self.write(value, path)})"
        special = {"calendar": self._calendars, "healthy": self._healthy, "private": self._private, "tag": self._tags}
        if key in special:
            return special[key](value, path)
        if key in circumstances_of(self.trigger):
            return self._parts(key, value, path)
        kind = type_of(key, self.trigger)
        if kind is None:
            raise self._unknown(key, path)
        return _tested(f"{OBJECTS[self.trigger]}.{key}", kind, value, path)

    def _calendars(self, value: object, path: Path) -> str:
        names = _names(value, self.known.calendars, "calendar", path)
        return _any_of(f"calendars[{_literal(one)}]" for one in names)

    def _healthy(self, value: object, path: Path) -> str:
        names = _names(value, self.known.destinations, "destination", path)
        return " && ".join(f"destination[{_literal(one)}].healthy" for one in names)

    def _parts(self, group: str, value: object, path: Path) -> str:
        fields = circumstances_of(self.trigger)[group]
        if not isinstance(value, Mapping) or not value:
            raise ConditionError(f"`{group}` takes its parts: {', '.join(fields)}", path=path)
        for field in value:
            if field not in fields:
                raise ConditionError(unknown_field(group, str(field), self.trigger), path=(*path, str(field)))
        return " && ".join(_tested(f"{group}.{field}", _TEXT, one, (*path, field)) for field, one in value.items())

    def _private(self, value: object, path: Path) -> str:
        about = OBJECTS[self.trigger]
        given = dict(value) if isinstance(value, Mapping) else {}
        creator, element = given.pop("creator", None), given.pop("element", None)
        if not isinstance(creator, str) or not isinstance(element, str) or private_key(creator, element) is None:
            raise ConditionError(
                "`private` takes creator and element, such as {creator: SIEMENS CSA HEADER, element: '0029,10', is: X}",
                path=path,
            )
        if about in circumstances_of(self.trigger):
            raise ConditionError(f"a rule with trigger `{self.trigger}` sees no private elements", path=path)
        return _tested(f"{about}.private({_literal(creator)}, {_literal(element)})", _TEXT, given, path)

    def _tags(self, value: object, path: Path) -> str:
        if OBJECTS[self.trigger] != "study":
            raise ConditionError(
                f"a rule with trigger `{self.trigger}` sees no tags: they belong to studies", path=path
            )
        if isinstance(value, str) and TAG.match(value):
            return f"{_literal(value)} in study.Tags"
        if not isinstance(value, Mapping) or not value or not all(TAG.match(str(name)) for name in value):
            raise ConditionError("`tag` takes the name of a tag, or names with values", path=path)
        written = (
            _tested(f"study.Tags[{_literal(str(name))}]", _TEXT, one, (*path, str(name))) for name, one in value.items()
        )
        return " && ".join(written)

    def _unknown(self, key: str, path: Path) -> ConditionError:
        others = (*_JOINS, "not", "calendar", "healthy", "private", "tag", *circumstances_of(self.trigger))
        near = did_you_mean(key, others)
        if near and "." not in key:
            return ConditionError(f"`{key}` is neither {', '.join(others)} nor a DICOM keyword{near}", path=path)
        *outer, last = key.split(".")
        owner = "sequence" if outer else OBJECTS[self.trigger]
        return ConditionError(unknown_field(owner, last, self.trigger), path=path)


def _names(value: object, known: Collection[str], kind: str, path: Path) -> list[str]:
    names = []
    for name in list(value) or [""] if isinstance(value, list | tuple) else [value]:
        if not isinstance(name, str) or name not in known:
            raise ConditionError(f"there is no {kind} `{name}`{did_you_mean(str(name), known)}", path=path)
        names.append(name)
    return names


def _tested(name: str, kind: AttributeType, value: object, path: Path) -> str:
    """Write that a name has one of the values, or passes all tests."""
    if not isinstance(value, Mapping):
        return _one_of(name, kind, value, path)
    tests = {str(test): one for test, one in value.items()}
    folded = tests.pop("ignore-case", False)
    if not isinstance(folded, bool) or (folded and kind.kind != "text"):
        raise ConditionError("`ignore-case` is true or false, and for texts only", path=(*path, "ignore-case"))
    if not tests:
        raise ConditionError(f"say what the value must be: {', '.join(_TESTS[:-1])}", path=path)
    return " && ".join(_test(name, kind, test, one, (*path, test), folded=folded) for test, one in tests.items())


def _test(name: str, kind: AttributeType, test: str, value: object, path: Path, *, folded: bool) -> str:
    if test == "present":
        if not isinstance(value, bool):
            raise ConditionError("`present` is true or false", path=path)
        return _presence(name, wanted=value)
    if test not in _TESTS:
        raise ConditionError(f"`{test}` is no test{did_you_mean(test, _TESTS) or ': ' + ', '.join(_TESTS)}", path=path)
    if test in ("is", "is-not"):
        written = _one_of(name, kind, value, path, folded=folded)
        return written if test == "is" else f"!({written})"
    if kind.many:
        inner = _test("one", AttributeType(kind.kind), test, value, path, folded=folded)
        return f"{name}.exists(one, {inner})"
    if test == "between":
        if not isinstance(value, list | tuple) or len(value) != 2:  # noqa: PLR2004  # both ends
            raise ConditionError("`between` takes two values, the lowest and the highest", path=path)
        lowest, highest = (_scalar(kind.kind, one, path) for one in value)
        return _between(name, lowest, highest)
    if test in _BOUNDS:
        return f"{name} {_BOUNDS[test]} {_literal(_scalar(kind.kind, value, path))}"
    return _any_of(_text_test(name, kind, test, one, path, folded=folded) for one in _listed(value, path))


def _text_test(name: str, kind: AttributeType, test: str, value: object, path: Path, *, folded: bool) -> str:
    if kind.kind != "text" or not isinstance(value, str):
        raise ConditionError(f"`{test}` takes texts, and is for texts only", path=path)
    if test == "in-network":
        try:
            ip_network(value)
        except ValueError:
            raise ConditionError(f"`{value}` is not a network: write such as 10.2.0.0/24", path=path) from None
        return f"{name}.inNetwork({_literal(value)})"
    if test == "matches":
        return f"{name}.matches({_literal(('(?i)' if folded else '') + value)})"
    if folded:
        return f"{name}.upperAscii().{_TEXTS[test]}({_literal(_folded(value))})"
    return f"{name}.{_TEXTS[test]}({_literal(value)})"


def _between(name: str, lowest: str | float, highest: str | float) -> str:
    low, high = f"{name} >= {_literal(lowest)}", f"{name} <= {_literal(highest)}"
    # Over midnight, or over the new year: from the one end up, or up to the other.
    return f"({low} || {high})" if lowest > highest else f"{low} && {high}"  # type: ignore[operator]  # of one type


def _presence(name: str, *, wanted: bool) -> str:
    there = f'{name} != ""' if name.endswith(("]", ")")) else f"has({name})"
    return there if wanted else f"!({there})"


def _one_of(name: str, wanted: AttributeType, value: object, path: Path, *, folded: bool = False) -> str:
    literals = []
    for one in _listed(value, path):
        read = _scalar(wanted.kind, one, path)
        literals.append(_literal(_folded(read) if folded and isinstance(read, str) else read))
    listed = f"[{', '.join(literals)}]"
    if wanted.many:
        return f"{name}.exists(one, one{'.upperAscii()' if folded else ''} in {listed})"
    name += ".upperAscii()" if folded else ""
    return f"{name} == {literals[0]}" if len(literals) == 1 else f"{name} in {listed}"


def _listed(value: object, path: Path) -> list[object]:
    values = list(value) if isinstance(value, list | tuple) else [value]
    if not values:
        raise ConditionError("name at least one value", path=path)
    if len(values) > _MAX_VALUES:
        raise ConditionError(f"more than {_MAX_VALUES:,} values: split it into several rules", path=path)
    return values


def _scalar(kind: Kind, value: object, path: Path) -> str | int | float:
    # Of 1.10 only 1.1 is left: whoever means a text has to say so.
    unfit = isinstance(value, list | tuple) or (kind == "text" and isinstance(value, float))
    read = None if unfit else coerce(value, AttributeType(kind))
    if read is None or isinstance(read, list):
        raise ConditionError(f"the value must be {_WORDS[kind]}", path=path)
    return read


def _any_of(written: Iterable[str]) -> str:
    parts = list(written)
    return parts[0] if len(parts) == 1 else f"({' || '.join(parts)})"


def _folded(text: str) -> str:
    """Write ASCII letters large, as CEL's `upperAscii` does."""
    return "".join(letter.upper() if letter.isascii() else letter for letter in text)


def _literal(value: str | float) -> str:
    """Write a CEL literal: JSON's escapes are among those of CEL."""
    return json.dumps(value, ensure_ascii=False) if isinstance(value, str) else repr(value)
