"""What modalities asked, and what they got: recorded for people, never in the way of an answer.

The same query with the same outcome, once more, counts up its row: a modality that asks every minute fills nothing.
"""

import asyncio
import threading
from collections import deque
from collections.abc import Iterable
from datetime import datetime, timedelta
from hashlib import sha256
from typing import Any, Final

from pydantic_core import to_json

from libs.clock import Clock
from libs.messaging.listen import DATABASE_AWAY
from libs.storage.database import Database
from libs.telemetry import log
from services.worklist import metric, query_rows
from services.worklist.finding import Asked

_LOG = log.get(__name__)
#: Queries that wait to be written; while the database is away, the oldest go.
_MOST_WAITING: Final = 10_000
_WRITE_EVERY: Final = 0.5
_PRUNE_EVERY: Final = timedelta(minutes=10)
_LONGEST_IDENTIFIER: Final = 1 << 16


class Queries:
    """Records queries.

    Parameters
    ----------
    a_node
        Rows that are kept of each node, the newest.
    days
        How long they are kept at most.
    """

    def __init__(self, database: Database, clock: Clock, *, a_node: int, days: float) -> None:
        self._database = database
        self._clock = clock
        self._a_node = a_node
        self._days = days
        self._lock = threading.Lock()
        self._waiting: deque[Asked] = deque()
        self._lost = 0
        # The newest row of each caller.
        self._latest: dict[tuple[str, str, str], tuple[int, str]] = {}
        self._pruned: datetime | None = None

    def note(self, asked: Asked) -> None:
        """Take a query; from any thread."""
        with self._lock:
            self._waiting.append(asked)
            if len(self._waiting) > _MOST_WAITING:
                self._waiting.popleft()
                self._lost += 1

    async def run(self) -> None:
        """Write what was asked until cancelled, and forget what was kept long enough."""
        while True:
            try:
                await self.write()
                await self._prune()
            except DATABASE_AWAY as error:
                metric.FAILURES.labels(kind="retry").inc()
                _LOG.warning("queries are not recorded for now", reason=type(error).__name__, count=len(self._waiting))
            await asyncio.sleep(_WRITE_EVERY)

    async def write(self) -> None:
        """Write what waits; what can't be written now waits on, as far as there is room."""
        with self._lock:
            taken, self._waiting = self._waiting, deque()
            lost, self._lost = self._lost, 0
        if lost:
            _LOG.warning("queries were not recorded: there were too many while the database was away", count=lost)
        if not taken:
            return
        try:
            await self._written(taken)
        except BaseException:
            with self._lock:
                taken.extend(self._waiting)
                self._waiting = taken
            raise

    async def _written(self, taken: Iterable[Asked]) -> None:
        latest = dict(self._latest)
        async with self._database.transaction() as tx:
            for asked in taken:
                key = (asked.caller.tenant, asked.caller.node, asked.caller.calling_aet)
                digest = _digest(asked)
                last = latest.get(key)
                if last is not None and last[1] == digest and await query_rows.repeated(tx, last[0], _said(asked)):
                    continue
                latest[key] = await query_rows.save(tx, {**_values(asked), **_said(asked)}), digest
        self._latest = latest

    async def _prune(self) -> None:
        now = self._clock()
        if self._pruned is not None and now - self._pruned < _PRUNE_EVERY:
            return
        self._pruned = now
        async with self._database.transaction() as tx:
            await query_rows.prune(tx, now - timedelta(days=self._days), self._a_node)


def _digest(asked: Asked) -> str:
    said = [asked.identifier.hex(), asked.syntax, asked.outcome, asked.count, asked.hidden, asked.caller.address]
    return sha256(to_json(said)).hexdigest()


def _values(asked: Asked) -> dict[str, Any]:
    """Give what is the same each time."""
    caller = asked.caller
    return {
        "tenant": caller.tenant,
        "site": caller.site,
        "node": caller.node,
        "calling_aet": caller.calling_aet,
        "address": caller.address,
        "keys": asked.keys,
        # What is longer is no query of a modality.
        "identifier": asked.identifier if len(asked.identifier) <= _LONGEST_IDENTIFIER else b"",
        "syntax": asked.syntax,
        "outcome": asked.outcome,
        "count": asked.count,
        "hidden": asked.hidden,
        "ignored": list(asked.ignored),
        "first_at": asked.at,
        "times": 1,
    }


def _said(asked: Asked) -> dict[str, Any]:
    return {"at": asked.at, "seconds": asked.seconds, "replaced": sorted(asked.replaced)}
