"""C-FIND and C-MOVE of the Study Root model as the one who asks, PS3.4 annex C, to see what a peer has.

- propose `(STUDY_ROOT, IMPLICIT)`; `find(association, context_id, message_id, keys) -> list of answers`
- propose `(STUDY_ROOT_MOVE, IMPLICIT)`; `move(association, context_id, message_id, keys, destination) -> status`
- keys and answers are texts by tag; the tags that serve are named here

Answers come from peers that may be wrong or hostile: their number and length are bounded, and what is not in implicit
VR little endian, as was agreed on, ends the association.
"""

import struct
from collections.abc import Mapping
from typing import Final

from libs.dimse import command as commands
from libs.dimse.pdu import MalformedError, Reason
from libs.dimse.requestor import Association

#: Study Root Query/Retrieve Information Model - FIND, PS3.4 section C.6.2.
STUDY_ROOT: Final = "1.2.840.10008.5.1.4.1.2.2.1"
#: Study Root Query/Retrieve Information Model - MOVE.
STUDY_ROOT_MOVE: Final = "1.2.840.10008.5.1.4.1.2.2.2"
IMPLICIT: Final = "1.2.840.10008.1.2"

INSTANCE: Final = 0x0008_0018
LEVEL: Final = 0x0008_0052
STUDY: Final = 0x0020_000D
SERIES: Final = 0x0020_000E
#: Number of Study Related Instances.
INSTANCES_OF_STUDY: Final = 0x0020_1208

#: PS3.4 table C.4-1: a match comes with it.
_PENDING: Final = (0xFF00, 0xFF01)
#: Series of a study, or images of a series: far more than any has.
MOST_ANSWERS: Final = 200_000
_HEAD: Final = struct.Struct("<HHI")
_UNDEFINED: Final = 0xFFFF_FFFF
_UIDS: Final = frozenset({INSTANCE, STUDY, SERIES})


class QueryRefusedError(Exception):
    """The peer answers the query with a failure; the association stands.

    Attributes
    ----------
    status
        What it says, PS3.4 table C.4-1.
    """

    def __init__(self, status: int) -> None:
        super().__init__(f"it answers C-FIND with status {status:04X}")
        self.status = status


def find(association: Association, context_id: int, message_id: int, keys: Mapping[int, str]) -> list[dict[int, str]]:
    """Ask for matches, and give them all.

    Parameters
    ----------
    association, context_id
        Where `STUDY_ROOT` was accepted in implicit VR little endian.
    message_id
        Of no other request that is under way.
    keys
        By tag; empty: to be told.

    Raises
    ------
    QueryRefusedError
        The query came to no good end: what was found so far tells nothing.
    MalformedError, and what `Association.send` and `receive` raise
        The association is over.
    """
    association.send(context_id, commands.find_request(message_id, STUDY_ROOT), (encode(keys),))
    found: list[dict[int, str]] = []
    while True:
        message = association.receive()
        answer = message.command
        if answer.field != commands.C_FIND_RQ | commands.RESPONSE or answer.responded_to != message_id:
            raise MalformedError(Reason.UNEXPECTED_PARAMETER, "something else came in place of an answer to C-FIND")
        if answer.status == commands.SUCCESS:
            return found
        if answer.status not in _PENDING:
            raise QueryRefusedError(answer.status)
        if len(found) >= MOST_ANSWERS:
            raise MalformedError(Reason.UNEXPECTED_PARAMETER, f"C-FIND gives more than {MOST_ANSWERS} matches")
        found.append(decode(message.dataset or b""))


def move(association: Association, context_id: int, message_id: int, keys: Mapping[int, str], destination: str) -> int:
    """Have a peer send what matches to an AE title that it knows; give its last status, PS3.4 table C.4-2.

    Raises MalformedError, and what `Association.send` and `receive` raise: the association is over.
    """
    association.send(context_id, commands.move_request(message_id, STUDY_ROOT_MOVE, destination), (encode(keys),))
    for _ in range(MOST_ANSWERS):
        answer = association.receive().command
        if answer.field != commands.C_MOVE_RQ | commands.RESPONSE or answer.responded_to != message_id:
            raise MalformedError(Reason.UNEXPECTED_PARAMETER, "something else came in place of an answer to C-MOVE")
        if answer.status not in _PENDING:
            return answer.status
    raise MalformedError(Reason.UNEXPECTED_PARAMETER, f"C-MOVE goes on after {MOST_ANSWERS} answers")


def encode(keys: Mapping[int, str]) -> bytes:
    """Write an identifier in implicit VR little endian, PS3.5 section 7.1.3."""
    parts = []
    for tag, text in sorted(keys.items()):
        value = text.encode("ascii")
        if len(value) % 2:
            value += b"\0" if tag in _UIDS else b" "
        parts.append(_HEAD.pack(tag >> 16, tag & 0xFFFF, len(value)) + value)
    return b"".join(parts)


def decode(identifier: bytes) -> dict[int, str]:
    """Read the texts of an identifier in implicit VR little endian. Raises MalformedError."""
    found: dict[int, str] = {}
    at = 0
    while at < len(identifier):
        if len(identifier) - at < _HEAD.size:
            raise MalformedError(Reason.INVALID_PARAMETER_VALUE, "an answer to C-FIND ends within an element")
        group, element, length = _HEAD.unpack_from(identifier, at)
        at += _HEAD.size
        if length == _UNDEFINED or length > len(identifier) - at:
            raise MalformedError(Reason.INVALID_PARAMETER_VALUE, "an answer to C-FIND has an element without an end")
        found[group << 16 | element] = identifier[at : at + length].decode("ascii", "replace").strip(" \0")
        at += length
    return found
