"""What replicas tell each other through the database: what each has in hand, and what one that died has left."""

import asyncio
from collections.abc import Callable
from itertools import islice
from typing import Final

from sqlalchemy.exc import SQLAlchemyError

from libs.clock import Clock
from libs.dicom.part10 import NotPart10Error
from libs.storage.database import Database
from libs.storage.objects import ObjectMissingError, ObjectStore, StoreFullError, StoreUnavailableError
from libs.telemetry import log
from services.ingest import metric, pledge
from services.ingest.arrival import DamagedEntryError, Entry
from services.ingest.completion import SILENT_AFTER
from services.ingest.disk import SpoolFullError, SpoolUnavailableError
from services.ingest.seal import BrokenSealError, UnsealedError
from services.ingest.spool import Spool, read_entry
from services.ingest.storecalls import StoreCalls
from services.ingest.upload import Uploads
from services.ingest.work import Work

_LOG = log.get(__name__)
_HEARTBEAT: Final = 60.0
#: Records that are taken over in one transaction.
_AT_ONCE: Final = 200
#: Entries that are read before they are told of: the first are indexed while the others are read.
_SOME: Final = 25
#: An object that was acknowledged, and is not what it was.
_DAMAGED = (NotPart10Error, DamagedEntryError, BrokenSealError, UnsealedError)


class Replica:
    """Keeps this replica's entry in the shared tables, and takes over what a silent one has left."""

    def __init__(
        self,
        database: Database,
        objects: ObjectStore,
        spool: Spool,
        work: Work,
        calls: StoreCalls,
        uploads: Uploads,
        *,
        name: str,
        clock: Clock,
        submit: Callable[[Entry], None],
    ) -> None:
        self._database = database
        self._objects = objects
        self._spool = spool
        self._work = work
        self._calls = calls
        self._uploads = uploads
        self._name = name
        self._clock = clock
        self._submit = submit
        self._loop = asyncio.get_running_loop()
        self._wake = asyncio.Event()

    def changed(self) -> None:
        """Say anew what is in hand; from any thread."""
        try:
            self._loop.call_soon_threadsafe(self._wake.set)
        except RuntimeError:
            _LOG.debug("the process is ending")

    async def repair(self) -> None:
        """Take up what the process before this one has left in the spool; before anything is received."""
        entries, count = self._spool.repair(), 0
        while some := await asyncio.to_thread(lambda: list(islice(entries, _SOME))):
            count += len(some)
            for entry in some:
                self._take_up(entry)
        damaged = await asyncio.to_thread(self._spool.damaged)
        if damaged:
            _LOG.error("spool files are damaged, kept beside the spool", count=len(damaged), kind="alarm")
        if count:
            _LOG.info("spool repaired", items=count)

    async def run(self) -> None:
        """Say what is in hand whenever it changes and once a minute; until cancelled."""
        while True:
            self._wake.clear()
            try:
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

    async def _fetch_missing(self) -> None:
        """Bring back what this replica has acknowledged and does not have in hand: its spool was lost, or was full.

        Each time, and not by the time of the record: clocks differ, and what is recorded and not in hand is missing.
        """
        before = self._in_hand()
        async with self._database.reading() as tx:
            expected = await pledge.expected(tx, self._name)
        # One that came or was indexed meanwhile is in hand at one end at least; if not, it is indexed as a duplicate.
        in_hand = before | self._in_hand()
        for arrival_id, key in expected:
            if arrival_id not in in_hand:
                await self._fetch(arrival_id, key)

    def _in_hand(self) -> set[str]:
        return self._work.arrivals() | self._uploads.removing()

    async def _heartbeat(self) -> None:
        now = self._clock()
        async with self._database.transaction() as tx:
            await pledge.declare_open(tx, self._name, [study for study in self._work.studies() if study[1]], now)
        more = True
        while more:
            async with self._database.transaction() as tx:
                count = await pledge.take_over(tx, self._name, silent_since=now - SILENT_AFTER, limit=_AT_ONCE, now=now)
            more = count == _AT_ONCE
            if count:
                _LOG.warning("what a silent replica has acknowledged is taken over", items=count)
        await self._fetch_missing()

    async def _fetch(self, arrival_id: str, key: str) -> None:
        """Bring an acknowledged object back from the object store into the spool."""
        try:
            entry = await self._calls.run(self._download, arrival_id, key)
        except ObjectMissingError:
            # It was recorded, and never became an object, so it was never acknowledged. Parts of it may be there.
            self._uploads.remove(arrival_id, key, doubtful=True)
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
        self._spool.check()
        with self._objects.open(key) as source:
            path = self._spool.bring(arrival_id, source)
        try:
            return read_entry(path)
        except _DAMAGED:
            self._spool.discard(path)
            raise
