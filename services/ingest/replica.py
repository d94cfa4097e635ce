"""What replicas tell each other through the database: what each has in hand, and what one that died has left."""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

from sqlalchemy.exc import SQLAlchemyError

from libs.clock import Clock
from libs.dicom.part10 import NotPart10Error
from libs.storage.database import Database
from libs.storage.objects import ObjectMissingError, ObjectStore, StoreFullError, StoreUnavailableError
from libs.telemetry import log
from services.ingest import metric, repository
from services.ingest.arrival import DamagedEntryError, Entry
from services.ingest.completion import SILENT_AFTER
from services.ingest.disk import SpoolFullError, SpoolUnavailableError
from services.ingest.seal import BrokenSealError, UnsealedError
from services.ingest.spool import Spool, read_entry
from services.ingest.work import Work

_LOG = log.get(__name__)
_HEARTBEAT = 60.0
_AT_ONCE = 20
#: An object that was acknowledged, and is not what it was.
_DAMAGED = (NotPart10Error, DamagedEntryError, BrokenSealError, UnsealedError)


class Uploader:
    """With `ack=object-store`: puts each entry into the object store before it is acknowledged, and says so."""

    def __init__(
        self, database: Database, objects: ObjectStore, spool: Spool, *, replica: str, clock: Clock, timeout: float
    ) -> None:
        self._database = database
        self._objects = objects
        self._spool = spool
        self._replica = replica
        self._clock = clock
        self._timeout = timeout
        self._loop = asyncio.get_running_loop()

    def put(self, entry: Entry) -> None:
        """Record the arrival, then upload it; from a thread. Raises StoreUnavailableError or StoreFullError.

        In this order: an object that nobody knows of could never be found again, a record without an object can.
        """
        self._wait(self._expect(entry))
        second = self._spool.link(entry.path)
        try:
            self._objects.adopt(entry.object_key, second, if_absent=True)
        finally:
            self._spool.discard(second)

    def forget(self, entry: Entry) -> None:
        """Take the record back. A record that stays is dropped or indexed later; neither breaks a promise."""
        try:
            self._wait(self._forget(entry))
        except StoreUnavailableError as error:
            _LOG.warning("arrival not taken back", reason=str(error), association=entry.arrival.association_id)

    async def _expect(self, entry: Entry) -> None:
        async with self._database.transaction() as tx:
            await repository.expect(tx, entry, self._replica, self._clock())

    async def _forget(self, entry: Entry) -> None:
        async with self._database.transaction() as tx:
            await repository.forget(tx, entry.arrival.id)

    def _wait(self, work: Coroutine[Any, Any, None]) -> None:
        try:
            future = asyncio.run_coroutine_threadsafe(work, self._loop)
        except RuntimeError as error:
            work.close()
            raise StoreUnavailableError("the process is ending: send again") from error
        try:
            future.result(self._timeout)
        except (SQLAlchemyError, OSError, TimeoutError) as error:
            future.cancel()
            raise StoreUnavailableError(
                f"the database does not answer ({type(error).__name__}): check that it runs and can be reached"
            ) from error


class Replica:
    """Keeps this replica's entry in the shared tables, and takes over what a silent one has left."""

    def __init__(
        self,
        database: Database,
        objects: ObjectStore,
        spool: Spool,
        work: Work,
        *,
        name: str,
        clock: Clock,
        submit: Callable[[Entry], None],
    ) -> None:
        self._database = database
        self._objects = objects
        self._spool = spool
        self._work = work
        self._name = name
        self._clock = clock
        self._submit = submit
        self._loop = asyncio.get_running_loop()
        self._wake = asyncio.Event()
        self._headers: dict[str, str] = {}

    def changed(self) -> None:
        """Say anew what is in hand; from any thread."""
        try:
            self._loop.call_soon_threadsafe(self._wake.set)
        except RuntimeError:
            _LOG.debug("the process is ending")

    async def repair(self) -> None:
        """Take up what the process before this one has left in the spool; before anything is received."""
        entries = await asyncio.to_thread(lambda: list(self._spool.repair()))
        for entry in entries:
            self._take_up(entry)
        self._headers = await asyncio.to_thread(self._spool.noted_headers)
        damaged = await asyncio.to_thread(self._spool.damaged)
        if damaged:
            _LOG.error("spool files are damaged, kept beside the spool", count=len(damaged), kind="alarm")
        if entries:
            _LOG.info("spool repaired", items=len(entries))

    async def run(self) -> None:
        """Finish the repair, then say what is in hand whenever it changes and once a minute; until cancelled."""
        while True:
            self._wake.clear()
            try:
                await self._recover()
                await self._heartbeat()
            except (SQLAlchemyError, StoreUnavailableError, StoreFullError, OSError) as error:
                metric.FAILURES.labels(kind="replica").inc()
                _LOG.warning("replica's entry not renewed, tried again", reason=type(error).__name__)
            try:
                # Not `wait_for`: on Python 3.11 it swallows a cancellation that comes together with the wake-up.
                async with asyncio.timeout(_HEARTBEAT):
                    await self._wake.wait()
            except TimeoutError:
                continue

    async def _recover(self) -> None:
        """Finish what `repair` began, once the database and the object store can be reached."""
        for batch_id, key in list(self._headers.items()):
            async with self._database.reading() as tx:
                committed = await repository.batch_exists(tx, batch_id)
            if not committed:
                await asyncio.to_thread(self._objects.delete, key)
            await asyncio.to_thread(self._spool.forget_headers, batch_id)
            del self._headers[batch_id]

    async def _fetch_missing(self) -> None:
        """Bring back what this replica has acknowledged and does not have in hand: its spool was lost, or was full.

        Each time, and not by the time of the record: clocks differ, and what is recorded and not in hand is missing.
        """
        before = self._work.arrivals()
        async with self._database.reading() as tx:
            expected = await repository.expected(tx, self._name)
        # One that came or was indexed meanwhile is in hand at one end at least; if not, it is indexed as a duplicate.
        in_hand = before | self._work.arrivals()
        for arrival_id, key in expected:
            if arrival_id not in in_hand:
                await self._fetch(arrival_id, key)

    async def _heartbeat(self) -> None:
        now = self._clock()
        async with self._database.transaction() as tx:
            work = [study for study in self._work.studies() if study[1]]
            await repository.declare_open(tx, self._name, work, now)
            left = await repository.orphaned(tx, self._name, silent_since=now - SILENT_AFTER, limit=_AT_ONCE)
            for arrival_id, _ in left:
                await repository.take_over(tx, arrival_id, self._name, now)
        await self._fetch_missing()

    async def _fetch(self, arrival_id: str, key: str) -> None:
        """Bring an acknowledged object back from the object store into the spool."""
        try:
            entry = await asyncio.to_thread(self._download, arrival_id, key)
        except ObjectMissingError:
            # It was recorded, never uploaded, and so never acknowledged.
            async with self._database.transaction() as tx:
                await repository.forget(tx, arrival_id)
            return
        except (SpoolFullError, SpoolUnavailableError, *_DAMAGED) as error:
            # One that is damaged must not keep this replica from the others; people have to look at the store.
            metric.FAILURES.labels(kind="alarm").inc()
            _LOG.error("acknowledged object not taken up, tried again in a minute", reason=str(error), key=key)
            return
        self._take_up(entry)

    def _take_up(self, entry: Entry) -> None:
        arrival = entry.arrival
        self._work.spooled(arrival.id, arrival.association_id, entry.study, arrival.received_at)
        self._submit(entry)

    def _download(self, arrival_id: str, key: str) -> Entry:
        with self._objects.open(key) as source:
            path = self._spool.bring(arrival_id, source)
        try:
            return read_entry(path)
        except _DAMAGED:
            self._spool.discard(path)
            raise
