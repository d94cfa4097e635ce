"""How much work a condition can be at most, whatever is sent: what is too much is refused before it is ever used.

The evaluator itself stops after 10,000 turns of `all`, `exists`, `map` and the like. What each turn costs, and how
large texts become on the way, it does not limit. Both follow from the expression, as attributes are limited in size.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

from libs.definition.attributes import MOST_CHARACTERS, MOST_VALUES
from libs.definition.diagnosis import ConditionError
from libs.definition.expression import children

#: Most steps of an evaluation: of comparisons of characters, about. Some tenths of a second, where all is at its worst.
MOST_STEPS: Final = 100_000_000
#: Most characters or values that a value may have on the way.
LARGEST: Final = 1_000_000
_TURNS: Final = 10_000
_SCALAR: Final = 32
_TOKEN: Final = re.compile(r"\\.|\[\^?\]?(?:\\.|[^\]\\])*\]|\{\d+,?\d*\}|.", re.DOTALL)
_COUNT: Final = re.compile(r"\d+")


@dataclass(frozen=True)
class Bound:
    """Upper bounds of an expression.

    Attributes
    ----------
    steps
        Work to evaluate it, loops left out.
    looped
        Work of its loops: what turns cost, of which there are 10,000 at most in all.
    size
        Characters and values of the result, all together.
    count
        Values of the result, if it is a list; else 1.
    """

    steps: int
    size: int
    count: int = 1
    looped: int = 0


def check_cost(expr: Any, is_list: Callable[[str], bool]) -> None:
    """Refuse an expression that can be too much work.

    Parameters
    ----------
    expr
        A `cel.expr.Expr`.
    is_list
        Tells of a field of the trigger's object whether it is a list.

    Raises
    ------
    ConditionError
    """
    found = _bound(expr, {}, is_list)
    if found.steps + found.looped > MOST_STEPS:
        raise ConditionError("the condition could take too long to evaluate: split it, or compare with fewer values")


def check_pattern(pattern: str) -> None:
    """Refuse a regular expression that can be too much work: making it ready takes long too. Raises ConditionError."""
    if 4 * MOST_CHARACTERS * _weight(pattern) > MOST_STEPS:
        raise ConditionError("this regular expression could take too long: write smaller numbers of repetitions")


def _bound(expr: Any, variables: Mapping[str, Bound], is_list: Callable[[str], bool]) -> Bound:
    if expr.HasField("constant"):
        return Bound(1, len(expr.constant.string) if expr.constant.HasField("string") else _SCALAR)
    if expr.HasField("ident"):
        return variables.get(expr.ident.name, Bound(1, _SCALAR))
    if expr.HasField("select"):
        several = is_list(expr.select.field) and not expr.select.test
        return Bound(1, 1 if expr.select.test else MOST_CHARACTERS, MOST_VALUES if several else 1)
    if expr.HasField("comprehension"):
        return _loop(expr.comprehension, variables, is_list)
    parts = [_bound(one, variables, is_list) for one in children(expr)]
    steps, looped = 1 + sum(one.steps for one in parts), sum(one.looped for one in parts)
    made = Bound(steps, sum(one.size for one in parts) + len(parts), max(1, len(parts)))
    if expr.HasField("call"):
        made = _called(expr.call.function, parts, steps)
        if expr.call.function == "matches":
            made = replace(made, steps=steps + 4 * parts[0].size * _weight(expr.call.args[-1].constant.string))
    return _limited(replace(made, looped=looped))


def _called(function: str, parts: list[Bound], steps: int) -> Bound:
    sizes = [one.size for one in parts]
    work = sum(sizes)
    size, count = _SCALAR, 1
    if function == "_+_":
        size, count = work, sum(one.count for one in parts)
    elif function in ("_?_:_", "_[_]"):
        size, work = max(sizes), 1
        count = 1 if function == "_[_]" else max(one.count for one in parts)
    elif function in ("lowerAscii", "upperAscii", "trim", "substring", "string", "charAt"):
        size = sizes[0]
    elif function == "replace":
        # Between any two characters the new text may be put.
        size = sizes[0] + (sizes[0] + 1) * sizes[2]
        work = size
    elif function == "split":
        size, count = 2 * sizes[0] + 1, sizes[0] + 1
    elif function == "join":
        size = sizes[0] + parts[0].count * (sizes[1] if len(sizes) > 1 else 0)
        work = size
    elif function in ("contains", "indexOf"):
        # A search starts anew at each character at the worst; of what stands in a condition it is short.
        work = sizes[0] * max(1, sizes[1] // 8)
    elif function == "@in":
        work = sizes[0] + sizes[1]
    elif function in ("_&&_", "_||_", "!_", "@not_strictly_false"):
        work = 1
    return Bound(steps + work, size, count)


def _loop(loop: Any, variables: Mapping[str, Bound], is_list: Callable[[str], bool]) -> Bound:
    over = _bound(loop.range, variables, is_list)
    turns = _TURNS if variables else min(over.count, _TURNS)
    # What is gone through is of a limited size altogether, so a turn costs its share of it, and all that is beside it.
    each = {**variables, loop.variable: Bound(1, -(-over.size // max(1, over.count)))}
    start = _bound(loop.accumulator, variables, is_list)
    grown = Bound(1, 0, 0)
    before = {**each, "@result": grown, "__result__": grown}
    step = _bound(loop.step, before, is_list)
    again = _bound(loop.condition, before, is_list)
    steps = over.steps + start.steps
    looped = over.looped + step.looped + again.looped + turns * (step.steps + again.steps)
    if not loop.accumulator.HasField("list"):
        return Bound(steps, _SCALAR, looped=looped)
    return _limited(Bound(steps, start.size + turns * step.size, max(1, turns * step.count), looped))


def _weight(pattern: str) -> int:
    """Estimate the states of a regular expression (RE2): counted repetitions are written out before it is used."""
    groups, last = [0], 0
    for piece in _TOKEN.findall(pattern):
        if piece == "(":
            groups.append(0)
            last = 0
        elif piece == ")" and len(groups) > 1:
            last = groups.pop()
            groups[-1] += last
        elif piece.startswith("{") and len(piece) > 1:
            times = max(int(count) for count in _COUNT.findall(piece))
            groups[-1] += last * max(0, times - 1)
            last *= max(1, times)
        else:
            last = 1
            groups[-1] += 1
    return max(1, sum(groups))


def _limited(bound: Bound) -> Bound:
    if bound.size > LARGEST:
        raise ConditionError("texts or lists of this condition could become too large: split it into several rules")
    return bound
