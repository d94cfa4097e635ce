"""The HL7 port: connections with MLLP, with and without TLS. What is taken from one is answered in its order."""

import asyncio
import socket
import ssl
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Final

from libs.dimse.admission import Resolved
from libs.dimse.certificate import Certificate, UnreadableCertificateError, read_der
from libs.dimse.listener import Listener
from libs.dimse.tls import Certificates
from libs.snapshot import NetworkView
from libs.telemetry import log
from libs.telemetry.failure import described
from services.worklist import hl7_metric as metric
from services.worklist.hl7_conversation import CHUNK, Conversation
from services.worklist.hl7_intake import Intake
from services.worklist.hl7_settings import Hl7Settings
from services.worklist.sender import Known, Stranger, caller

_LOG = log.get(__name__)
_HANDSHAKE: Final = 30.0
#: Seconds that connections have to answer what they have when the service ends.
_FAREWELL: Final = 10.0


class Hl7Listener:
    """The connections of the HL7 ports; for one event loop.

    Parameters
    ----------
    intake
        Takes messages.
    resolved
        Gives the addresses of the definition's host names.
    loopback
        Whether programs on this machine may send without being a node.
    certificates
        For TLS; None without.
    """

    def __init__(
        self,
        network: NetworkView,
        intake: Intake,
        settings: Hl7Settings,
        *,
        resolved: Callable[[], Resolved],
        loopback: bool,
        certificates: Certificates | None,
    ) -> None:
        self._network = network
        self._intake = intake
        self._settings = settings
        self._resolved = resolved
        self._loopback = loopback
        self._certificates = certificates
        self._listeners: list[Listener] = []
        self._tasks: dict[asyncio.Task[None], str] = {}
        self._at: Counter[str] = Counter()
        self._room = asyncio.Semaphore(settings.large)
        self._stopping: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def listen(self, host: str, port: int, *, tls: bool) -> str:
        """Listen, and give the address. Raises OSError if that can't be."""
        listener = Listener(host, port, tls=tls, take=self._take)
        self._listeners.append(listener)
        return listener.address

    async def stop(self) -> None:
        """Stop listening; what was received is answered, then connections are closed."""
        for listener in self._listeners:
            listener.close()
        if not self._stopping.done():
            self._stopping.set_result(None)
        if self._tasks:
            _, late = await asyncio.wait(list(self._tasks), timeout=_FAREWELL)
            for task in late:
                task.cancel()
            await asyncio.gather(*late, return_exceptions=True)

    def __len__(self) -> int:
        return len(self._tasks)

    def _take(self, connected: socket.socket, address: str, port: int, tls: bool) -> None:
        del port
        reason = None
        if self._stopping.done() or len(self._tasks) >= self._settings.connections:
            reason = "full"
        elif self._at[address] >= self._settings.connections_address:
            reason = "address"
        if reason is not None:
            metric.REFUSED.labels(reason=reason).inc()
            _LOG.warning("HL7 connection closed: there are too many", address=address, count=len(self._tasks))
            connected.close()
            return
        self._at[address] += 1
        task = asyncio.get_running_loop().create_task(self._run(connected, address, tls=tls), name="hl7")
        self._tasks[task] = address
        task.add_done_callback(self._gone)
        metric.CONNECTIONS.set(len(self._tasks))

    def _gone(self, task: asyncio.Task[None]) -> None:
        address = self._tasks.pop(task)
        self._at[address] -= 1
        if not self._at[address]:
            del self._at[address]
        metric.CONNECTIONS.set(len(self._tasks))

    async def _run(self, connected: socket.socket, address: str, *, tls: bool) -> None:
        try:
            opened = await self._open(connected, address, tls=tls)
            if opened is None:
                return
            reader, writer, certificate = opened
            try:
                # Asked anew for each message: what is applied meanwhile holds for connections that are open.
                known = partial(self._known, address, certificate)
                await Conversation(
                    reader, writer, address, self._intake, self._settings, known=known, room=self._room
                ).run(self._stopping)
            finally:
                writer.close()
                with suppress(OSError, ssl.SSLError):
                    await writer.wait_closed()
        except (OSError, ssl.SSLError) as error:
            # The sender is gone; what it was not answered it sends again.
            _LOG.info("HL7 connection lost", address=address, error=type(error).__name__)
        except Exception as error:  # noqa: BLE001 - one connection must not end the others
            metric.FAILURES.inc()
            _LOG.error("HL7 connection ended by a defect", address=address, **described(error))

    async def _open(
        self, connected: socket.socket, address: str, *, tls: bool
    ) -> tuple[asyncio.StreamReader, asyncio.StreamWriter, Certificate | None] | None:
        loop = asyncio.get_running_loop()
        connected.setblocking(False)
        connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        # Senders hold a connection for weeks; one that is gone without a word must not count for ever.
        connected.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        reader = asyncio.StreamReader(limit=2 * CHUNK, loop=loop)
        protocol = asyncio.StreamReaderProtocol(reader, loop=loop)
        context = self._certificates.context() if tls and self._certificates is not None else None
        try:
            transport, _ = await loop.connect_accepted_socket(
                lambda: protocol,
                connected,
                ssl=context,
                ssl_handshake_timeout=_HANDSHAKE if context is not None else None,
            )
        except (OSError, ssl.SSLError) as error:
            connected.close()
            metric.REFUSED.labels(reason="tls").inc()
            _LOG.warning(
                "HL7 connection refused: no TLS", address=address, reason=getattr(error, "reason", type(error).__name__)
            )
            return None
        writer = asyncio.StreamWriter(transport, protocol, reader, loop)
        return reader, writer, _shown(writer)

    def _known(self, address: str, certificate: Certificate | None) -> Known | Stranger:
        """Decide who a caller is, by the definition in force."""
        return caller(
            self._network.current,
            address,
            resolved=self._resolved(),
            loopback=self._loopback,
            certificate=certificate,
        )


def _shown(writer: asyncio.StreamWriter) -> Certificate | None:
    found = writer.get_extra_info("ssl_object")
    der = None if found is None else found.getpeercert(binary_form=True)
    try:
        return None if der is None else read_der(der)
    except UnreadableCertificateError:
        return None
