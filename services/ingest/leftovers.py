"""Header documents that a process before this one has noted: those that no batch names are of no use to anyone."""

import asyncio
from collections.abc import Iterable

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession

from libs.storage.database import Database
from libs.storage.objects import ObjectStore
from services.ingest.models import batches
from services.ingest.spool import Spool


def batch_of(key: str) -> str:
    """Give the batch that a header document's key names."""
    return key.rsplit("/", 1)[-1].partition(".")[0]


class Leftovers:
    """Removes them, note by note: whatever interrupts it, what is done stays done.

    A batch is committed under the name in its document's key or never will be: each process has names of its own. So it
    must have listed them before this process notes any.
    """

    def __init__(self, database: Database, objects: ObjectStore, spool: Spool) -> None:
        self._database = database
        self._objects = objects
        self._spool = spool
        self._noted: dict[str, list[str]] = {}

    def look(self) -> None:
        """List what is noted; from a thread, before anything is indexed."""
        self._noted = self._spool.noted_headers()

    async def remove(self) -> None:
        """Remove it. Raises SQLAlchemyError, StoreUnavailableError or OSError; what is left stays for the next call."""
        while self._noted:
            name, keys = next(iter(self._noted.items()))
            async with self._database.reading() as tx:
                named = await _named(tx, map(batch_of, keys))
            for key in keys:
                if batch_of(key) not in named:
                    await asyncio.to_thread(self._objects.delete, key)
            self._spool.forget_headers(name)
            del self._noted[name]


async def _named(tx: AsyncSession, ids: Iterable[str]) -> set[str]:
    return set(await tx.scalars(select(batches.c.id).where(batches.c.id.in_(sorted(ids)))))
