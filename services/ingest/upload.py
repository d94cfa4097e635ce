"""With `ack=object-store`: what is about to be acknowledged is recorded first, and cleaned up if it comes to nothing.

The record is made before there is an object, and goes in the transaction that indexes it, or after the object was
removed: so no object is ever without a record or a row, whoever dies when. Receivers do the uploading themselves.
"""

import asyncio
from collections import deque
from collections.abc import Coroutine
from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy.exc import SQLAlchemyError

from libs.clock import Clock
from libs.storage.database import Database
from libs.storage.objects import ObjectStore, StoreFullError, StoreUnavailableError
from libs.telemetry import log
from services.ingest import metric, pledge
from services.ingest.arrival import Entry
from services.ingest.breaker import Breaker
from services.ingest.storecalls import StoreCalls
from services.ingest.work import Work

_LOG = log.get(__name__)
#: Records of one transaction.
_TOGETHER: Final = 500
#: Seconds in which a store that answers again has done what it was asked before: only then is a removal the last word.
_GRACE: Final = 5.0
#: Seconds between two tries to clean up.
_PAUSE: Final = 2.0


@dataclass
class _Removal:
    key: str
    #: On the clock of the event loop.
    due: float
    last: bool


class Uploads:
    """The records of this replica. From one event loop only.

    Parameters
    ----------
    name
        Of this replica.
    timeout
        Seconds in which the database must have recorded an arrival.

    Attributes
    ----------
    breaker
        Knows whether database and object store answer.
    """

    def __init__(
        self,
        database: Database,
        objects: ObjectStore,
        calls: StoreCalls,
        work: Work,
        *,
        name: str,
        clock: Clock,
        timeout: float,
    ) -> None:
        self._database = database
        self._objects = objects
        self._calls = calls
        self._work = work
        self._name = name
        self._clock = clock
        self._timeout = timeout
        self._loop = asyncio.get_running_loop()
        self.breaker = Breaker(self._loop.time)
        self._waiting: deque[tuple[Entry, asyncio.Future[None]]] = deque()
        self._removals: dict[str, _Removal] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}

    async def expect(self, entry: Entry) -> str | None:
        """Record an arrival that is about to be uploaded; gives why it must not be."""
        recorded: asyncio.Future[None] = self._loop.create_future()
        self._waiting.append((entry, recorded))
        self._start("record", self._record)
        try:
            async with asyncio.timeout(self._timeout):
                await recorded
                return None
        except (SQLAlchemyError, OSError) as error:
            # TimeoutError is an OSError. The record may have been made all the same.
            why = f"the database does not answer ({type(error).__name__}): check that it runs and can be reached"
            self.failed(why)
            self.remove(entry.arrival.id, entry.object_key, doubtful=False)
            return why

    def failed(self, why: str) -> None:
        """Note that an object could not be stored."""
        if self.breaker.failed(why):
            _LOG.error("nothing is taken while the object store is away: senders are told A700", reason=why)

    def worked(self) -> None:
        """Note that an object was stored."""
        if self.breaker.worked():
            _LOG.info("object store is back: senders are served again")

    def remove(self, arrival_id: str, key: str, *, doubtful: bool) -> None:
        """Remove an object that nobody was promised, then its record; tries until that is done.

        Parameters
        ----------
        doubtful
            Whether the store may still be busy with it, and it must be removed a second time.
        """
        if arrival_id not in self._removals:
            self._removals[arrival_id] = _Removal(key, self._loop.time(), last=not doubtful)
            self._start("remove", self._remove)

    def removing(self) -> set[str]:
        """List the arrivals that are being removed."""
        return set(self._removals)

    async def stop(self) -> None:
        """End; what is not cleaned up is by the next start."""
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _start(self, name: str, work: Any) -> None:
        if name not in self._tasks:
            self._tasks[name] = asyncio.ensure_future(self._guarded(name, work()))

    async def _guarded(self, name: str, work: Coroutine[Any, Any, None]) -> None:
        try:
            await work
        except Exception as error:  # noqa: BLE001 (the next arrival starts it anew)
            metric.FAILURES.labels(kind="alarm").inc()
            _LOG.error("uploads not looked after, by a defect", exc_info=error)
        finally:
            del self._tasks[name]

    async def _record(self) -> None:
        """Record all that wait, together; others gather meanwhile."""
        while self._waiting:
            many = min(len(self._waiting), _TOGETHER)
            taken = [pair for pair in (self._waiting.popleft() for _ in range(many)) if not pair[1].done()]
            try:
                if taken:
                    async with self._database.transaction() as tx:
                        await pledge.expect(tx, [entry for entry, _ in taken], self._name, self._clock())
            except (SQLAlchemyError, OSError) as error:
                for _, recorded in taken:
                    if not recorded.done():
                        recorded.set_exception(error)
            else:
                for _, recorded in taken:
                    if not recorded.done():
                        recorded.set_result(None)

    async def _remove(self) -> None:
        while self._removals:
            now = self._loop.time()
            try:
                for arrival_id, removal in [pair for pair in self._removals.items() if pair[1].due <= now]:
                    await self._remove_one(arrival_id, removal)
            except (StoreUnavailableError, StoreFullError, SQLAlchemyError, OSError) as error:
                _LOG.warning("objects of refused arrivals not removed yet, tried again", reason=type(error).__name__)
            if self._removals:
                await asyncio.sleep(_PAUSE)

    async def _remove_one(self, arrival_id: str, removal: _Removal) -> None:
        if self._database.dialect == "postgresql":
            # Held meanwhile: should another replica think that this one is silent, or this one that another is, then
            # only one of them decides about the object, and not while it is being indexed.
            async with self._database.transaction() as tx:
                if await pledge.hold(tx, arrival_id, self._name):
                    await self._calls.run(self._objects.discard, removal.key)
                    if removal.last:
                        await pledge.forget(tx, [arrival_id])
                else:
                    removal.last = True
        else:
            # A transaction would keep every other writer of SQLite waiting, and there is no other replica.
            await self._calls.run(self._objects.discard, removal.key)
            if removal.last:
                async with self._database.transaction() as tx:
                    await pledge.forget(tx, [arrival_id])
        if removal.last:
            del self._removals[arrival_id]
            self._work.indexed(arrival_id)
        else:
            removal.due, removal.last = self._loop.time() + _GRACE, True
