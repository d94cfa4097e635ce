"""A receiver's end of the line to its supervisor. Safe to use from many threads."""

import itertools
import socket
import threading
from collections.abc import Iterator
from typing import Final

from services.ingest.wire import Frames, Message, frame

_READ: Final = 1 << 16
_DESCRIPTORS: Final = 8


class ChannelClosedError(Exception):
    """The supervisor is gone, and this process ends."""

    safe_to_log = True


class _Answer:
    def __init__(self) -> None:
        self.come = threading.Event()
        self.message: Message | None = None


class Channel:
    """Tells and asks.

    Parameters
    ----------
    connected
        One end of a pair of stream sockets.
    """

    def __init__(self, connected: socket.socket) -> None:
        self._socket = connected
        self._writing = threading.Lock()
        self._numbers = itertools.count(1)
        self._lock = threading.Lock()
        self._asked: dict[int, _Answer] = {}
        self._closed = False

    def tell(self, message: Message) -> None:
        """Say something; the supervisor will hear it even if this process dies at once. Raises ChannelClosedError."""
        data = frame(message)
        try:
            with self._writing:
                self._socket.sendall(data)
        except OSError as error:
            raise ChannelClosedError("the supervisor is gone") from error

    def ask(self, message: Message) -> Message:
        """Say something and wait for the answer, as long as it takes. Raises ChannelClosedError."""
        number = next(self._numbers)
        answer = _Answer()
        with self._lock:
            if self._closed:
                raise ChannelClosedError("the supervisor is gone")
            self._asked[number] = answer
        self.tell({**message, "call": number})
        answer.come.wait()
        if answer.message is None:
            raise ChannelClosedError("the supervisor is gone")
        return answer.message

    def messages(self) -> Iterator[tuple[Message, socket.socket | None]]:
        """Give what the supervisor says, answers excepted, until it is gone; `connection` comes with its socket."""
        frames, sockets = Frames(), list[int]()
        while True:
            try:
                data, received, _, _ = socket.recv_fds(self._socket, _READ, _DESCRIPTORS)
            except OSError:
                data, received = b"", []
            sockets += received
            if not data:
                self.hush()
                return
            for message in frames.feed(data):
                if message["kind"] == "answer":
                    self._answered(message)
                elif message["kind"] == "connection":
                    yield message, socket.socket(fileno=sockets.pop(0))
                else:
                    yield message, None

    def _answered(self, message: Message) -> None:
        with self._lock:
            answer = self._asked.pop(message["call"], None)
        if answer is not None:
            answer.message = message
            answer.come.set()

    def hush(self) -> None:
        """Expect no more answers: who waits for one, or asks, gets ChannelClosedError."""
        with self._lock:
            self._closed = True
            waiting, self._asked = list(self._asked.values()), {}
        for answer in waiting:
            answer.come.set()
