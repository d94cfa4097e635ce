"""A process that receives: it takes connections from its supervisor and carries each association in a thread.

Arrivals go into a spool folder of its own; everything else it asks of, or tells, the supervisor, and ends with it.
"""

import gc
import os
import random
import signal
import socket
import ssl
import sys
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from libs.dicom.uid import IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION_NAME
from libs.dimse.acceptor import Association
from libs.dimse.handshake import HandshakeError, handshake
from libs.dimse.provider import Options, Peer
from libs.dimse.tls import CertificateError, Certificates, Files, server_context
from libs.telemetry.failure import described
from services.ingest import span
from services.ingest.caller import Caller
from services.ingest.channel import Channel, ChannelClosedError
from services.ingest.intake import Intake, Session
from services.ingest.pool import Pool, lock
from services.ingest.uplink import NotRecordedError, Uplink
from services.ingest.wire import Message, Setup

#: Seconds that associations have to end in when the receiver does.
_FAREWELL: Final = 5.0
#: For names that nobody else has, which are no secrets: the system is asked once, not for each.
_NOISE: Final = random.Random().randbytes  # noqa: S311 (no secrets)


class Reports:
    """What intake tells and asks."""

    def __init__(self, channel: Channel) -> None:
        self._channel = channel
        self._stopped = threading.Event()
        #: Seconds that each response is held back.
        self.pace = 0.0

    def stop(self) -> None:
        """Hold nothing back any more."""
        self._stopped.set()

    def spooled(self, arrival: Mapping[str, Any]) -> None:
        """Tell of an arrival that is on stable storage."""
        self._channel.tell({"kind": "spooled", **arrival})

    def expected(self, arrival: Mapping[str, Any]) -> str:
        """Have an arrival recorded that is about to be uploaded; gives its key. Raises NotRecordedError."""
        answer = self._channel.ask({"kind": "expect", **arrival})
        if answer["why"] is not None:
            raise NotRecordedError(answer["why"])
        return str(answer["key"])

    def dropped(self, arrival_id: str, why: str | None, *, doubtful: bool) -> None:
        """Tell that a recorded arrival is not acknowledged."""
        self._channel.tell({"kind": "dropped", "id": arrival_id, "why": why, "doubtful": doubtful})

    def answered(self, status: int, seconds: float, failure: str | None) -> None:
        """Tell of a response for which nothing was kept."""
        self._channel.tell({"kind": "answered", "status": status, "seconds": seconds, "failure": failure})

    def log(self, level: str, event: str, **said: Any) -> None:
        """Have a line logged."""
        self._channel.tell({"kind": "log", "level": level, "event": event, "said": said})

    def hold(self, session: Session) -> None:
        """Return when a response may be sent, as far as rate and back-pressure go."""
        seconds = self.pace
        if session.rated:
            seconds = max(seconds, self._channel.ask({"kind": "take", "association": session.id})["seconds"])
        if seconds > 0:
            self._stopped.wait(seconds)


class Receiver:
    """The connections of this process.

    Parameters
    ----------
    setup
        As the supervisor sent it.
    channel
        To the supervisor.
    folder
        For this process alone.
    """

    def __init__(self, setup: Setup, channel: Channel, folder: Path) -> None:
        self._channel = channel
        self._pool = Pool(folder, setup.min_free, setup.run)
        self.reports = Reports(channel)
        begin_span, self._send_spans = _spans(setup)
        self._intake = Intake(
            self._pool,
            self.reports,
            begin_span,
            clock=lambda: datetime.now(UTC),
            noise=_NOISE,
            uplink=_uplink(setup, self.reports),
        )
        self._options = Options(
            implementation=(IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION_NAME),
            max_pdu=setup.max_pdu,
            artim_timeout=setup.request_timeout,
            network_timeout=setup.idle_timeout,
        )
        self._tls = setup.tls
        self._certificates: Certificates | None = None
        self._lock = threading.Lock()
        self._open: dict[int, Association | socket.socket] = {}
        self._threads: set[threading.Thread] = set()
        if setup.tls is not None:
            # Now, while they fit: what replaces them later may not. If they don't already, each caller is told.
            with suppress(CertificateError):
                self._context()

    def take(self, message: Message, connected: socket.socket) -> None:
        """Carry a connection in a thread of its own."""
        thread = threading.Thread(target=self._run, args=(message, connected), name="association", daemon=True)
        with self._lock:
            self._open[message["id"]] = connected
            self._threads.add(thread)
        thread.start()

    def drop(self, connection: int) -> None:
        """End a connection."""
        with self._lock:
            found = self._open.get(connection)
        if found is not None:
            _end(found)

    def stop(self) -> None:
        """Abort every association, and end when they have."""
        self.reports.stop()
        # This thread, which reads them, is here from now on.
        self._channel.hush()
        with self._lock:
            threads, connections = list(self._threads), list(self._open.values())
        for each in connections:
            _end(each)
        until = time.monotonic() + _FAREWELL
        for thread in threads:
            thread.join(max(0.0, until - time.monotonic()))
        self._pool.close()
        self._send_spans()

    def _run(self, message: Message, connected: socket.socket) -> None:
        caller = Caller(message["id"], self._channel, self._intake)
        outcome: dict[str, Any] = {"how": "failed", "reason": "a defect"}
        try:
            outcome = self._carry(message, connected, caller)
        except ChannelClosedError:
            # The whole process ends, and the supervisor that would hear of it is gone.
            return
        except Exception as error:  # noqa: BLE001 (one association must not end the others)
            with suppress(ChannelClosedError):
                said = {"association": caller.name, **described(error)}
                self.reports.log("error", "association ended by a defect", **said)
        finally:
            with self._lock:
                self._open.pop(message["id"], None)
                self._threads.discard(threading.current_thread())
            with suppress(ChannelClosedError):
                self._channel.tell({"kind": "gone", "id": message["id"], "association": caller.name, **outcome})

    def _carry(self, message: Message, connected: socket.socket, caller: Caller) -> dict[str, Any]:
        certificate = None
        if message["tls"]:
            try:
                connected = secured = handshake(
                    connected,
                    self._context(),
                    self._options.artim_timeout,
                    began=lambda found: self._instead(message["id"], found),
                )
            except HandshakeError as error:
                return {"how": "handshake", "failure": error.failure, "reason": str(error)}
            except CertificateError as error:
                connected.close()
                return {"how": "failed", "reason": str(error)}
            certificate = secured.getpeercert(binary_form=True)
        peer = Peer(message["address"], message["port"], certificate)
        association = Association(connected, peer, caller, self._options)
        self._instead(message["id"], association)
        how = association.run()
        return {"how": str(how), "reason": association.problem}

    def _instead(self, connection: int, found: Association | socket.socket) -> None:
        """Have another stand for a connection, where it is dropped."""
        with self._lock:
            if connection in self._open:
                self._open[connection] = found

    def _context(self) -> ssl.SSLContext:
        """Give the TLS context in force; the supervisor's process watches the files and says what is wrong."""
        with self._lock:
            if self._certificates is None:
                given = self._tls or {}
                files = Files(**{name: Path(path) for name, path in given["files"].items()})
                self._certificates = Certificates(
                    files, lambda found: server_context(found, given["profile"]), lambda _error: None
                )
        return self._certificates.context()


def _spans(setup: Setup) -> tuple[span.Begin, Callable[[], None]]:
    """Give what begins spans, and what sends the last of them."""
    if not span.exports():
        return span.naming(_NOISE), lambda: None
    from libs.telemetry import trace  # noqa: PLC0415 - large, and few processes export spans
    from services.ingest import recorded  # noqa: PLC0415 - the same

    return recorded.configured(setup.region, setup.instance), trace.shutdown


def _uplink(setup: Setup, reports: Reports) -> Uplink | None:
    if setup.objects is None:
        return None
    from libs.storage.objects import open_store  # noqa: PLC0415 - with ack=spool no receiver needs it

    return Uplink(open_store(setup.objects, timeout=setup.store_timeout), reports)


def _end(found: Association | socket.socket) -> None:
    if isinstance(found, socket.socket):
        # Perhaps in a handshake, whose thread then finds the end of the stream.
        with suppress(OSError):
            socket.socket.shutdown(found, socket.SHUT_RDWR)
    else:
        found.abort()


def _why(error: Exception) -> str:
    if isinstance(error, OSError):
        return f"its folder in the spool cannot be used: {error.strerror or type(error).__name__}"
    return ": ".join(map(str, described(error).values()))


def main(descriptor: int) -> None:
    """Receive until the supervisor says so, or ends."""
    for sign in (signal.SIGINT, signal.SIGTERM):
        # A terminal and a service manager send them to all processes; the supervisor says when to end.
        signal.signal(sign, signal.SIG_IGN)
    channel = Channel(socket.socket(fileno=descriptor))
    messages = channel.messages()
    first = next(messages, None)
    if first is None:
        return
    try:
        setup = Setup(**first[0]["setup"])
        folder = Path(setup.folder)
        held = lock(folder)
        receiver = Receiver(setup, channel, folder)
    except Exception as error:  # noqa: BLE001 (whatever it is: the supervisor says it, once, and starts another)
        channel.tell({"kind": "failed", "reason": _why(error)})
        sys.exit(1)
    # What is loaded stays: collections look only at what comes later.
    gc.collect()
    gc.freeze()
    channel.tell({"kind": "ready"})
    for message, connected in messages:
        if connected is not None:
            receiver.take(message, connected)
        elif message["kind"] == "drop":
            receiver.drop(message["id"])
        elif message["kind"] == "pace":
            receiver.reports.pace = message["seconds"]
        elif message["kind"] == "sync":
            channel.tell({"kind": "synced", "number": message["number"]})
        elif message["kind"] == "stop":
            break
    receiver.stop()
    os.close(held)


if __name__ == "__main__":
    main(int(sys.argv[1]))
