"""A C-CANCEL among bytes that have come while a request is answered. Pure."""

from libs.dimse import command as commands
from libs.dimse.pdu import COMMAND, FRAGMENT, FRAGMENT_OVERHEAD, HEADER, LAST, Kind, MalformedError


def cancellation(waiting: memoryview) -> tuple[int, int] | None:
    """Find a C-CANCEL that stands whole at the start of what has come, PS3.7 section 9.3.2.3.

    Parameters
    ----------
    waiting
        Bytes from the head of a PDU on.

    Returns
    -------
    tuple or None
        How many bytes it takes, and the message identifier of what it cancels. None: something else stands there, or
        not all of it is there yet; what is wrong with it is found by whoever takes it.
    """
    command = bytearray()
    at = 0
    while True:
        if len(waiting) - at < HEADER.size:
            return None
        kind, left = HEADER.unpack_from(waiting, at)
        at += HEADER.size
        if kind != Kind.P_DATA or len(waiting) - at < left:
            return None
        while left:
            if left < FRAGMENT.size:
                return None
            size, _, flags = FRAGMENT.unpack_from(waiting, at)
            size -= FRAGMENT_OVERHEAD
            left -= FRAGMENT.size + size
            if not flags & COMMAND or size < 0 or left < 0:
                return None
            command += waiting[at + FRAGMENT.size : at + FRAGMENT.size + size]
            at += FRAGMENT.size + size
            if flags & LAST:
                # What follows in the same PDU would lose its head.
                return None if left else _cancelled(at, command)


def _cancelled(taken: int, command: bytearray) -> tuple[int, int] | None:
    try:
        found = commands.decode(command)
    except MalformedError:
        return None
    return (taken, found.responded_to) if found.field == commands.C_CANCEL_RQ and not found.has_dataset else None
