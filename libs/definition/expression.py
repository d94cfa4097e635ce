"""The tree of a type-checked CEL expression, read from the form in which the CEL library serializes it.

The library checks and evaluates but doesn't show what an expression reads. Its serialized form does: it is
`cel.expr.CheckedExpr` of the CEL specification (checked.proto, syntax.proto), of which
the fields that are needed are declared here.
"""

from dataclasses import dataclass
from functools import cache
from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

_Field = descriptor_pb2.FieldDescriptorProto
#: Message: fields as (name, number, type); a name of a message declared here is a type, `*` marks a repeated field.
_SHAPE: dict[str, tuple[tuple[str, int, str], ...]] = {
    "Any": (("type_url", 1, "string"), ("value", 2, "bytes")),
    "CheckedExpr": (("references", 2, "*Reference"), ("expr", 4, "Expr"), ("source_info", 5, "SourceInfo")),
    "Reference": (("key", 1, "int64"), ("value", 2, "bytes")),
    "SourceInfo": (("line_offsets", 3, "*int32"), ("positions", 4, "*Position")),
    "Position": (("key", 1, "int64"), ("value", 2, "int32")),
    "Expr": (
        ("id", 2, "int64"),
        ("constant", 3, "Constant"),
        ("ident", 4, "Ident"),
        ("select", 5, "Select"),
        ("call", 6, "Call"),
        ("list", 7, "List"),
        ("struct", 8, "Struct"),
        ("comprehension", 9, "Comprehension"),
    ),
    "Constant": (("bool", 2, "bool"), ("int", 3, "int64"), ("double", 5, "double"), ("string", 6, "string")),
    "Ident": (("name", 1, "string"),),
    "Select": (("operand", 1, "Expr"), ("field", 2, "string"), ("test", 3, "bool")),
    "Call": (("target", 1, "Expr"), ("function", 2, "string"), ("args", 3, "*Expr")),
    "List": (("elements", 1, "*Expr"),),
    "Struct": (("message_name", 1, "string"), ("entries", 2, "*Entry")),
    "Entry": (("map_key", 3, "Expr"), ("value", 4, "Expr")),
    "Comprehension": (
        ("variable", 1, "string"),
        ("range", 2, "Expr"),
        ("accumulator", 4, "Expr"),
        ("condition", 5, "Expr"),
        ("step", 6, "Expr"),
        ("result", 7, "Expr"),
    ),
}
_SCALARS = {
    "bytes": _Field.TYPE_BYTES,
    "int32": _Field.TYPE_INT32,
    "int64": _Field.TYPE_INT64,
    "double": _Field.TYPE_DOUBLE,
    "string": _Field.TYPE_STRING,
    "bool": _Field.TYPE_BOOL,
}


@cache
def _messages() -> dict[str, Any]:
    file = descriptor_pb2.FileDescriptorProto(name="kivuko/expression.proto", package="kivuko.cel", syntax="proto2")
    for name, fields in _SHAPE.items():
        message = file.message_type.add(name=name)
        for field, number, kind in fields:
            label = _Field.LABEL_REPEATED if kind.startswith("*") else _Field.LABEL_OPTIONAL
            added = message.field.add(name=field, number=number, label=label)
            scalar = _SCALARS.get(kind.lstrip("*"))
            if scalar is None:
                added.type_name = f".kivuko.cel.{kind.lstrip('*')}"
            added.type = _Field.TYPE_MESSAGE if scalar is None else scalar
    pool = descriptor_pool.DescriptorPool()
    pool.AddSerializedFile(file.SerializeToString())
    return {name: message_factory.GetMessageClass(pool.FindMessageTypeByName(f"kivuko.cel.{name}")) for name in _SHAPE}


@dataclass(frozen=True)
class Node:
    """One node of the tree.

    Attributes
    ----------
    expr
        The node's `cel.expr.Expr`.
    parent
        The node above, none at the root.
    line, column
        Where it stands in the text, from 1; of a selection or call: its dot, operator or bracket.
    """

    expr: Any
    parent: "Node | None"
    line: int
    column: int

    def is_(self, kind: str) -> bool:
        """Tell whether the node is of a kind: constant, ident, select, call, list, struct, comprehension."""
        return bool(self.expr.HasField(kind))


@dataclass(frozen=True)
class Tree:
    """A checked expression that can be read and changed.

    Attributes
    ----------
    nodes
        Every node, each before what stands below it; the first is the root.
    """

    nodes: tuple[Node, ...]
    _checked: Any

    def select(self, node: Node, operand: str, field: str, *, test: bool) -> None:
        """Put `operand.field` in the place of a node, or `has(operand.field)` for a test."""
        expr = node.expr
        for other in ("ident", "select", "call"):
            expr.ClearField(other)
        self._forget(expr)
        expr.select.field = field
        expr.select.test = test
        expr.select.operand.ident.name = operand

    def _forget(self, expr: Any) -> None:
        """Don't tell the evaluator what was called or named at a place before."""
        kept = [one for one in self._checked.references if one.key != expr.id]
        del self._checked.references[:]
        self._checked.references.extend(kept)

    def call(self, node: Node, function: str) -> None:
        """Have a call go to another function with the same parameters."""
        node.expr.call.function = function
        self._forget(node.expr)

    def serialize(self) -> bytes:
        """Give the form that the CEL library reads."""
        whole = _messages()["Any"](type_url="type.googleapis.com/cel.expr.CheckedExpr")
        whole.value = self._checked.SerializeToString()
        return bytes(whole.SerializeToString())


def read_tree(serialized: bytes) -> Tree:
    """Read a serialized checked expression.

    Parameters
    ----------
    serialized
        What `Expression.serialize()` gave: a `CheckedExpr` in a `google.protobuf.Any`.
    """
    messages = _messages()
    checked = messages["CheckedExpr"].FromString(messages["Any"].FromString(serialized).value)
    offsets = {entry.key: entry.value for entry in checked.source_info.positions}
    starts = [0, *checked.source_info.line_offsets]

    def place(expr: Any) -> tuple[int, int]:
        offset = offsets.get(expr.id, 0)
        line = max(number for number, start in enumerate(starts) if start <= offset)
        return line + 1, offset - starts[line] + 1

    nodes = []
    pending = [Node(checked.expr, None, *place(checked.expr))]
    while pending:
        node = pending.pop()
        nodes.append(node)
        pending += [Node(child, node, *place(child)) for child in reversed(children(node.expr))]
    return Tree(tuple(nodes), checked)


def children(expr: Any) -> list[Any]:
    """Give what stands directly below an expression."""
    if expr.HasField("select"):
        return [expr.select.operand]
    if expr.HasField("call"):
        return ([expr.call.target] if expr.call.HasField("target") else []) + list(expr.call.args)
    if expr.HasField("list"):
        return list(expr.list.elements)
    if expr.HasField("struct"):
        return [part for entry in expr.struct.entries for part in (entry.map_key, entry.value)]
    if expr.HasField("comprehension"):
        loop = expr.comprehension
        return [loop.range, loop.accumulator, loop.condition, loop.step, loop.result]
    return []
