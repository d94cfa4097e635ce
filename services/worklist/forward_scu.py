"""One association on which performed procedure steps are passed on, from the thread that it belongs to."""

from collections.abc import Sequence
from dataclasses import dataclass
from io import BytesIO
from typing import Final

from libs.dicom.reencode import NotReencodableError, reencoded
from libs.dimse import calling
from libs.dimse import command as commands
from libs.dimse.calling import OVER, Callee, Timeouts, UnreachableError
from libs.dimse.connection import StoppedError
from libs.dimse.pdu import MalformedError, Reason
from libs.dimse.requestor import Association
from services.worklist import dataset, step
from services.worklist.forward import Verdict, judge

_ERROR_ID: Final = 0x0903


@dataclass(frozen=True)
class Letter:
    """What a node is to get of one step.

    Attributes
    ----------
    mpps_id, sop_instance_uid
        The step.
    first
        Number of the first message; 0 is the N-CREATE.
    messages
        Transfer syntax and dataset of each, in their order.
    """

    mpps_id: int
    sop_instance_uid: str
    first: int
    messages: tuple[tuple[str, bytes], ...]


@dataclass(frozen=True)
class Carried:
    """What became of a letter.

    Attributes
    ----------
    sent
        How many messages of the step the node has.
    verdict
        Of the last answer: `taken` if it has all.
    problem
        Why not, as a sentence without data of the peer.
    """

    mpps_id: int
    sent: int
    verdict: Verdict
    problem: str | None = None


@dataclass(frozen=True)
class Journey:
    """How an association went: letters that were answered, and why it ended if it ended early."""

    carried: tuple[Carried, ...]
    problem: str | None = None


def carry(callee: Callee, timeouts: Timeouts, implementation: tuple[str, str], letters: Sequence[Letter]) -> Journey:
    """Pass steps on. Letters that are not in what it gives were not begun."""
    pairs = tuple((step.SOP_CLASS, syntax) for syntax in dataset.TRANSFER_SYNTAXES)
    try:
        association = calling.connect(callee, pairs, timeouts, implementation)
    except UnreachableError as error:
        return Journey((), str(error))
    if not association.contexts:
        association.release()
        return Journey((), f"{callee} takes the association, but not performed procedure steps")
    carried: list[Carried] = []
    numbers = iter(range(1, 1 << 15))
    for letter in letters:
        sent = letter.first
        try:
            for syntax, data in letter.messages:
                verdict, problem = _say(association, next(numbers), letter.sop_instance_uid, sent == 0, syntax, data)
                if verdict != "taken":
                    carried.append(Carried(letter.mpps_id, 0 if verdict == "anew" else sent, verdict, problem))
                    break
                sent += 1
            else:
                carried.append(Carried(letter.mpps_id, sent, "taken"))
        except (*OVER, StoppedError) as error:
            association.abort()
            problem = f"{callee} broke the association off, or did not answer: {error}"
            return Journey((*carried, Carried(letter.mpps_id, sent, "again", problem)), problem)
    association.release()
    return Journey(tuple(carried))


def _say(
    association: Association, number: int, uid: str, create: bool, syntax: str, data: bytes
) -> tuple[Verdict, str | None]:
    taken = {agreed: context for (_, agreed), context in association.contexts.items()}
    if syntax not in taken:
        other = next(iter(taken))
        try:
            data, syntax = b"".join(reencoded(BytesIO(data), syntax, other)), other
        except NotReencodableError as error:
            return "refused", f"it takes another transfer syntax, and what the modality sent can't be read: {error}"
    request = (commands.create_request if create else commands.set_request)(number, step.SOP_CLASS, uid)
    association.send(taken[syntax], request, (data,))
    answer = association.receive().command
    if answer.field != request.field | commands.RESPONSE or answer.responded_to != number:
        raise MalformedError(Reason.UNEXPECTED_PARAMETER, "a response came that nothing was asked for")
    error_id = answer.number(_ERROR_ID) if _ERROR_ID in answer.elements else 0
    verdict = judge(answer.status, error_id, create=create)
    if verdict == "taken":
        return verdict, None
    operation = "N-CREATE" if create else "N-SET"
    return verdict, f"it answers the {operation} with status {answer.status:04X}"
