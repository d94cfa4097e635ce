"""Conditions of rules: CEL over DICOM attributes, checked for names and types before they are ever used."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any, Final
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from cel_expr_python import cel

from contracts.fact import Attributes
from contracts.routing import Trigger
from libs.definition.attributes import CIRCUMSTANCES, readable
from libs.definition.diagnosis import ConditionError, did_you_mean, translate, type_in_words
from libs.definition.expression import Node, walk
from libs.definition.language import Language, language_of
from libs.definition.structured import Path, Writer

__all__ = ["Bound", "Condition", "ConditionError", "ConditionFailed", "Inputs", "bind", "compile_condition"]

MAX_CHARACTERS: Final = 10_000
#: Functions whose constant argument is tried when the condition is compiled: a bad one would fail at every evaluation.
_TRIED: Final = {
    "matches": ('"".matches({0})', "this is not a regular expression (RE2)"),
    "timestamp": ("timestamp({0}) == timestamp({0})", 'write a time such as timestamp("2026-01-31T00:00:00Z")'),
    "duration": ("duration({0}) == duration({0})", 'write a length of time such as duration("90m")'),
}
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
class Inputs:
    """What conditions see. All of it is a snapshot of the moment of the decision.

    Attributes
    ----------
    now
        The moment, with its offset.
    instance, study
        DICOM keyword to value: one of the two, as the trigger says.
    source, order, site
        Texts by the names in `CIRCUMSTANCES`.
    calendars
        Calendar to whether it is working time.
    """

    now: datetime
    instance: Attributes = field(default_factory=dict)
    study: Attributes = field(default_factory=dict)
    source: Mapping[str, str] = field(default_factory=dict)
    order: Mapping[str, str] = field(default_factory=dict)
    site: Mapping[str, str] = field(default_factory=dict)
    calendars: Mapping[str, bool] = field(default_factory=dict)

    def of(self, trigger: Trigger) -> Attributes:
        """Give the attributes of the trigger's object."""
        return self.instance if trigger == "instance" else self.study


@dataclass(frozen=True)
class Bound:
    """Inputs in the form in which any number of conditions can be evaluated on them.

    Attributes
    ----------
    activation
        The CEL library's form.
    values
        The attributes as conditions see them.
    unreadable
        Keywords whose values can't be read as the type that the dictionary gives: they count as absent.
    """

    activation: Any
    values: Attributes
    unreadable: tuple[str, ...]


@dataclass(frozen=True)
class Condition:
    """A condition that passed all checks.

    Attributes
    ----------
    text
        The CEL.
    trigger
        Trigger that it was checked for.
    attributes
        DICOM keywords that it reads.
    circumstances
        What else it reads: `source.site`, `calendars.office`, `now`.
    scope
        DICOM keywords that inputs must be bound with: those of all conditions that share them.
    """

    text: str
    trigger: Trigger
    attributes: frozenset[str]
    circumstances: frozenset[str]
    scope: frozenset[str]
    _program: Any = field(repr=False, compare=False)

    def within(self, scope: frozenset[str]) -> "Condition":
        """Give the same condition for inputs that are bound once for several conditions."""
        return replace(self, scope=scope, _program=language_of(self.trigger, scope).env.compile(self.text))

    def matches(self, inputs: Inputs) -> bool:
        """Decide. Raises ConditionFailed."""
        return self.holds(bind(inputs, self.trigger, self.scope))

    def holds(self, bound: Bound) -> bool:
        """Decide on inputs that were bound with the condition's scope. Raises ConditionFailed."""
        value = self._program.eval(bound.activation).value()
        # What failed is a text here; asking the library for the type costs as much as evaluating.
        if isinstance(value, bool):
            return value
        said = str(value)
        raise ConditionFailed(next((reason for mark, reason in _FAILURES if mark in said), "it can't be evaluated"))


def bind(inputs: Inputs, trigger: Trigger, scope: frozenset[str]) -> Bound:
    """Bring the attributes of a scope and all else into the form for evaluation."""
    language = language_of(trigger, scope)
    values, unreadable = readable(inputs.of(trigger), trigger, scope)
    data = {
        trigger: language.messages[trigger](**values),
        **{
            name: language.messages[name](**{key: getattr(inputs, name).get(key) for key in fields})
            for name, fields in CIRCUMSTANCES.items()
        },
        "calendars": dict(inputs.calendars),
        "now": inputs.now,
    }
    return Bound(language.env.Activation(data), values, tuple(unreadable))


def compile_condition(
    when: str | Mapping[str, Any] | None, *, trigger: Trigger, calendars: Collection[str]
) -> Condition:
    """Check a condition and make it ready for use.

    Parameters
    ----------
    when
        CEL, a structured condition, or nothing: always.
    trigger
        `instance` offers `instance.KEYWORD`, `study` offers `study.KEYWORD`; both offer source,
        site, order, calendars and now.
    calendars
        Names of the calendars that there are.

    Raises
    ------
    ConditionError
        With the place and a sentence.
    """
    if when is None:
        return _compile("true", trigger, calendars)
    if isinstance(when, str):
        return _compile(when, trigger, calendars)

    def check(text: str, path: Path) -> None:
        try:
            _compile(text, trigger, calendars)
        except ConditionError as error:
            raise ConditionError(error.message, error.line, error.column, path) from error

    return _compile(Writer(trigger, calendars, check).write(when), trigger, calendars)


def _compile(text: str, trigger: Trigger, calendars: Collection[str]) -> Condition:
    if len(text) > MAX_CHARACTERS:
        raise ConditionError(f"the condition is longer than {MAX_CHARACTERS} characters; split it into several rules")
    language = language_of(trigger)
    try:
        program = language.env.compile(text)
    except RuntimeError as error:  # the only exception of the library
        raise translate(str(error), text, trigger) from None
    result = program.return_type()
    if result != cel.Type.BOOL:
        raise ConditionError(f"a condition must give true or false, and this gives {type_in_words(result.name())}")
    attributes, circumstances = set(), set()
    for node in walk(program.serialize()):
        _refuse(node, language)
        if not node.is_("ident"):
            continue
        name = node.expr.ident.name
        if name == trigger or name in CIRCUMSTANCES:
            field_name = _selected(node, name)
            if name == trigger:
                attributes.add(field_name)
            else:
                circumstances.add(f"{name}.{field_name}")
        elif name == "calendars":
            circumstances.add(f"calendars.{_calendar(node, calendars)}")
        elif name == "now":
            circumstances.add("now")
    # Evaluated in a language of its own few attributes: one with all keywords takes six times as long.
    scope = frozenset(attributes)
    return Condition(
        text, trigger, scope, frozenset(circumstances), scope, language_of(trigger, scope).env.compile(text)
    )


def _selected(node: Node, name: str) -> str:
    parent = node.parent
    if parent is None or not parent.is_("select"):
        raise ConditionError(
            f"`{name}` stands for a group: name one of its parts, `{name}.PART`", node.line, node.column
        )
    return str(parent.expr.select.field)


def _calendar(node: Node, calendars: Collection[str]) -> str:
    parent = node.parent
    name = None
    if parent is not None and parent.is_("select"):
        name = parent.expr.select.field
    elif parent is not None and parent.is_("call") and parent.expr.call.function == "_[_]":
        name = parent.expr.call.args[-1].constant.string or None
    if name is None:
        raise ConditionError('name a calendar, `calendars["NAME"]`', node.line, node.column)
    if name not in calendars:
        raise ConditionError(f"there is no calendar `{name}`{did_you_mean(name, calendars)}", node.line, node.column)
    return str(name)


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
    if call.args and call.args[-1].constant.HasField("string"):
        _try(node, call.function, call.args[-1].constant.string, language)


def _try(node: Node, function: str, constant: str, language: Language) -> None:
    """Try what a function is given as a constant."""
    if function in _TRIED:
        trial, message = _TRIED[function]
        quoted = "'" + "".join(f"\\U{ord(character):08x}" for character in constant) + "'"
        if language.env.compile(trial.format(quoted)).eval(data={}).type() != cel.Type.BOOL:
            raise ConditionError(message, node.line, node.column)
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
