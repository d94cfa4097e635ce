"""Calling a peer: a connection, TLS, and an association that proposes what is wanted. PS3.8 section 7.1."""

import socket
import ssl
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from libs.dimse.connection import LostError, StoppedError, TimedOutError
from libs.dimse.negotiation import Proposed, Request
from libs.dimse.pdu import MalformedError, Rejection
from libs.dimse.requestor import AbortedError, Association, Patience, RejectedError, ReleasedError

#: Longest P-DATA-TF that we take: answers are short.
_MAX_PDU: Final = 1 << 16
#: How an association may end that is under way.
OVER: Final = (LostError, TimedOutError, AbortedError, ReleasedError, MalformedError)
#: What is not sent yet may fill so many bytes of the kernel: what is more urgent need not wait behind megabytes.
_UNSENT: Final = 1 << 17


class UnreachableError(Exception):
    """No association came about; the text is a sentence for people, with the peer's address."""

    safe_to_log = True


@dataclass(frozen=True)
class Timeouts:
    """Seconds, each for one kind of silence."""

    connect: float
    acse: float
    response: float
    network: float


@dataclass(frozen=True)
class Callee:
    """Whom to call, and as whom.

    Attributes
    ----------
    tls
        Gives the context of a new connection; none without TLS.
    """

    host: str
    port: int
    called_aet: str
    calling_aet: str
    tls: Callable[[], ssl.SSLContext] | None = None

    def __str__(self) -> str:
        return f"{self.called_aet} at {self.host}:{self.port}"


def connect(
    callee: Callee,
    pairs: tuple[tuple[str, str], ...],
    timeouts: Timeouts,
    implementation: tuple[str, str],
    known: Callable[[Association], None] = lambda _association: None,
    window: int = 1,
) -> Association:
    """Open an association that proposes each pair of abstract and transfer syntax. Raises UnreachableError.

    Parameters
    ----------
    callee, pairs, timeouts
        Whom, for what, and how long.
    implementation
        Our implementation class UID and version name, PS3.7 section D.3.3.2.
    known
        Is called with it before anything is waited for: so that another thread can stop it.
    window
        Operations that may be under way at a time.
    """
    patience = Patience(timeouts.acse, timeouts.response, timeouts.network)
    association = Association(_connected(callee, timeouts), patience)
    known(association)
    request = Request(
        called_aet=callee.called_aet,
        calling_aet=callee.calling_aet,
        contexts=tuple(Proposed(2 * n + 1, pair[0], (pair[1],)) for n, pair in enumerate(pairs)),
        max_pdu=_MAX_PDU,
        implementation_class_uid=implementation[0],
        implementation_version=implementation[1],
        window=(window, 1) if window > 1 else None,
    )
    try:
        association.ask(request)
    except RejectedError as error:
        raise UnreachableError(f"{callee} rejects the association {_rejection(error.rejection)}") from error
    except (*OVER, StoppedError) as error:
        raise UnreachableError(
            f"{callee} takes the connection but does not answer the association request, or aborts it: {error}"
        ) from error
    return association


def _connected(callee: Callee, timeouts: Timeouts) -> socket.socket:
    try:
        plain = socket.create_connection((callee.host, callee.port), timeouts.connect)
    except socket.gaierror as error:
        raise UnreachableError(f"the name {callee.host} is not known: {error.strerror}") from error
    except OSError as error:
        raise UnreachableError(
            f"nothing takes connections for {callee} within {timeouts.connect:g} s, or it refuses them"
        ) from error
    if hasattr(socket, "TCP_NOTSENT_LOWAT"):
        plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, _UNSENT)
    if callee.tls is None:
        return plain
    try:
        plain.settimeout(timeouts.acse)
        return callee.tls().wrap_socket(plain, server_hostname=callee.host)
    except ssl.SSLCertVerificationError as error:
        plain.close()
        raise UnreachableError(f"the certificate of {callee} is not good: {error.verify_message}") from error
    except OSError as error:
        plain.close()
        said = error.reason if isinstance(error, ssl.SSLError) and error.reason else type(error).__name__
        raise UnreachableError(f"no TLS with {callee}: {str(said).replace('_', ' ').lower()}") from error


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
