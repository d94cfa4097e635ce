"""The requestor of an association: PS3.8 section 9.2 as far as one who calls can come, and the messages of PS3.7.

One association belongs to one thread; only `stop` may be called from others. A dataset that is sent is never held: its
pieces go out as they come.
"""

import socket
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Final

from libs.dimse import associate, pdu
from libs.dimse import command as commands
from libs.dimse.command import Command
from libs.dimse.connection import Connection, LostError, Patient, Socket, StoppedError, TimedOutError, interrupter
from libs.dimse.negotiation import Agreement, RefusedContext, Request
from libs.dimse.pdu import FRAGMENT, HEADER, Kind, MalformedError, Reason, Rejection, Source

#: 128 answered contexts and a user information item are far shorter.
LONGEST_AGREEMENT: Final = 1 << 18
#: What an answer may hold besides its command: an identifier of C-FIND, a list of N-EVENT-REPORT.
LONGEST_DATASET: Final = 1 << 24
LONGEST_COMMAND: Final = 1 << 16
#: Fragments to a peer that sets no limit are as long as this.
_UNLIMITED: Final = 1 << 18
#: The kernel takes at most 1024 buffers at a time; each fragment needs two.
_BUFFERS: Final = 1000
_BUFFER: Final = 1 << 16
_HEAD: Final = HEADER.size + FRAGMENT.size
_P_DATA: Final = int(Kind.P_DATA)
#: Seconds in which what a peer said before it went away is read.
_LAST_WORDS: Final = 0.5

Buffer = bytes | bytearray | memoryview


class RejectedError(Exception):
    """The peer answered A-ASSOCIATE-RJ.

    Attributes
    ----------
    rejection
        What it said.
    """

    def __init__(self, rejection: Rejection) -> None:
        super().__init__("the peer rejected the association")
        self.rejection = rejection


class AbortedError(Exception):
    """The peer sent A-ABORT; the text is a sentence for people."""


class ReleasedError(Exception):
    """The peer asked to release the association; the text is a sentence for people."""


@dataclass(frozen=True)
class Patience:
    """How long the peer may be silent, in seconds.

    Attributes
    ----------
    acse
        In total, for the answer to an association request and to a release.
    response
        For a response, after the last byte of the request has left.
    network
        For taking no byte of what is sent.
    """

    acse: float
    response: float
    network: float


@dataclass(frozen=True)
class Message:
    """What the peer sent: a response, or a request of its own.

    Attributes
    ----------
    context_id
        Presentation context.
    command
        The command set.
    dataset
        Its bytes; none if there is none.
    """

    context_id: int
    command: Command
    dataset: bytes | None


class Association:
    """One association, on a connection that stands.

    Parameters
    ----------
    connected
        Plain, or TLS with its handshake done; `close`, `release` and `abort` close it.
    patience
        What is borne.
    now
        Seconds of a clock that only goes on.

    Attributes
    ----------
    contexts
        Identifier of each accepted presentation context, by abstract and transfer syntax.
    refused
        Why the others were not accepted, by abstract syntax and what was proposed: results of PS3.8 table 9-18.
    window
        Operations that may be under way; 0: any number.
    max_pdu
        Longest P-DATA-TF that the peer takes, bytes without the header; 0: any.
    implementation
        What the peer says of its software: class UID and version name, PS3.7 section D.3.3.2.
    """

    def __init__(
        self, connected: socket.socket | Socket, patience: Patience, now: Callable[[], float] = time.monotonic
    ) -> None:
        interrupt = interrupter(connected) if isinstance(connected, socket.socket) else _nothing
        if isinstance(connected, socket.socket):
            connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if type(connected) is socket.socket:
                connected = Patient(connected)
        self._link = Connection(connected, interrupt, now)
        self._patience = patience
        self._messages: deque[Message] = deque()
        self._command = bytearray()
        self._context_id = 0
        self._accepted: frozenset[int] = frozenset()
        self._dataset: bytearray | None = None
        self._asking: tuple[int, Command] | None = None
        self.contexts: dict[tuple[str, str], int] = {}
        self.refused: dict[tuple[str, tuple[str, ...]], int] = {}
        self.window = 1
        self.max_pdu = 0
        self.implementation = ("", "")

    def ask(self, request: Request) -> Agreement:
        """Ask for the association, PS3.8 section 9.3.2.

        Raises
        ------
        RejectedError, AbortedError, LostError, TimedOutError, MalformedError, StoppedError
            It did not come about. The connection is closed.
        """
        link = self._link
        try:
            link.within(self._patience.acse)
            link.send(associate.encode_request(request))
            agreement = self._answer()
        except TimedOutError as error:
            self.abort(Source.PROVIDER)
            raise TimedOutError(f"no answer to the association request within {self._patience.acse:g} s") from error
        except MalformedError as error:
            self.abort(Source.PROVIDER, error.reason)
            raise
        except BaseException:
            link.close()
            raise
        self._agree(request, agreement)
        link.grow(_BUFFER)
        return agreement

    def send(self, context_id: int, command: Command, dataset: Iterable[Buffer] = ()) -> int:
        """Send a message, PS3.8 annex E; give the bytes of its dataset.

        Parameters
        ----------
        context_id
            Of an accepted presentation context.
        command
            If it says that a dataset follows, `dataset` has to give one.
        dataset
            Pieces, of which all together have an even length. Each must stay as it is until two more were asked for.
            The last goes out after the end: what is raised there, or before, goes on to the caller, the message stays
            incomplete, and `abort` is all that is left.

        Raises
        ------
        LostError, TimedOutError, AbortedError, StoppedError
            The association is over.
        """
        head = pdu.encode_p_data(context_id, commands.encode(command), command=True, max_pdu=self.max_pdu)
        link = self._link
        link.patient(self._patience.network)
        longest = _UNLIMITED if self.max_pdu == 0 else max(2, min(_UNLIMITED, (self.max_pdu - FRAGMENT.size) & ~1))
        sent = 0
        try:
            if not command.has_dataset:
                link.send(head)
                return 0
            parts: list[Buffer] = [head]
            for piece, last in _pieces(dataset):
                end = len(piece)
                sent += end
                for start in range(0, end, longest):
                    fragment = piece[start : start + longest]
                    final = last and start + longest >= end
                    parts += (_fragment_head(context_id, len(fragment), last=final), fragment)
                    if len(parts) >= _BUFFERS:
                        link.send_parts(parts)
                        parts = []
                if parts:
                    link.send_parts(parts)
                    parts = []
        except LostError as error:
            # What the peer said before it closed tells more than that it closed.
            raise self._last_words(error) from error
        return sent

    def receive(self) -> Message:
        """Wait for the next message.

        Raises
        ------
        ReleasedError
            The peer wants to release; `close` answers it.
        LostError, TimedOutError, AbortedError, MalformedError, StoppedError
            The association is over.
        """
        if not self._messages:
            self._link.patient(self._patience.response)
            try:
                while not self._messages:
                    self._pdu()
            except TimedOutError as error:
                raise TimedOutError(f"the receiver was silent for {self._patience.response:g} s") from error
        return self._messages.popleft()

    def expect(self, seconds: float) -> Message | None:
        """Wait for a message that nothing was asked for and that need not come, such as an N-EVENT-REPORT request.

        Parameters
        ----------
        seconds
            In total, until it begins to come; for the rest of it the peer has the patience of a response.

        Returns
        -------
        Message or None
            None: none began to come. The association stands as it was.

        Raises
        ------
        ReleasedError, LostError, TimedOutError, AbortedError, MalformedError, StoppedError
            As `receive`.
        """
        link = self._link
        if not self._messages:
            link.within(seconds)
            try:
                link.need(1)
            except TimedOutError:
                return None
        return self.receive()

    def come(self) -> Iterator[Message]:
        """Give the messages that have come already; it waits for nothing. What is left when an association is over."""
        while self._messages:
            yield self._messages.popleft()

    def release(self) -> None:
        """End the association in order, PS3.8 section 7.2; what the peer still sends is ignored. Never raises."""
        link = self._link
        link.within(self._patience.acse)
        try:
            link.send(pdu.encode_release_rq())
            while True:
                kind, length = self._header()
                if kind == Kind.RELEASE_RP:
                    break
                if kind == Kind.RELEASE_RQ:
                    # Both asked at once: the requestor answers first, then hears the answer to its own. AR-8 and AR-9.
                    link.take(length)
                    link.send(pdu.encode_release_rp())
                elif kind == _P_DATA:
                    link.skip(length)
                else:
                    break
        except (LostError, TimedOutError, StoppedError):
            pass  # every message was answered before: whether the peer takes leave changes nothing
        finally:
            link.close()

    def abort(self, source: Source = Source.USER, reason: Reason = Reason.NOT_SPECIFIED) -> None:
        """End the association with A-ABORT, without waiting for a peer that may not answer. Never raises."""
        try:
            self._link.dismiss(pdu.encode_abort(source, reason))
        finally:
            self._link.close()

    def close(self) -> None:
        """Let a peer go that asked for it, PS3.8 section 9.2.3, AR-4; or close what is over. Never raises."""
        try:
            self._link.dismiss(pdu.encode_release_rp())
        finally:
            self._link.close()

    def stop(self) -> None:
        """Have the thread that waits in this association raise StoppedError soon; from any thread."""
        self._link.stop()

    def _agree(self, request: Request, agreement: Agreement) -> None:
        proposed = {each.id: each for each in request.contexts}
        for each in agreement.contexts:
            wanted = proposed.get(each.id)
            if wanted is None:
                continue
            if isinstance(each, RefusedContext):
                self.refused[(wanted.abstract_syntax, wanted.transfer_syntaxes)] = each.reason
            elif each.transfer_syntax in wanted.transfer_syntaxes:
                self.contexts[(wanted.abstract_syntax, each.transfer_syntax)] = each.id
        self._accepted = frozenset(self.contexts.values())
        self.max_pdu = agreement.max_pdu
        self.implementation = (agreement.implementation_class_uid, agreement.implementation_version)
        if request.window is not None and agreement.window is not None:
            granted, wished = agreement.window[0], request.window[0]
            self.window = max(granted, wished) if 0 in (granted, wished) else min(granted, wished)

    def _answer(self) -> Agreement:
        kind, length = self._header()
        if kind == Kind.ABORT:
            raise AbortedError("the peer aborted in place of an answer to the association request")
        if kind not in (Kind.ASSOCIATE_AC, Kind.ASSOCIATE_RJ):
            raise _unexpected(kind, "answers the association request")
        if length > LONGEST_AGREEMENT:
            raise _malformed("the answer to the association request claims more bytes than any has")
        body = bytes(self._link.take(length))
        if kind == Kind.ASSOCIATE_AC:
            return associate.decode_agreement(body)
        raise RejectedError(pdu.decode_rejection(body))

    def _header(self) -> tuple[int, int]:
        link = self._link
        link.need(HEADER.size)
        kind, length = HEADER.unpack_from(link.view, link.start)
        link.start += HEADER.size
        return kind, length

    def _pdu(self) -> None:
        """Take one PDU: state 6 of PS3.8 section 9.2."""
        kind, length = self._header()
        if kind == _P_DATA:
            self._p_data(length)
        elif kind == Kind.ABORT:
            raise AbortedError("the peer aborted the association")
        elif kind == Kind.RELEASE_RQ:
            # To its end: the answer would be lost if the connection was closed with bytes unread.
            self._link.skip(min(length, FRAGMENT.size))
            raise ReleasedError("the peer released the association")
        else:
            raise _unexpected(kind, "came while data are transferred")

    def _p_data(self, left: int) -> None:
        link = self._link
        if not left:
            raise _malformed("a P-DATA-TF has no fragment")
        while left:
            if left < FRAGMENT.size:
                raise _malformed("a P-DATA-TF ends within the head of a fragment")
            link.need(FRAGMENT.size)
            size, context_id, flags = FRAGMENT.unpack_from(link.view, link.start)
            link.start += FRAGMENT.size
            size -= pdu.FRAGMENT_OVERHEAD
            left -= size + FRAGMENT.size
            if size < 0 or left < 0:
                raise _malformed("a fragment does not fit into its P-DATA-TF")
            if context_id not in self._accepted:
                raise _malformed("a fragment came in a presentation context that was not accepted")
            if flags & pdu.COMMAND:
                self._command_fragment(context_id, size, last=bool(flags & pdu.LAST))
            else:
                self._data_fragment(context_id, size, last=bool(flags & pdu.LAST))

    def _command_fragment(self, context_id: int, size: int, *, last: bool) -> None:
        if self._asking is not None:
            raise _malformed("a command came before the dataset of the last had ended")
        if self._command and context_id != self._context_id:
            raise _malformed("a command came in two presentation contexts")
        if len(self._command) + size > LONGEST_COMMAND:
            raise _malformed("a command set is longer than any command is")
        self._context_id = context_id
        self._command += self._link.take(size)
        if not last:
            return
        command = commands.decode(self._command)
        self._command.clear()
        if command.has_dataset:
            self._asking, self._dataset = (context_id, command), bytearray()
        else:
            self._messages.append(Message(context_id, command, None))

    def _data_fragment(self, context_id: int, size: int, *, last: bool) -> None:
        if self._asking is None or self._dataset is None:
            raise _malformed("a dataset came without a command that has one")
        if context_id != self._asking[0]:
            raise _malformed("a dataset came in another context than its command")
        if len(self._dataset) + size > LONGEST_DATASET:
            raise _malformed(f"a dataset is longer than {LONGEST_DATASET} bytes")
        self._dataset += self._link.take(size)
        if last:
            self._messages.append(Message(*self._asking, bytes(self._dataset)))
            self._asking = self._dataset = None

    def _last_words(self, lost: LostError) -> Exception:
        self._link.within(_LAST_WORDS)
        try:
            while True:
                self._pdu()
        except (AbortedError, ReleasedError) as said:
            return AbortedError(f"{said} while something was sent")
        except (LostError, TimedOutError, MalformedError, StoppedError):
            return lost


def _pieces(dataset: Iterable[Buffer]) -> Iterator[tuple[memoryview, bool]]:
    """Give pieces of even length, and whether each is the last: one is held back until another is there."""
    held: memoryview | None = None
    rest = b""
    for each in dataset:
        piece = memoryview(rest + bytes(each)) if rest else memoryview(each)
        rest = bytes(piece[-1:]) if len(piece) % 2 else b""
        piece = piece[: len(piece) & ~1]
        if not piece:
            continue
        if held is not None:
            yield held, False
        held = piece
    if rest:
        raise ValueError("a dataset of odd length can't be sent: PS3.8 annex E.1")
    if held is None:
        raise ValueError("a dataset without a byte can't be sent")
    yield held, True


def _fragment_head(context_id: int, count: int, *, last: bool) -> bytes:
    return HEADER.pack(_P_DATA, FRAGMENT.size + count) + FRAGMENT.pack(
        count + pdu.FRAGMENT_OVERHEAD, context_id, pdu.LAST if last else 0
    )


def _unexpected(kind: int, what: str) -> MalformedError:
    known = kind in {each.value for each in Kind}
    reason = Reason.UNEXPECTED_PDU if known else Reason.UNRECOGNIZED_PDU
    return MalformedError(reason, f"a PDU of type {kind:02X}H {what}" if known else f"what is no DICOM {what}")


def _nothing(_sending: bool) -> None:
    """Wake nobody."""


def _malformed(problem: str) -> MalformedError:
    return MalformedError(Reason.INVALID_PARAMETER_VALUE, problem)
