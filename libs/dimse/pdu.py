"""Protocol data units of the upper layer as bytes, but for the two that negotiate. PS3.8 section 9.3."""

import struct
from dataclasses import dataclass
from enum import IntEnum
from typing import Final

#: PDU type, reserved, length of what follows.
HEADER: Final = struct.Struct(">BxI")
#: Length of what follows, presentation context, message control header: PS3.8 section 9.3.5.1 and annex E.2.
FRAGMENT: Final = struct.Struct(">IBB")
#: What the length of a fragment counts besides its bytes: presentation context and message control header.
FRAGMENT_OVERHEAD: Final = 2
#: Bits of the message control header; the others are never checked, PS3.8 section E.2.
COMMAND: Final = 1
LAST: Final = 2

_SMALL: Final = struct.Struct(">BxIxBBB")
_SMALL_LENGTH: Final = 4


class Kind(IntEnum):
    """PDU types."""

    ASSOCIATE_RQ = 1
    ASSOCIATE_AC = 2
    ASSOCIATE_RJ = 3
    P_DATA = 4
    RELEASE_RQ = 5
    RELEASE_RP = 6
    ABORT = 7


#: As a plain number: an enumeration's attribute costs where it is looked up for each PDU.
_P_DATA: Final = int(Kind.P_DATA)


class Source(IntEnum):
    """Who aborts, PS3.8 section 9.3.8."""

    USER = 0
    PROVIDER = 2


class Reason(IntEnum):
    """Why the provider aborts, PS3.8 section 9.3.8. Not significant when the user does."""

    NOT_SPECIFIED = 0
    UNRECOGNIZED_PDU = 1
    UNEXPECTED_PDU = 2
    UNRECOGNIZED_PARAMETER = 4
    UNEXPECTED_PARAMETER = 5
    INVALID_PARAMETER_VALUE = 6


class MalformedError(Exception):
    """The peer broke the protocol; the text is a sentence for people, without data of the peer.

    Attributes
    ----------
    reason
        What an A-ABORT says of it.
    """

    def __init__(self, reason: Reason, problem: str) -> None:
        super().__init__(problem)
        self.reason = reason


@dataclass(frozen=True)
class Rejection:
    """A-ASSOCIATE-RJ, PS3.8 section 9.3.4.

    Attributes
    ----------
    result
        1 permanent, 2 transient.
    source
        1 service user, 2 provider (ACSE), 3 provider (presentation).
    reason
        By source. User: 1 none given, 2 application context, 3 calling AE title, 7 called AE title. ACSE: 1 none given,
        2 protocol version. Presentation: 1 temporary congestion, 2 local limit exceeded.
    """

    result: int
    source: int
    reason: int


def encode_rejection(rejection: Rejection) -> bytes:
    """Write an A-ASSOCIATE-RJ, PS3.8 section 9.3.4."""
    return _SMALL.pack(Kind.ASSOCIATE_RJ, _SMALL_LENGTH, rejection.result, rejection.source, rejection.reason)


def decode_rejection(body: bytes) -> Rejection:
    """Read what follows the header of an A-ASSOCIATE-RJ. Raises MalformedError."""
    if len(body) != _SMALL_LENGTH:
        raise MalformedError(Reason.INVALID_PARAMETER_VALUE, "an A-ASSOCIATE-RJ is not 4 bytes long")
    return Rejection(body[1], body[2], body[3])


def encode_abort(source: Source, reason: Reason) -> bytes:
    """Write an A-ABORT, PS3.8 section 9.3.8."""
    return _SMALL.pack(Kind.ABORT, _SMALL_LENGTH, 0, source, reason)


def encode_release_rq() -> bytes:
    """Write an A-RELEASE-RQ, PS3.8 section 9.3.6."""
    return _SMALL.pack(Kind.RELEASE_RQ, _SMALL_LENGTH, 0, 0, 0)


def encode_release_rp() -> bytes:
    """Write an A-RELEASE-RP, PS3.8 section 9.3.7."""
    return _SMALL.pack(Kind.RELEASE_RP, _SMALL_LENGTH, 0, 0, 0)


def encode_p_data(context_id: int, data: bytes, *, command: bool, max_pdu: int) -> bytes:
    """Write one part of a message as P-DATA-TF, one fragment in each, PS3.8 section 9.3.5 and annex E.

    Parameters
    ----------
    context_id
        Of an accepted presentation context.
    data
        A whole command set or dataset, of even length.
    command
        Whether it is a command set.
    max_pdu
        Longest PDU that the peer takes, in bytes without the header; 0 if it takes any.
    """
    # Fragments have an even length, PS3.8 section E.1.
    longest = len(data) if max_pdu == 0 else max(2, (max_pdu - FRAGMENT.size) & ~1)
    kind = COMMAND if command else 0
    if len(data) <= longest:
        head = HEADER.pack(_P_DATA, FRAGMENT.size + len(data))
        return head + FRAGMENT.pack(len(data) + FRAGMENT_OVERHEAD, context_id, kind | LAST) + data
    parts = []
    for start in range(0, len(data), longest):
        part = data[start : start + longest]
        flags = kind | (LAST if start + longest >= len(data) else 0)
        parts += [
            HEADER.pack(_P_DATA, FRAGMENT.size + len(part)),
            FRAGMENT.pack(len(part) + FRAGMENT_OVERHEAD, context_id, flags),
            part,
        ]
    return b"".join(parts)
