"""Calling a destination: a connection, TLS, and an association that proposes what is wanted. PS3.8 section 7.1."""

import socket
import ssl
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Literal

from libs.dicom.uid import IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION_NAME
from libs.dimse import command as commands
from libs.dimse.connection import LostError, StoppedError, TimedOutError
from libs.dimse.negotiation import Proposed, Request
from libs.dimse.pdu import MalformedError, Rejection
from libs.dimse.requestor import AbortedError, Association, Patience, RejectedError, ReleasedError
from services.egress.outcome import SUCCESS
from services.egress.reach import Target

#: PS3.8 section 9.3.2.2: presentation context identifiers are the odd numbers from 1 to 255.
MAX_CONTEXTS: Final = 128
#: Longest P-DATA-TF that we take: answers are short.
_MAX_PDU: Final = 1 << 16
_VERIFICATION: Final = "1.2.840.10008.1.1"
_IMPLICIT: Final = "1.2.840.10008.1.2"
#: How an association may end that is under way.
OVER: Final = (LostError, TimedOutError, AbortedError, ReleasedError, MalformedError)
#: What is not sent yet may fill so many bytes of the kernel: what is more urgent need not wait behind megabytes.
_UNSENT: Final = 1 << 17


@dataclass(frozen=True)
class Timeouts:
    """Seconds, each for one kind of silence."""

    connect: float
    acse: float
    response: float
    network: float


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
    where = f"{target.called_aet} at {target.host}:{target.port}"
    patience = Patience(timeouts.acse, timeouts.response, timeouts.network)
    association = Association(_connected(target, where, timeouts), patience)
    known(association)
    request = Request(
        called_aet=target.called_aet,
        calling_aet=target.calling_aet,
        # A receiver that is asked for nothing rejects: verification is in every one's power.
        contexts=tuple(
            Proposed(2 * n + 1, pair[0], (pair[1],)) for n, pair in enumerate(pairs or ((_VERIFICATION, _IMPLICIT),))
        ),
        max_pdu=_MAX_PDU,
        implementation_class_uid=IMPLEMENTATION_CLASS_UID,
        implementation_version=IMPLEMENTATION_VERSION_NAME,
        window=(window, 1) if window > 1 else None,
    )
    try:
        association.ask(request)
    except RejectedError as error:
        raise _unreachable(f"{where} rejects the association {_rejection(error.rejection)}") from error
    except (*OVER, StoppedError) as error:
        raise _unreachable(
            f"{where} takes the connection but does not answer the association request, or aborts it: {error}"
        ) from error
    return association


def _unreachable(problem: str) -> EndError:
    return EndError(Ending("unreachable", problem))


def _connected(target: Target, where: str, timeouts: Timeouts) -> socket.socket:
    try:
        plain = socket.create_connection((target.host, target.port), timeouts.connect)
    except socket.gaierror as error:
        raise _unreachable(f"the name {target.host} is not known: {error.strerror}") from error
    except OSError as error:
        raise _unreachable(
            f"nothing takes connections for {where} within {timeouts.connect:g} s, or it refuses them"
        ) from error
    if hasattr(socket, "TCP_NOTSENT_LOWAT"):
        plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, _UNSENT)
    if target.tls is None:
        return plain
    try:
        plain.settimeout(timeouts.acse)
        return target.tls().wrap_socket(plain, server_hostname=target.host)
    except ssl.SSLCertVerificationError as error:
        plain.close()
        raise _unreachable(f"the certificate of {where} is not good: {error.verify_message}") from error
    except OSError as error:
        plain.close()
        said = error.reason if isinstance(error, ssl.SSLError) and error.reason else type(error).__name__
        raise _unreachable(f"no TLS with {where}: {str(said).replace('_', ' ').lower()}") from error


#: PS3.8 section 9.3.4, by source and reason.
_REASONS: Final = {
    (1, 1): "no reason given",
    (1, 2): "it does not know the application context",
    (1, 3): "it does not know our AE title",
    (1, 7): "it does not have the AE title that we call",
    (2, 1): "no reason given (ACSE)",
    (2, 2): "another protocol version",
    (3, 1): "it is congested",
    (3, 2): "it has reached its limit of associations",
}


def _rejection(rejection: Rejection) -> str:
    how = "permanently" if rejection.result == 1 else "for now"
    why = _REASONS.get((rejection.source, rejection.reason), f"reason {rejection.reason} of source {rejection.source}")
    return f"{how}: {why}"
