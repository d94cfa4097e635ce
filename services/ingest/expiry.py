"""Removes copies of studies whose time is over, and then the objects that no row names any more.

A study goes in one transaction: its rows, a note of each object, and `study.expired`. The objects go after it, from
their notes, so that a crash at any point leaves either the whole copy or notes that are worked off later.
"""

import asyncio
import time
from collections.abc import Callable
from datetime import timedelta
from typing import Any, Final

from sqlalchemy import Row
from sqlalchemy.exc import SQLAlchemyError

from contracts.definition import Snapshot
from contracts.fact import Source
from contracts.study import StudyExpired
from libs.clock import Clock
from libs.messaging.outbox import Outbox
from libs.storage.database import Database
from libs.storage.objects import ObjectStore, StoreFullError, StoreUnavailableError
from libs.telemetry import log
from services.ingest import holdings, metric, versions
from services.ingest.completion import SILENT_AFTER
from services.ingest.repository import utc
from services.ingest.retention import Verdict, judge
from services.ingest.work import Study, Work

_LOG = log.get(__name__)
#: What is expected to mend itself.
_PASSING: Final = (SQLAlchemyError, StoreUnavailableError, StoreFullError, OSError)
_PAGE: Final = 100
#: Objects that are removed together.
_OBJECTS: Final = 100
#: Others use database and disk for as long as retention did, before it goes on.
_LONGEST_PAUSE: Final = 1.0


class Expiry:
    """Looks for copies that may go.

    Parameters
    ----------
    network
        Gives the network definition in force.
    seconds
        How often it looks.
    """

    def __init__(
        self,
        database: Database,
        objects: ObjectStore,
        work: Work,
        outbox: Outbox,
        *,
        replica: str,
        network: Callable[[], Snapshot | None],
        seconds: float,
        clock: Clock,
    ) -> None:
        self._database = database
        self._objects = objects
        self._work = work
        self._outbox = outbox
        self._replica = replica
        self._network = network
        self._seconds = seconds
        self._clock = clock

    async def run(self) -> None:
        """Remove what may go until cancelled."""
        while True:
            for name, step in (("copies", self.look), ("objects", self.empty)):
                try:
                    await step()
                except _PASSING as error:
                    metric.FAILURES.labels(kind="retention").inc()
                    reason = str(error) if getattr(type(error), "safe_to_log", False) else type(error).__name__
                    _LOG.warning("retention not carried out, tried again", step=name, reason=reason)
            await asyncio.sleep(self._seconds)

    async def look(self) -> int:
        """Remove the copies whose time is over, the oldest first; give their number."""
        snapshot = self._network()
        if snapshot is None or not snapshot.definition.retention:
            return 0
        shortest = min(each.keep for each in snapshot.definition.retention)
        try:
            until = self._clock() - timedelta(seconds=shortest)
        except OverflowError:
            return 0
        gone, after = 0, None
        while True:
            async with self._database.reading() as tx:
                rows = await holdings.ripe(tx, until, after, _PAGE)
                copies = await holdings.copies(tx, rows)
            if not rows:
                return gone
            after = utc(rows[-1].last_arrival), rows[-1].id
            for row in rows:
                if judge(copies[row.id], snapshot.definition.retention).may_go(self._clock()):
                    gone += await self._remove(row, snapshot)

    async def _remove(self, row: Row[Any], snapshot: Snapshot) -> bool:
        began = time.monotonic()
        removed = await self._remove_if_still(row, snapshot)
        await asyncio.sleep(min(time.monotonic() - began, _LONGEST_PAUSE))
        return removed

    async def _remove_if_still(self, seen: Row[Any], snapshot: Snapshot) -> bool:
        """Look at everything once more, the study being locked, and let it go."""
        study = seen.tenant, seen.study_uid
        if self._work.has(study):
            return False
        # Of all versions, and what attempts at one have left that were cut off: no row names more than the last.
        manifests = await asyncio.to_thread(_manifests, self._objects, study)
        async with self._database.transaction() as tx:
            row = await holdings.lock(tx, seen.id)
            if row is None or await versions.in_hand_elsewhere(
                tx, {study}, self._replica, self._clock() - SILENT_AFTER
            ):
                return False
            now = self._clock()
            copy = (await holdings.copies(tx, [row]))[row.id]
            verdict = judge(copy, snapshot.definition.retention)
            if row.version != seen.version or row.instance_count == 0 or not verdict.may_go(now):
                return False
            await holdings.remove(tx, row, now)
            for key in manifests:
                await holdings.discard(tx, key, now)
            event = _event(row, verdict, snapshot.version, copy.discarded)
            site = Source.model_validate(row.source).site
            await self._outbox.emit(tx, event, subject=row.study_uid, tenant=row.tenant, site=site)
        metric.EXPIRED.inc()
        metric.EXPIRED_BYTES.inc(row.size)
        _LOG.info(
            "copy of a study removed: its keep time is over, and everything of it was delivered or discarded",
            study_uid=row.study_uid,
            tenant=row.tenant,
            version=row.version,
            instances=row.instance_count,
            size=row.size,
            since=utc(row.last_arrival),
        )
        return True

    async def empty(self) -> int:
        """Remove the objects that no row names any more; give their number."""
        gone = 0
        while True:
            async with self._database.reading() as tx:
                keys, named = await holdings.unnamed(tx, _OBJECTS)
            if not keys and not named:
                return gone
            began = time.monotonic()
            await asyncio.to_thread(self._delete, keys)
            async with self._database.transaction() as tx:
                await holdings.emptied(tx, [*keys, *named])
            gone += len(keys)
            await asyncio.sleep(min(time.monotonic() - began, _LONGEST_PAUSE))

    def _delete(self, keys: list[str]) -> None:
        for key in keys:
            self._objects.delete(key)


def _manifests(objects: ObjectStore, study: Study) -> list[str]:
    return list(objects.list(f"manifests/{study[0]}/{study[1]}/"))


def _event(row: Row[Any], verdict: Verdict, network_version: int, discarded: str | None) -> StudyExpired:
    return StudyExpired(
        study_instance_uid=row.study_uid,
        version=row.version,
        content_hash=row.version_hash,
        instance_count=row.instance_count,
        size=row.size,
        keep=verdict.keep,
        kept_since=utc(row.last_arrival),
        destinations=verdict.destinations,
        network_version=network_version,
        discarded=None if verdict.destinations else discarded,
    )
