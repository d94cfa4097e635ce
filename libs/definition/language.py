"""The CEL environments in which conditions are checked and evaluated."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from ipaddress import IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import Any, Final

from cel_expr_python import cel
from cel_expr_python.ext import ext_strings
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

from contracts.routing import Trigger
from libs.definition.attributes import (
    CIRCUMSTANCES,
    OBJECTS,
    AttributeType,
    Kind,
    circumstances_of,
    dicom_attributes,
    offered_attributes,
    sequences,
    type_of,
)
from libs.definition.pattern import compiled as pattern_of

_Field = descriptor_pb2.FieldDescriptorProto
_FIELD_TYPES: Final[Mapping[Kind, Any]] = {
    "text": _Field.TYPE_STRING,
    "integer": _Field.TYPE_INT64,
    "decimal": _Field.TYPE_DOUBLE,
}
_TEXT: Final = AttributeType("text")


@dataclass(frozen=True)
class Language:
    """The CEL environment of a trigger and the message classes of its variables."""

    env: Any
    messages: Mapping[str, Any]


@lru_cache(maxsize=16)
def checking(trigger: Trigger) -> Language:
    """Make the language in which the conditions of a trigger are checked: all that they may name."""
    name = OBJECTS[trigger]
    file = _file(f"{trigger}-checked")
    if name not in CIRCUMSTANCES:
        _add_message(file, name.capitalize(), offered_attributes(trigger), inside="Sequence", tags=name == "study")
        every = {keyword: AttributeType(one.kind, many=True) for keyword, one in dicom_attributes().items()}
        _add_message(file, "Sequence", every, inside="Sequence")
    return _language(file, trigger)


@lru_cache(maxsize=512)
def evaluating(trigger: Trigger, scope: frozenset[str]) -> Language:
    """Make the language in which conditions are evaluated, of few attributes: with all keywords it takes much longer.

    Parameters
    ----------
    trigger
        Whose conditions they are.
    scope
        What they read of the trigger's object; each is a field by its `field_of`.
    """
    name = OBJECTS[trigger]
    file = _file(trigger)
    if name not in CIRCUMSTANCES:
        offered = ((key, type_of(key, trigger)) for key in sorted(scope))
        _add_message(file, name.capitalize(), {field_of(key): kind for key, kind in offered if kind is not None})
    return _language(file, trigger)


@lru_cache(maxsize=16_384)
def field_of(key: str) -> str:
    """Name the field of what a condition reads: the keyword, or a name made of a path, private element or tag."""
    return key if key.isalnum() else f"k_{hashlib.sha256(key.encode()).hexdigest()[:24]}"


def is_in_network(address: str, network: str) -> bool:
    """Tell whether an address is in a network such as 10.2.0.0/24; what is no address is in none."""
    try:
        found, known = ip_address(address), _network(network)
    except ValueError:
        return False
    if isinstance(found, IPv6Address) and found.ipv4_mapped is not None:
        found = found.ipv4_mapped
    return found in known


def fits_pattern(text: str, pattern: str) -> bool:
    """Tell whether a regular expression (RE2) is found in a text. Raises PatternError."""
    return pattern_of(pattern).search(text) is not None


@lru_cache(maxsize=1024)
def _network(text: str) -> IPv4Network | IPv6Network:
    return ip_network(text)


_NETWORK_FUNCTION: Final = cel.FunctionDecl(
    "inNetwork",
    [
        cel.Overload(
            "string_in_network",
            cel.Type.BOOL,
            [cel.Type.STRING, cel.Type.STRING],
            is_member=True,
            impl=is_in_network,
        )
    ],
)
#: What `matches` becomes when it is evaluated: the CEL library would make its pattern ready anew for each text.
FITS: Final = "fitsPattern"
_PATTERN_FUNCTION: Final = cel.FunctionDecl(
    FITS,
    [
        cel.Overload(
            "string_fits_pattern",
            cel.Type.BOOL,
            [cel.Type.STRING, cel.Type.STRING],
            is_member=True,
            impl=fits_pattern,
        ),
    ],
)


def _file(name: str) -> Any:
    return descriptor_pb2.FileDescriptorProto(name=f"kivuko/{name}.proto", package="kivuko", syntax="proto3")


def _language(file: Any, trigger: Trigger) -> Language:
    """Finish a language with what surrounds a trigger's object."""
    about = OBJECTS[trigger]
    groups = circumstances_of(trigger)
    for group, fields in groups.items():
        _add_message(file, group.capitalize(), dict.fromkeys(fields, _TEXT))
    health = file.message_type.add(name="Destination")
    health.field.add(name="healthy", number=1, label=_Field.LABEL_OPTIONAL, type=_Field.TYPE_BOOL)
    pool = descriptor_pool.DescriptorPool()
    pool.AddSerializedFile(file.SerializeToString())
    named = dict.fromkeys((about, *groups))
    variables = {one: cel.Type(f"kivuko.{one.capitalize()}") for one in named}
    variables["calendars"] = cel.Type.Map(cel.Type.STRING, cel.Type.BOOL)
    variables["destination"] = cel.Type.Map(cel.Type.STRING, cel.Type("kivuko.Destination"))
    variables["now"] = cel.Type.TIMESTAMP
    messages = {
        one: message_factory.GetMessageClass(pool.FindMessageTypeByName(f"kivuko.{one.capitalize()}"))
        for one in (*named, "destination")
    }
    functions = [_NETWORK_FUNCTION, _PATTERN_FUNCTION]
    if about not in CIRCUMSTANCES:
        functions.append(_private_function(variables[about]))
    env = cel.NewEnv(pool, variables=variables, extensions=[ext_strings.ExtStrings()], functions=functions)
    # Before its first compilation an environment takes no times for deserialized expressions.
    env.compile("true")
    return Language(env, messages)


def _private_function(owner: Any) -> Any:
    # Only checked: before it is evaluated, a field takes its place.
    parameters = [owner, cel.Type.STRING, cel.Type.STRING]
    overload = cel.Overload("private_element", cel.Type.STRING, parameters, is_member=True)
    return cel.FunctionDecl("private", [overload])


def _add_message(
    file: Any, name: str, fields: Mapping[str, AttributeType], inside: str | None = None, *, tags: bool = False
) -> None:
    """Add a message with a field for each attribute; with `inside`, sequences are fields of that message."""
    message = file.message_type.add(name=name)
    for number, (keyword, kind) in enumerate(fields.items(), start=1):
        label = _Field.LABEL_REPEATED if kind.many else _Field.LABEL_OPTIONAL
        added = message.field.add(name=keyword, number=number, label=label, type=_FIELD_TYPES[kind.kind])
        if not kind.many:
            # Presence of a scalar, so that has() tells: a proto3 `optional` is a oneof of its own.
            added.proto3_optional = True
            added.oneof_index = len(message.oneof_decl)
            message.oneof_decl.add(name=f"_{keyword}")
    number = len(fields)
    for keyword in sorted(sequences()) if inside else ():
        number += 1
        _add_field_of(message, keyword, number, f".kivuko.{inside}", _Field.LABEL_OPTIONAL)
    if tags:
        entry = message.nested_type.add(name="TagsEntry")
        entry.options.map_entry = True
        for position, part in enumerate(("key", "value"), start=1):
            entry.field.add(name=part, number=position, label=_Field.LABEL_OPTIONAL, type=_Field.TYPE_STRING)
        _add_field_of(message, "Tags", number + 1, f".kivuko.{name}.TagsEntry", _Field.LABEL_REPEATED)


def _add_field_of(message: Any, name: str, number: int, type_name: str, label: Any) -> None:
    message.field.add(name=name, number=number, label=label, type=_Field.TYPE_MESSAGE, type_name=type_name)
