"""The CEL environments in which conditions are checked and evaluated."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final

from cel_expr_python import cel
from cel_expr_python.ext import ext_strings
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

from contracts.routing import Trigger
from libs.definition.attributes import CIRCUMSTANCES, AttributeType, Kind, offered_attributes

_Field = descriptor_pb2.FieldDescriptorProto
_FIELD_TYPES: Final[Mapping[Kind, Any]] = {
    "text": _Field.TYPE_STRING,
    "integer": _Field.TYPE_INT64,
    "decimal": _Field.TYPE_DOUBLE,
}


@dataclass(frozen=True)
class Language:
    """The CEL environment of a trigger and the message classes of its variables."""

    env: Any
    messages: Mapping[str, Any]


@lru_cache(maxsize=512)
def language_of(trigger: Trigger, scope: frozenset[str] | None = None) -> Language:
    """Make the environment of a trigger: protobuf messages whose fields are the names that conditions may use.

    Parameters
    ----------
    trigger
        Whose attributes are offered.
    scope
        Only these attributes; all of the dictionary, if none.
    """
    name = trigger.capitalize()
    offered = offered_attributes(trigger)
    fields_of_trigger = offered if scope is None else {keyword: offered[keyword] for keyword in sorted(scope)}
    file = descriptor_pb2.FileDescriptorProto(name=f"kivuko/{trigger}.proto", package="kivuko", syntax="proto3")
    _add_message(file, name, fields_of_trigger)
    for circumstance, fields in CIRCUMSTANCES.items():
        _add_message(file, circumstance.capitalize(), {one: AttributeType("text") for one in fields})
    pool = descriptor_pool.DescriptorPool()
    pool.AddSerializedFile(file.SerializeToString())
    variables = {one: cel.Type(f"kivuko.{one.capitalize()}") for one in (trigger, *CIRCUMSTANCES)}
    variables["calendars"] = cel.Type.Map(cel.Type.STRING, cel.Type.BOOL)
    variables["now"] = cel.Type.TIMESTAMP
    messages = {
        one: message_factory.GetMessageClass(pool.FindMessageTypeByName(f"kivuko.{one.capitalize()}"))
        for one in (trigger, *CIRCUMSTANCES)
    }
    return Language(cel.NewEnv(pool, variables=variables, extensions=[ext_strings.ExtStrings()]), messages)


def _add_message(file: Any, name: str, fields: Mapping[str, AttributeType]) -> None:
    message = file.message_type.add(name=name)
    for number, (keyword, kind) in enumerate(fields.items(), start=1):
        label = _Field.LABEL_REPEATED if kind.many else _Field.LABEL_OPTIONAL
        added = message.field.add(name=keyword, number=number, label=label, type=_FIELD_TYPES[kind.kind])
        if not kind.many:
            # Presence of a scalar, so that has() tells: a proto3 `optional` is a oneof of its own.
            added.proto3_optional = True
            added.oneof_index = len(message.oneof_decl)
            message.oneof_decl.add(name=f"_{keyword}")
