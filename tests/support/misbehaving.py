"""Destinations that misbehave: C-STORE providers on real sockets of loopback, which record what they received whole.

    with Destination(Behaviour(Fault(Do.ABORT, When.BETWEEN, after=3))) as destination:
        send_to(destination.port)
        assert destination.record.duplicates() == {}
        assert destination.record.violations == []

They take any called AE title and answer C-ECHO too. What they can do is told in `tests.support.behaviour`.
"""

import socket
import ssl
import threading
from contextlib import suppress
from types import TracebackType
from typing import Self

from tests.support.authority import Issued
from tests.support.behaviour import Behaviour, Do, Fault
from tests.support.conversation import Conversation
from tests.support.record import Met, Record

#: For who stops reading: kernels take megabytes of loopback otherwise, and the sender would not notice.
_RECEIVE_BUFFER, _SEGMENT = 1 << 13, 1400
_BACKLOG = 128


class Destination:
    """A provider, from the start to the end of the block; each connection has a thread.

    Parameters
    ----------
    behaviour
        A good one if there is none.
    tls
        Its certificate, such as one that has expired: `authority.issue("name", days=-1)`. None: no TLS.

    Attributes
    ----------
    record
        What it received, and from whom.
    """

    def __init__(self, behaviour: Behaviour | None = None, *, tls: Issued | None = None) -> None:
        self.record = Record()
        self._behaviour = behaviour or Behaviour()
        self._struck = 0
        self._context: ssl.SSLContext | None = None
        if tls is not None:
            self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            self._context.load_cert_chain(tls.certificate, tls.key)
        self._ends = threading.Event()
        self._open: dict[int, socket.socket] = {}
        self._threads: list[threading.Thread] = []
        self._listener = socket.socket()
        if self._behaviour.fault is not None and self._behaviour.fault.do is Do.HANG:
            self._listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _RECEIVE_BUFFER)
            self._listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG, _SEGMENT)
        self._listener.bind(("127.0.0.1", 0))
        self._listener.listen(_BACKLOG)
        self.port: int = self._listener.getsockname()[1]
        self._accepting = threading.Thread(target=self._accept, name=f"destination-{self.port}", daemon=True)

    def __enter__(self) -> Self:
        self._accepting.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ends.set()
        self._listener.shutdown(socket.SHUT_RDWR)
        self._accepting.join()
        self._listener.close()
        with self.record.lock:
            for connection in self._open.values():
                with suppress(OSError):  # its peer may have gone before
                    connection.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join()

    def behave(self, behaviour: Behaviour) -> None:
        """Behave otherwise, in associations from now on; `Fault.times` counts anew."""
        with self.record.lock:
            self._behaviour, self._struck = behaviour, 0

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                if self._ends.is_set():
                    return
                raise
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if self._context is not None:
                connection = self._context.wrap_socket(connection, server_side=True, do_handshake_on_connect=False)
            with self.record.lock:
                met, behaviour = Met(len(self.record.met) + 1), self._behaviour
                self.record.met.append(met)
                self._open[met.number] = connection
                self.record.most = max(self.record.most, len(self._open))
            thread = threading.Thread(target=self._meet, args=(connection, behaviour, met), daemon=True)
            self._threads.append(thread)
            thread.start()

    def _meet(self, connection: socket.socket, behaviour: Behaviour, met: Met) -> None:
        ended = Conversation(connection, behaviour, met, self.record, self._strikes, self._ends.wait).run()
        with self.record.lock:
            del self._open[met.number]
            connection.close()
            met.ended = ended

    def _strikes(self, fault: Fault) -> bool:
        """Count a fault that is due; tell whether it strikes."""
        with self.record.lock:
            self._struck += 1
            return fault.times is None or self._struck <= fault.times
