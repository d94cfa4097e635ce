"""The DICOM upper layer in bytes, as a provider of C-STORE meets it: PS3.8 section 9.3, PS3.7 section 9.3 and annex D.

It shares no code with what it tests, and it can say what is wrong.
"""

import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

RQ, AC, RJ, P_DATA, RELEASE_RQ, RELEASE_RP, ABORT = range(1, 8)
#: Header of a PDU: its type, and the length of what follows.
HEAD = struct.Struct(">BxI")
STORE_RQ, STORE_RSP, ECHO_RQ, ECHO_RSP = 0x0001, 0x8001, 0x0030, 0x8030

_APPLICATION_CONTEXT = b"1.2.840.10008.3.1.1.1"
_IMPLEMENTATION = b"2.25.2"
_ACCEPTED, _NO_ABSTRACT_SYNTAX, _NO_TRANSFER_SYNTAXES = 0, 3, 4
_CONTEXT, _ANSWERED_CONTEXT, _ABSTRACT, _TRANSFER, _USER = 0x20, 0x21, 0x30, 0x40, 0x50
_MAX_PDU, _CLASS_UID, _WINDOW = 0x51, 0x52, 0x53
_DATA_FOLLOWS_NOT = 0x0101
#: Services other than storage: commitment, print, query, worklist, procedure steps.
_NOT_STORAGE = ("1.2.840.10008.1.20.", "1.2.840.10008.1.40", "1.2.840.10008.5.1.1.", "1.2.840.10008.5.1.4.1.2.",
                "1.2.840.10008.5.1.4.31", "1.2.840.10008.3.1.2.")  # fmt: skip


@dataclass(frozen=True)
class Proposal:
    """A presentation context of a request."""

    id: int
    abstract_syntax: str
    transfer_syntaxes: tuple[str, ...]


@dataclass(frozen=True)
class Asked:
    """An A-ASSOCIATE-RQ.

    Attributes
    ----------
    window
        Operations that the requestor wants to invoke at a time (0: any number); 1 if it does not ask for more.
    """

    called: str
    calling: str
    proposals: tuple[Proposal, ...]
    max_pdu: int
    window: int


@dataclass(frozen=True)
class Granted:
    """The answer to it: SOP class and transfer syntax by context, and operations at a time (0: any number)."""

    contexts: Mapping[int, tuple[str, str]]
    window: int


@dataclass(frozen=True)
class Command:
    """What matters of a command set."""

    field: int
    message_id: int
    sop_class: str
    sop_uid: str
    has_dataset: bool


def read_request(body: bytes) -> Asked:
    """Read the body of an A-ASSOCIATE-RQ (PS3.8 section 9.3.2)."""
    proposals, max_pdu, window = [], 0, 1
    for kind, value in _items(body[68:]):
        if kind == _CONTEXT:
            parts = [(each, part.rstrip(b"\0").decode()) for each, part in _items(value[4:])]
            abstract = "".join(part for each, part in parts if each == _ABSTRACT)
            proposals.append(Proposal(value[0], abstract, tuple(part for each, part in parts if each == _TRANSFER)))
        elif kind == _USER:
            user = dict(_items(value))
            max_pdu = int.from_bytes(user[_MAX_PDU], "big")
            if _WINDOW in user:
                window = int.from_bytes(user[_WINDOW][:2], "big")
    return Asked(body[4:20].decode().strip(), body[20:36].decode().strip(), tuple(proposals), max_pdu, window)


def grant(asked: Asked, *, syntaxes: tuple[str, ...] | None, window: int) -> Granted:
    """Decide what is granted: storage and verification, in the first transfer syntax that is taken (None: any)."""
    contexts = {}
    for each in asked.proposals:
        taken = [syntax for syntax in each.transfer_syntaxes if syntaxes is None or syntax in syntaxes]
        if taken and not each.abstract_syntax.startswith(_NOT_STORAGE):
            contexts[each.id] = each.abstract_syntax, taken[0]
    # 0 stands for any number, in what is asked and in what may be granted.
    return Granted(contexts, min((each for each in (asked.window, window) if each), default=0))


def accept(body: bytes, asked: Asked, granted: Granted, *, max_pdu: int) -> bytes:
    """Encode the A-ASSOCIATE-AC to a request (PS3.8 section 9.3.3)."""
    answered = b""
    for each in asked.proposals:
        if each.id in granted.contexts:
            result, syntax = _ACCEPTED, granted.contexts[each.id][1]
        else:
            storage = not each.abstract_syntax.startswith(_NOT_STORAGE)
            result, syntax = (_NO_TRANSFER_SYNTAXES if storage else _NO_ABSTRACT_SYNTAX), each.transfer_syntaxes[0]
        answered += _item(_ANSWERED_CONTEXT, bytes((each.id, 0, result, 0)) + _item(_TRANSFER, syntax.encode()))
    user = _item(_MAX_PDU, struct.pack(">I", max_pdu)) + _item(_CLASS_UID, _IMPLEMENTATION)
    if asked.window != 1:
        # Both numbers are the requestor's: those it may invoke, and those it performs (PS3.7 section D.3.3.3).
        user += _item(_WINDOW, struct.pack(">HH", granted.window, 1))
    # The titles come back as they came (PS3.8 table 9-17).
    return pdu(
        AC, struct.pack(">HH", 1, 0) + body[4:68] + _item(0x10, _APPLICATION_CONTEXT) + answered + _item(_USER, user)
    )


def pdu(kind: int, body: bytes) -> bytes:
    """Encode a PDU."""
    return HEAD.pack(kind, len(body)) + body


def fragments(body: bytes) -> Iterator[tuple[int, int, bytes]]:
    """Give the fragments of a P-DATA-TF: context, control header, data (PS3.8 section 9.3.5)."""
    at = 0
    while at < len(body):
        (length,) = struct.unpack_from(">I", body, at)
        yield body[at + 4], body[at + 5], body[at + 6 : at + 4 + length]
        at += 4 + length


def read_command(data: bytes) -> Command:
    """Read a command set (PS3.7 section 6.3.1)."""
    values: dict[int, bytes] = {}
    at = 0
    while at < len(data):
        _, element, length = struct.unpack_from("<HHI", data, at)
        values[element] = data[at + 8 : at + 8 + length]
        at += 8 + length
    return Command(
        field=_number(values[0x0100]),
        message_id=_number(values[0x0110]),
        sop_class=_uid(values.get(0x0002, b"")),
        sop_uid=_uid(values.get(0x1000, b"")),
        has_dataset=_number(values[0x0800]) != _DATA_FOLLOWS_NOT,
    )


def response(context: int, command: Command, status: int, *, field: int, message_id: int, max_pdu: int) -> bytes:
    """Encode a response to a command, in fragments that its requestor takes (PS3.7 table 9.3-2)."""
    elements = {
        0x0002: command.sop_class.encode(),
        0x0100: struct.pack("<H", field),
        0x0120: struct.pack("<H", message_id),
        0x0800: struct.pack("<H", _DATA_FOLLOWS_NOT),
        0x0900: struct.pack("<H", status),
        0x1000: command.sop_uid.encode(),
    }
    group = b"".join(_element(number, value) for number, value in elements.items() if value)
    data = _element(0, struct.pack("<I", len(group))) + group
    most = max_pdu - 6 if max_pdu else len(data)
    parts = [data[at : at + most] for at in range(0, len(data), most)]
    control = [1] * (len(parts) - 1) + [3]
    return b"".join(
        pdu(P_DATA, struct.pack(">IBB", len(part) + 2, context, each) + part)
        for part, each in zip(parts, control, strict=True)
    )


def _element(number: int, value: bytes) -> bytes:
    value += b"\0" * (len(value) % 2)
    return struct.pack("<HHI", 0, number, len(value)) + value


def _number(value: bytes) -> int:
    return int.from_bytes(value, "little")


def _uid(value: bytes) -> str:
    return value.rstrip(b"\0").decode()


def _item(kind: int, value: bytes) -> bytes:
    return struct.pack(">BBH", kind, 0, len(value)) + value


def _items(data: bytes) -> Iterator[tuple[int, bytes]]:
    at = 0
    while at < len(data):
        kind, length = struct.unpack_from(">BxH", data, at)
        yield kind, data[at + 4 : at + 4 + length]
        at += 4 + length
