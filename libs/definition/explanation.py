"""Why a condition matched, or not: each of its parts, whether it was true, and the values that it saw."""

from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, Final

from contracts.fact import Attributes, AttributeValue
from contracts.routing import Trigger
from libs.definition.attributes import OBJECTS
from libs.definition.clause import Clause, Kind, clauses, operands
from libs.definition.condition import Condition, ConditionError, ConditionFailed, Expression, Known, compile_expression
from libs.definition.inputs import Bound, Inputs, bind
from libs.definition.lookup import values_read

#: Characters of a text and values of a list that a sentence shows.
_SHOWN_CHARACTERS: Final = 200
_SHOWN_VALUES: Final = 8


@dataclass(frozen=True)
class Part:
    """A part of a condition.

    Attributes
    ----------
    text
        As it stands in the condition.
    line, column
        Where, from 1.
    kind
        `all` of its parts (`&&`), `any` of them (`||`), `not`, `choice` (`? :`), or `leaf`: a comparison or the like.
    holds
        Whether it is true; none if it could not be decided.
    decisive
        Whether the condition's result is due to it.
    values
        Of a leaf: what it looked up, by name as people write it, such as `study.Modality`, `source.site`.
    absent
        Of a leaf: what it looked up that is not there, and so counts as empty.
    computed
        Of a leaf that compares what is made of values, such as `study.StudyDescription.upperAscii()`: what that gave.
    failure
        Why it could not be decided.
    parts
        What it is made of.
    """

    text: str
    line: int
    column: int
    kind: Kind
    holds: bool | None
    decisive: bool
    values: Attributes
    absent: tuple[str, ...]
    computed: dict[str, AttributeValue | bool]
    failure: str | None
    parts: tuple["Part", ...]

    def sentence(self) -> str:
        """Say of a leaf whether it is true, and what it saw."""
        text = " ".join(self.text.split())
        if self.failure is not None:
            return f"`{text}` could not be decided: {self.failure}"
        seen = [f"{name} is {_shown(value)}" for name, value in {**self.values, **self.computed}.items()]
        seen += [f"{name} is absent" for name in self.absent]
        because = f": {', '.join(seen)}" if seen else ""
        return f"`{text}` is {'true' if self.holds else 'false'}{because}"


@dataclass(frozen=True)
class Explanation:
    """Why a condition matched, or not.

    Attributes
    ----------
    matched
        Whether it is true; none if it could not be decided.
    failure
        Why it could not be decided.
    root
        The condition, taken apart.
    """

    matched: bool | None
    failure: str | None
    root: Part

    def because(self) -> tuple[Part, ...]:
        """Give the leaves that the result is due to, in the order of the text: the false ones, if it is false."""
        return tuple(_decisive_leaves(self.root))


def explanation(condition: Condition, inputs: Inputs) -> Explanation:
    """Explain what a condition says of inputs. Never raises: what fails is part of the answer."""
    bound = bind(inputs, condition.trigger, condition.scope)
    failure: str | None = None
    matched: bool | None = None
    try:
        matched = condition.holds(bound)
    except ConditionFailed as error:
        failure = str(error)
    root = _part(clauses(condition.text), _Seen(condition, bound, inputs))
    return Explanation(matched, failure, _marked(root, decisive=True))


@dataclass(frozen=True)
class _Seen:
    condition: Condition
    bound: Bound
    inputs: Inputs

    @property
    def known(self) -> Known:
        """What the condition itself names is there: it was checked."""
        named = [name.partition(".") for name in self.condition.scope.circumstances]
        calendars = frozenset(part for group, _, part in named if group == "calendars")
        destinations = frozenset(part for group, _, part in named if group == "destination")
        return Known(calendars, destinations)


def _part(clause: Clause, seen: _Seen) -> Part:
    text = seen.condition.text[clause.start : clause.end]
    before = seen.condition.text[: clause.start]
    line, column = before.count("\n") + 1, clause.start - before.rfind("\n")
    if clause.kind == "leaf":
        return _leaf(text, line, column, seen)
    parts = tuple(_part(part, seen) for part in clause.parts)
    holds = _combined(clause.kind, [part.holds for part in parts])
    failed = next((part.failure for part in parts if part.failure is not None), None)
    return Part(text, line, column, clause.kind, holds, False, {}, (), {}, failed if holds is None else None, parts)


def _combined(kind: Kind, parts: list[bool | None]) -> bool | None:
    """Combine as CEL does: what could not be decided does not matter where the other side settles it."""
    if kind == "not":
        return None if parts[0] is None else not parts[0]
    if kind == "choice":
        return None if parts[0] is None else parts[1 if parts[0] else 2]
    settling = kind == "any"
    if settling in parts:
        return settling
    return None if None in parts else not settling


def _leaf(text: str, line: int, column: int, seen: _Seen) -> Part:
    expression = _compiled(text, seen.condition.trigger, seen.known).within(seen.condition.scope)
    holds: bool | None = None
    failure: str | None = None
    try:
        holds = bool(expression.value(seen.bound))
    except ConditionFailed as error:
        failure = str(error)
    read = values_read(expression.reads, seen.bound.values, seen.inputs.surroundings(expression.reads.circumstances))
    named = {_written(name, expression): value for name, value in read.items()}
    wanted = sorted((*expression.reads.attributes, *expression.reads.circumstances))
    absent = tuple(_written(name, expression) for name in wanted if name not in read)
    return Part(
        text, line, column, "leaf", holds, False, named, absent, _computed(text, {*named, *absent}, seen), failure, ()
    )


def _computed(text: str, plain: set[str], seen: _Seen) -> dict[str, AttributeValue | bool]:
    """Evaluate the sides of a comparison that are more than something that was looked up, or that was written out."""
    found: dict[str, AttributeValue | bool] = {}
    for side in operands(text):
        try:
            expression = _compiled(side, seen.condition.trigger, seen.known)
        except ConditionError:
            continue
        reads = expression.reads
        if side in plain or not (reads.attributes or reads.circumstances):
            continue
        try:
            value = expression.within(seen.condition.scope).value(seen.bound)
        except ConditionFailed:
            continue
        if _is_shown(value) and value not in ("", []):
            found[side] = value
    return {side: value for side, value in found.items() if _squeezed(side) not in map(_squeezed, plain)}


def _is_shown(value: Any) -> bool:
    if isinstance(value, list):
        return all(isinstance(one, str | int | float) for one in value)
    return isinstance(value, str | int | float)


def _squeezed(text: str) -> str:
    return text.replace(" ", "").replace("'", '"')


def _written(name: str, expression: Expression) -> str:
    """Give the name of what was looked up as a condition writes it."""
    if name in expression.reads.circumstances:
        group, _, part = name.partition(".")
        if group == "destination":
            return f'destination["{part}"].healthy'
        return f'calendars["{part}"]' if group == "calendars" else name
    about = OBJECTS[expression.trigger]
    if name.startswith("("):
        element, _, creator = name.partition(") ")
        return f'{about}.private("{creator}", "{element[1:].replace("xx", "")}")'
    if name.startswith("Tags."):
        return f'{about}.Tags["{name.removeprefix("Tags.")}"]'
    return f"{about}.{name}"


@lru_cache(maxsize=4096)
def _compiled(text: str, trigger: Trigger, known: Known) -> Expression:
    return compile_expression(text, trigger=trigger, known=known)


def _marked(part: Part, *, decisive: bool) -> Part:
    """Mark what the result is due to: of a false `&&` its false parts, of a true one all, and so on."""
    settling = {"all": False, "any": True}.get(part.kind)
    settled = settling is not None and part.holds is settling
    parts = []
    for position, one in enumerate(part.parts):
        counts = decisive and (not settled or one.holds is part.holds)
        if part.kind == "choice" and position > 0:
            counts = decisive and part.parts[0].holds is (position == 1)
        parts.append(_marked(one, decisive=counts))
    return replace(part, decisive=decisive, parts=tuple(parts))


def _decisive_leaves(part: Part) -> list[Part]:
    if not part.decisive:
        return []
    return [part] if not part.parts else [leaf for one in part.parts for leaf in _decisive_leaves(one)]


def _shown(value: AttributeValue | bool) -> str:
    if isinstance(value, list):
        more = f", and {len(value) - _SHOWN_VALUES} more" if len(value) > _SHOWN_VALUES else ""
        return f"[{', '.join(_shown(one) for one in value[:_SHOWN_VALUES])}{more}]"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return f'"{value}"' if len(value) <= _SHOWN_CHARACTERS else f'"{value[:_SHOWN_CHARACTERS]}..."'
    return str(value)
