"""Header documents that were noted and that no batch may name: those are of no use to anyone, and go."""

import asyncio
from collections.abc import Iterable
from typing import Final

from sqlalchemy import select, text
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncSession

from libs.storage.database import Database
from libs.storage.objects import ObjectStore, StoreFullError, StoreUnavailableError
from libs.telemetry import log
from services.ingest import metric
from services.ingest.models import batches
from services.ingest.spool import Note, Spool

_LOG = log.get(__name__)
#: What is expected to mend itself.
_PASSING: Final = (StoreUnavailableError, StoreFullError, SQLAlchemyError, OSError)
_FIRST_WAIT: Final = 0.1
_LONGEST_WAIT: Final = 30.0
#: Seconds in which an object store has done what it was asked before it failed: only then is a removal the last word.
_GRACE: Final = 5.0


def batch_of(key: str) -> str:
    """Give the batch that a header document's key names."""
    return key.rsplit("/", 1)[-1].partition(".")[0]


class Leftovers:
    """Removes them, note by note: whatever interrupts it, what is done stays done. From one event loop only.

    A batch is committed under the name in its document's key or never will be: each attempt has names of its own. So
    once an attempt is over, the table of batches says which of its documents anyone needs.
    """

    def __init__(self, database: Database, objects: ObjectStore, spool: Spool) -> None:
        self._database = database
        self._objects = objects
        self._spool = spool
        self._left: set[Note] = set()
        self._came = asyncio.Event()

    async def look(self) -> None:
        """Take what processes before this one have left; before this one notes anything."""
        self._left.update(await asyncio.to_thread(self._spool.noted_headers))
        self._came.set()

    def leave(self, note: Note) -> None:
        """Take what an attempt has left that is over, whether or not it was committed."""
        asyncio.get_running_loop().call_later(_GRACE, self._take, note)

    def _take(self, note: Note) -> None:
        self._left.add(note)
        self._came.set()

    async def run(self) -> None:
        """Remove what is left until cancelled."""
        wait = _FIRST_WAIT
        while True:
            self._came.clear()
            try:
                await self.remove()
            except _PASSING as error:
                metric.FAILURES.labels(kind="index").inc()
                _LOG.warning("header documents without a batch not removed, tried again", reason=type(error).__name__)
            except Exception as error:  # noqa: BLE001 (the indexer goes on; the notes are kept and tried again)
                metric.FAILURES.labels(kind="alarm").inc()
                _LOG.error("header documents without a batch not removed, by a defect", exc_info=error)
            else:
                wait = _FIRST_WAIT
                await self._came.wait()
                continue
            await asyncio.sleep(wait)
            wait = min(_LONGEST_WAIT, 2 * wait)

    async def remove(self) -> None:
        """Remove it. Raises SQLAlchemyError, StoreUnavailableError or OSError; what is left stays for the next call."""
        left = sorted(self._left)
        if not left:
            return
        async with self._database.transaction() as tx:
            named = await _named(tx, (batch_of(key) for note in left for key in note.keys))
        for note in left:
            for key in note.keys:
                if batch_of(key) not in named:
                    await asyncio.to_thread(self._objects.delete, key)
            await asyncio.to_thread(self._spool.forget_headers, note)
            self._left.remove(note)


async def _named(tx: AsyncSession, ids: Iterable[str]) -> set[str]:
    """Give those batches that are committed; none of the others will be.

    A transaction that lost its connection, or its process, while it was committed may not be over at the server. It
    has written to the table, so that the lock waits for it; not for long, as everyone else waits for the lock.
    """
    if tx.get_bind().dialect.name == "postgresql":
        await tx.execute(text("SET LOCAL lock_timeout = 1000"))
        await tx.execute(text("LOCK TABLE batches IN SHARE MODE"))
    return set(await tx.scalars(select(batches.c.id).where(batches.c.id.in_(sorted(ids)))))
