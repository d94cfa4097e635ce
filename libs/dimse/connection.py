"""One connection: bytes through one fixed buffer, each wait bounded. Knows nothing of what the bytes mean."""

import select
import socket
import ssl
import struct
from collections.abc import Callable
from contextlib import suppress
from typing import Final, Protocol

#: Bytes of the buffer while nobody has been admitted: what half-open connections may cost.
_SMALL: Final = 1 << 14
#: Seconds in which a peer may take our last word when this side is asked to end.
_STOPPING: Final = 2.0


#: SO_LINGER: on, 0 seconds.
_RESET: Final = struct.pack("ii", 1, 0)
#: The second one is how a wait ends that the kernel measures.
_TIMES_OUT: Final = (TimeoutError, BlockingIOError)
#: SO_RCVTIMEO and SO_SNDTIMEO: seconds and microseconds, of which 0 would be for ever.
_TIMEVAL: Final = struct.Struct("@ll")


class LostError(Exception):
    """The peer closed the connection, or it broke; the text is a sentence for people."""


class TimedOutError(Exception):
    """The peer took too long; the text is a sentence for people."""


class StoppedError(Exception):
    """We were asked to end; the text is a sentence for people."""


class Socket(Protocol):
    """What is used of a connected socket, plain or TLS."""

    def recv_into(self, buffer: memoryview, /) -> int:
        """Wait for bytes; 0: the peer has closed."""
        ...

    def sendall(self, data: bytes, /) -> None:
        """Hand all bytes over."""
        ...

    def settimeout(self, value: float, /) -> None:
        """Let each wait last so many seconds; then TimeoutError."""
        ...

    def setsockopt(self, level: int, option: int, value: bytes, /) -> None:
        """Set an option of the socket."""
        ...

    def close(self) -> None:
        """Give it back."""
        ...


class Patient:
    """A plain socket whose waits the kernel measures: Python would ask it twice, each time, whether there is something.

    Parameters
    ----------
    connected
        A blocking one from now on.
    """

    def __init__(self, connected: socket.socket) -> None:
        connected.settimeout(None)
        self.recv_into = connected.recv_into
        self.sendall = connected.sendall
        self.sendmsg = connected.sendmsg
        self.setsockopt = connected.setsockopt
        self.close = connected.close

    def settimeout(self, value: float, /) -> None:
        """Let each wait last so many seconds; then BlockingIOError."""
        microseconds = max(1, int(value * 1_000_000))
        limit = _TIMEVAL.pack(*divmod(microseconds, 1_000_000))
        self.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, limit)
        self.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, limit)


class Connection:
    """Reads ahead into a buffer and hands out views of it.

    Parameters
    ----------
    connected
        Closed by `close`.
    interrupt
        Ends the reading side of the socket (or both sides, if told so) while another thread waits in it.
    now
        Seconds of a clock that only goes on.
    waiting
        Tells whether bytes, or the end, can be read from the socket at once.

    Attributes
    ----------
    view, start, end
        The buffer, and where in it the bytes are that came and were not taken yet. For the loop that takes fragments,
        which has no time for a call each; it moves `start` only.
    """

    def __init__(
        self,
        connected: Socket,
        interrupt: Callable[[bool], None],
        now: Callable[[], float],
        waiting: Callable[[], bool] = lambda: False,
    ) -> None:
        self._socket = connected
        self._waiting = waiting
        # One of TLS has the method only to say that it can't.
        self._gather = None if isinstance(connected, ssl.SSLSocket) else getattr(connected, "sendmsg", None)
        self._interrupt = interrupt
        self._now = now
        self._until: float | None = None
        self._stopping = False
        self._sending = False
        self._ended = False
        self.view = memoryview(bytearray(_SMALL))
        self.start = 0
        self.end = 0

    def grow(self, size: int) -> None:
        """Take a buffer of that many bytes, once it is known that it is worth it."""
        larger = memoryview(bytearray(max(size, len(self.view))))
        waiting = self.end - self.start
        larger[:waiting] = self.view[self.start : self.end]
        self.view, self.start, self.end = larger, 0, waiting

    def within(self, seconds: float) -> None:
        """From now on everything must have come and gone within so many seconds in total."""
        self._until = self._now() + seconds

    def patient(self, seconds: float) -> None:
        """From now on each wait for the peer may take so many seconds."""
        self._until = None
        self._socket.settimeout(seconds)

    def fill(self) -> None:
        """Wait for bytes and add them to the buffer. Raises LostError, TimedOutError, StoppedError."""
        if self.start == self.end:
            self.start = self.end = 0
        elif self.end == len(self.view):
            waiting = self.end - self.start
            self.view[:waiting] = self.view[self.start : self.end]
            self.start, self.end = 0, waiting
        self._ready()
        try:
            got = self._socket.recv_into(self.view[self.end :])
        except _TIMES_OUT as error:
            raise TimedOutError("nothing came from the peer in time") from error
        except OSError as error:
            self._check()
            raise LostError("the connection broke while bytes were awaited") from error
        self._check()
        if not got:
            self._ended = True
            raise LostError("the peer closed the connection")
        self.end += got

    def look(self) -> bool:
        """Add what has come to the buffer, as far as there is room, and tell whether any has. Raises as `fill`."""
        if self.end - self.start == len(self.view) or not self._waiting():
            return False
        self.fill()
        return True

    def need(self, count: int) -> None:
        """Wait until so many bytes, fewer than the buffer holds, stand at `start`. Raises as `fill`."""
        while self.end - self.start < count:
            if self.start + count > len(self.view):
                waiting = self.end - self.start
                self.view[:waiting] = self.view[self.start : self.end]
                self.start, self.end = 0, waiting
            self.fill()

    def take(self, count: int) -> bytearray:
        """Wait for so many bytes and copy them: memory grows with what came, not with claims. Raises as `fill`."""
        taken = bytearray()
        while len(taken) < count:
            if self.start == self.end:
                self.fill()
            part = self.view[self.start : min(self.end, self.start + count - len(taken))]
            taken += part
            self.start += len(part)
        return taken

    def send(self, data: bytes) -> None:
        """Hand all bytes to the network. Raises LostError, TimedOutError, StoppedError."""
        self._sending = True
        try:
            self._ready()
            self._socket.sendall(data)
        except _TIMES_OUT as error:
            raise TimedOutError("the peer did not take what was sent in time") from error
        except OSError as error:
            self._check()
            raise LostError("the connection broke while something was sent") from error
        finally:
            self._sending = False

    def send_parts(self, parts: "list[bytes | bytearray | memoryview]") -> None:
        """Hand all bytes of many buffers to the network. Raises as `send`, and TimedOutError only if none was taken."""
        gather = self._gather
        if gather is None:
            return self.send(b"".join(parts))
        self._sending = True
        try:
            left = sum(map(len, parts))
            while left:
                self._ready()
                sent = gather(parts)
                left -= sent
                if left:
                    parts = _after(parts, sent)
        except _TIMES_OUT as error:
            raise TimedOutError("the peer did not take what was sent in time") from error
        except OSError as error:
            self._check()
            raise LostError("the connection broke while something was sent") from error
        finally:
            self._sending = False

    def skip(self, count: int) -> None:
        """Wait for so many bytes and forget them. Raises as `fill`."""
        while count:
            if self.start == self.end:
                self.fill()
            here = min(count, self.end - self.start)
            self.start += here
            count -= here

    def dismiss(self, farewell: bytes) -> None:
        """Say the last word to a peer that need not hear it, and wait for nothing. Never raises."""
        self._until, self._stopping = self._now() + _STOPPING, False
        with suppress(LostError, TimedOutError, StoppedError):
            self.send(farewell)

    def part(self, farewell: bytes, seconds: float) -> None:
        """Say the last word and wait until the peer closes, at most so many seconds in total; what comes is ignored.

        Closing at once with bytes unread resets the connection, and the peer may never see the last word.
        """
        if self._stopping:
            # Whoever stops us waits for it, and the connection reads no further.
            seconds = min(seconds, _STOPPING)
        self._until, self._stopping = self._now() + seconds, False
        with suppress(LostError, TimedOutError, StoppedError):
            self.send(farewell)
            while True:
                self.start = self.end = 0
                self.fill()
        if not self._ended:
            # It had its time. Closing in order would leave what it does not take in the kernel for many minutes.
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)

    def stop(self) -> None:
        """Have the thread that reads or sends raise StoppedError soon; from any thread."""
        self._stopping = True
        self._interrupt(self._sending)

    def close(self) -> None:
        """Close the socket."""
        self._socket.close()

    def _ready(self) -> None:
        self._check()
        if self._until is not None:
            self._left()

    def _left(self) -> None:
        left = (self._until or 0) - self._now()
        if left <= 0:
            raise TimedOutError("the peer took longer than it may in total")
        self._socket.settimeout(left)

    def _check(self) -> None:
        if self._stopping:
            raise StoppedError("this side was asked to end the association")


def _after(parts: "list[bytes | bytearray | memoryview]", sent: int) -> "list[bytes | bytearray | memoryview]":
    for number, part in enumerate(parts):
        if sent < len(part):
            return [memoryview(part)[sent:], *parts[number + 1 :]]
        sent -= len(part)
    return []


def readiness(connected: socket.socket) -> Callable[[], bool]:
    """Make what tells whether a socket can be read at once; of TLS: whether some of a record is there."""
    poll = select.poll()
    poll.register(connected, select.POLLIN)
    if isinstance(connected, ssl.SSLSocket):
        return lambda: bool(connected.pending() or poll.poll(0))
    return lambda: bool(poll.poll(0))


def interrupter(connected: socket.socket) -> Callable[[bool], None]:
    """Make what wakes a thread that waits in a socket: it sees the end of the stream."""

    def interrupt(sending: bool) -> None:
        # Not the method of an SSLSocket: that one takes TLS away under the thread that uses it.
        with suppress(OSError):
            socket.socket.shutdown(connected, socket.SHUT_RDWR if sending else socket.SHUT_RD)

    return interrupt
