"""What conditions can be: never true, true whenever another one is, or true together with another one.

Comparisons with constants are understood; everything else is taken to be true or false on its own. So what is said to
be impossible is impossible, and what is said to be possible may still never happen.
"""

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import product
from typing import Any, Final

from libs.definition.attributes import OBJECTS
from libs.definition.condition import Condition
from libs.definition.expression import children, read_tree
from libs.definition.language import field_of

#: Combinations of values that are tried for one question.
MOST_COMBINATIONS: Final = 1_024
Scalar = str | int | float | bool
Assignment = Mapping[str, Scalar]
_FLIPPED: Final = {"_<_": "_>_", "_<=_": "_>=_", "_>_": "_<_", "_>=_": "_<=_", "_==_": "_==_", "_!=_": "_!=_"}
_COMPARE: Final[Mapping[str, Callable[[Any, Any], bool]]] = {
    "_==_": lambda one, other: bool(one == other),
    "_!=_": lambda one, other: bool(one != other),
    "_<_": lambda one, other: bool(one < other),
    "_<=_": lambda one, other: bool(one <= other),
    "_>_": lambda one, other: bool(one > other),
    "_>=_": lambda one, other: bool(one >= other),
}


@dataclass(frozen=True)
class Comparison:
    """A name, `study.Modality`, compared with a constant.

    Attributes
    ----------
    name
        What is compared.
    operator
        As CEL's trees have it, `_==_` and so on.
    constant
        With what.
    """

    name: str
    operator: str
    constant: Scalar


@dataclass(frozen=True)
class Formula:
    """A condition as logic.

    Attributes
    ----------
    holds
        Decides for values of the names.
    names
        What it depends on; the values of each that make a difference.
    comparisons
        What is compared with constants.
    """

    holds: Callable[[Assignment], bool]
    names: Mapping[str, frozenset[Scalar]]
    comparisons: tuple[Comparison, ...] = ()


ALWAYS: Final = Formula(lambda _: True, {})


def formula(condition: Condition) -> Formula:
    """Read a condition as logic."""
    tree = read_tree(condition.serialized)
    about = OBJECTS[condition.trigger]
    keys = {field_of(key): key for key in condition.attributes}
    return _read(tree.nodes[0].expr, {field: f"{about}.{key}" for field, key in keys.items()}, about)


def is_possible(*formulas: Formula, given: Assignment | None = None) -> bool:
    """Tell whether all of them can be true at once; true as well where there is too much to try."""
    return _search(formulas, given or {}, all)


def implies(one: Formula, other: Formula) -> bool:
    """Tell whether the other is true whenever the one is; false as well where there is too much to try."""
    return not _search((one, other), {}, lambda truths: truths[0] and not truths[1])


def combinations(*formulas: Formula, given: Assignment | None = None) -> int:
    """Count the combinations of values that a question about them goes through at most."""
    count = math.prod(len(values) for values in _free(formulas, given or {}).values())
    return count if count <= MOST_COMBINATIONS else 1


def _free(formulas: tuple[Formula, ...], given: Assignment) -> dict[str, set[Scalar]]:
    names: dict[str, set[Scalar]] = {}
    for one in formulas:
        for name, values in one.names.items():
            if name not in given:
                names.setdefault(name, set()).update(values)
    return names


def _search(formulas: tuple[Formula, ...], given: Assignment, wanted: Callable[[list[bool]], bool]) -> bool:
    free = {name: sorted(values, key=repr) for name, values in _free(formulas, given).items()}
    if math.prod(len(values) for values in free.values()) > MOST_COMBINATIONS:
        return True
    for chosen in product(*free.values()):
        assignment = {**dict(zip(free, chosen, strict=True)), **given}
        if wanted([one.holds(assignment) for one in formulas]):
            return True
    return False


def _read(expr: Any, written: Mapping[str, str], about: str) -> Formula:
    if expr.HasField("constant") and expr.constant.HasField("bool"):
        value = bool(expr.constant.bool)
        return Formula(lambda _: value, {})
    if expr.HasField("call"):
        parts = {"_&&_": all, "_||_": any, "!_": None}
        if expr.call.function in parts:
            return _joined([_read(one, written, about) for one in expr.call.args], parts[expr.call.function])
        compared = _compared(expr.call, written, about)
        if compared is not None:
            return compared
    return _opaque(expr)


def _joined(parts: list[Formula], join: Callable[[Iterator[bool]], bool] | None) -> Formula:
    names: dict[str, frozenset[Scalar]] = {}
    for part in parts:
        for name, values in part.names.items():
            names[name] = names.get(name, frozenset()) | values
    comparisons = tuple(one for part in parts for one in part.comparisons)
    if join is None:
        negated = parts[0].holds
        return Formula(lambda values: not negated(values), names, comparisons)
    tests = [part.holds for part in parts]
    return Formula(lambda values: join(test(values) for test in tests), names, comparisons)


def _compared(call: Any, written: Mapping[str, str], about: str) -> Formula | None:
    """Read `NAME == CONSTANT`, `CONSTANT < NAME`, `NAME in [CONSTANT, ...]`."""
    if call.function not in (*_COMPARE, "@in"):
        return None
    left, right = call.args
    name = _name(left, written, about)
    if call.function == "@in" and right.HasField("list"):
        constants = [_constant(one) for one in right.list.elements]
        known = [one for one in constants if one is not None]
        if name is None or len(known) < len(constants):
            return None
        return _one_of(name, known)
    operator, constant = call.function, _constant(right)
    if name is None:
        name, constant = _name(right, written, about), _constant(left)
        operator = _FLIPPED.get(operator, "")
    if name is None or constant is None or operator not in _COMPARE:
        return None
    compare, found, value = _COMPARE[operator], name, constant
    return Formula(
        lambda values: compare(values[found], value),
        {found: frozenset(_around(value))},
        (Comparison(found, operator, value),),
    )


def _one_of(name: str, constants: list[Scalar]) -> Formula:
    allowed = frozenset(constants)
    around = frozenset(one for constant in constants for one in _around(constant))
    return Formula(
        lambda values: values[name] in allowed,
        {name: around},
        tuple(Comparison(name, "_==_", constant) for constant in constants),
    )


def _around(constant: Scalar) -> Iterator[Scalar]:
    """Give a constant and what is next to it: comparisons with constants tell no other values apart."""
    yield constant
    if isinstance(constant, str):
        yield ""
        yield f"{constant}\0"
    elif isinstance(constant, bool):
        yield not constant
    elif isinstance(constant, int):
        yield from (constant - 1, constant + 1)
    else:
        yield from (math.nextafter(constant, -math.inf), math.nextafter(constant, math.inf))


def _name(expr: Any, written: Mapping[str, str], about: str) -> str | None:
    if not expr.HasField("select") or expr.select.test or not expr.select.operand.HasField("ident"):
        return None
    owner, field = expr.select.operand.ident.name, expr.select.field
    return written.get(field) if owner == about and field in written else f"{owner}.{field}"


def _constant(expr: Any) -> Scalar | None:
    for kind in ("string", "int", "double", "bool"):
        if expr.HasField("constant") and expr.constant.HasField(kind):
            value: Scalar = getattr(expr.constant, kind)
            return value
    return None


def _opaque(expr: Any) -> Formula:
    """Take an expression for one that is true or false whatever the others are; the same text is the same."""
    copy = type(expr)()
    copy.CopyFrom(expr)
    pending = [copy]
    while pending:
        one = pending.pop()
        one.ClearField("id")
        pending += children(one)
    name = repr(copy.SerializeToString(deterministic=True))
    return Formula(lambda values: bool(values[name]), {name: frozenset((True, False))})
