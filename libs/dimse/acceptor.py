"""The acceptor of an association: PS3.8 section 9.2 as far as one who accepts can come, and the messages of PS3.7.

One association is one thread that calls `Association.run`. It never holds a dataset: fragments are handed on as they
come, from one buffer of a fixed size.
"""

import socket
import time
from collections.abc import Callable, Generator, Iterable
from typing import Final

from libs.dimse import associate, negotiation, pdu
from libs.dimse import command as commands
from libs.dimse.cancel import cancellation
from libs.dimse.command import Command
from libs.dimse.connection import (
    Connection,
    LostError,
    Patient,
    Socket,
    StoppedError,
    TimedOutError,
    interrupter,
    readiness,
)
from libs.dimse.negotiation import Context
from libs.dimse.pdu import FRAGMENT, HEADER, Kind, MalformedError, Reason, Rejection, Source
from libs.dimse.provider import Ending, Options, Peer, Provider, Reply, Sink

#: 128 contexts with 60 transfer syntaxes each are half of it; so are a user identity and eight extended negotiations.
LONGEST_REQUEST: Final = 1 << 20
#: The longest that PS3.7 knows have a few hundred bytes; lists of attributes in N-GET have some thousand.
LONGEST_COMMAND: Final = 1 << 16
#: Two PDUs of the size that we offer: one recv takes what the network has, and one write passes it on.
BUFFER: Final = 1 << 18
#: Bytes of an A-RELEASE-RQ after its header, PS3.8 section 9.3.6.
_RESERVED: Final = 4
#: As a plain number: an enumeration's attribute costs where it is looked up for each PDU.
_P_DATA: Final = int(Kind.P_DATA)
_MORE: Final = (commands.PENDING, commands.PENDING_WARNING)


class _AbortedError(Exception):
    """The peer sent A-ABORT; the text is a sentence for people."""


class Association:
    """One association, from the connection to its end.

    Parameters
    ----------
    connected
        A connected socket, plain or TLS with its handshake done; `run` closes it.
    peer
        Who called.
    provider
        Decides, takes, answers.
    options
        What we offer and bear.
    now
        Seconds of a clock that only goes on.
    interrupt
        Wakes the thread that waits in `connected`; made for a real socket, if left out.
    waiting
        Tells whether `connected` can be read at once; made for a real socket, if left out.

    Attributes
    ----------
    ending
        How it ended; none while it has not.
    problem
        What was wrong, as a sentence without data of the peer; empty if nothing was.
    """

    def __init__(
        self,
        connected: socket.socket | Socket,
        peer: Peer,
        provider: Provider,
        options: Options,
        *,
        now: Callable[[], float] = time.monotonic,
        interrupt: Callable[[bool], None] | None = None,
        waiting: Callable[[], bool] | None = None,
    ) -> None:
        if isinstance(connected, socket.socket):
            interrupt = interrupt or interrupter(connected)
            waiting = waiting or readiness(connected)
            if connected.family != socket.AF_UNIX:
                # Without it an answer waits for the peer's delayed acknowledgement, 40 ms.
                connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if type(connected) is socket.socket:
                # TLS reads as often as it likes for what it gives: it has to see the time itself.
                connected = Patient(connected)
        self._link = Connection(connected, interrupt or (lambda _sending: None), now, waiting or (lambda: False))
        self._peer = peer
        self._provider = provider
        self._options = options
        self._accepted = False
        self._contexts: dict[int, Context] = {}
        self._peer_max_pdu = 0
        self._partial = bytearray()
        self._context_id = 0
        self._sink: Sink | None = None
        self._request = Command({})
        #: Bytes of the P-DATA-TF in hand that were not taken yet.
        self._left = 0
        self.ending: Ending | None = None
        self.problem = ""

    def run(self) -> Ending:
        """Carry the association to its end and close the connection. Raises what the provider raises."""
        farewell = pdu.encode_abort(Source.USER, Reason.NOT_SPECIFIED)
        try:
            try:
                self.ending, farewell = self._live()
            except BaseException:
                self.ending = Ending.FAILED
                raise
            finally:
                self._tell()
                if farewell:
                    self._link.part(farewell, self._options.artim_timeout)
        finally:
            self._link.close()
        return self.ending

    def abort(self) -> None:
        """End the association with A-ABORT; from any thread. `run` returns soon after."""
        self._link.stop()

    def _live(self) -> tuple[Ending, bytes]:
        """Give the ending and the last word to the peer."""
        try:
            return self._course()
        except MalformedError as error:
            self.problem = str(error)
            # Before there is an association the table has it sent in the user's name: PS3.8 section 9.2.3, AA-1.
            source, reason = (Source.PROVIDER, error.reason) if self._accepted else (Source.USER, Reason.NOT_SPECIFIED)
            return Ending.PROTOCOL_ERROR, pdu.encode_abort(source, reason)
        except _AbortedError as error:
            self.problem = str(error)
            return Ending.ABORTED, b""
        except LostError as error:
            self.problem = str(error)
            return Ending.LOST, b""
        except TimedOutError as error:
            self.problem = str(error)
            said = pdu.encode_abort(Source.PROVIDER, Reason.NOT_SPECIFIED) if self._accepted else b""
            return Ending.TIMED_OUT, said
        except StoppedError as error:
            self.problem = str(error)
            return Ending.STOPPED, pdu.encode_abort(Source.USER, Reason.NOT_SPECIFIED)

    def _course(self) -> tuple[Ending, bytes]:
        rejection = self._negotiate()
        if rejection is not None:
            return Ending.REJECTED, pdu.encode_rejection(rejection)
        self._transfer()
        return Ending.RELEASED, pdu.encode_release_rp()

    def _tell(self) -> None:
        # Before the last word, so that a peer that calls again at once finds its place free.
        sink, self._sink = self._sink, None
        try:
            if sink is not None:
                sink.abandon()
        finally:
            if self._accepted and self.ending is not None:
                self._provider.ended(self.ending)

    def _negotiate(self) -> Rejection | None:
        link = self._link
        link.within(self._options.artim_timeout)
        kind, length = self._header()
        if kind == Kind.ABORT:
            raise _AbortedError("the peer aborted before it asked for an association")
        if kind != Kind.ASSOCIATE_RQ:
            raise MalformedError(_unexpected(kind), f"a PDU of type {kind:02X}H came in place of an A-ASSOCIATE-RQ")
        if length > LONGEST_REQUEST:
            raise MalformedError(
                Reason.INVALID_PARAMETER_VALUE, f"an A-ASSOCIATE-RQ claims more than {LONGEST_REQUEST} bytes"
            )
        request = associate.decode_request(bytes(link.take(length)))
        if not request.protocol_version & 1:
            return Rejection(result=1, source=2, reason=2)
        if request.application_context != negotiation.APPLICATION_CONTEXT:
            return Rejection(result=1, source=1, reason=2)
        decision = self._provider.admit(request, self._peer)
        if isinstance(decision, Rejection):
            return decision
        self._accepted = True
        options = self._options
        agreement = negotiation.agree(
            request, decision, max_pdu=options.max_pdu, window=options.window, implementation=options.implementation
        )
        self._contexts = {each.id: each for each in agreement.contexts if isinstance(each, Context)}
        self._peer_max_pdu = request.max_pdu
        link.patient(options.network_timeout)
        link.send(associate.encode_agreement(agreement))
        return None

    def _transfer(self) -> None:
        """Take PDUs until the peer releases: state 6 of PS3.8 section 9.2."""
        self._link.grow(BUFFER)
        while True:
            kind, length = self._header()
            if kind == _P_DATA:
                self._p_data(length)
            elif kind == Kind.RELEASE_RQ:
                if self._sink is not None or self._partial:
                    # A release here would read as success of a study that lacks an object.
                    raise MalformedError(Reason.UNEXPECTED_PDU, "the peer released in the middle of a message")
                if length != _RESERVED:
                    raise MalformedError(Reason.INVALID_PARAMETER_VALUE, "an A-RELEASE-RQ is not 4 bytes long")
                self._link.need(_RESERVED)
                return
            elif kind == Kind.ABORT:
                raise _AbortedError("the peer aborted")
            else:
                raise MalformedError(_unexpected(kind), f"a PDU of type {kind:02X}H came while data are transferred")

    def _header(self) -> tuple[int, int]:
        link = self._link
        if link.end - link.start < HEADER.size:
            link.need(HEADER.size)
        kind, length = HEADER.unpack_from(link.view, link.start)
        link.start += HEADER.size
        return kind, length

    def _p_data(self, left: int) -> None:
        link = self._link
        if not left:
            raise MalformedError(Reason.INVALID_PARAMETER_VALUE, "a P-DATA-TF has no fragment")
        while left:
            if left < FRAGMENT.size:
                raise MalformedError(Reason.INVALID_PARAMETER_VALUE, "a P-DATA-TF ends within the head of a fragment")
            if link.end - link.start < FRAGMENT.size:
                link.need(FRAGMENT.size)
            size, context_id, flags = FRAGMENT.unpack_from(link.view, link.start)
            link.start += FRAGMENT.size
            size -= pdu.FRAGMENT_OVERHEAD
            left -= size + FRAGMENT.size
            if size < 0 or left < 0:
                raise MalformedError(Reason.INVALID_PARAMETER_VALUE, "a fragment does not fit into its P-DATA-TF")
            self._left = left
            if flags & pdu.COMMAND:
                self._command_fragment(context_id, size, last=bool(flags & pdu.LAST))
            else:
                self._data_fragment(context_id, size, last=bool(flags & pdu.LAST))

    def _command_fragment(self, context_id: int, size: int, *, last: bool) -> None:
        if self._sink is not None:
            raise MalformedError(Reason.UNEXPECTED_PARAMETER, "a command came before the dataset of the last had ended")
        if self._partial and context_id != self._context_id:
            raise MalformedError(Reason.UNEXPECTED_PARAMETER, "a command goes on in another presentation context")
        context = self._contexts.get(context_id)
        if context is None:
            raise MalformedError(
                Reason.INVALID_PARAMETER_VALUE, "a command came in a presentation context that was not accepted"
            )
        if len(self._partial) + size > LONGEST_COMMAND:
            raise MalformedError(
                Reason.INVALID_PARAMETER_VALUE, f"a command set is longer than {LONGEST_COMMAND} bytes"
            )
        self._context_id = context_id
        link, start = self._link, self._link.start
        if last and not self._partial and link.end - start >= size:
            # As nearly every command comes: whole, in one fragment, with nothing to wait for.
            link.start = start + size
            self._begin(context, commands.decode(link.view[start : start + size]))
            return
        self._partial += link.take(size)
        if last:
            command = commands.decode(self._partial)
            self._partial.clear()
            self._begin(context, command)

    def _begin(self, context: Context, command: Command) -> None:
        field = command.field
        if field & commands.RESPONSE:
            raise MalformedError(Reason.UNEXPECTED_PARAMETER, "a response came that nothing was asked for")
        if command.has_dataset:
            self._request = command
            self._sink = self._provider.receive(context, command)
        elif field != commands.C_CANCEL_RQ:
            # Operations are done one after the other: when a C-CANCEL is read here, what it would cancel is over.
            self._respond(context.id, command, self._provider.answer(context, command))

    def _data_fragment(self, context_id: int, size: int, *, last: bool) -> None:
        sink, link = self._sink, self._link
        if sink is None:
            raise MalformedError(Reason.UNEXPECTED_PARAMETER, "a dataset came without a command that has one")
        if context_id != self._context_id:
            raise MalformedError(Reason.UNEXPECTED_PARAMETER, "a dataset came in another context than its command")
        while size:
            start = link.start
            count = link.end - start
            if not count:
                link.fill()
                continue
            count = min(count, size)
            link.start = start + count
            size -= count
            sink.write(link.view[start : start + count])
        if last:
            self._sink = None
            said = sink.finish()
            if isinstance(said, Command):
                self._send(context_id, said)
            else:
                self._respond(context_id, self._request, said)

    def _respond(self, context_id: int, request: Command, said: Iterable[Command | Reply]) -> None:
        """Send responses until they end, or the peer cancels."""
        responses = iter(said)
        try:
            for each in responses:
                pending = self._send(context_id, each)
                if pending and self._cancelled(request.message_id):
                    self._send(context_id, commands.response(request, commands.CANCELLED))
                    return
        finally:
            if isinstance(responses, Generator):
                responses.close()

    def _cancelled(self, message_id: int) -> bool:
        """Take the C-CANCELs that have come, and tell whether one names this request; hear an abort."""
        link = self._link
        while not self._left:
            waiting = link.view[link.start : link.end]
            if waiting and waiting[0] == Kind.ABORT:
                raise _AbortedError("the peer aborted")
            found = cancellation(waiting)
            if found is not None:
                taken, cancels = found
                link.start += taken
                if cancels == message_id:
                    return True
            elif not link.look():
                # Nothing, or a request, which has to wait for this one to end: it stays in the buffer.
                return False
        return False

    def _send(self, context_id: int, response: Command | Reply) -> bool:
        """Send one response, and tell whether more follow it."""
        longest = self._peer_max_pdu
        if isinstance(response, Command):
            self._link.send(pdu.encode_p_data(context_id, commands.encode(response), command=True, max_pdu=longest))
            return False
        command = pdu.encode_p_data(context_id, commands.encode(response.command), command=True, max_pdu=longest)
        self._link.send(command + pdu.encode_p_data(context_id, response.dataset, command=False, max_pdu=longest))
        return response.command.status in _MORE


def _unexpected(kind: int) -> Reason:
    return Reason.UNEXPECTED_PDU if kind in {each.value for each in Kind} else Reason.UNRECOGNIZED_PDU
