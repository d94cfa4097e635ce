"""Answers: ACK with MSA and ERR, HL7 v2 chapter 2 sections 2.9, 2.14.1 (2.13.1 in older versions), 2.15.5 and 2.15.8.

The header is made anew from what the sender said, never copied.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final, Literal

from libs.hl7.delimiter import DEFAULT
from libs.hl7.escape import escape
from libs.hl7.message import Message

#: AA: taken. AE: the content is at fault, and stays so if it is sent again. AR: not now, to be sent again.
Answer = Literal["AA", "AE", "AR"]
#: The same for the enhanced mode, where it is said that a message was taken over.
_COMMIT: Final = {"AA": "CA", "AE": "CE", "AR": "CR"}
_MEANINGS: Final = {
    100: "Segment sequence error",
    101: "Required field missing",
    102: "Data type error",
    103: "Table value not found",
    200: "Unsupported message type",
    201: "Unsupported event code",
    203: "Unsupported version id",
    204: "Unknown key identifier",
    207: "Application internal error",
}
_VERSION: Final = re.compile(r"2\.(\d)(\.\d)?")
_ANSWERING: Final = frozenset({"ACK", "ADR", "DSR", "MCF", "ORF", "ORG", "ORI", "ORL", "ORR", "ORS", "OSR", "RSP"})


@dataclass(frozen=True)
class Fault:
    """What is wrong with a message.

    Attributes
    ----------
    code
        Of table 0357.
    said
        What is wrong and what to do, without personal data.
    place
        Where, such as `PID-3`; empty for the message as a whole.
    """

    code: int
    said: str
    place: str = ""


@dataclass(frozen=True)
class Asked:
    """Who is answered, and how it wants to be: what MSH says of that."""

    application: str = ""
    facility: str = ""
    receiver: str = ""
    receiving_facility: str = ""
    event: str = ""
    control_id: str = ""
    processing: str = "P"
    version: str = "2.5"
    accept: str = ""
    application_mode: str = ""
    charset: str = ""
    codec: str = "ascii"


def asked(message: Message) -> Asked:
    """Read what an answer needs."""

    def whole(number: int) -> str:
        # With its components, in our delimiters.
        parts = (message.header.repetitions(number) or [""])[0].split(message.delimiters.component)
        return "^".join(escape(message.plain(part).strip(), DEFAULT) for part in parts)

    return Asked(
        application=whole(3),
        facility=whole(4),
        receiver=whole(5),
        receiving_facility=whole(6),
        event=message.header_value(9, 2),
        control_id=message.header_value(10),
        processing=whole(11) or "P",
        version=message.header_value(12) or "2.5",
        accept=message.header_value(15).upper(),
        application_mode=message.header_value(16).upper(),
        charset=escape(message.charset, DEFAULT) if "~" not in message.charset else message.charset,
        codec=message.codec,
    )


def is_answer(message: Message) -> bool:
    """Tell whether a message answers another: such a one is never acknowledged."""
    return message.header_value(9) in _ANSWERING or any(segment.name == "MSA" for segment in message.segments[:4])


def answers(to: Asked, answer: Answer, faults: Sequence[Fault], *, now: datetime, control_id: str) -> list[bytes]:
    """Write the answers that a sender asked for, in the order in which they are to be sent.

    One as a rule. In enhanced mode (MSH-15 or MSH-16 has a value) none to two: that the message was taken over, and
    what became of it; of what was refused the first alone says so.

    Parameters
    ----------
    answer
        What became of the message.
    faults
        Why it was not taken; without any for AA.
    now
        Time of the answer, with its zone.
    control_id
        Unique identifier of the answer.
    """
    if not (to.accept or to.application_mode):
        return [_answer(to, answer, faults, now=now, control_id=control_id)]
    written = []
    if _wanted(to.accept, answer):
        written.append(_answer(to, _COMMIT[answer], faults, now=now, control_id=f"{control_id}C"))
    if _wanted(to.application_mode, answer) and not (written and answer != "AA"):
        written.append(_answer(to, answer, faults, now=now, control_id=control_id))
    return written


def _wanted(mode: str, answer: Answer) -> bool:
    return mode == "AL" or (mode == "SU" and answer == "AA") or (mode == "ER" and answer != "AA")


def _answer(to: Asked, code: str, faults: Sequence[Fault], *, now: datetime, control_id: str) -> bytes:
    minor = _minor(to.version)
    segments = [_header(to, minor, now, control_id), _msa(to, code, faults, minor)]
    if minor >= 5:  # noqa: PLR2004 (ERR as it is since 2.5)
        segments += [_err(fault) for fault in faults]
    text = "".join(f"{segment}\r" for segment in segments)
    return text.encode(to.codec, "replace")


def _header(to: Asked, minor: int, now: datetime, control_id: str) -> str:
    kind = "ACK"
    if minor >= 2 and to.event:  # noqa: PLR2004 (the event came with 2.2, the structure with 2.4)
        kind += f"^{escape(to.event, DEFAULT)}" + ("^ACK" if minor >= 4 else "")  # noqa: PLR2004
    written = now.strftime("%Y%m%d%H%M%S") + (now.strftime("%z") if minor >= 3 else "")  # noqa: PLR2004 (zones)
    encoding = DEFAULT.encoding
    fields = [f"MSH|{encoding}", to.receiver, to.receiving_facility, to.application, to.facility, written, "", kind]
    # An answer is not to be answered; MSH-15 and MSH-16 say so where the sender knows them.
    modes = ["NE", "NE"] if to.accept or to.application_mode else ["", ""]
    fields += [control_id, to.processing, escape(to.version, DEFAULT), "", "", *modes, "", to.charset]
    return "|".join(fields).rstrip("|")


def _msa(to: Asked, code: str, faults: Sequence[Fault], minor: int) -> str:
    # MSA-3 went away with 2.7; before 2.5 there is nothing else to say it in, and senders still show it.
    said = "; ".join(fault.said for fault in faults)[:80] if minor < 7 else ""  # noqa: PLR2004
    return "|".join(["MSA", code, escape(to.control_id, DEFAULT), escape(said, DEFAULT)]).rstrip("|")


def _err(fault: Fault) -> str:
    found = re.fullmatch(r"([A-Z][A-Z0-9]{2})(?:-(\d+)(?:\.(\d+))?)?", fault.place)
    place = "" if found is None else "^".join([found[1], "1", *filter(None, (found[2], "1", found[3]))])
    if found is not None and found[2] is None:
        place = f"{found[1]}^1"
    code = f"{fault.code}^{_MEANINGS.get(fault.code, '')}^HL70357"
    return "|".join(["ERR", "", place, code, "E", "", "", "", escape(fault.said[:250], DEFAULT)])


def _minor(version: str) -> int:
    found = _VERSION.match(version)
    return 5 if found is None else int(found[1])
