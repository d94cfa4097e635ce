"""The edge to C-STORE and C-ECHO service class providers: one association, on pynetdicom, in the caller's thread."""

import socket
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO
from math import ceil
from typing import Any, Literal

from pynetdicom import AE, evt
from pynetdicom.association import Association
from pynetdicom.dimse_primitives import C_STORE
from pynetdicom.pdu_primitives import A_ASSOCIATE
from pynetdicom.presentation import PresentationContext, build_context

from libs.storage.objects import StoreUnavailableError
from services.egress.outcome import (
    NO_ANSWER,
    NO_CONTEXT,
    OBJECT_DAMAGED,
    SUCCESS,
    UNSENDABLE,
    Outcome,
    Verdict,
    of_status,
)
from services.egress.parcel import DamagedError, Parcel, Readable, dataset
from services.egress.reach import Target

#: PS3.8 section 9.3.2.2: presentation context identifiers are the odd numbers from 1 to 255.
MAX_CONTEXTS = 128
#: A receiver that has no room says so for every instance: after so many in a row it is left alone for a while.
BUSY_ANSWERS = 3
#: PS3.4 annex A.
_VERIFICATION = "1.2.840.10008.1.1"
_DEFLATED = "1.2.840.10008.1.2.1.99"
#: State of the association in which data flows, PS3.8 section 9.2.
_DATA_TRANSFER = "Sta6"
#: A wait for a response is cut into slices of so many seconds, to see between them whether bytes still leave.
_SLICE = 1.0
#: How many slices an instance that is under way gets when the process is to stop.
_GRACE_SLICES = 5


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
        `finished`: every instance had its turn; `unreachable`: it never came about, or broke; `busy`: the receiver is
        out of resources; `store-away`: our own object store can't be read; `stopped`: we were asked to stop.
    problem
        What went wrong, as a sentence; none if `finished`.
    """

    kind: Literal["finished", "unreachable", "busy", "store-away", "stopped"]
    problem: str | None = None


_STOPPED = Ending("stopped", "this process was asked to stop")


class _LostError(Exception):
    """The association is gone; the text is a sentence for people."""


class _UnsendableError(Exception):
    """No association can carry the instance; the text is a sentence for people."""


class _StoppedError(Exception):
    """The process is to stop and the receiver takes too long."""


class Scu:
    """Sends and tests, one association a call.

    Parameters
    ----------
    objects
        Where the instances are.
    timeouts
        How long silence is borne.
    """

    def __init__(self, objects: Readable, timeouts: Timeouts) -> None:
        self._objects = objects
        self._timeouts = timeouts

    def send(
        self, target: Target, parcels: Sequence[Parcel], tell: Callable[[Outcome], None], stop: threading.Event
    ) -> Ending:
        """Send instances in one association, each dataset byte for byte as it is kept.

        Each instance's outcome is told as soon as it is known. One of which nothing is told stays as it was: it had no
        turn. The one that was under way when the association broke is told `later`, so that others go first next time.

        Parameters
        ----------
        target
            Whom to call.
        parcels
            What to send. Those past 128 different pairs of SOP class and transfer syntax have no turn.
        tell
            Called in this thread with each outcome.
        stop
            Set to end the association after the instance that is under way.
        """
        pairs = list(dict.fromkeys((p.sop_class_uid, p.transfer_syntax_uid) for p in parcels))[:MAX_CONTEXTS]
        contexts = [build_context(sop_class, [syntax]) for sop_class, syntax in pairs]
        offered = [p for p in parcels if (p.sop_class_uid, p.transfer_syntax_uid) in set(pairs)]
        try:
            with _association(target, contexts, self._timeouts) as association:
                return self._store(association, offered, tell, stop)
        except _LostError as error:
            return Ending("unreachable", str(error))
        except _StoppedError:
            return _STOPPED

    def echo(self, target: Target) -> Ending:
        """Ask for verification (PS3.4 annex A) in an association of its own."""
        try:
            with _association(target, [build_context(_VERIFICATION)], self._timeouts) as association:
                if not association.accepted_contexts:
                    return Ending("unreachable", "the receiver takes the association, but not C-ECHO")
                status = association.send_c_echo().get("Status")
        except _LostError as error:
            return Ending("unreachable", str(error))
        if status is None:
            return Ending("unreachable", "the receiver takes the association but does not answer C-ECHO")
        if status != SUCCESS:
            return Ending("unreachable", f"the receiver answers C-ECHO with status {status:04X}")
        return Ending("finished")

    def _store(
        self,
        association: Association,
        parcels: Sequence[Parcel],
        tell: Callable[[Outcome], None],
        stop: threading.Event,
    ) -> Ending:
        accepted = _accepted(association)
        busy = 0
        for number, parcel in enumerate(parcels, 1):
            if stop.is_set():
                return _STOPPED
            context_id = accepted.get((parcel.sop_class_uid, parcel.transfer_syntax_uid))
            if context_id is None:
                tell(_no_context(parcel))
                continue
            try:
                request = _request(parcel, dataset(parcel, self._objects), number)
            except StoreUnavailableError as error:
                return Ending("store-away", str(error))
            except DamagedError as error:
                tell(Outcome(parcel.item, Verdict.DAMAGED, OBJECT_DAMAGED, str(error)))
                continue
            except _UnsendableError as error:
                tell(Outcome(parcel.item, Verdict.REFUSED, UNSENDABLE, str(error)))
                continue
            try:
                status = _exchange(association, request, context_id, self._timeouts.response, stop)
            except _LostError as error:
                tell(Outcome(parcel.item, Verdict.LATER, NO_ANSWER, f"No answer: {error}."))
                raise
            outcome = of_status(parcel.item, status)
            tell(outcome)
            busy = busy + 1 if outcome.verdict is Verdict.LATER else 0
            if busy == BUSY_ANSWERS:
                return Ending("busy", f"the receiver is out of resources (status {outcome.status})")
        return Ending("finished")


def _request(parcel: Parcel, content: bytes, message_id: int) -> C_STORE:
    """Build a C-STORE request, PS3.7 section 9.1.1. Raises _UnsendableError."""
    if len(content) % 2:
        # PS3.8 annex E allows only fragments of even length; receivers abort the whole association at an odd one.
        if parcel.transfer_syntax_uid != _DEFLATED:
            raise _UnsendableError("Its dataset has an odd length, which no association can carry (PS3.8 annex E).")
        # PS3.5 section A.5 ends an odd deflated stream with a NULL; files in the field lack it.
        content += b"\0"
    request = C_STORE()
    request.MessageID = message_id
    request.Priority = 0
    try:
        request.AffectedSOPClassUID = parcel.sop_class_uid
        request.AffectedSOPInstanceUID = parcel.sop_instance_uid
    except ValueError as error:
        raise _UnsendableError("Its UIDs can't be put into a C-STORE request.") from error
    request.DataSet = BytesIO(content)
    return request


def _exchange(
    association: Association, request: C_STORE, context_id: int, silence: float, stop: threading.Event
) -> int:
    """Send one request and wait for its status. Raises _LostError, _StoppedError.

    Silence counts from when the last byte has left: a large object on a slow line takes as long as it takes, while a
    receiver that takes no byte at all is found out by the socket's own timeout.
    """
    association.dimse.send_msg(request, context_id)
    response = _await_response(association, silence, stop)
    if not isinstance(response, C_STORE) or not response.is_valid_response or response.Status is None:
        raise _LostError("the receiver answered with something that is no C-STORE response")
    if response.MessageIDBeingRespondedTo != request.MessageID:
        raise _LostError("the receiver answered a request that was not made")
    return response.Status


def _await_response(association: Association, silence: float, stop: threading.Event) -> object:
    unsent = association.dul.to_provider_queue.queue
    slices, left, grace = ceil(silence / _SLICE), len(unsent), _GRACE_SLICES
    while slices and grace:
        _, response = association.dimse.get_msg(block=True)
        if response is not None:
            return response
        if association.dul.state_machine.current_state != _DATA_TRANSFER:
            raise _LostError("the receiver ended the association, or the line broke")
        slices = slices - 1 if len(unsent) == left else ceil(silence / _SLICE)
        left = len(unsent)
        grace -= stop.is_set()
    if not grace:
        raise _StoppedError
    raise _LostError(f"the receiver was silent for {silence:g} s")


def _no_context(parcel: Parcel) -> Outcome:
    return Outcome(
        parcel.item,
        Verdict.REFUSED,
        NO_CONTEXT,
        f"The receiver does not take SOP class {parcel.sop_class_uid} in transfer syntax {parcel.transfer_syntax_uid}.",
    )


def _accepted(association: Association) -> dict[tuple[str, str], int]:
    return {
        (str(context.abstract_syntax), str(context.transfer_syntax[0])): context.context_id
        for context in association.accepted_contexts
        if context.context_id is not None
    }


@contextmanager
def _association(target: Target, contexts: list[PresentationContext], timeouts: Timeouts) -> Iterator[Association]:
    """Hold an association; it is released at the end, or aborted if the block raises. Raises _LostError."""
    association = _associate(target, contexts, timeouts)
    try:
        yield association
    except BaseException:
        _drop(association)
        raise
    if association.is_established:
        association.release()


def _associate(target: Target, contexts: list[PresentationContext], timeouts: Timeouts) -> Association:
    entity = AE(ae_title=target.calling_aet)
    entity.connection_timeout = timeouts.connect
    entity.acse_timeout = timeouts.acse
    entity.dimse_timeout = min(_SLICE, timeouts.response)
    entity.network_timeout = timeouts.network
    try:
        addresses = socket.getaddrinfo(target.host, target.port, type=socket.SOCK_STREAM)
    except OSError as error:
        raise _LostError(f"the name {target.host} is not known: {error.strerror}") from error
    connected: list[bool] = []

    def opened(event: evt.Event) -> None:
        connected.append(True)
        transport = event.assoc.dul.socket
        connection = None if transport is None else transport.socket
        if connection is None:
            return
        # Without it Nagle's algorithm and delayed acknowledgements cost 40 ms an instance.
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        # pynetdicom leaves the socket blocking: a receiver that stops reading would hold this thread for ever.
        connection.settimeout(timeouts.network)

    def established(event: evt.Event) -> None:
        # pynetdicom's reactor and this thread would both take responses from one queue. Its own way of pausing the
        # reactor lets one more response through at times; here it is stopped before it starts, until the end.
        event.assoc._reactor_checkpoint.clear()  # noqa: SLF001 - there is no public way

    association = entity.associate(
        str(addresses[0][4][0]),
        target.port,
        contexts=contexts,
        ae_title=target.called_aet,
        evt_handlers=[(evt.EVT_CONN_OPEN, opened), (evt.EVT_ESTABLISHED, established)],
    )
    if association.is_established:
        return association
    answer: Any = association.acceptor.primitive
    if answer is not None and answer.result == 0 and not association.accepted_contexts:
        return association
    where = f"{target.called_aet} at {target.host}:{target.port}"
    if not connected:
        raise _LostError(f"nothing takes connections for {where} within {timeouts.connect:g} s, or it refuses them")
    if answer is None:
        # pynetdicom takes a receiver that rejects at once for one that can't be reached, and lets its answer lie.
        left: Any = association.dul.receive_pdu()
        answer = left if isinstance(left, A_ASSOCIATE) else None
    if answer is not None and answer.result in (1, 2):
        how = "permanently" if answer.result == 1 else "for now"
        raise _LostError(f"{where} rejects the association {how}: {answer.reason_str}")
    raise _LostError(f"{where} takes the connection but does not answer the association request, or aborts it")


def _drop(association: Association) -> None:
    """End an association without waiting for a receiver that may not answer."""
    association.is_aborted = True
    transport = association.dul.socket
    if transport is not None and transport.socket is not None:
        transport.close()
    association.kill()
