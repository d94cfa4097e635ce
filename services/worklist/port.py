"""The worklist port and what stands behind it: the parts that belong to one event loop, made when it starts."""

import asyncio
import errno
import secrets
import time
from collections.abc import Callable
from typing import Final

from contracts.definition import Definition
from libs.dicom.uid import IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION_NAME
from libs.dimse.admission import Resolved
from libs.dimse.doorstep import Doorstep
from libs.dimse.gate import Gate, lets_local_in
from libs.dimse.listener import Listener
from libs.dimse.provider import Options
from libs.dimse.tls import CertificateError, Certificates, server_context, worklist_files_of
from libs.messaging.listen import DATABASE_AWAY
from libs.messaging.outbox import Outbox
from libs.service import Platform
from libs.storage.database import Database
from libs.telemetry import log
from libs.web.server import ListenError
from services.worklist import metric
from services.worklist.caller import Steps
from services.worklist.dicom import Visit
from services.worklist.door import Door
from services.worklist.feed import Feed
from services.worklist.finding import Finding, Kept
from services.worklist.index import Index
from services.worklist.queries import Queries
from services.worklist.settings import WorklistSettings

_LOG = log.get(__name__)
#: Operations are done one after the other, and a C-CANCEL has to be found behind none of them.
_WINDOW: Final = 1


class NotReadyError(Exception):
    """The worklist is not what the database says. The text says what to do."""

    safe_to_log = True


class Port:
    """The port, from its start to its stop.

    Parameters
    ----------
    steps
        Gives what takes performed procedure steps, once it has started; None: they are not taken.
    """

    def __init__(
        self, platform: Platform, database: Database, outbox: Outbox, steps: Callable[[], Steps] | None = None
    ) -> None:
        self._platform = platform
        self._database = database
        self._outbox = outbox
        self._steps = steps
        self._settings = WorklistSettings()
        self._running: _Running | None = None

    async def start(self) -> None:
        """Read the worklist, then listen."""
        running = _Running(self._platform, self._settings, self._database, self._outbox, self._steps)
        await running.start()
        self._running = running

    async def stop(self) -> None:
        """Listen no more, end what is open, and write down what was asked."""
        running, self._running = self._running, None
        if running is not None:
            await running.stop()

    async def follow(self) -> None:
        """Follow the table of items, until cancelled."""
        await self._parts.feed.run()

    async def record(self) -> None:
        """Record queries, until cancelled."""
        await self._parts.queries.run()

    def resolved(self) -> Resolved:
        """Give the addresses of the definition's host names, as last looked up."""
        return {} if self._running is None else self._running.gate.resolved

    async def resolve(self) -> None:
        """Keep the addresses of callers fresh, until cancelled."""
        await self._parts.gate.run()

    async def check(self) -> None:
        """Tell whether the worklist is what the database says. Raises NotReadyError."""
        stale = self._parts.feed.stale()
        if stale is not None:
            raise NotReadyError(
                f"modalities are answered with the worklist as it was {stale:.0f} s ago: the database can't be read"
            )

    def addresses(self) -> dict[str, str]:
        """Give where it listens."""
        listeners = {} if self._running is None else self._running.listeners
        return {name: listener.address for name, listener in listeners.items()}

    @property
    def _parts(self) -> "_Running":
        if self._running is None:
            raise NotReadyError("the worklist has not started, or is stopping: see the log")
        return self._running


class _Running:
    def __init__(
        self,
        platform: Platform,
        settings: WorklistSettings,
        database: Database,
        outbox: Outbox,
        steps: Callable[[], Steps] | None,
    ) -> None:
        self._platform = platform
        clock = platform.clock
        index = Index()
        self.feed = Feed(database, index, settings.look_seconds)
        self.queries = Queries(database, clock, a_node=settings.queries_kept, days=settings.queries_days)
        files = worklist_files_of(platform.settings)
        self._tls = files is not None
        self.gate = Gate(
            platform.network,
            database,
            outbox,
            loopback=lets_local_in(platform),
            clock=clock,
            handshakes=metric.HANDSHAKES,
            tls=self._tls,
            tls_variable="KIVUKO_WORKLIST_TLS_PORT",
            associations=settings.associations,
        )
        finding = Finding(
            index,
            lambda: _definition(platform),
            Kept(settings.cache_bytes),
            self.queries.note,
            clock,
            time.perf_counter,
        )
        taken = None if steps is None else steps()
        profile = platform.settings.tls_profile
        certificates = (
            Certificates(files, lambda given: server_context(given, profile), _unfit) if files is not None else None
        )
        self.door = Door(
            self.gate,
            Doorstep(settings.waiting, settings.waiting_address),
            lambda admitted: Visit(_name(), self.gate, finding, taken, admitted=admitted),
            Options(
                implementation=(IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION_NAME),
                max_pdu=settings.max_pdu,
                artim_timeout=settings.request_timeout,
                network_timeout=settings.network_timeout,
                window=_WINDOW,
            ),
            certificates,
        )
        self.listeners: dict[str, Listener] = {}

    async def start(self) -> None:
        try:
            await self.feed.load()
            await self.gate.resolve()
            settings = self._platform.settings
            self.listeners["worklist"] = self._listener(settings.worklist_port, "KIVUKO_WORKLIST_PORT", tls=False)
            if settings.worklist_tls_port is not None:
                port = settings.worklist_tls_port
                self.listeners["worklist-tls"] = self._listener(port, "KIVUKO_WORKLIST_TLS_PORT", tls=True)
        except BaseException:
            await self.stop()
            raise

    async def stop(self) -> None:
        for listener in self.listeners.values():
            listener.close()
        await asyncio.to_thread(self.door.stop)
        try:
            await self.queries.write()
        except DATABASE_AWAY as error:
            _LOG.warning("the last queries are not recorded", reason=type(error).__name__)

    def _listener(self, port: int, variable: str, *, tls: bool) -> Listener:
        host = self._platform.settings.bind
        try:
            return Listener(host, port, tls=tls, take=self.door.take)
        except OSError as error:
            why = "another program has it" if error.errno == errno.EADDRINUSE else (error.strerror or "not possible")
            raise ListenError(
                f"The worklist cannot listen on {host} port {port}: {why}. "
                f"Set KIVUKO_BIND to an address of this machine and {variable} to a free port, or to 0 for any."
            ) from error


def _unfit(error: CertificateError) -> None:
    metric.FAILURES.labels(kind="alarm").inc()
    _LOG.error("new files for DICOM TLS are not taken; those from before stay in force", reason=str(error))


def _name() -> str:
    return secrets.token_hex(8)


def _definition(platform: Platform) -> Definition | None:
    snapshot = platform.network.current
    return None if snapshot is None else snapshot.definition
