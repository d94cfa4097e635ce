"""Feeds the index from table `items`: all that is shown at the start, then what changes, by revision."""

import asyncio
import time
from collections.abc import Callable, Sequence
from typing import Any, Final

from sqlalchemy import Row
from sqlalchemy.ext.asyncio import AsyncSession

from libs.messaging.listen import DATABASE_AWAY
from libs.storage.database import Database
from libs.telemetry import log
from services.worklist import item_rows, metric
from services.worklist.index import Entry, Index, entry, is_shown
from services.worklist.repository import CHANGED

_LOG = log.get(__name__)
_AT_ONCE: Final = 1000
#: Seconds without news of the database after which people are told.
_STALE: Final = 30.0


class Feed:
    """Keeps the index as the table is. From one event loop only.

    Parameters
    ----------
    seconds
        How often changes are looked for that other replicas make; those of this process are seen at once.
    monotonic
        Seconds of a clock that only goes on.
    """

    def __init__(
        self, database: Database, index: Index, seconds: float, monotonic: Callable[[], float] = time.monotonic
    ) -> None:
        self._database = database
        self._index = index
        self._seconds = seconds
        self._monotonic = monotonic
        self._changed = asyncio.Event()
        self._fed_at = monotonic()
        self._away = False
        database.on_commit(self._committed)

    async def load(self) -> None:
        """Read all that is shown; before anybody asks, as an empty worklist would be taken for the truth."""
        async with self._database.reading() as tx:
            until = await item_rows.newest_revision(tx)
            after = 0
            while True:
                rows = await item_rows.shown(tx, after, until, _AT_ONCE)
                await self._take(rows)
                if len(rows) < _AT_ONCE:
                    break
                after = rows[-1].revision
        self._index.revision = max(self._index.revision, until)
        self._fed()
        _LOG.info("worklist read", count=len(self._index))

    async def run(self) -> None:
        """Follow the table until cancelled."""
        while True:
            self._changed.clear()
            try:
                async with self._database.reading() as tx:
                    more = await self._follow(tx)
            except DATABASE_AWAY as error:
                more = False
                self._lost(error)
            else:
                self._fed()
            if more:
                continue
            try:
                # Not `wait_for`: on Python 3.11 it swallows a cancellation that comes together with the wake-up.
                async with asyncio.timeout(self._seconds):
                    await self._changed.wait()
            except TimeoutError:
                continue

    def stale(self) -> float | None:
        """Give for how many seconds the index has had no news, if that is too long."""
        age = self._monotonic() - self._fed_at
        return age if age > _STALE else None

    async def _follow(self, tx: AsyncSession) -> bool:
        rows = await item_rows.changed(tx, self._index.revision, _AT_ONCE)
        await self._take(rows)
        if rows:
            self._index.revision = rows[-1].revision
        return len(rows) == _AT_ONCE

    async def _take(self, rows: Sequence[Row[Any]]) -> None:
        if rows:
            # Packing takes its time, in which the port and other messages have their turn.
            entries, gone = await asyncio.to_thread(_entries, rows)
            self._index.put(entries, gone)
            metric.ITEMS.set(len(self._index))

    def _committed(self, session: AsyncSession) -> None:
        if session.info.get(CHANGED):
            self._changed.set()

    def _fed(self) -> None:
        self._fed_at = self._monotonic()
        if self._away:
            self._away = False
            _LOG.info("the worklist follows the database again")

    def _lost(self, error: BaseException) -> None:
        if not self._away:
            self._away = True
            metric.FAILURES.labels(kind="retry").inc()
            _LOG.warning("the worklist does not follow the database for now", reason=type(error).__name__)


def _entries(rows: Sequence[Row[Any]]) -> tuple[list[Entry], list[int]]:
    entries: list[Entry] = []
    gone: list[int] = []
    for row in rows:
        if is_shown(row.state, row.performed):
            entries.append(entry(row.id, row.tenant, row.site, row.start, row.revision, row.text))
        else:
            gone.append(row.id)
    return entries, gone
