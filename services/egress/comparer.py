"""Compares what was sent to destinations with what they have: once a day, and when a person asks."""

import asyncio
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta
from typing import Any, Final

from sqlalchemy import Row

from libs.clock import Clock
from libs.messaging.listen import DATABASE_AWAY
from libs.snapshot import NetworkView
from libs.storage.database import Database
from libs.telemetry import log
from services.egress import calls, comparison_rows, metric
from services.egress.asking import Conversation
from services.egress.calling import Timeouts
from services.egress.comparison import Span, nightly
from services.egress.comparisons import Comparisons
from services.egress.confirmer import Confirmer
from services.egress.deliveries import Deliveries
from services.egress.finding import Inquiry
from services.egress.reach import Target
from services.egress.settings import EgressSettings

#: Studies of one association: what it found is written down after it.
_CHUNK: Final = 50
#: How often to look whether it is time, in seconds.
_OFTEN: Final = 60.0
#: Destinations that are compared at a time.
_AT_ONCE: Final = 4
_NOTHING_TO_ASK: Final = (
    "it offers neither queries (C-FIND of the Study Root model) nor storage commitment, so nobody can tell what it has"
)
_log = log.get(__name__)


class Comparer:
    """Compares, from this replica.

    Parameters
    ----------
    comparisons, confirmer, deliveries, database, network, timeouts, settings
        Of egress.
    worker
        Name of this replica's run.
    clock
        The time in UTC.
    """

    def __init__(
        self,
        comparisons: Comparisons,
        confirmer: Confirmer,
        deliveries: Deliveries,
        database: Database,
        network: NetworkView,
        *,
        timeouts: Timeouts,
        settings: EgressSettings,
        worker: str,
        clock: Clock,
    ) -> None:
        self._comparisons = comparisons
        self._confirmer = confirmer
        self._deliveries = deliveries
        self._database = database
        self._network = network
        self._timeouts = timeouts
        self._settings = settings
        self._worker = worker
        self._clock = clock
        self._running: set[asyncio.Task[None]] = set()
        self._calls: set[Conversation | Inquiry] = set()
        self._pool = ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="compare")

    async def run(self) -> None:
        """Compare once a day, until cancelled; then end what is under way."""
        try:
            while True:
                try:
                    await self.turn()
                except DATABASE_AWAY:
                    _log.exception("what is to be compared can't be read, trying again")
                await asyncio.sleep(_OFTEN)
        finally:
            for call in self._calls:
                call.stop()
            for task in self._running:
                task.cancel()

    async def turn(self) -> None:
        """Compare with each destination that confirms, and whose time has come."""
        at, snapshot = self._settings.compare_at, self._network.current
        if at is None or snapshot is None:
            return
        for key in self._deliveries.destinations():
            if self._deliveries.confirm(key) == "store":
                continue
            now = self._clock()
            async with self._database.reading() as tx:
                row = await comparison_rows.last(tx, key)
            last = comparison_rows.known(row)
            span = nightly(now, at, snapshot.definition.timezone, self._settings.compare_days, last)
            if span is not None and await self.begin(key, span, only_after=row):
                _log.info("comparing what was sent with what is there", destination=key)

    def back(self, now: datetime) -> datetime:
        """Give the time from which on is compared where nobody says another."""
        return now - timedelta(days=self._settings.compare_days)

    async def begin(self, key: str, span: Span, only_after: Row[Any] | None = None) -> bool:
        """Begin to compare; False if somebody is about it, or began after the comparison that is named as the last."""
        before = None if only_after is None else only_after.began_at
        async with self._database.transaction() as tx:
            if not await comparison_rows.begin(tx, key, self._worker, span, self._clock(), before):
                return False
        task = asyncio.create_task(self._compare(key, span))
        self._running.add(task)
        task.add_done_callback(self._ended)
        return True

    def _ended(self, task: "asyncio.Task[None]") -> None:
        self._running.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            _log.error("a comparison broke off inside: it is begun anew within hours", exc_info=error)

    async def _compare(self, key: str, span: Span) -> None:
        problem, whole, compared, after = None, True, 0, ""
        by_query = True
        while problem is None:
            async with self._database.reading() as tx:
                chosen = await comparison_rows.studies(tx, key, span, after, _CHUNK)
                paused = await calls.paused(tx, key)
            if not chosen:
                break
            if compared >= self._settings.compare_most:
                whole = False
                break
            target, node = self._deliveries.reach(key), self._deliveries.node(key)
            if paused is not None or not isinstance(target, Target) or node is None:
                problem = paused.reason if paused else getattr(target, "reason", "it has no node that can be called")
                break
            if by_query:
                offered, problem = await self._by_query(key, target, chosen)
                by_query = offered
            if not by_query:
                problem = await self._by_commitment(key, node, target, chosen)
            compared, after = compared + len(chosen), chosen[-1][0]
        await self._end(key, problem, whole=whole)

    async def _by_query(self, key: str, target: Target, chosen: Sequence[tuple[str, str]]) -> tuple[bool, str | None]:
        """Have a destination show what it has of studies; tell whether it can, and what went wrong."""
        began = self._clock()
        inquiry = Inquiry(target, self._timeouts, [study for _, study in chosen])
        self._calls.add(inquiry)
        try:
            found = await asyncio.get_running_loop().run_in_executor(self._pool, inquiry.run)
        finally:
            self._calls.discard(inquiry)
        if not found.offered:
            return False, None
        for delivery, study in chosen:
            if study in found.sightings:
                figures = await self._comparisons.seen(delivery, found.sightings[study], began)
                await self._note(key, studies=1, **figures)
        return True, found.problem

    async def _by_commitment(
        self, key: str, node: str, target: Target, chosen: Sequence[tuple[str, str]]
    ) -> str | None:
        """Ask for storage commitment once more, of what was committed to; what it says comes when it comes."""
        for delivery, _ in chosen:
            wanted = await self._comparisons.ask(delivery, node)
            call = Conversation(
                target, self._timeouts, wanted, self._settings.commit_wait, self._confirmer.keeper(node)
            )
            self._calls.add(call)
            try:
                found = await asyncio.get_running_loop().run_in_executor(self._pool, call.run)
            finally:
                self._calls.discard(call)
            problem = found.problem or next(iter(found.refused.values()), None)
            figures = await self._comparisons.asked(delivery, wanted, found)
            if problem is not None:
                return problem if found.offered else _NOTHING_TO_ASK
            await self._note(key, studies=1, **figures)
        return None

    async def _note(self, key: str, **more: int) -> None:
        async with self._database.transaction() as tx:
            await comparison_rows.note(tx, key, self._worker, self._clock(), **more)

    async def _end(self, key: str, problem: str | None, *, whole: bool) -> None:
        async with self._database.transaction() as tx:
            await comparison_rows.end(tx, key, self._worker, self._clock(), problem, whole=whole)
            row = await comparison_rows.last(tx, key)
        missing = 0 if row is None else row.missing
        outcome = "broken-off" if problem else "missing" if missing else "agreed"
        metric.COMPARED.labels(key, outcome).inc()
        if problem is not None:
            _log.warning("a comparison with a destination broke off", destination=key, reason=problem)
        if missing:
            _log.error("a destination does not have what it said success for", destination=key, count=missing)
