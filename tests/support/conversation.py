"""One connection of a destination that misbehaves: PS3.8 section 9.2 as acceptor, as far as a C-STORE needs it."""

import hashlib
import socket
import ssl
import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, NoReturn

from tests.support import dul
from tests.support.behaviour import Answers, Behaviour, Do, Fault, When
from tests.support.record import Met, Received, Record

if TYPE_CHECKING:
    from hashlib import _Hash

_RESET = struct.pack("ii", 1, 0)
_GARBAGE = b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n"
#: Seconds without a byte after which REVERSED answers what it has.
_QUIET_S = 0.25
#: Seconds that the peer has to close the connection at the end (ARTIM, PS3.8 section 9.1.5).
_ARTIM_S = 5.0
_AT_MOST = 1 << 16


class _OverError(Exception):
    """The connection is at its end. The text says how it came to it."""


@dataclass
class _Request:
    """A C-STORE-RQ and what has come of its dataset; `status` once it was answered early."""

    context: int
    command: dul.Command
    digest: "_Hash"
    size: int = 0
    status: int | None = None


class Conversation:
    """One connection.

    Parameters
    ----------
    strikes
        Told that a fault is due; tells whether it strikes.
    hang
        Returns at the end of the destination.
    """

    def __init__(
        self,
        connection: socket.socket,
        behaviour: Behaviour,
        met: Met,
        record: Record,
        strikes: Callable[[Fault], bool],
        hang: Callable[[], object],
    ) -> None:
        self._socket = connection
        self._behaviour = behaviour
        self._fault = behaviour.fault
        self._met = met
        self._record = record
        self._strikes = strikes
        self._hang = hang
        self._granted = dul.Granted({}, 1)
        self._max_pdu = 0
        self._command = bytearray()
        self._request: _Request | None = None
        #: Message ids that were not answered yet.
        self._unanswered: set[int] = set()
        #: Whole, to be answered in reverse order, each with its status.
        self._kept: list[tuple[_Request, int]] = []
        self._answered = 0
        self._mute = self._releases = self._collided = False

    def run(self) -> str:
        """Talk until the end, and tell how it came."""
        try:
            if isinstance(self._socket, ssl.SSLSocket):
                self._socket.do_handshake()
            self._associate()
            while True:
                self._next()
        except _OverError as over:
            return str(over)
        except OSError as error:
            return f"broken: {error}"

    def _associate(self) -> None:
        self._strike(When.CONNECTED)
        kind, length = self._head()
        if kind != dul.RQ:
            self._violated(f"PDU {kind:#04x} instead of A-ASSOCIATE-RQ")
        body = self._read(length)
        asked = self._met.asked = dul.read_request(body)
        self._strike(When.REQUESTED)
        if self._mute:
            self._part("never answered", None)
        behaviour = self._behaviour
        if behaviour.rejection is not None:
            self._say(dul.pdu(dul.RJ, bytes((0, *behaviour.rejection))))
            self._part("rejected")
        self._granted = self._met.granted = dul.grant(asked, syntaxes=behaviour.syntaxes, window=behaviour.window)
        self._max_pdu = asked.max_pdu
        self._say(dul.accept(body, asked, self._granted, max_pdu=behaviour.max_pdu))
        self._strike(When.BETWEEN)

    def _next(self) -> None:
        """Take the next PDU."""
        kind, length = self._head()
        if kind == dul.P_DATA:
            self._data(length)
            return
        self._read(length)
        if kind == dul.RELEASE_RQ:
            self._release()
        elif kind == dul.RELEASE_RP and self._releases:
            if self._collided:
                self._say(dul.pdu(dul.RELEASE_RP, bytes(4)))
            self._part("released by the destination")
        elif kind == dul.ABORT:
            raise _OverError("aborted by the sender")
        else:
            self._violated(f"unexpected PDU {kind:#04x}")

    def _release(self) -> None:
        if self._request is not None or self._kept:
            self._record.violated(self._met.number, "A-RELEASE-RQ before all was answered")
        self._answer_kept()
        self._strike(When.RELEASE)
        if self._releases:
            # Who accepted the association waits for the answer to its own request first (PS3.8 section 9.2.3, Sta10).
            self._collided = True
            return
        self._say(dul.pdu(dul.RELEASE_RP, bytes(4)))
        self._part("release not answered" if self._mute else "released", None if self._mute else _ARTIM_S)

    def _data(self, length: int) -> None:
        """Take a P-DATA-TF."""
        most = self._behaviour.max_pdu
        if most and length > most:
            self._record.violated(self._met.number, f"P-DATA-TF of {length} bytes, not {most} at most")
        body = b""
        if self._request is not None and self._due(When.DATASET):
            body = self._read(length // 2)
            self._strike(When.DATASET)
        for context, control, data in dul.fragments(body + self._read(length - len(body))):
            self._fragment(context, control, data)

    def _fragment(self, context: int, control: int, data: bytes) -> None:
        is_command, is_last = bool(control & 1), bool(control & 2)
        if context not in self._granted.contexts:
            self._violated(f"data in context {context}, which was not accepted")
        if is_command:
            if self._request is not None:
                self._violated("a command in the middle of a dataset")
            self._command += data
            if is_last:
                command = dul.read_command(bytes(self._command))
                self._command.clear()
                self._requested(context, command)
            return
        request = self._request
        if request is None or request.context != context:
            self._violated("a dataset without a command")
        # Still due where the whole message is in one PDU.
        self._strike(When.DATASET)
        request.digest.update(data)
        request.size += len(data)
        if is_last:
            self._request = None
            self._whole(request)

    def _requested(self, context: int, command: dul.Command) -> None:
        """Take a command."""
        if command.field == dul.ECHO_RQ:
            self._met.echoes += 1
            self._respond(context, command, 0x0000, kind=dul.ECHO_RSP, message_id=command.message_id)
            return
        if command.field != dul.STORE_RQ or not command.has_dataset:
            self._violated(f"command {command.field:#06x}, with a dataset: {command.has_dataset}")
        window = self._granted.window
        if window and len(self._unanswered) >= window:
            self._record.violated(self._met.number, f"more than {window} requests at a time")
        if command.message_id in self._unanswered:
            self._record.violated(self._met.number, f"message id {command.message_id} again before its answer")
        self._unanswered.add(command.message_id)
        self._met.begun.append(command.sop_uid)
        self._request = _Request(context, command, hashlib.sha256())
        if self._behaviour.window_breaks and self._met.asked is not None and self._met.asked.window != 1:
            self._do(Do.CLOSE)
        self._strike(When.COMMAND)
        if self._behaviour.answers is Answers.EARLY:
            with self._record.lock:
                status = self._behaviour.status(len(self._record.received) + 1, command.sop_uid)
            self._request.status = status
            self._answer(self._request, status)

    def _whole(self, request: _Request) -> None:
        """Record a dataset and answer it."""
        what = self._claim(When.WHOLE)
        status = self._received(request, struck=what is not None)
        if what is not None:
            self._do(what)
        if self._behaviour.answers is Answers.REVERSED:
            self._kept.append((request, status))
            if self._granted.window and len(self._kept) >= self._granted.window:
                self._answer_kept()
        elif request.status is None:
            self._answer(request, status)

    def _received(self, request: _Request, *, struck: bool) -> int:
        command, answers, record = request.command, self._behaviour.answers, self._record
        silent = self._mute or self._releases or struck or answers in (Answers.WRONG_ID, Answers.OTHER_COMMAND)
        sop_class, syntax = self._granted.contexts[request.context]
        if sop_class != command.sop_class:
            record.violated(self._met.number, "a SOP class other than that of its context")
        with record.lock:
            order = len(record.received) + 1
            status = self._behaviour.status(order, command.sop_uid) if request.status is None else request.status
            record.received.append(
                Received(
                    sop_uid=command.sop_uid,
                    sop_class=command.sop_class,
                    syntax=syntax,
                    sha256=request.digest.hexdigest(),
                    size=request.size,
                    association=self._met.number,
                    order=order,
                    message_id=command.message_id,
                    status=None if silent and request.status is None else status,
                )
            )
        return status

    def _answer_kept(self) -> None:
        while self._kept:
            self._answer(*self._kept.pop())

    def _answer(self, request: _Request, status: int) -> None:
        if self._mute or self._releases:
            return
        answers, command = self._behaviour.answers, request.command
        kind = dul.ECHO_RSP if answers is Answers.OTHER_COMMAND else dul.STORE_RSP
        wrong = answers is Answers.WRONG_ID
        self._unanswered.discard(command.message_id)
        self._respond(request.context, command, status, kind=kind, message_id=command.message_id + wrong & 0xFFFF)
        self._answered += 1
        self._strike(When.BETWEEN)

    def _respond(self, context: int, command: dul.Command, status: int, *, kind: int, message_id: int) -> None:
        self._say(dul.response(context, command, status, field=kind, message_id=message_id, max_pdu=self._max_pdu))

    def _due(self, when: When) -> bool:
        fault = self._fault
        if fault is None or fault.when is not when:
            return False
        if when is When.BETWEEN:
            return self._answered == fault.after
        if when in (When.COMMAND, When.DATASET, When.WHOLE):
            return len(self._met.begun) == fault.after + 1
        return True

    def _claim(self, when: When) -> Do | None:
        """Tell what strikes now; it does so once."""
        fault = self._fault
        if fault is None or not self._due(when):
            return None
        self._fault = None
        return fault.do if self._strikes(fault) else None

    def _strike(self, when: When) -> None:
        """Let strike what strikes now."""
        what = self._claim(when)
        if what is not None:
            self._do(what)

    def _do(self, what: Do) -> None:
        if what is Do.HANG:
            self._hang()
            raise _OverError("hung")
        if what is Do.ABORT:
            self._say(dul.pdu(dul.ABORT, bytes(4)))
            self._part("aborted by the destination")
        if what is Do.CLOSE:
            # The end goes out first: closed with bytes unread, the connection would be reset.
            self._socket.shutdown(socket.SHUT_WR)
            raise _OverError("closed by the destination")
        if what is Do.RESET:
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
            raise _OverError("reset by the destination")
        if what is Do.RELEASE:
            self._say(dul.pdu(dul.RELEASE_RQ, bytes(4)))
            self._releases = True
        if what is Do.GARBAGE:
            self._say(_GARBAGE)
        self._mute = self._mute or what in (Do.GARBAGE, Do.IGNORE)

    def _violated(self, what: str) -> NoReturn:
        """Note a violation after which nothing can be understood, and abort."""
        self._record.violated(self._met.number, what)
        self._say(dul.pdu(dul.ABORT, bytes(4)))
        self._part("aborted because of the sender")

    def _part(self, how: str, patience_s: float | None = _ARTIM_S) -> NoReturn:
        """Wait until the peer closes the connection; then it is over."""
        self._socket.settimeout(patience_s)
        try:
            while self._socket.recv(_AT_MOST):
                pass
        except TimeoutError:
            raise _OverError(f"{how}, and the sender left it open") from None
        raise _OverError(how)

    def _head(self) -> tuple[int, int]:
        """Read the header of a PDU: its type and length."""
        start = b""
        while self._kept and not start:
            self._socket.settimeout(_QUIET_S)
            try:
                start = self._read(1)
            except TimeoutError:
                self._answer_kept()
        self._socket.settimeout(None)
        kind, length = dul.HEAD.unpack(start + self._read(dul.HEAD.size - len(start)))
        return int(kind), int(length)

    def _read(self, length: int) -> bytes:
        parts = bytearray()
        while len(parts) < length:
            data = self._socket.recv(min(length - len(parts), _AT_MOST))
            if not data:
                raise _OverError("closed by the sender")
            parts += data
        return bytes(parts)

    def _say(self, data: bytes) -> None:
        if self._mute:
            return
        pieces = [data[at : at + 1] for at in range(len(data))] if self._behaviour.byte_by_byte else [data]
        for each in pieces:
            self._socket.sendall(each)
