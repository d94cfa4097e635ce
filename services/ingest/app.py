"""Wires ingest."""

import asyncio
import errno
import secrets

from libs.messaging.outbox import Outbox
from libs.service import Platform, Service
from libs.telemetry import log
from libs.web.server import ListenError
from services.ingest import metric
from services.ingest.api import make_router
from services.ingest.arrival import arrival_id
from services.ingest.completion import Completion
from services.ingest.gate import Gate, lets_local_in
from services.ingest.indexer import Indexer
from services.ingest.intake import Intake
from services.ingest.models import messaging
from services.ingest.replica import Replica, Uploader
from services.ingest.scp import Acceptor
from services.ingest.settings import IngestSettings
from services.ingest.spool import Spool
from services.ingest.work import Work

_LOG = log.get(__name__)


class _Parts:
    """The parts of a running ingest; they belong to one event loop, so they are made when it starts."""

    def __init__(self, platform: Platform) -> None:
        settings = IngestSettings()
        clock = platform.clock
        self._platform = platform
        self._database = platform.database("ingest")
        outbox = Outbox("ingest", platform.settings.region, clock, messaging)
        name = platform.settings.instance
        self.spool = Spool(platform.settings.home.absolute() / "spool", settings.min_free_bytes)
        self._work = Work(self._changed)
        self.completion = Completion(
            self._database, platform.objects, self._work, outbox, replica=name, settings=settings, clock=clock
        )
        self.indexer = Indexer(
            self._database,
            platform.objects,
            self.spool,
            self._work,
            outbox,
            run=secrets.token_hex(8),
            settings=settings,
            clock=clock,
            changed=self.completion.changed,
        )
        self.replica = Replica(
            self._database,
            platform.objects,
            self.spool,
            self._work,
            name=name,
            clock=clock,
            submit=self.indexer.submit,
        )
        self.gate = Gate(platform.network, self._database, outbox, loopback=lets_local_in(platform), clock=clock)
        upload = (
            Uploader(
                self._database,
                platform.objects,
                self.spool,
                replica=name,
                clock=clock,
                timeout=settings.store_timeout,
            )
            if platform.settings.ack == "object-store"
            else None
        )
        intake = Intake(
            self.spool, self._work, self.indexer.submit, upload=upload, clock=clock, noise=secrets.token_bytes
        )
        self.acceptor = Acceptor(
            admit=self.gate.admit,
            refused=self.gate.refused,
            store=intake.store,
            work=self._work,
            name=lambda: arrival_id(clock(), secrets.token_bytes(8)),
            max_pdu=settings.max_pdu,
            associations=settings.associations,
            network_timeout=settings.network_timeout,
        )

    async def start(self) -> None:
        """Repair the spool, then listen."""
        await self.replica.repair()
        await self.gate.resolve()
        await self._listen(self._platform.settings.bind, self._platform.settings.dicom_port)
        metric.SPOOL_DEPTH.set_function(self._work.depth)
        metric.SPOOL_AGE.set_function(self._age)
        if self._platform.network.current is None:
            _LOG.warning("nothing but C-ECHO is let in: there is no network definition", advice="kivuko apply FILE")

    async def _listen(self, host: str, port: int) -> None:
        try:
            await self.acceptor.start(host, port)
        except OSError as error:
            why = "another program has it" if error.errno == errno.EADDRINUSE else (error.strerror or "not possible")
            raise ListenError(
                f"DICOM cannot listen on {host} port {port}: {why}. "
                "Set KIVUKO_BIND to an address of this machine and KIVUKO_DICOM_PORT to a free port, or to 0 for any."
            ) from error

    def _age(self) -> float:
        oldest = self._work.oldest()
        return 0 if oldest is None else (self._platform.clock() - oldest).total_seconds()

    def _changed(self) -> None:
        if self._database.dialect == "postgresql":
            self.replica.changed()


class NotReadyError(Exception):
    """Ingest can't take studies, or can't pass them on. The text says what to do."""

    safe_to_log = True


class _Ingest:
    """Ingest as its process sees it."""

    def __init__(self, platform: Platform) -> None:
        self._platform = platform
        self._parts: _Parts | None = None

    async def start(self) -> None:
        parts = _Parts(self._platform)
        await parts.start()
        self._parts = parts

    async def stop(self) -> None:
        parts, self._parts = self._parts, None
        if parts is not None:
            await parts.acceptor.stop()

    async def index(self) -> None:
        await self._started.indexer.run()

    async def complete(self) -> None:
        await self._started.completion.run()

    async def replicate(self) -> None:
        await self._started.replica.run()

    async def resolve(self) -> None:
        await self._started.gate.run()

    async def check_spool(self) -> None:
        await asyncio.to_thread(self._started.spool.check)

    async def check_objects(self) -> None:
        await asyncio.to_thread(self._platform.objects.check)

    async def check_index(self) -> None:
        trouble = self._started.indexer.trouble
        if trouble is not None:
            raise NotReadyError(f"what arrived waits in the spool: {trouble}")

    def addresses(self) -> dict[str, str]:
        address = None if self._parts is None else self._parts.acceptor.address
        return {} if address is None else {"dicom": address}

    @property
    def _started(self) -> _Parts:
        if self._parts is None:
            raise NotReadyError("ingest has not started, or is stopping: see the log")
        return self._parts


def build(platform: Platform) -> Service:
    """Build the service."""
    database = platform.database("ingest")
    ingest = _Ingest(platform)
    return Service(
        name="ingest",
        database=database,
        tables=messaging,
        router=make_router(database),
        start=ingest.start,
        stop=ingest.stop,
        loops=(ingest.index, ingest.complete, ingest.replicate, ingest.resolve),
        checks={"spool": ingest.check_spool, "objects": ingest.check_objects, "index": ingest.check_index},
        addresses=ingest.addresses,
    )
