"""Who is let in, by the network definition in force; and what is said of those who are not."""

import asyncio
import socket
import threading
from concurrent.futures import Future
from datetime import datetime, timedelta
from ipaddress import ip_address

from pydantic import TypeAdapter, ValidationError
from sqlalchemy.exc import SQLAlchemyError

from contracts.definition import Snapshot
from contracts.fact import AeTitle
from contracts.instances import AssociationRefused
from libs.clock import Clock
from libs.dimse.admission import Admitted, Refusal, admit, host_names
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


class Gate:
    """Admits callers, from many threads.

    Parameters
    ----------
    loopback
        Whether an unknown caller on this machine is let in: see `libs.dimse.admission.admit`.
    """

    def __init__(
        self, network: NetworkView, database: Database, outbox: Outbox, *, loopback: bool, clock: Clock
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
        network.on_change(self._changed)

    def admit(self, called: str, calling: str, address: str) -> Admitted | Refusal:
        """Decide who a caller is."""
        try:
            _AE_TITLE.validate_python(calling)
            _AE_TITLE.validate_python(called)
        except ValidationError:
            return Refusal("an AE title is empty or malformed", permanent=True, diagnostic=3)
        snapshot = self._network.current
        return admit(
            None if snapshot is None else snapshot.definition,
            called,
            calling,
            address,
            resolved=self._resolved,
            loopback=self._loopback,
        )

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

    def _changed(self, _snapshot: Snapshot) -> None:
        self._wake.set()

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
