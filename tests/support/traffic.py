"""What passes over a slow line, as sockets see it: connections, packets that are late, cuts; all in one thread."""

import errno
import select
import socket
import struct
import time
from collections.abc import Callable
from functools import partial
from heapq import heappop, heappush
from itertools import count
from math import ceil, inf
from typing import Literal

from tests.support.line import Line
from tests.support.port import free_port

#: What a cut does. reset: connections are reset, and new ones refused. silent: nothing passes; connections go on after
#: the mending where they were, and new ones get no answer until TCP's next try after it.
Mode = Literal["reset", "silent"]

#: As on Ethernet. By the segments of loopback, 64 KiB, a sender's kernel would take a minute of a slow line at once.
_SEGMENT = 1400
_RECEIVE_BUFFER, _SEND_BUFFER = 1 << 13, 1 << 14
#: A packet is as long as the line passes in this time, but a segment at least: few wake-ups on fast lines.
_PACKET_S = 0.002
_RESET = struct.pack("ii", 1, 0)
_BACKLOG = 128
_GONE = select.POLLHUP | select.POLLERR


class _Half:
    """One direction of one connection."""

    def __init__(self, connection: "_Connection", line: Line, source: socket.socket, sink: socket.socket) -> None:
        self.connection = connection
        self.line = line
        self.source = source
        self.sink = sink
        self.under_way = 0
        #: What arrived, and the sink has no room for.
        self.pending = bytearray()
        #: Number of the turn in which it was served last.
        self.served = 0
        #: The source says no more; that has arrived; the sink was told.
        self.ended = self.end_arrived = self.finished = False

    @property
    def held(self) -> int:
        return self.under_way + len(self.pending)


class _Connection:
    """One connection. Its `near` end is at who connected, its `far` end at the port behind."""

    def __init__(self, near: socket.socket, far: socket.socket, up: Line, down: Line) -> None:
        self.near = near
        self.far = far
        self.up, self.down = _Half(self, up, near, far), _Half(self, down, far, near)
        self.connecting = False
        #: A round trip has gone by since it was accepted.
        self.open = False
        self.closed = False

    def close(self, *, reset: bool) -> None:
        """Close both ends."""
        self.closed = True
        for half in (self.up, self.down):
            half.line.lose(half.held)
            if reset:
                half.source.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
            half.source.close()


class Traffic:
    """All connections over a line. Parameters as those of `Link`.

    Attributes
    ----------
    port
        Where it listens, on loopback.
    up, down
        The line's directions: from who connects to the port behind, and back.
    """

    def __init__(self, port: int, rate: float, rtt: float, queue: int) -> None:
        self._to = port
        self._rtt = rtt
        self._window = round(rate * rtt / 8) + queue
        self._packet = max(_SEGMENT, round(rate / 8 * _PACKET_S))
        self.up, self.down = Line(rate, rtt / 2, queue), Line(rate, rtt / 2, queue)
        self._connections: list[_Connection] = []
        self._due: list[tuple[float, int, _Connection, Callable[[], None]]] = []
        self._turns = count(1)
        # Line time is that of time.monotonic less the seconds of all cuts.
        self._cut_s = 0.0
        self._cut_at: float | None = None
        self._filler: socket.socket | None = None
        self._listener = self._socket()
        # Chosen, not given by the kernel: only then does it remain ours while nobody listens on it.
        self.port = free_port()
        self._listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self._listener.bind(("127.0.0.1", self.port))
        self._listener.listen(_BACKLOG)

    @property
    def is_cut(self) -> bool:
        """Whether nothing passes."""
        return self._cut_at is not None

    def turn(self, until: float, orders: int) -> bool:
        """Let pass what is due; wait for more at most until then (time.monotonic), or until a file can be read.

        Returns
        -------
        bool
            Whether that file can be read.
        """
        while self._cut_at is None and self._due and self._due[0][0] <= self._now():
            _, _, connection, act = heappop(self._due)
            if not connection.closed:
                act()
        ready = self._wait(until - time.monotonic(), orders)
        if self._cut_at is None:
            self._serve(ready)
        return orders in ready

    def cut(self, mode: Mode) -> None:
        """Cut it, which it was not."""
        assert self._cut_at is None
        self._cut_at = time.monotonic()
        if mode == "reset":
            # No longer listening, but bound: the port remains ours.
            self._listener.shutdown(socket.SHUT_RDWR)
            for connection in list(self._connections):
                self._close(connection, reset=True)
            self.up.empty()
            self.down.empty()
        else:
            # With its queue of accepted connections full, the kernel leaves further requests unanswered.
            self._listener.listen(0)
            self._filler = socket.socket()
            self._filler.setblocking(False)
            self._filler.connect_ex(self._listener.getsockname())

    def mend(self) -> None:
        """Mend it, which was cut."""
        assert self._cut_at is not None
        self._cut_s += time.monotonic() - self._cut_at
        self._cut_at = None
        self._listener.listen(_BACKLOG)
        if self._filler is not None:
            while self._accept():
                pass
            self._filler.close()
            self._filler = None

    def close(self) -> None:
        """Reset all connections and close everything."""
        for connection in self._connections:
            connection.close(reset=True)
        self._listener.close()
        if self._filler is not None:
            self._filler.close()

    def _now(self) -> float:
        return (time.monotonic() if self._cut_at is None else self._cut_at) - self._cut_s

    def _at(self, when: float, connection: _Connection, act: Callable[[], None]) -> None:
        heappush(self._due, (when, next(self._turns), connection, act))

    def _wait(self, seconds: float, orders: int) -> dict[int, int]:
        """Wait until there is something to do, at most so long; give what is ready, by file descriptor."""
        poll = select.poll()
        poll.register(orders, select.POLLIN)
        if self._cut_at is None:
            now = self._now()
            poll.register(self._listener, select.POLLIN)
            next_due = self._due[0][0] if self._due else inf
            for connection in self._connections:
                wishes = {connection.near: 0, connection.far: select.POLLOUT if connection.connecting else 0}
                for half in (connection.up, connection.down):
                    if half.pending:
                        wishes[half.sink] |= select.POLLOUT
                    if self._wants(half):
                        next_due = min(next_due, half.line.room_at) if half.line.room_at > now else next_due
                        wishes[half.source] |= select.POLLIN if half.line.room_at <= now else 0
                for end, events in wishes.items():
                    # One that is registered for nothing would still be reported, again and again, once it is reset.
                    if events:
                        poll.register(end, events)
            seconds = min(seconds, next_due - now)
        return dict(poll.poll(None if seconds == inf else max(0, ceil(seconds * 1000))))

    def _wants(self, half: _Half) -> bool:
        """Whether a direction takes more as soon as the line has room."""
        connection = half.connection
        return connection.open and not connection.connecting and not half.ended and half.held < self._window

    def _serve(self, ready: dict[int, int]) -> None:
        if self._listener.fileno() in ready:
            self._accept()
        halves = [half for connection in self._connections for half in (connection.up, connection.down)]
        # Who was served longest ago is first: the line has room for one packet at a time.
        for half in sorted(halves, key=lambda each: each.served):
            connection = half.connection
            if not connection.closed and connection.connecting and ready.get(connection.far.fileno()):
                self._connected(connection, connection.far.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR))
            if not connection.closed and half.pending and ready.get(half.sink.fileno(), 0) & (select.POLLOUT | _GONE):
                self._push(half)
            if not connection.closed and ready.get(half.source.fileno(), 0) & (select.POLLIN | _GONE):
                self._take(half)

    def _accept(self) -> bool:
        """Accept a connection; tell whether there was one."""
        try:
            near, address = self._listener.accept()
        except BlockingIOError:
            return False
        if self._filler is not None and address == self._filler.getsockname():
            near.close()
            return True
        near.setblocking(False)
        connection = _Connection(near, self._socket(), self.up, self.down)
        self._connections.append(connection)
        now = self._now()
        self._at(now + self._rtt / 2, connection, partial(self._connect, connection))
        self._at(now + self._rtt, connection, partial(setattr, connection, "open", True))
        return True

    def _socket(self) -> socket.socket:
        made = socket.socket()
        made.setblocking(False)
        made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        made.setsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG, _SEGMENT)
        made.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _RECEIVE_BUFFER + 2 * self._packet)
        made.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SEND_BUFFER)
        return made

    def _connect(self, connection: _Connection) -> None:
        error = connection.far.connect_ex(("127.0.0.1", self._to))
        connection.connecting = error == errno.EINPROGRESS
        if not connection.connecting:
            self._connected(connection, error)

    def _connected(self, connection: _Connection, error: int) -> None:
        connection.connecting = False
        if error:
            self._broke(connection.down)
        else:
            self._push(connection.up)

    def _take(self, half: _Half) -> None:
        """Take a packet from a source."""
        now = self._now()
        if not self._wants(half) or half.line.room_at > now:
            return
        try:
            data = half.source.recv(self._packet)
        except BlockingIOError:
            return
        except OSError:
            self._broke(half)
            return
        half.served = next(self._turns)
        at = half.line.take(now, len(data))
        if data:
            half.under_way += len(data)
            self._at(at, half.connection, partial(self._arrive, half, data, at))
        else:
            half.ended = True
            self._at(at, half.connection, partial(self._arrive_end, half))

    def _arrive(self, half: _Half, data: bytes, at: float) -> None:
        half.line.arrived(at, len(data))
        half.under_way -= len(data)
        half.pending += data
        self._push(half)

    def _arrive_end(self, half: _Half) -> None:
        half.end_arrived = True
        self._push(half)

    def _push(self, half: _Half) -> None:
        """Give a sink what arrived."""
        connection = half.connection
        if connection.connecting:
            return
        try:
            while half.pending:
                del half.pending[: half.sink.send(half.pending)]
            if half.end_arrived and not half.finished:
                half.sink.shutdown(socket.SHUT_WR)
                half.finished = True
        except BlockingIOError:
            return
        except OSError:
            half.pending.clear()
            self._broke(connection.down if half is connection.up else connection.up)
            return
        if connection.up.finished and connection.down.finished:
            self._close(connection, reset=False)

    def _broke(self, half: _Half) -> None:
        """Tell the other end, behind all that is under way, that the source of this direction is gone."""
        half.ended = True
        at = half.line.take(self._now(), 0)
        self._at(at, half.connection, partial(self._close, half.connection, reset=True))

    def _close(self, connection: _Connection, *, reset: bool) -> None:
        connection.close(reset=reset)
        self._connections.remove(connection)
