"""Connections to the worklist port: each in a thread of its own, from its handshake to its end."""

import socket
import ssl
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from itertools import count
from typing import Final

from libs.dimse.acceptor import Association
from libs.dimse.doorstep import Doorstep
from libs.dimse.gate import Gate
from libs.dimse.handshake import HandshakeError, handshake
from libs.dimse.provider import Ending, Options, Peer, Provider
from libs.dimse.refrain import Refrain
from libs.dimse.tls import CertificateError, Certificates
from libs.telemetry import log
from libs.telemetry.failure import described
from services.worklist import metric

_LOG = log.get(__name__)
#: Seconds that associations have to end in when the service does.
_FAREWELL: Final = 5.0
#: Seconds in which an address is told of once that connects and asks for nothing.
_SAID_EVERY: Final = 60.0
#: Echo without a definition, a refusal that was told already, and what was ended here.
_NO_FAULT: Final = (Ending.RELEASED, Ending.REJECTED, Ending.STOPPED)

#: Makes the user of an association, given what to call once it has been decided who calls.
Visits = Callable[[Callable[[], None]], Provider]


class Door:
    """The connections that are open. `take` from the event loop; `stop` from a thread.

    Parameters
    ----------
    gate
        Is told of handshakes that fail.
    doorstep
        Bounds connections on which nobody has been admitted.
    visits
        Makes the user of each association.
    certificates
        For TLS; None without.
    """

    def __init__(
        self,
        gate: Gate,
        doorstep: Doorstep,
        visits: Visits,
        options: Options,
        certificates: Certificates | None,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._gate = gate
        self._doorstep = doorstep
        self._visits = visits
        self._options = options
        self._certificates = certificates
        self._silent = Refrain(_SAID_EVERY, monotonic)
        self._numbers = count(1)
        self._lock = threading.Lock()
        self._open: dict[int, Association | socket.socket] = {}
        self._threads: set[threading.Thread] = set()
        self._entered: set[int] = set()
        self._stopping = False

    def take(self, connected: socket.socket, address: str, port: int, tls: bool) -> None:
        """Carry a connection in a thread of its own."""
        number = next(self._numbers)
        with self._lock:
            if self._stopping:
                connected.close()
                return
            leaves = self._doorstep.enter(number, address)
            gone = None if leaves is None else self._open.get(leaves)
            self._open[number] = connected
        if gone is not None:
            _end(gone)
        thread = threading.Thread(
            target=self._run, args=(number, connected, address, port, tls), name="worklist", daemon=True
        )
        with self._lock:
            self._threads.add(thread)
        try:
            thread.start()
        except RuntimeError as error:
            # No more threads: the caller finds its connection closed and comes again.
            self._forget(number, thread)
            connected.close()
            _LOG.error("a connection was closed: no thread for it", **described(error))

    def stop(self) -> None:
        """Abort every association, and wait until they have ended."""
        with self._lock:
            self._stopping = True
            threads, connections = list(self._threads), list(self._open.values())
        for each in connections:
            _end(each)
        until = time.monotonic() + _FAREWELL
        for thread in threads:
            thread.join(max(0.0, until - time.monotonic()))

    def __len__(self) -> int:
        return len(self._open)

    def _run(self, number: int, connected: socket.socket, address: str, port: int, tls: bool) -> None:
        try:
            self._carry(number, connected, address, port, tls=tls)
        except Exception as error:  # noqa: BLE001 - one association must not end the others
            metric.FAILURES.labels(kind="alarm").inc()
            _LOG.error("association ended by a defect", address=address, **described(error))
        finally:
            self._forget(number, threading.current_thread())

    def _carry(self, number: int, connected: socket.socket, address: str, port: int, *, tls: bool) -> None:
        certificate = None
        if tls:
            try:
                connected = secured = handshake(
                    connected,
                    self._context(),
                    self._options.artim_timeout,
                    began=lambda found: self._instead(number, found),
                )
            except HandshakeError as error:
                self._gate.insecure(address, error)
                return
            except CertificateError as error:
                connected.close()
                _LOG.error("TLS is not possible", reason=str(error))
                return
            certificate = secured.getpeercert(binary_form=True)
        visit = self._visits(lambda: self._enter(number))
        association = Association(connected, Peer(address, port, certificate), visit, self._options)
        self._instead(number, association)
        how = association.run()
        with self._lock:
            unknown = number not in self._entered and how not in _NO_FAULT
            said = self._silent.count(address) if unknown else None
        if said is not None:
            _LOG.warning(
                "connection closed without a valid association request",
                address=address,
                outcome=str(how),
                reason=association.problem,
                count=said,
            )

    def _context(self) -> ssl.SSLContext:
        if self._certificates is None:
            raise CertificateError("there are no files for TLS")
        return self._certificates.context()

    def _enter(self, number: int) -> None:
        with self._lock:
            self._doorstep.leave(number)
            self._entered.add(number)

    def _instead(self, number: int, found: Association | socket.socket) -> None:
        """Have another stand for a connection, where it is ended."""
        with self._lock:
            self._open[number] = found
            stopping = self._stopping
        if stopping:
            _end(found)

    def _forget(self, number: int, thread: threading.Thread) -> None:
        with self._lock:
            self._doorstep.leave(number)
            self._entered.discard(number)
            self._open.pop(number, None)
            self._threads.discard(thread)


def _end(found: Association | socket.socket) -> None:
    if isinstance(found, socket.socket):
        # Perhaps in a handshake, whose thread then finds the end of the stream.
        with suppress(OSError):
            socket.socket.shutdown(found, socket.SHUT_RDWR)
    else:
        found.abort()
