"""A-ASSOCIATE-RQ and -AC as bytes. PS3.8 sections 9.3.2 and 9.3.3, PS3.7 annex D.3.3.

Read before anybody is admitted: work and memory are bounded by the bytes that came. Items of unknown type are passed
over (PS3.8 section 9.3.1), and a context whose names can't be read is refused by itself.
"""

import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Final

from libs.dimse.negotiation import (
    APPLICATION_CONTEXT,
    Agreement,
    CommonExtended,
    Context,
    Extended,
    Proposed,
    RefusedContext,
    Request,
    Role,
    UserIdentity,
)
from libs.dimse.pdu import HEADER, Kind, MalformedError, Reason

_FIXED: Final = struct.Struct(">H2x16s16s32x")
_ITEM: Final = struct.Struct(">BxH")
_CONTEXT: Final = struct.Struct(">BxBx")
_LENGTH: Final = struct.Struct(">H")
_LONG: Final = struct.Struct(">I")
_WINDOW: Final = struct.Struct(">HH")
_ROLES: Final = struct.Struct(">BB")
_DEFAULT_TRANSFER_SYNTAX: Final = "1.2.840.10008.1.2"
_NAME: Final = re.compile(rb"[0-9.]{1,64}")


class _Item(IntEnum):
    APPLICATION_CONTEXT = 0x10
    PROPOSED_CONTEXT = 0x20
    AGREED_CONTEXT = 0x21
    ABSTRACT_SYNTAX = 0x30
    TRANSFER_SYNTAX = 0x40
    USER_INFORMATION = 0x50
    MAXIMUM_LENGTH = 0x51
    IMPLEMENTATION_CLASS_UID = 0x52
    OPERATIONS_WINDOW = 0x53
    ROLES = 0x54
    IMPLEMENTATION_VERSION = 0x55
    EXTENDED = 0x56
    COMMON_EXTENDED = 0x57
    USER_IDENTITY = 0x58
    USER_IDENTITY_ANSWER = 0x59


def decode_request(body: bytes) -> Request:
    """Read what follows the header of an A-ASSOCIATE-RQ. Raises MalformedError."""
    version, called, calling = _fixed(body)
    application, user = "", _User()
    contexts: dict[int, Proposed] = {}
    for kind, value in _items(body, _FIXED.size):
        if kind == _Item.APPLICATION_CONTEXT:
            application = _text(value)
        elif kind == _Item.PROPOSED_CONTEXT:
            proposed = _proposed(value)
            if proposed.id in contexts:
                raise _malformed("two presentation contexts have the same identifier")
            contexts[proposed.id] = proposed
        elif kind == _Item.USER_INFORMATION:
            user.read(value)
    return Request(
        called_aet=_text(called),
        calling_aet=_text(calling),
        contexts=tuple(contexts.values()),
        max_pdu=user.max_pdu,
        implementation_class_uid=user.implementation_class_uid,
        implementation_version=user.implementation_version,
        window=user.window,
        identity=user.identity,
        roles=tuple(user.roles),
        extended=tuple(user.extended),
        common_extended=tuple(user.common_extended),
        application_context=application,
        protocol_version=version,
    )


def encode_request(request: Request) -> bytes:
    """Write an A-ASSOCIATE-RQ with its header. Raises ValueError if a text is not ASCII or a value too long."""
    parts = [_item(_Item.APPLICATION_CONTEXT, request.application_context.encode("ascii"))]
    for each in request.contexts:
        names = [_item(_Item.ABSTRACT_SYNTAX, each.abstract_syntax.encode("ascii"))]
        names += [_item(_Item.TRANSFER_SYNTAX, syntax.encode("ascii")) for syntax in each.transfer_syntaxes]
        parts.append(_item(_Item.PROPOSED_CONTEXT, _CONTEXT.pack(each.id, 0) + b"".join(names)))
    items = _common_items(request)
    for common in request.common_extended:
        related = b"".join(map(_counted_text, common.related))
        value = _counted_text(common.sop_class_uid) + _counted_text(common.service_class_uid) + _counted(related)
        items.append(_item(_Item.COMMON_EXTENDED, value))
    identity = request.identity
    if identity is not None:
        value = bytes((identity.kind, identity.response_wanted))
        items.append(_item(_Item.USER_IDENTITY, value + _counted(identity.primary) + _counted(identity.secondary)))
    parts.append(_item(_Item.USER_INFORMATION, b"".join(items)))
    return _whole(Kind.ASSOCIATE_RQ, request.protocol_version, request.called_aet, request.calling_aet, parts)


def encode_agreement(agreement: Agreement) -> bytes:
    """Write an A-ASSOCIATE-AC with its header. Raises ValueError if a text is not ASCII or a value too long."""
    parts = [_item(_Item.APPLICATION_CONTEXT, APPLICATION_CONTEXT.encode("ascii"))]
    for each in agreement.contexts:
        # Of a refused one the transfer syntax is not significant, but it has to be there: PS3.8 section 9.3.3.2.
        result, syntax = (
            (0, each.transfer_syntax) if isinstance(each, Context) else (each.reason, _DEFAULT_TRANSFER_SYNTAX)
        )
        name = _item(_Item.TRANSFER_SYNTAX, syntax.encode("ascii"))
        parts.append(_item(_Item.AGREED_CONTEXT, _CONTEXT.pack(each.id, result) + name))
    items = _common_items(agreement)
    if agreement.identity_response is not None:
        items.append(_item(_Item.USER_IDENTITY_ANSWER, _counted(agreement.identity_response)))
    parts.append(_item(_Item.USER_INFORMATION, b"".join(items)))
    return _whole(Kind.ASSOCIATE_AC, 1, agreement.called_aet, agreement.calling_aet, parts)


def decode_agreement(body: bytes) -> Agreement:
    """Read what follows the header of an A-ASSOCIATE-AC. Raises MalformedError."""
    _, called, calling = _fixed(body)
    contexts: list[Context | RefusedContext] = []
    user = _User()
    for kind, value in _items(body, _FIXED.size):
        if kind == _Item.AGREED_CONTEXT:
            contexts.append(_agreed(value))
        elif kind == _Item.USER_INFORMATION:
            user.read(value)
    return Agreement(
        called_aet=_text(called),
        calling_aet=_text(calling),
        contexts=tuple(contexts),
        max_pdu=user.max_pdu,
        implementation_class_uid=user.implementation_class_uid,
        implementation_version=user.implementation_version,
        window=user.window,
        identity_response=user.identity_response,
        roles=tuple(user.roles),
        extended=tuple(user.extended),
    )


@dataclass
class _User:
    """The user information item as far as it has been read, PS3.7 section D.3.3."""

    max_pdu: int = 0
    implementation_class_uid: str = ""
    implementation_version: str = ""
    window: tuple[int, int] | None = None
    identity: UserIdentity | None = None
    identity_response: bytes | None = None
    roles: list[Role] = field(default_factory=list)
    extended: list[Extended] = field(default_factory=list)
    common_extended: list[CommonExtended] = field(default_factory=list)

    def read(self, data: bytes) -> None:
        for kind, value in _items(data, 0):
            match kind:
                case _Item.MAXIMUM_LENGTH:
                    (self.max_pdu,) = _exactly(_LONG, value)
                case _Item.IMPLEMENTATION_CLASS_UID:
                    self.implementation_class_uid = _text(value)
                case _Item.IMPLEMENTATION_VERSION:
                    self.implementation_version = _text(value)
                case _Item.OPERATIONS_WINDOW:
                    invoked, performed = _exactly(_WINDOW, value)
                    self.window = (invoked, performed)
                case _:
                    self._read_rare(kind, value)

    def _read_rare(self, kind: int, value: bytes) -> None:
        match kind:
            case _Item.ROLES:
                name, at = _take(value, 0)
                scu, scp = _exactly(_ROLES, value[at:])
                self.roles.append(Role(_text(name), bool(scu), bool(scp)))
            case _Item.EXTENDED:
                name, at = _take(value, 0)
                self.extended.append(Extended(_text(name), value[at:]))
            case _Item.COMMON_EXTENDED:
                self.common_extended.append(_common_extended(value))
            case _Item.USER_IDENTITY:
                primary, at = _take(value, 2)
                secondary, _ = _take(value, at)
                self.identity = UserIdentity(value[0], bool(value[1]), primary, secondary)
            case _Item.USER_IDENTITY_ANSWER:
                self.identity_response, _ = _take(value, 0)


def _malformed(problem: str) -> MalformedError:
    return MalformedError(Reason.INVALID_PARAMETER_VALUE, problem)


def _fixed(body: bytes) -> tuple[int, bytes, bytes]:
    if len(body) < _FIXED.size:
        raise _malformed("an A-ASSOCIATE is shorter than its fixed fields")
    version, called, calling = _FIXED.unpack_from(body)
    return version, called, calling


def _items(data: bytes, offset: int) -> Iterator[tuple[int, bytes]]:
    """Give type and value of each item."""
    end = len(data)
    while offset < end:
        if end - offset < _ITEM.size:
            raise _malformed("an A-ASSOCIATE ends within the head of an item")
        kind, length = _ITEM.unpack_from(data, offset)
        offset += _ITEM.size
        if length > end - offset:
            raise _malformed("an item of an A-ASSOCIATE is longer than what holds it")
        yield kind, data[offset : offset + length]
        offset += length


def _exactly(form: struct.Struct, value: bytes) -> tuple[int, ...]:
    if len(value) != form.size:
        raise _malformed("an item of an A-ASSOCIATE does not have the length of its kind")
    return form.unpack(value)


def _take(value: bytes, offset: int) -> tuple[bytes, int]:
    """Take a field with its length before it; give it and the offset after it."""
    start = offset + _LENGTH.size
    if start > len(value):
        raise _malformed("an item of an A-ASSOCIATE ends within the length of a field")
    end = start + int.from_bytes(value[offset:start], "big")
    if end > len(value):
        raise _malformed("a field of an A-ASSOCIATE is longer than its item")
    return value[start:end], end


def _proposed(value: bytes) -> Proposed:
    identifier, _ = _context(value)
    abstract, transfers = "", []
    for kind, name in _items(value, _CONTEXT.size):
        if kind == _Item.ABSTRACT_SYNTAX:
            abstract = _name(name)
        elif kind == _Item.TRANSFER_SYNTAX and _name(name):
            transfers.append(_name(name))
    return Proposed(identifier, abstract, tuple(transfers))


def _agreed(value: bytes) -> Context | RefusedContext:
    identifier, result = _context(value)
    if result:
        return RefusedContext(identifier, result)
    for kind, name in _items(value, _CONTEXT.size):
        if kind == _Item.TRANSFER_SYNTAX:
            return Context(identifier, "", _name(name))
    raise _malformed("an accepted presentation context has no transfer syntax")


def _context(value: bytes) -> tuple[int, int]:
    if len(value) < _CONTEXT.size:
        raise _malformed("a presentation context is shorter than its fixed fields")
    identifier, result = _CONTEXT.unpack_from(value)
    if identifier % 2 == 0:
        raise _malformed("the identifier of a presentation context is not odd")
    return identifier, result


def _common_extended(value: bytes) -> CommonExtended:
    sop_class, at = _take(value, 0)
    service_class, at = _take(value, at)
    listed, _ = _take(value, at)
    related, at = [], 0
    while at < len(listed):
        name, at = _take(listed, at)
        related.append(_text(name))
    return CommonExtended(_text(sop_class), _text(service_class), tuple(related))


def _name(raw: bytes) -> str:
    """Give a UID, or nothing where there is none: one bad name is no ground to refuse all else that a scanner has."""
    bare = raw.rstrip(b"\0 ")
    return bare.decode("ascii") if _NAME.fullmatch(bare) else ""


def _text(raw: bytes) -> str:
    return raw.decode("ascii", "backslashreplace").strip("\0 ")


def _item(kind: _Item, value: bytes) -> bytes:
    if len(value) >> 16:
        raise ValueError("an item of an A-ASSOCIATE can't be longer than 65535 bytes")
    return _ITEM.pack(kind, len(value)) + value


def _counted(value: bytes) -> bytes:
    if len(value) >> 16:
        raise ValueError("a field of an A-ASSOCIATE can't be longer than 65535 bytes")
    return _LENGTH.pack(len(value)) + value


def _counted_text(value: str) -> bytes:
    return _counted(value.encode("ascii"))


def _common_items(said: Request | Agreement) -> list[bytes]:
    items = [
        _item(_Item.MAXIMUM_LENGTH, _LONG.pack(said.max_pdu)),
        _item(_Item.IMPLEMENTATION_CLASS_UID, said.implementation_class_uid.encode("ascii")),
    ]
    if said.window is not None:
        items.append(_item(_Item.OPERATIONS_WINDOW, _WINDOW.pack(*said.window)))
    items += [
        _item(_Item.ROLES, _counted_text(role.sop_class_uid) + _ROLES.pack(role.scu, role.scp)) for role in said.roles
    ]
    if said.implementation_version:
        items.append(_item(_Item.IMPLEMENTATION_VERSION, said.implementation_version.encode("ascii")))
    return items + [
        _item(_Item.EXTENDED, _counted_text(extended.sop_class_uid) + extended.information)
        for extended in said.extended
    ]


def _whole(kind: Kind, version: int, called: str, calling: str, parts: list[bytes]) -> bytes:
    titles = [each.encode("ascii", "replace").ljust(16)[:16] for each in (called, calling)]
    body = _FIXED.pack(version, *titles) + b"".join(parts)
    return HEADER.pack(kind, len(body)) + body
