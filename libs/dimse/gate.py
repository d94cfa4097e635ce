"""Who is let in, by the network definition in force, and how many at once; and what is said of those who are not."""

import asyncio
import socket
import threading
import time
from collections import defaultdict
from collections.abc import Callable
from concurrent.futures import Future
from datetime import datetime, timedelta
from ipaddress import ip_address

from prometheus_client import Counter
from pydantic import TypeAdapter, ValidationError
from sqlalchemy.exc import SQLAlchemyError

from contracts.definition import Node, Snapshot
from contracts.fact import AeTitle
from contracts.instances import AssociationRefused
from libs.clock import Clock
from libs.dimse.admission import Admitted, Refusal, Resolved, admit, host_names
from libs.dimse.certificate import Certificate, UnreadableCertificateError, read_der
from libs.dimse.handshake import HandshakeError
from libs.dimse.limits import Associations, Pace
from libs.messaging.outbox import Outbox
from libs.service import Platform
from libs.snapshot import NetworkView
from libs.storage.database import Database
from libs.telemetry import log

_LOG = log.get(__name__)
_AE_TITLE: TypeAdapter[str] = TypeAdapter(AeTitle)
#: Tenant of events about the network as a whole.
_NETWORK = "kivuko"
_RESOLVE_EVERY = 60.0
#: A caller that is refused tries again and again: it is told of once in this time.
_SAID_EVERY = timedelta(minutes=1)
_MOST_REMEMBERED = 10_000
#: How many nodes a log line names.
_MOST_NAMED = 5


class Gate:
    """Admits callers, from many threads.

    Parameters
    ----------
    loopback
        Whether an unknown caller on this machine is let in: see `libs.dimse.admission.admit`.
    handshakes
        Counts TLS handshakes that failed, by reason.
    tls
        Whether there is a port with TLS.
    tls_variable
        Setting that opens it.
    associations
        Most associations at a time, of all nodes together.
    monotonic
        Seconds that never go back, for rates.
    """

    def __init__(
        self,
        network: NetworkView,
        database: Database,
        outbox: Outbox,
        *,
        loopback: bool,
        clock: Clock,
        handshakes: Counter,
        tls: bool = False,
        tls_variable: str = "KIVUKO_DICOM_TLS_PORT",
        associations: int = 100,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._network = network
        self._database = database
        self._outbox = outbox
        self._loopback = loopback
        self._clock = clock
        self._resolved: dict[str, frozenset[str]] = {}
        self._loop = asyncio.get_running_loop()
        self._wake = asyncio.Event()
        self._lock = threading.Lock()
        self._said: dict[tuple[str, str, str], datetime] = {}
        self._handshakes = handshakes
        self._tls = tls
        self._tls_variable = tls_variable
        self._associations = Associations(associations)
        self._paces: dict[str, Pace] = defaultdict(Pace)
        self._monotonic = monotonic
        if network.current is not None:
            self._warn(network.current)
        network.on_change(self._changed)

    def admit(
        self,
        called: str,
        calling: str,
        address: str,
        certificate: bytes | None = None,
        *,
        association: str | None = None,
    ) -> Admitted | Refusal:
        """Decide who a caller is, and whether there is a place for them.

        Parameters
        ----------
        called, calling
            AE titles, without padding.
        address
            Source address, without the port.
        certificate
            DER of the certificate that the caller has proved by TLS.
        association
            Name of the association, which is counted in if it is admitted, until `closed`; None counts nothing.
        """
        try:
            _AE_TITLE.validate_python(calling)
            _AE_TITLE.validate_python(called)
        except ValidationError:
            return Refusal("an AE title is empty or malformed", permanent=True, diagnostic=3)
        shown: Certificate | None = None
        if certificate is not None:
            try:
                shown = read_der(certificate)
            except UnreadableCertificateError as error:
                return Refusal(str(error), permanent=True, diagnostic=3)
        snapshot = self._network.current
        decision = admit(
            None if snapshot is None else snapshot.definition,
            called,
            calling,
            address,
            resolved=self._resolved,
            loopback=self._loopback,
            certificate=shown,
        )
        if isinstance(decision, Refusal) or association is None:
            return decision
        with self._lock:
            full = self._associations.open(association, decision.node, address, decision.limits)
        return full or decision

    @property
    def resolved(self) -> Resolved:
        """Addresses of the definition's host names, as last looked up."""
        return self._resolved

    def closed(self, association: str) -> None:
        """Count an association out; one that was never counted in, or is out already, changes nothing."""
        with self._lock:
            self._associations.close(association)

    def take(self, association: str) -> float:
        """Count one instance of an association, and give how many seconds its answer has to wait for the node's rate.

        The definition in force counts: a rate that is changed holds at once.
        """
        with self._lock:
            name = self._associations.node(association)
            node = None if name is None else self._node(name)
            if name is None or node is None or node.limits.rate is None:
                return 0.0
            return self._paces[name].take(node.limits.rate, self._monotonic())

    def insecure(self, address: str, error: HandshakeError) -> None:
        """Count a TLS handshake that failed, and tell of it as `refused` does; from any thread."""
        self._handshakes.labels(reason=error.failure).inc()
        self.refused("", "", address, f"no TLS: {error}")

    def refused(self, calling: str, called: str, address: str, reason: str) -> None:
        """Log a refusal and emit `association.refused`, once a minute for the same caller; from any thread."""
        now = self._clock()
        with self._lock:
            last = self._said.get((calling, called, address))
            # Either way: the clock may have been put back since.
            if last is not None and abs(now - last) < _SAID_EVERY:
                return
            if len(self._said) >= _MOST_REMEMBERED:
                self._said.clear()
            self._said[calling, called, address] = now
        _LOG.warning("association refused", calling_aet=calling, called_aet=called, address=address, reason=reason)
        event = AssociationRefused(
            calling_aet=_title(calling), called_aet=_title(called), address=address, reason=reason
        )
        work = self._emit(event)
        try:
            asyncio.run_coroutine_threadsafe(work, self._loop).add_done_callback(_reported)
        except RuntimeError:
            # The process is ending; the log line stands.
            work.close()

    async def resolve(self) -> None:
        """Look up the host names of the definition; one that can't be found keeps its last addresses."""
        snapshot = self._network.current
        for name in () if snapshot is None else sorted(host_names(snapshot.definition)):
            try:
                found = await self._loop.getaddrinfo(name, None, type=socket.SOCK_STREAM)
            except OSError as error:
                _LOG.warning(
                    "host of a node not found: it can't call until it is", host=name, reason=type(error).__name__
                )
                continue
            self._resolved = {**self._resolved, name: frozenset(str(each[4][0]) for each in found)}

    async def run(self) -> None:
        """Keep the addresses of the definition's host names fresh, until cancelled."""
        while True:
            self._wake.clear()
            await self.resolve()
            try:
                # Not `wait_for`: on Python 3.11 it swallows a cancellation that comes together with the wake-up.
                async with asyncio.timeout(_RESOLVE_EVERY):
                    await self._wake.wait()
            except TimeoutError:
                continue

    def _node(self, key: str) -> Node | None:
        snapshot = self._network.current
        return None if snapshot is None else snapshot.definition.nodes.get(key)

    def _changed(self, snapshot: Snapshot) -> None:
        self._warn(snapshot)
        self._wake.set()

    def _warn(self, snapshot: Snapshot) -> None:
        those = [key for key, node in snapshot.definition.nodes.items() if node.certificate and not node.retired]
        if those and not self._tls:
            _LOG.warning(
                "nodes with a certificate cannot call: there is no DICOM port with TLS",
                node=those[:_MOST_NAMED],
                count=len(those),
                advice=f"set {self._tls_variable} and the files for it: see docs/dicom-tls.md",
            )

    async def _emit(self, event: AssociationRefused) -> None:
        async with self._database.transaction() as tx:
            await self._outbox.emit(tx, event, subject=event.address, tenant=_NETWORK)


def is_loopback(host: str) -> bool:
    """Tell whether an address to listen on can be reached from this machine only."""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def lets_local_in(platform: Platform) -> bool:
    """Tell whether unknown callers on this machine are let in: the embedded profile, bound to loopback."""
    return platform.settings.broker.startswith("sqlite:") and is_loopback(platform.settings.bind)


def _title(text: str) -> str | None:
    try:
        return _AE_TITLE.validate_python(text)
    except ValidationError:
        return None


def _reported(done: "Future[None]") -> None:
    if done.cancelled():
        return
    error = done.exception()
    if isinstance(error, SQLAlchemyError | OSError):
        _LOG.warning("refusal logged, but its event not written", reason=type(error).__name__)
    elif error is not None:
        _LOG.error("refusal logged, but its event not written, by a defect", exc_info=error)
