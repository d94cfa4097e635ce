"""Command sets: implicit VR, little endian, group 0000. PS3.7 section 6.3 and annex E."""

import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from libs.dimse.pdu import MalformedError, Reason

C_STORE_RQ: Final = 0x0001
C_FIND_RQ: Final = 0x0020
C_MOVE_RQ: Final = 0x0021
C_ECHO_RQ: Final = 0x0030
C_CANCEL_RQ: Final = 0x0FFF
N_EVENT_REPORT_RQ: Final = 0x0100
N_GET_RQ: Final = 0x0110
N_SET_RQ: Final = 0x0120
N_ACTION_RQ: Final = 0x0130
N_CREATE_RQ: Final = 0x0140
#: Set in the command field of every response.
RESPONSE: Final = 0x8000
#: Command data set type of a message without dataset; any other value says that one follows.
NO_DATASET: Final = 0x0101
_DATASET: Final = 0x0001

#: PS3.7 annex C.
SUCCESS: Final = 0x0000
NO_SUCH_ATTRIBUTE: Final = 0x0105
INVALID_ATTRIBUTE_VALUE: Final = 0x0106
#: A warning: some attributes of the list are not known.
ATTRIBUTE_LIST_ERROR: Final = 0x0107
PROCESSING_FAILURE: Final = 0x0110
DUPLICATE_SOP_INSTANCE: Final = 0x0111
NO_SUCH_SOP_INSTANCE: Final = 0x0112
NO_SUCH_EVENT_TYPE: Final = 0x0113
INVALID_ARGUMENT_VALUE: Final = 0x0115
#: A warning: a value was changed so as to fit.
ATTRIBUTE_VALUE_OUT_OF_RANGE: Final = 0x0116
INVALID_OBJECT_INSTANCE: Final = 0x0117
NO_SUCH_SOP_CLASS: Final = 0x0118
MISSING_ATTRIBUTE: Final = 0x0120
MISSING_ATTRIBUTE_VALUE: Final = 0x0121
SOP_CLASS_NOT_SUPPORTED: Final = 0x0122
NOT_AUTHORIZED: Final = 0x0124
UNRECOGNIZED_OPERATION: Final = 0x0211
RESOURCE_LIMITATION: Final = 0x0213
#: More responses follow; the second one: without all optional keys.
PENDING: Final = 0xFF00
PENDING_WARNING: Final = 0xFF01
CANCELLED: Final = 0xFE00

_ELEMENT: Final = struct.Struct("<HHI")
_US: Final = struct.Struct("<H")
_UL: Final = struct.Struct("<I")
_TAG: Final = struct.Struct("<HH")
_GROUP_LENGTH, _SOP_CLASS, _FIELD, _MESSAGE_ID, _RESPONDED_TO = 0x0000, 0x0002, 0x0100, 0x0110, 0x0120
_DATASET_TYPE, _STATUS, _COMMENT, _SOP_INSTANCE = 0x0800, 0x0900, 0x0902, 0x1000
_REQUESTED_CLASS, _REQUESTED_INSTANCE, _EVENT_TYPE, _ACTION_TYPE = 0x0003, 0x1001, 0x1002, 0x1008
_ERROR_ID, _ATTRIBUTES = 0x0903, 0x1005
#: PS3.5 section 9.1: 64 characters are even, so padding adds none.
_LONGEST_UID: Final = 64
_LONGEST_COMMENT: Final = 64


@dataclass(frozen=True, slots=True)
class Command:
    """A command set.

    Attributes
    ----------
    elements
        Value by element number of group 0000, as received: padded, little endian. Without the group length.
    """

    elements: Mapping[int, bytes]

    @property
    def field(self) -> int:
        """(0000,0100): which operation, and whether request or response."""
        return self.number(_FIELD)

    @property
    def message_id(self) -> int:
        """(0000,0110) of a request."""
        return self.number(_MESSAGE_ID)

    @property
    def responded_to(self) -> int:
        """(0000,0120) of a response: the message identifier of the request."""
        return self.number(_RESPONDED_TO)

    @property
    def has_dataset(self) -> bool:
        """(0000,0800): whether a dataset follows."""
        return self.number(_DATASET_TYPE) != NO_DATASET

    @property
    def status(self) -> int:
        """(0000,0900) of a response."""
        return self.number(_STATUS)

    @property
    def sop_class_uid(self) -> str:
        """(0000,0002), affected SOP class; empty if absent."""
        return self.text(_SOP_CLASS)

    @property
    def sop_instance_uid(self) -> str:
        """(0000,1000), affected SOP instance; empty if absent."""
        return self.text(_SOP_INSTANCE)

    @property
    def requested_class_uid(self) -> str:
        """(0000,0003), SOP class of what N-SET, N-GET and N-ACTION are about; empty if absent."""
        return self.text(_REQUESTED_CLASS)

    @property
    def requested_instance_uid(self) -> str:
        """(0000,1001), SOP instance of what N-SET, N-GET and N-ACTION are about; empty if absent."""
        return self.text(_REQUESTED_INSTANCE)

    @property
    def attributes(self) -> tuple[int, ...]:
        """(0000,1005), tags that an N-GET asks for; empty: all. Raises MalformedError for half a tag."""
        value = self.elements.get(_ATTRIBUTES, b"")
        if len(value) % _TAG.size:
            raise MalformedError(Reason.INVALID_PARAMETER_VALUE, "a list of attributes ends within a tag")
        return tuple(group << 16 | element for group, element in _TAG.iter_unpack(value))

    @property
    def error_id(self) -> int:
        """(0000,0903) of a response: what its service says of an error beside the status; 0 if absent."""
        return self.number(_ERROR_ID) if _ERROR_ID in self.elements else 0

    @property
    def event_type(self) -> int:
        """(0000,1002) of an N-EVENT-REPORT."""
        return self.number(_EVENT_TYPE)

    @property
    def comment(self) -> str:
        """(0000,0902), what a response says of an error; empty if absent. It may hold anything."""
        return self.text(_COMMENT)

    def number(self, element: int) -> int:
        """Give the value of an element of VR US. Raises MalformedError if it is absent or not of 2 bytes."""
        value = self.elements.get(element, b"")
        if len(value) != _US.size:
            raise MalformedError(
                Reason.INVALID_PARAMETER_VALUE, f"the command element (0000,{element:04X}) is not a number of 2 bytes"
            )
        return int.from_bytes(value, "little")

    def text(self, element: int) -> str:
        """Give the value of an element of text without its padding; empty if absent."""
        return self.elements.get(element, b"").decode("ascii", "backslashreplace").rstrip("\0 ")


def decode(data: bytes | bytearray | memoryview) -> Command:
    """Read a command set.

    Raises
    ------
    MalformedError
        It ends within an element, has elements of another group, or lacks command field, message identifier or dataset
        type: nothing can be answered.
    """
    raw = bytes(data)
    elements: dict[int, bytes] = {}
    offset, end = 0, len(raw)
    head, unpack = _ELEMENT.size, _ELEMENT.unpack_from
    while offset < end:
        if end - offset < head:
            raise MalformedError(Reason.INVALID_PARAMETER_VALUE, "a command set ends within an element")
        group, element, length = unpack(raw, offset)
        offset += head
        if group:
            raise MalformedError(Reason.INVALID_PARAMETER_VALUE, "a command set has an element outside group 0000")
        if length > end - offset:
            raise MalformedError(Reason.INVALID_PARAMETER_VALUE, "an element of a command set is longer than the set")
        elements[element] = raw[offset : offset + length]
        offset += length
    elements.pop(_GROUP_LENGTH, None)
    command = Command(elements)
    command.number(_DATASET_TYPE)
    field = command.field
    command.number(_RESPONDED_TO if field & RESPONSE or field == C_CANCEL_RQ else _MESSAGE_ID)
    return command


def encode(command: Command) -> bytes:
    """Write a command set, in order and with its group length."""
    body = b"".join(
        [
            _ELEMENT.pack(0, element, len(value)) + value
            if len(value) % 2 == 0
            else _ELEMENT.pack(0, element, len(value) + 1) + value + b"\0"
            for element, value in sorted(command.elements.items())
        ]
    )
    return _ELEMENT.pack(0, _GROUP_LENGTH, _UL.size) + _UL.pack(len(body)) + body


def response(
    request: Command,
    status: int,
    comment: str = "",
    *,
    dataset: bool = False,
    error_id: int | None = None,
    sop_instance_uid: str = "",
    attributes: Sequence[int] = (),
) -> Command:
    """Make the response to a request, PS3.7 sections 9.3 and 10.3.

    Parameters
    ----------
    request
        Whose message identifier, SOP class and instance, and event type are repeated.
    status
        PS3.7 annex C, or as the service says.
    comment
        (0000,0902), at most 64 characters; what is longer is cut. No personal data.
    dataset
        Whether one follows.
    error_id
        (0000,0903), as the service says.
    sop_instance_uid
        Of what an N-CREATE without one has made.
    attributes
        (0000,1005): tags of what the status is about.
    """
    elements = {
        _FIELD: _US.pack(request.field | RESPONSE),
        _RESPONDED_TO: request.elements.get(_MESSAGE_ID, b"\0\0"),
        _DATASET_TYPE: _US.pack(_DATASET if dataset else NO_DATASET),
        _STATUS: _US.pack(status),
    }
    for element, requested in ((_SOP_CLASS, _REQUESTED_CLASS), (_SOP_INSTANCE, _REQUESTED_INSTANCE)):
        # Optional in a response (PS3.7 tables 9.1-1 to 10.1-5), and what is no UID would break the peer's own reading.
        uid = request.elements.get(element, request.elements.get(requested))
        if uid is not None and len(uid) <= _LONGEST_UID:
            elements[element] = uid
    if sop_instance_uid:
        elements[_SOP_INSTANCE] = sop_instance_uid.encode("ascii")
    if len(request.elements.get(_EVENT_TYPE, b"")) == _US.size:
        elements[_EVENT_TYPE] = request.elements[_EVENT_TYPE]
    if error_id is not None:
        elements[_ERROR_ID] = _US.pack(error_id)
    if attributes:
        elements[_ATTRIBUTES] = b"".join(_TAG.pack(tag >> 16, tag & 0xFFFF) for tag in attributes)
    if comment:
        elements[_COMMENT] = comment.encode("ascii", "replace")[:_LONGEST_COMMENT]
    return Command(elements)


def store_request(message_id: int, sop_class_uid: str, sop_instance_uid: str) -> Command:
    """Make a C-STORE request of medium priority, PS3.7 section 9.3.1.1."""
    return Command(
        {
            _SOP_CLASS: sop_class_uid.encode("ascii"),
            _FIELD: _US.pack(C_STORE_RQ),
            _MESSAGE_ID: _US.pack(message_id),
            0x0700: _US.pack(0),
            _DATASET_TYPE: _US.pack(1),
            _SOP_INSTANCE: sop_instance_uid.encode("ascii"),
        }
    )


def find_request(message_id: int, sop_class_uid: str) -> Command:
    """Make a C-FIND request of medium priority, PS3.7 section 9.3.2.1."""
    return Command(
        {
            _SOP_CLASS: sop_class_uid.encode("ascii"),
            _FIELD: _US.pack(C_FIND_RQ),
            _MESSAGE_ID: _US.pack(message_id),
            0x0700: _US.pack(0),
            _DATASET_TYPE: _US.pack(1),
        }
    )


def move_request(message_id: int, sop_class_uid: str, destination: str) -> Command:
    """Make a C-MOVE request of medium priority to an AE title, PS3.7 section 9.3.4.1."""
    aet = destination.encode("ascii")
    return Command(
        {
            _SOP_CLASS: sop_class_uid.encode("ascii"),
            _FIELD: _US.pack(C_MOVE_RQ),
            _MESSAGE_ID: _US.pack(message_id),
            0x0600: aet + b" " * (len(aet) % 2),
            0x0700: _US.pack(0),
            _DATASET_TYPE: _US.pack(1),
        }
    )


def echo_request(message_id: int) -> Command:
    """Make a C-ECHO request, PS3.7 section 9.3.5.1."""
    return Command(
        {
            _SOP_CLASS: b"1.2.840.10008.1.1",
            _FIELD: _US.pack(C_ECHO_RQ),
            _MESSAGE_ID: _US.pack(message_id),
            _DATASET_TYPE: _US.pack(NO_DATASET),
        }
    )


def action_request(message_id: int, sop_class_uid: str, sop_instance_uid: str, action_type: int) -> Command:
    """Make an N-ACTION request with a dataset, PS3.7 section 10.3.4.1."""
    return Command(
        {
            _REQUESTED_CLASS: sop_class_uid.encode("ascii"),
            _FIELD: _US.pack(N_ACTION_RQ),
            _MESSAGE_ID: _US.pack(message_id),
            _DATASET_TYPE: _US.pack(1),
            _REQUESTED_INSTANCE: sop_instance_uid.encode("ascii"),
            _ACTION_TYPE: _US.pack(action_type),
        }
    )


def event_report_request(message_id: int, sop_class_uid: str, sop_instance_uid: str, event_type: int) -> Command:
    """Make an N-EVENT-REPORT request with a dataset, PS3.7 section 10.3.1.1."""
    return Command(
        {
            _SOP_CLASS: sop_class_uid.encode("ascii"),
            _FIELD: _US.pack(N_EVENT_REPORT_RQ),
            _MESSAGE_ID: _US.pack(message_id),
            _DATASET_TYPE: _US.pack(1),
            _SOP_INSTANCE: sop_instance_uid.encode("ascii"),
            _EVENT_TYPE: _US.pack(event_type),
        }
    )


def cancel_request(message_id: int) -> Command:
    """Make a C-CANCEL of the request that has this message identifier, PS3.7 section 9.3.2.3."""
    return Command(
        {_FIELD: _US.pack(C_CANCEL_RQ), _RESPONDED_TO: _US.pack(message_id), _DATASET_TYPE: _US.pack(NO_DATASET)}
    )


def create_request(message_id: int, sop_class_uid: str, sop_instance_uid: str) -> Command:
    """Make an N-CREATE request with a dataset, PS3.7 section 10.3.5.1; the UID empty: the peer is to give one."""
    elements = {
        _SOP_CLASS: sop_class_uid.encode("ascii"),
        _FIELD: _US.pack(N_CREATE_RQ),
        _MESSAGE_ID: _US.pack(message_id),
        _DATASET_TYPE: _US.pack(_DATASET),
    }
    if sop_instance_uid:
        elements[_SOP_INSTANCE] = sop_instance_uid.encode("ascii")
    return Command(elements)


def set_request(message_id: int, sop_class_uid: str, sop_instance_uid: str) -> Command:
    """Make an N-SET request with a dataset, PS3.7 section 10.3.3.1."""
    return Command(
        {
            _REQUESTED_CLASS: sop_class_uid.encode("ascii"),
            _FIELD: _US.pack(N_SET_RQ),
            _MESSAGE_ID: _US.pack(message_id),
            _DATASET_TYPE: _US.pack(_DATASET),
            _REQUESTED_INSTANCE: sop_instance_uid.encode("ascii"),
        }
    )


def get_request(message_id: int, sop_class_uid: str, sop_instance_uid: str, attributes: Sequence[int] = ()) -> Command:
    """Make an N-GET request of the attributes with these tags, all if there are none, PS3.7 section 10.3.2.1."""
    elements = {
        _REQUESTED_CLASS: sop_class_uid.encode("ascii"),
        _FIELD: _US.pack(N_GET_RQ),
        _MESSAGE_ID: _US.pack(message_id),
        _DATASET_TYPE: _US.pack(NO_DATASET),
        _REQUESTED_INSTANCE: sop_instance_uid.encode("ascii"),
    }
    if attributes:
        elements[_ATTRIBUTES] = b"".join(_TAG.pack(tag >> 16, tag & 0xFFFF) for tag in attributes)
    return Command(elements)
