"""Which conditions can be true at all, by the one value that each demands: the others need not be evaluated."""

from collections.abc import Sequence
from typing import Any

from contracts.routing import Trigger
from libs.definition.attributes import CIRCUMSTANCES, OBJECTS, type_of
from libs.definition.condition import Condition
from libs.definition.expression import read_tree
from libs.definition.inputs import Bound, Inputs, carried
from libs.definition.language import field_of

#: A name, and the values of which it must have one.
Demand = tuple[str, frozenset[str]]


class Shortlist:
    """Conditions of one trigger, sorted by what they demand.

    Parameters
    ----------
    trigger
        Whose conditions they are.
    conditions
        In the order in which they are decided.
    """

    def __init__(self, trigger: Trigger, conditions: Sequence[Condition]) -> None:
        self._about = f"{OBJECTS[trigger]}."
        self._open: list[int] = []
        self._by_value: dict[str, dict[str, list[int]]] = {}
        for position, condition in enumerate(conditions):
            demanded = demand(condition)
            if demanded is None:
                self._open.append(position)
                continue
            name, values = demanded
            for value in values:
                self._by_value.setdefault(name, {}).setdefault(value, []).append(position)

    def candidates(self, bound: Bound, inputs: Inputs) -> list[int]:
        """Give the positions of the conditions that can be true of inputs, in their order."""
        found = list(self._open)
        for name, by_value in self._by_value.items():
            value = _value(name, self._about, bound, inputs)
            for one in dict.fromkeys(value) if isinstance(value, list) else (value,):
                found += by_value.get(one, ())
        # A list may hold several of the values that one condition demands.
        return sorted(set(found))


def _value(name: str, about: str, bound: Bound, inputs: Inputs) -> Any:
    if name.startswith(about) and about[:-1] not in CIRCUMSTANCES:
        return bound.values.get(name.removeprefix(about), "")
    group, _, part = name.partition(".")
    return carried(getattr(inputs, group).get(part) or "")


def demand(condition: Condition) -> Demand | None:
    """Give the value that a condition can't be true without: of several the one that leaves the fewest choices."""
    keys = {field_of(key): key for key in condition.attributes}
    found = _demands(read_tree(condition.serialized).nodes[0].expr, keys, condition.trigger)
    return min(found.items(), key=lambda one: len(one[1]), default=None)


def _demands(expr: Any, keys: dict[str, str], trigger: Trigger) -> dict[str, frozenset[str]]:
    if not expr.HasField("call"):
        return {}
    call = expr.call
    if call.function in ("_&&_", "_||_"):
        one, other = (_demands(side, keys, trigger) for side in call.args)
        if call.function == "_||_":
            return {name: one[name] | other[name] for name in one.keys() & other.keys()}
        both = one.keys() & other.keys()
        shared = {name: one[name] & other[name] for name in both if not _is_list(name, keys, trigger)}
        return {**one, **other, **shared}
    return _compared(call, keys, trigger)


def _compared(call: Any, keys: dict[str, str], trigger: Trigger) -> dict[str, frozenset[str]]:
    """Read `NAME == TEXT`, `NAME in [TEXT, ...]` and `TEXT in NAME`."""
    if call.function not in ("_==_", "@in"):
        return {}
    left, right = call.args
    name, texts = _name(left, keys, trigger), [_text(right)]
    if call.function == "@in" and right.HasField("list"):
        texts = [_text(element) for element in right.list.elements]
    elif name is None or texts == [None]:
        name, texts = _name(right, keys, trigger), [_text(left)]
    written = frozenset(text for text in texts if text is not None)
    return {} if name is None or None in texts else {name: written}


def _name(expr: Any, keys: dict[str, str], trigger: Trigger) -> str | None:
    """Name a text that is looked up."""
    if not expr.HasField("select") or expr.select.test or not expr.select.operand.HasField("ident"):
        return None
    owner, field = expr.select.operand.ident.name, expr.select.field
    if owner in CIRCUMSTANCES:
        return f"{owner}.{field}"
    kind = type_of(keys.get(field, ""), trigger) if owner == OBJECTS[trigger] else None
    return f"{owner}.{keys[field]}" if kind is not None and kind.kind == "text" else None


def _is_list(name: str, keys: dict[str, str], trigger: Trigger) -> bool:
    key = name.partition(".")[2]
    kind = type_of(key, trigger) if key in keys.values() else None
    return kind is not None and kind.many


def _text(expr: Any) -> str | None:
    return expr.constant.string if expr.HasField("constant") and expr.constant.HasField("string") else None
