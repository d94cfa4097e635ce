"""Calling a destination, and how that ended."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Literal

from libs.dicom.uid import IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION_NAME
from libs.dimse import calling
from libs.dimse import command as commands
from libs.dimse.calling import OVER, Callee, Timeouts, UnreachableError
from libs.dimse.connection import StoppedError
from libs.dimse.requestor import Association
from services.egress.outcome import SUCCESS
from services.egress.reach import Target

__all__ = ["MAX_CONTEXTS", "OVER", "EndError", "Ending", "Timeouts", "connect", "echo"]

#: PS3.8 section 9.3.2.2: presentation context identifiers are the odd numbers from 1 to 255.
MAX_CONTEXTS: Final = 128
_VERIFICATION: Final = "1.2.840.10008.1.1"
_IMPLICIT: Final = "1.2.840.10008.1.2"


@dataclass(frozen=True)
class Ending:
    """How an association ended.

    Attributes
    ----------
    kind
        `finished`: nothing was left to send; `unreachable`: it never came about, or broke; `busy`: the receiver is
        out of resources; `store-away`: our own object store can't be read; `stopped`: we were asked to stop.
    problem
        What went wrong, as a sentence; none if `finished`.
    """

    kind: Literal["finished", "unreachable", "busy", "store-away", "stopped"]
    problem: str | None = None


class EndError(Exception):
    """The association is to end as it says."""

    def __init__(self, ending: Ending) -> None:
        super().__init__(ending.problem or "")
        self.ending = ending


def echo(target: Target, timeouts: Timeouts) -> Ending:
    """Ask for verification (PS3.4 annex A) in an association of its own."""
    try:
        association = connect(target, ((_VERIFICATION, _IMPLICIT),), timeouts)
    except EndError as end:
        return end.ending
    context_id = association.contexts.get((_VERIFICATION, _IMPLICIT))
    if context_id is None:
        association.release()
        return Ending("unreachable", "the receiver takes the association, but not C-ECHO")
    try:
        association.send(context_id, commands.echo_request(1))
        answer = association.receive().command
    except (*OVER, StoppedError) as error:
        association.abort()
        return Ending("unreachable", f"the receiver takes the association but does not answer C-ECHO: {error}")
    association.release()
    if answer.field != commands.C_ECHO_RQ | commands.RESPONSE or answer.status != SUCCESS:
        return Ending("unreachable", f"the receiver answers C-ECHO with status {answer.status:04X}")
    return Ending("finished")


def connect(
    target: Target,
    pairs: tuple[tuple[str, str], ...],
    timeouts: Timeouts,
    known: Callable[[Association], None] = lambda _association: None,
    window: int = 1,
) -> Association:
    """Open an association that proposes each pair of abstract and transfer syntax. Raises EndError.

    `known` is called with it before anything is waited for: so that another thread can stop it.
    """
    callee = Callee(target.host, target.port, target.called_aet, target.calling_aet, target.tls)
    # A receiver that is asked for nothing rejects: verification is in every one's power.
    pairs = pairs or ((_VERIFICATION, _IMPLICIT),)
    implementation = IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION_NAME
    try:
        return calling.connect(callee, pairs, timeouts, implementation, known, window)
    except UnreachableError as error:
        raise EndError(Ending("unreachable", str(error))) from error
