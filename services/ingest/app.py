"""Wires ingest."""

import asyncio
import errno
import secrets
from collections.abc import Callable
from datetime import timedelta
from typing import Any, Final

from contracts.definition import Assembly, Definition
from libs.dimse.doorstep import Doorstep
from libs.dimse.gate import Gate, lets_local_in
from libs.dimse.listener import Listener
from libs.dimse.tls import Files, Profile, files_of
from libs.messaging.outbox import Outbox
from libs.service import Platform, Service
from libs.telemetry import log
from libs.web.problem import Problem
from libs.web.server import ListenError
from services.ingest import metric
from services.ingest.api import make_router
from services.ingest.arrival import arrival_id
from services.ingest.commitment import Commitments
from services.ingest.completion import Completion
from services.ingest.evidence import Patience, patience
from services.ingest.expiry import Expiry
from services.ingest.handlers import register
from services.ingest.indexer import Indexer
from services.ingest.models import messaging
from services.ingest.pace import Pace
from services.ingest.quarantine import Quarantine
from services.ingest.reception import Reception
from services.ingest.renewal import Renewal
from services.ingest.replica import Replica
from services.ingest.settings import IngestSettings
from services.ingest.spool import Spool
from services.ingest.storecalls import StoreCalls
from services.ingest.supervisor import Supervisor
from services.ingest.upload import Uploads
from services.ingest.watch import Watch, places
from services.ingest.wire import Setup
from services.ingest.work import Work

_LOG = log.get(__name__)
#: Seconds that whoever asks for readiness waits for the object store.
_LOOK_TIMEOUT: Final = 5.0


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
        waiting = _patience(platform, settings)
        self.completion = Completion(
            self._database,
            platform.objects,
            self._work,
            outbox,
            replica=name,
            barrier=self._barrier,
            patience=waiting,
            clock=clock,
            noise=secrets.token_bytes,
        )
        self.indexer = Indexer(
            self._database,
            platform.objects,
            self.spool,
            self._work,
            outbox,
            run=secrets.token_hex(8),
            settings=settings,
            definition=lambda: _definition(platform),
            patience=waiting,
            clock=clock,
            changed=self._indexed,
        )
        self.quarantine = Quarantine(
            self._database,
            platform.objects,
            self.spool,
            self._work,
            outbox,
            submit=self.indexer.submit,
            replica=name,
            clock=clock,
            noise=secrets.token_bytes,
        )
        self.watch = Watch(
            self._database,
            outbox,
            places(self.spool.folder, platform.settings.objects),
            replica=name,
            needed=settings.min_free_bytes,
            share=settings.low_share,
            hours=settings.low_hours,
        )
        self.expiry = Expiry(
            self._database,
            platform.objects,
            self._work,
            outbox,
            replica=name,
            network=lambda: platform.network.current,
            seconds=settings.retention_seconds,
            clock=clock,
        )
        self.calls = StoreCalls()
        self.uploads = Uploads(
            self._database,
            platform.objects,
            self.calls,
            self._work,
            name=name,
            clock=clock,
            timeout=settings.store_timeout,
        )
        self.replica = Replica(
            self._database,
            platform.objects,
            self.spool,
            self._work,
            self.calls,
            self.uploads,
            name=name,
            clock=clock,
            submit=self.indexer.submit,
        )
        files = files_of(platform.settings)
        self.renewal = None if files is None else Renewal(files, platform.settings.tls_profile, clock)
        self.gate = Gate(
            platform.network,
            self._database,
            outbox,
            loopback=lets_local_in(platform),
            clock=clock,
            handshakes=metric.HANDSHAKES,
            tls=files is not None,
            associations=settings.associations,
        )
        uploading = platform.settings.ack == "object-store"
        self._reception = Reception(
            self.gate,
            self._work,
            self.indexer.submit,
            commitments=Commitments(self._database, outbox),
            uploads=self.uploads if uploading else None,
            name=lambda: arrival_id(clock(), secrets.token_bytes(8)),
        )
        self.supervisor = Supervisor(
            Setup(
                folder="",
                run="",
                min_free=settings.min_free_bytes,
                max_pdu=settings.max_pdu,
                request_timeout=settings.request_timeout,
                idle_timeout=settings.network_timeout,
                store_timeout=settings.store_timeout,
                region=platform.settings.region,
                instance=name,
                objects=platform.settings.objects if uploading else None,
                tls=None if files is None else _tls(files, platform.settings.tls_profile),
            ),
            self.spool.folder,
            settings.receivers,
            reception=self._reception,
            doorstep=Doorstep(settings.waiting, settings.waiting_address),
            pace=Pace(self._work.depth, settings.backlog),
            left=self.spool.left,
            silence=settings.receiver_timeout,
        )
        self.listeners: dict[str, Listener] = {}

    async def start(self) -> None:
        """Repair the spool, then listen."""
        # They load meanwhile.
        self.supervisor.spawn()
        try:
            async with self.indexer.meanwhile():
                await self.replica.repair()
            await self.gate.resolve()
            await self.supervisor.start()
            self._listen()
        except BaseException:
            await self.stop()
            raise
        metric.SPOOL_DEPTH.set_function(self._work.depth)
        metric.SPOOL_AGE.set_function(self._age)
        if self._platform.network.current is None:
            _LOG.warning("nothing but C-ECHO is let in: there is no network definition", advice="kivuko apply FILE")

    async def _barrier(self) -> None:
        await self.supervisor.barrier()

    async def stop(self) -> None:
        """Stop listening, and end the receivers."""
        for listener in self.listeners.values():
            listener.close()
        await self.supervisor.stop()
        await self.uploads.stop()
        self.calls.close()

    def _listen(self) -> None:
        settings = self._platform.settings
        self.listeners["dicom"] = self._listener(settings.dicom_port, "KIVUKO_DICOM_PORT", tls=False)
        if settings.dicom_tls_port is not None:
            self.listeners["dicom-tls"] = self._listener(settings.dicom_tls_port, "KIVUKO_DICOM_TLS_PORT", tls=True)

    def _listener(self, port: int, variable: str, *, tls: bool) -> Listener:
        host = self._platform.settings.bind
        try:
            return Listener(host, port, tls=tls, take=self.supervisor.take)
        except OSError as error:
            why = "another program has it" if error.errno == errno.EADDRINUSE else (error.strerror or "not possible")
            raise ListenError(
                f"DICOM cannot listen on {host} port {port}: {why}. "
                f"Set KIVUKO_BIND to an address of this machine and {variable} to a free port, or to 0 for any."
            ) from error

    def _indexed(self) -> None:
        self.completion.changed()
        self.quarantine.changed()

    def _age(self) -> float:
        oldest = self._work.oldest()
        return 0 if oldest is None else (self._platform.clock() - oldest).total_seconds()

    def _changed(self) -> None:
        if self._database.dialect == "postgresql":
            self.replica.changed()


def _tls(files: Files, profile: Profile) -> dict[str, Any]:
    paths = {name: str(path.absolute()) for name, path in vars(files).items() if path is not None}
    return {"files": paths, "profile": profile}


def _definition(platform: Platform) -> Definition | None:
    snapshot = platform.network.current
    return None if snapshot is None else snapshot.definition


def _patience(platform: Platform, settings: IngestSettings) -> Callable[[], Patience]:
    def in_force() -> Patience:
        current = platform.network.current
        assembly = Assembly() if current is None else current.definition.assembly
        return patience(assembly, timedelta(seconds=settings.quiet_seconds))

    return in_force


class NotReadyError(Exception):
    """Ingest can't take studies, or can't pass them on. The text says what to do."""

    safe_to_log = True


class _Ingest:
    """Ingest as its process sees it."""

    def __init__(self, platform: Platform) -> None:
        self._platform = platform
        self._parts: _Parts | None = None
        self._looking: asyncio.Future[None] | None = None

    async def start(self) -> None:
        parts = _Parts(self._platform)
        await parts.start()
        self._parts = parts

    async def stop(self) -> None:
        parts, self._parts = self._parts, None
        if parts is not None:
            await parts.stop()

    async def index(self) -> None:
        await self._started.indexer.run()

    async def complete(self) -> None:
        await self._started.completion.run()

    async def settle(self) -> None:
        await self._started.quarantine.run()

    def quarantine(self) -> Quarantine:
        if self._parts is None:
            raise Problem(503, "Not started", "Ingest has not started, or is stopping.", advice="Try again later.")
        return self._parts.quarantine

    async def replicate(self) -> None:
        await self._started.replica.run()

    async def expire(self) -> None:
        await self._started.expiry.run()

    async def watch(self) -> None:
        await self._started.watch.run()

    async def resolve(self) -> None:
        await self._started.gate.run()

    async def renew(self) -> None:
        renewal = self._started.renewal
        if renewal is not None:
            await renewal.run()

    async def check_spool(self) -> None:
        await asyncio.to_thread(self._started.spool.check)

    async def check_objects(self) -> None:
        # One look at a time: whoever asks meanwhile waits for it, and not in one more thread.
        if self._looking is None or self._looking.done():
            self._looking = asyncio.ensure_future(self._started.calls.run(self._platform.objects.check))
        try:
            async with asyncio.timeout(_LOOK_TIMEOUT):
                await asyncio.shield(self._looking)
        except TimeoutError as error:
            raise NotReadyError(
                "the object store does not answer: see whether it runs, and the network to it"
            ) from error

    async def check_room(self) -> None:
        self._started.watch.check()

    async def check_index(self) -> None:
        trouble = self._started.indexer.trouble
        if trouble is not None:
            raise NotReadyError(f"what arrived waits in the spool: {trouble}")

    def addresses(self) -> dict[str, str]:
        listeners = {} if self._parts is None else self._parts.listeners
        return {name: listener.address for name, listener in listeners.items()}

    @property
    def _started(self) -> _Parts:
        if self._parts is None:
            raise NotReadyError("ingest has not started, or is stopping: see the log")
        return self._parts


def build(platform: Platform) -> Service:
    """Build the service."""
    database = platform.database("ingest")
    ingest = _Ingest(platform)
    register(platform.broker, database, platform.clock)
    renewing = (ingest.renew,) if platform.settings.dicom_tls_port is not None else ()
    return Service(
        name="ingest",
        database=database,
        tables=messaging,
        router=make_router(database, ingest.quarantine, platform.clock, lambda: platform.network.current),
        start=ingest.start,
        stop=ingest.stop,
        loops=(
            ingest.index,
            ingest.complete,
            ingest.replicate,
            ingest.resolve,
            ingest.settle,
            ingest.expire,
            ingest.watch,
            *renewing,
        ),
        checks={
            "spool": ingest.check_spool,
            "objects": ingest.check_objects,
            "room": ingest.check_room,
            "index": ingest.check_index,
        },
        addresses=ingest.addresses,
    )
