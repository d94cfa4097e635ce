"""A raw C-STORE sender: one association over a blocking socket, as fast as the peer takes it, the same for all peers.

It encodes by PS3.8 section 9.3 and PS3.7 section 9.3.1 itself, so that neither a library's speed nor its mistakes are
part of what is measured, and it shares no code with what it tests.
"""

import socket
import struct
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from itertools import accumulate

_APPLICATION_CONTEXT = b"1.2.840.10008.3.1.1.1"
_IMPLEMENTATION = b"2.25.1"
#: P-DATA-TF PDUs to a peer that sets no limit are as long as this.
_UNLIMITED = 1 << 17
#: The kernel takes at most 1024 buffers at a time.
_BUFFERS = 1024
_RECEIVES = 16384
#: Data, not the last fragment; command, the last fragment (PS3.8 E.2).
_DATA, _COMMAND, _LAST = 0, 1, 2


class NotAcceptedError(Exception):
    """The peer rejected the association, or no presentation context of it. The text says what it said."""


class BrokenError(Exception):
    """The association ended without being asked to: aborted, closed, or silent for too long."""


class Association:
    """An association as requestor, with one presentation context.

    Parameters
    ----------
    sop_class, syntax
        Proposed abstract syntax and its one transfer syntax.
    timeout
        Seconds without a byte either way before `BrokenError`.

    Raises
    ------
    NotAcceptedError
        It was refused.
    BrokenError
        Nobody listens, or the connection was closed.
    """

    def __init__(
        self,
        port: int,
        *,
        sop_class: str,
        syntax: str,
        called: str = "KIVUKO",
        calling: str = "STORESCU",
        timeout: float = 60.0,
    ) -> None:
        try:
            self._socket = socket.create_connection(("127.0.0.1", port), timeout)
        except OSError as error:
            raise BrokenError(f"no connection: {error}") from error
        # Without it each request waits for the acknowledgement of the one before.
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._received = bytearray()
        try:
            self._socket.sendall(_request(sop_class, syntax, called, calling))
            self.max_pdu = self._accepted()
        except OSError as error:
            self.close()
            raise BrokenError(f"no answer to the request for an association: {error}") from error
        except (NotAcceptedError, BrokenError):
            self.close()
            raise

    def store(self, request: "Request") -> int:
        """Send a request, wait for its response and give its status. Raises BrokenError."""
        try:
            request.send(self._socket)
            return self._status()
        except OSError as error:
            self.close()
            raise BrokenError(f"the association broke: {error}") from error

    def stream(self, sop_class: str, sop_uid: str, fragments: Iterable[bytes]) -> int:
        """Send a dataset of any length out of its fragments, none kept; gives the status. Raises BrokenError."""
        most = self.max_pdu - 6
        try:
            self._socket.sendall(_pdv(_COMMAND | _LAST, command(sop_class, sop_uid, 1)))
            for fragment in fragments:
                view = memoryview(fragment)
                parts = [view[at : at + most] for at in range(0, len(view), most)]
                send_all(self._socket, [each for part in parts for each in (_head(_DATA, len(part)), part)])
            # The last fragment may be empty, and nobody knows the last one before there is no next.
            self._socket.sendall(_head(_DATA | _LAST, 0))
            return self._status()
        except OSError as error:
            self.close()
            raise BrokenError(f"the association broke: {error}") from error

    def release(self) -> None:
        """Release it in order. Raises BrokenError."""
        try:
            self._socket.sendall(struct.pack(">BBII", 5, 0, 4, 0))
            kind, _ = self._pdu()
        except OSError as error:
            raise BrokenError(f"the association broke: {error}") from error
        finally:
            self.close()
        if kind != 6:
            raise BrokenError(f"PDU {kind:#04x} in answer to A-RELEASE-RQ")

    def abort(self) -> None:
        """Abort it (PS3.8 9.3.8)."""
        with suppress(OSError):
            self._socket.sendall(struct.pack(">BBIBBBB", 7, 0, 4, 0, 0, 0, 0))
        self.close()

    def close(self) -> None:
        """Close the connection without a word."""
        self._socket.close()

    def _accepted(self) -> int:
        kind, body = self._pdu()
        if kind == 3:
            raise NotAcceptedError(f"A-ASSOCIATE-RJ result {body[1]}, source {body[2]}, reason {body[3]}")
        if kind != 2:
            raise BrokenError(f"PDU {kind:#04x} in answer to A-ASSOCIATE-RQ")
        items = _items(body[68:])
        result = items[0x21][2]
        if result != 0:
            raise NotAcceptedError(f"presentation context refused with result {result}")
        longest: int = struct.unpack(">I", _items(items[0x50])[0x51])[0]
        return longest or _UNLIMITED

    def _status(self) -> int:
        kind, body = self._pdu()
        if kind != 4:
            raise BrokenError(f"PDU {kind:#04x} instead of a response")
        at = 6
        while at < len(body):
            group, element, length = struct.unpack_from("<HHI", body, at)
            if (group, element) == (0, 0x0900):
                return int.from_bytes(body[at + 8 : at + 10], "little")
            at += 8 + length
        raise BrokenError("a response without a status")

    def _pdu(self) -> tuple[int, bytes]:
        received = self._received
        while len(received) < 6 or len(received) < 6 + int.from_bytes(received[2:6], "big"):
            more = self._socket.recv(_RECEIVES)
            if not more:
                raise BrokenError("the peer closed the connection")
            received += more
        end = 6 + int.from_bytes(received[2:6], "big")
        kind, body = received[0], bytes(received[6:end])
        del received[:end]
        return kind, body


class Request:
    """A C-STORE request, framed once for an association; its dataset may be changed in place between two sendings.

    Parameters
    ----------
    dataset
        Kept, not copied.
    """

    def __init__(self, dataset: bytearray, sop_class: str, sop_uid: str, max_pdu: int) -> None:
        self._command = bytearray(_pdv(_COMMAND | _LAST, command(sop_class, sop_uid, 1)))
        uid = sop_uid.encode()
        self._uid = slice(self._command.rindex(uid), self._command.rindex(uid) + len(uid))
        view, most = memoryview(dataset), max_pdu - 6
        self._parts: list[bytes | bytearray | memoryview] = [self._command]
        for at in range(0, len(view), most):
            part = view[at : at + most]
            last = _LAST if at + most >= len(view) else 0
            self._parts += [_head(_DATA | last, len(part)), part]

    def name(self, sop_uid: bytes) -> None:
        """Change the Affected SOP Instance UID to another of the same length."""
        self._command[self._uid] = sop_uid

    def send(self, connection: socket.socket) -> None:
        """Write it all. Raises OSError."""
        send_all(connection, self._parts)


def send_all(connection: socket.socket, parts: Sequence[bytes | bytearray | memoryview]) -> None:
    """Write buffers one after the other without joining them. Raises OSError."""
    for start in range(0, len(parts), _BUFFERS):
        group = parts[start : start + _BUFFERS]
        sent = connection.sendmsg(group)
        ends = list(accumulate(map(len, group)))
        while sent < ends[-1]:
            index = next(i for i, end in enumerate(ends) if end > sent)
            first = memoryview(group[index])[sent - ends[index] :]
            sent += connection.sendmsg([first, *group[index + 1 :]])


def command(sop_class: str, sop_uid: str, message_id: int) -> bytes:
    """Encode the command set of a C-STORE-RQ (PS3.7 table 9.3-1)."""
    elements: Mapping[int, bytes] = {
        0x0002: _even(sop_class.encode()),
        0x0100: struct.pack("<H", 0x0001),
        0x0110: struct.pack("<H", message_id),
        0x0700: struct.pack("<H", 0),
        0x0800: struct.pack("<H", 1),
        0x1000: _even(sop_uid.encode()),
    }
    body = b"".join(struct.pack("<HHI", 0, tag, len(value)) + value for tag, value in elements.items())
    return struct.pack("<HHII", 0, 0, 4, len(body)) + body


def _request(sop_class: str, syntax: str, called: str, calling: str) -> bytes:
    context = _item(0x20, b"\x01\0\0\0" + _item(0x30, sop_class.encode()) + _item(0x40, syntax.encode()))
    user = _item(0x50, _item(0x51, struct.pack(">I", _RECEIVES)) + _item(0x52, _IMPLEMENTATION))
    titles = called.ljust(16).encode() + calling.ljust(16).encode()
    body = struct.pack(">HH", 1, 0) + titles + bytes(32) + _item(0x10, _APPLICATION_CONTEXT) + context + user
    return struct.pack(">BBI", 1, 0, len(body)) + body


def _item(kind: int, value: bytes) -> bytes:
    return struct.pack(">BBH", kind, 0, len(value)) + value


def _items(data: bytes) -> dict[int, bytes]:
    found, at = {}, 0
    while at < len(data):
        kind, _, length = struct.unpack_from(">BBH", data, at)
        found[kind] = data[at + 4 : at + 4 + length]
        at += 4 + length
    return found


def _head(control: int, length: int) -> bytes:
    """Give the header of a P-DATA-TF PDU with one PDV on context 1 (PS3.8 9.3.5)."""
    return struct.pack(">BBIIBB", 4, 0, length + 6, length + 2, 1, control)


def _pdv(control: int, value: bytes) -> bytes:
    return _head(control, len(value)) + value


def _even(value: bytes) -> bytes:
    return value + b"\0" * (len(value) % 2)
