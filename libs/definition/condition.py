"""Conditions of rules: CEL over DICOM attributes, checked for names and types before they are ever used."""

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache
from ipaddress import ip_network
from typing import Any, Final, Self
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from cel_expr_python import cel

from contracts.routing import Trigger
from libs.definition.attributes import type_of
from libs.definition.cost import check_cost, check_pattern
from libs.definition.diagnosis import FUNCTIONS, ConditionError, translate, type_in_words
from libs.definition.expression import Node, Tree, read_tree
from libs.definition.inputs import Bound, Inputs, bind
from libs.definition.language import FITS, Language, checking, evaluating, field_of
from libs.definition.lookup import Known, Lookups, lookups
from libs.definition.pattern import PatternError, compiled
from libs.definition.structured import Path, Writer

__all__ = [
    "Condition",
    "ConditionError",
    "ConditionFailed",
    "Expression",
    "Known",
    "Lookups",
    "compile_condition",
    "compile_expression",
]

MAX_CHARACTERS: Final = 10_000
#: Functions whose constant argument is tried when the condition is compiled: a bad one would fail at every evaluation.
_TRIED: Final = {
    "timestamp": ("timestamp({0}) == timestamp({0})", 'write a time such as timestamp("2026-01-31T00:00:00Z")'),
    "duration": ("duration({0}) == duration({0})", 'write a length of time such as duration("90m")'),
}
#: Functions whose last argument must stand in the condition: what is sent could make them slow, or fail.
_WRITTEN_OUT: Final = {
    "matches": "the pattern of `matches`",
    "inNetwork": "the network of `inNetwork`",
}
_OFFERED: Final = frozenset({*FUNCTIONS, "private"})
_SURROGATE: Final = re.compile(r"[\ud800-\udfff]")
#: What the CEL runtime says, and the reason that is recorded: never its text, which may hold values of the dataset.
_FAILURES: Final = (
    ("Index error", "it asks for a value of a list that has fewer"),
    ("divide by zero", "it divides by zero"),
    ("modulus by zero", "it divides by zero"),
    ("Iteration budget", "it goes through too many values"),
    ("overflow", "a number is out of range"),
    ("regular expression", "a regular expression is wrong"),
    ("timezone", "it names an unknown time zone"),
    ("No value with name", "an input is missing"),
    ("No matching overload", "a value has an unexpected type"),
    ("cannot convert", "a text can't be converted to a number or time"),
)


class ConditionFailed(Exception):  # noqa: N818  # said of a condition, not of the program
    """A condition could not be decided at run time. The reason holds no values."""


@dataclass(frozen=True)
class Expression:
    """A checked expression of any type.

    Attributes
    ----------
    text
        The CEL.
    trigger
        Trigger that it was checked for.
    reads
        What it looks up.
    scope
        What inputs must be bound with: the lookups of all expressions that share them.
    serialized
        As the CEL library writes a checked expression, with one field for each attribute that is looked up.
    """

    text: str
    trigger: Trigger
    reads: Lookups
    scope: Lookups
    serialized: bytes = field(repr=False, compare=False)
    _program: Any = field(repr=False, compare=False)

    def within(self, scope: Lookups) -> Self:
        """Give the same for inputs that are bound once for several expressions."""
        program = evaluating(self.trigger, scope.attributes).env.deserialize(self.serialized)
        return replace(self, scope=scope, _program=program)

    def value(self, bound: Bound) -> Any:
        """Evaluate on inputs that were bound with the expression's scope. Raises ConditionFailed."""
        try:
            found = self._program.eval(bound.activation)
            if found.type() != cel.Type.ERROR:
                return found.plain_value()
            said = str(found.value())
        except RuntimeError as error:  # the only exception of the library
            said = str(error)
        raise ConditionFailed(_reason(said))


@dataclass(frozen=True)
class Condition(Expression):
    """An expression that is true or false."""

    @property
    def attributes(self) -> frozenset[str]:
        """What it reads of the trigger's object: keywords, paths, private elements, tags."""
        return self.reads.attributes

    @property
    def circumstances(self) -> frozenset[str]:
        """What else it reads: `source.site`, `calendars.office`, `now`."""
        return self.reads.circumstances

    def matches(self, inputs: Inputs) -> bool:
        """Decide. Raises ConditionFailed."""
        return self.holds(bind(inputs, self.trigger, self.scope))

    def holds(self, bound: Bound) -> bool:
        """Decide on inputs that were bound with the condition's scope. Raises ConditionFailed."""
        try:
            value = self._program.eval(bound.activation).value()
        except RuntimeError as error:  # the only exception of the library
            raise ConditionFailed(_reason(str(error))) from None
        # What failed is a text here; asking the library for the type costs as much as evaluating.
        if isinstance(value, bool):
            return value
        raise ConditionFailed(_reason(str(value)))


def _reason(said: str) -> str:
    return next((reason for mark, reason in _FAILURES if mark in said), "it can't be evaluated")


def compile_condition(
    when: str | Mapping[str, Any] | None,
    *,
    trigger: Trigger,
    calendars: Collection[str] = (),
    destinations: Collection[str] = (),
) -> Condition:
    """Check a condition and make it ready for use.

    Parameters
    ----------
    when
        CEL, a structured condition, or nothing: always.
    trigger
        `instance` offers `instance.KEYWORD`, `study` offers `study.KEYWORD`; `OBJECTS` has all. All of them offer
        source, site, order, clock, calendars, destination and now.
    calendars, destinations
        Names of those that there are.

    Raises
    ------
    ConditionError
        With the place and a sentence.
    """
    known = Known(frozenset(calendars), frozenset(destinations))
    if when is None:
        return _compile("true", trigger, known)
    if isinstance(when, str):
        return _compile(when, trigger, known)

    def check(text: str, path: Path) -> None:
        try:
            _compile(text, trigger, known)
        except ConditionError as error:
            raise ConditionError(error.message, error.line, error.column, path) from error

    return _compile(Writer(trigger, known, check).write(when), trigger, known)


def compile_expression(text: str, *, trigger: Trigger, known: Known) -> Expression:
    """Check an expression of any type, such as a part of a condition. Raises ConditionError."""
    _, reads, serialized = _checked(text, trigger, known)
    return Expression(text, trigger, reads, reads, serialized, _program(trigger, reads, serialized))


#: An apply checks conditions, has the tests run them, and looks for mistakes in them: they are compiled once for all.
@lru_cache(maxsize=2048)
def _compile(text: str, trigger: Trigger, known: Known) -> Condition:
    result, reads, serialized = _checked(text, trigger, known)
    if result != cel.Type.BOOL:
        raise ConditionError(f"a condition must give true or false, and this gives {type_in_words(result.name())}")
    return Condition(text, trigger, reads, reads, serialized, _program(trigger, reads, serialized))


def _program(trigger: Trigger, reads: Lookups, serialized: bytes) -> Any:
    return evaluating(trigger, reads.attributes).env.deserialize(serialized)


def _checked(text: str, trigger: Trigger, known: Known) -> tuple[Any, Lookups, bytes]:
    """Check an expression; give its type, what it looks up, and its form for evaluation."""
    if len(text) > MAX_CHARACTERS:
        raise ConditionError(f"the condition is longer than {MAX_CHARACTERS} characters; split it into several rules")
    if not text.isprintable() and _SURROGATE.search(text):
        raise ConditionError("the condition holds half a character (a lone surrogate): write it anew")
    language = checking(trigger)
    try:
        program = language.env.compile(text)
    except RuntimeError as error:  # the only exception of the library
        raise translate(str(error), text, trigger) from None
    tree = read_tree(program.serialize())
    for node in tree.nodes:
        _refuse(node, language)
    reads = lookups(tree, trigger, known)
    _check_cost(tree, reads, trigger)
    for node in tree.nodes:
        if node.is_("call") and node.expr.call.function == "matches":
            tree.call(node, FITS)
    return program.return_type(), reads, tree.serialize()


def _check_cost(tree: Tree, reads: Lookups, trigger: Trigger) -> None:
    kinds = {field_of(key): type_of(key, trigger) for key in reads.attributes}

    def is_list(name: str) -> bool:
        kind = kinds.get(name)
        return kind is not None and kind.many

    check_cost(tree.nodes[0].expr, is_list)


def _refuse(node: Node, language: Language) -> None:
    """Refuse what passes the checker and yet can't work."""
    expr = node.expr
    if node.is_("struct") and expr.struct.message_name:
        raise ConditionError("a condition can't make values of its own", node.line, node.column)
    if node.is_("list") and len({_constant_kind(one) for one in expr.list.elements} - {None}) > 1:
        raise ConditionError("the values of a list must be of one type", node.line, node.column)
    if not node.is_("call"):
        return
    call = expr.call
    if call.function == "dyn":
        raise ConditionError(
            "`dyn` would switch the check of types off; use int(), double() or string()", node.line, node.column
        )
    if call.function[0].isalpha() and call.function not in _OFFERED:
        raise ConditionError(
            f"`{call.function}` is not offered; there are {', '.join(FUNCTIONS)}", node.line, node.column
        )
    if call.function in _WRITTEN_OUT and not call.args[-1].constant.HasField("string"):
        raise ConditionError(
            f"{_WRITTEN_OUT[call.function]} must be written out, not be read from elsewhere", node.line, node.column
        )
    if call.function.startswith("get") and call.args and not call.args[-1].constant.HasField("string"):
        raise ConditionError("the time zone must be written out, not be read from elsewhere", node.line, node.column)
    if call.args and call.args[-1].constant.HasField("string"):
        _try(node, call.function, call.args[-1].constant.string, language)


def _try(node: Node, function: str, constant: str, language: Language) -> None:
    """Try what a function is given as a constant."""
    if function == "matches":
        try:
            check_pattern(constant)
            compiled(constant)
        except (ConditionError, PatternError) as error:
            said = error.message if isinstance(error, ConditionError) else str(error)
            raise ConditionError(said, node.line, node.column) from None
    elif function in _TRIED:
        trial, message = _TRIED[function]
        quoted = "'" + "".join(f"\\U{ord(character):08x}" for character in constant) + "'"
        if language.env.compile(trial.format(quoted)).eval(data={}).type() != cel.Type.BOOL:
            raise ConditionError(message, node.line, node.column)
    elif function == "inNetwork":
        try:
            ip_network(constant)
        except ValueError:
            message = f"`{constant}` is not a network: write such as 10.2.0.0/24"
            raise ConditionError(message, node.line, node.column) from None
    elif function.startswith("get"):
        try:
            ZoneInfo(constant)
        except (ZoneInfoNotFoundError, ValueError):
            message = f"`{constant}` is not a time zone; write one such as Africa/Malabo"
            raise ConditionError(message, node.line, node.column) from None


def _constant_kind(expr: Any) -> str | None:
    if not expr.HasField("constant"):
        return None
    return next((kind for kind in ("int", "double", "string") if expr.constant.HasField(kind)), "other")
