"""Structured conditions such as `{all: [{Modality: [CT, MR]}, {not: {calendar: office}}]}`, written as CEL."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

from contracts.routing import Trigger
from libs.definition.attributes import OBJECTS, AttributeType, coerce, offered_attributes
from libs.definition.diagnosis import ConditionError, did_you_mean, unknown_field
from libs.definition.lookup import Known

Path = tuple[str | int, ...]
_MAX_DEPTH: Final = 16
_JOINS: Final = {"all": " && ", "any": " || "}


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
            A CEL text, or a mapping with the keys `all`, `any` (lists of conditions), `not` (a condition), `calendar`
            (a name: true in its working time), or a keyword with the value or values that it may have. All must hold.
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
        if key == "calendar":
            if not isinstance(value, str) or value not in self.known.calendars:
                raise ConditionError(
                    f"there is no calendar `{value}`{did_you_mean(str(value), self.known.calendars)}", path=path
                )
            return f"calendars[{_literal(value)}]"
        offered = offered_attributes(self.trigger)
        if key not in offered:
            near = did_you_mean(key, (*_JOINS, "not", "calendar", *offered))
            unknown = f"`{key}` is neither all, any, not, calendar nor a DICOM keyword{near}"
            raise ConditionError(unknown if near else unknown_field(self.trigger, key, self.trigger), path=path)
        return _one_of(f"{OBJECTS[self.trigger]}.{key}", offered[key], value, path)


def _one_of(name: str, wanted: AttributeType, value: object, path: Path) -> str:
    values = list(value) if isinstance(value, list | tuple) else [value]
    if not values:
        raise ConditionError("name at least one value", path=path)
    literals = []
    for one in values:
        read = None if isinstance(one, list | tuple) else coerce(one, AttributeType(wanted.kind))
        if read is None or isinstance(read, list):
            kind = {"text": "a text: put it in quotes", "integer": "a whole number", "decimal": "a number"}[wanted.kind]
            raise ConditionError(f"the value must be {kind}", path=path)
        literals.append(_literal(read))
    listed = f"[{', '.join(literals)}]"
    if wanted.many:
        return f"{name}.exists(one, one in {listed})"
    return f"{name} == {literals[0]}" if len(literals) == 1 else f"{name} in {listed}"


def _literal(value: str | float) -> str:
    """Write a CEL literal: JSON's escapes are among those of CEL."""
    return json.dumps(value, ensure_ascii=False) if isinstance(value, str) else repr(value)
