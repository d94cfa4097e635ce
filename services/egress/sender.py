"""The loop that sends: looks who is due, starts associations, writes answers down, sleeps until the next is due."""

import asyncio
import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import datetime, timedelta

from libs.clock import Clock
from libs.messaging.listen import DATABASE_AWAY
from libs.snapshot import NetworkView
from libs.storage.database import Database
from libs.telemetry import log
from libs.telemetry.trace import link_to, study_context, tracer
from services.egress import metric, repository
from services.egress.backoff import Circuit
from services.egress.claim import Claim, Progress
from services.egress.deliveries import WORK, Deliveries, LeaseLostError
from services.egress.outcome import Outcome, Verdict
from services.egress.reach import Obstacle
from services.egress.scu import Ending, Scu
from services.egress.settings import EgressSettings

_log = log.get(__name__)
_tracer = tracer(__name__)
#: The database is away, not wrong: what can be done is to try again.
_AWAY = DATABASE_AWAY


class Sender:
    """Sends what is due, from this replica.

    A destination that hangs holds only its own associations: each has a thread, and there are as many threads as
    associations are allowed.
    """

    def __init__(
        self,
        deliveries: Deliveries,
        database: Database,
        network: NetworkView,
        *,
        scu: Scu,
        settings: EgressSettings,
        clock: Clock,
    ) -> None:
        self._deliveries = deliveries
        self._database = database
        self._scu = scu
        self._settings = settings
        self._clock = clock
        self._running: Counter[str] = Counter()
        #: Destinations that another replica had in hand when we looked, and when to look again.
        self._resting: dict[str, datetime] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._begin()
        self._wake = asyncio.Event()
        database.on_commit(lambda session: self._wake.set() if session.info.get(WORK) else None)
        network.on_change(lambda _snapshot: self._apply_soon())

    async def run(self) -> None:
        """Send until cancelled; then let each association finish the instance that is under way. May be run again."""
        self._begin()
        try:
            await self._deliveries.adopt()
            while True:
                self._wake.clear()
                pause = await self._turn()
                with suppress(TimeoutError):
                    async with asyncio.timeout(pause):
                        await self._wake.wait()
        finally:
            self._stop.set()
            if self._tasks:
                await asyncio.wait(self._tasks)
            self._pool.shutdown(wait=False)

    async def follow_clock(self) -> None:
        """See once a minute that nothing waits for a clock that was put back; until cancelled."""
        while True:
            await self._deliveries.follow_clock()
            await asyncio.sleep(60)

    async def measure(self) -> None:
        """Show the figures, every 15 s until cancelled."""
        while True:
            async with self._database.reading() as tx:
                states, backlog = await repository.count_by_state(tx), await repository.backlog(tx)
            metric.show(states, backlog, self._clock())
            await asyncio.sleep(15)

    def _begin(self) -> None:
        # Both are used up when a run ends, and one that broke off is started again.
        self._stop = threading.Event()
        self._pool = ThreadPoolExecutor(self._settings.associations, thread_name_prefix="egress")
        self._network_changed = True

    def _apply_soon(self) -> None:
        self._network_changed = True
        self._wake.set()

    async def _turn(self) -> float | None:
        """Start what is due; give the seconds until something else is, None if only new work can be."""
        try:
            if self._network_changed:
                self._network_changed = False
                await self._deliveries.apply_network()
            return await self._start_due()
        except _AWAY:
            self._network_changed = True
            _log.exception("deliveries can't be read, trying again")
            return self._settings.poll

    async def _start_due(self) -> float | None:
        now = self._clock()
        async with self._database.reading() as tx:
            due = await repository.due_destinations(tx, now)
            circuits = await repository.circuits(tx)
            lease_end = await repository.first_lease_end(tx, now)
        later = [] if lease_end is None else [lease_end]
        for key in sorted(due, key=lambda name: due[name]):
            circuit = circuits.get(key, Circuit())
            rested = min(self._resting.get(key, now), now + timedelta(seconds=self._settings.poll))
            at = max(due[key], circuit.retry_at or now, rested)
            if at > now:
                later.append(at)
                continue
            target = self._deliveries.reach(key)
            if isinstance(target, Obstacle):
                continue
            if self._running[key] < circuit.allowance(now, target.associations):
                self._start(key)
        if self._database.dialect == "postgresql":
            later.append(now + timedelta(seconds=self._settings.poll))
        return max(0.0, (min(later) - now).total_seconds()) if later else None

    def _start(self, destination: str) -> None:
        if self._running.total() >= self._settings.associations:
            return
        self._running[destination] += 1
        task = asyncio.create_task(self._work(destination))
        self._tasks.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: "asyncio.Task[None]") -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            # Its lease runs out and the delivery is taken again; meanwhile people must hear of it.
            _log.error("a delivery attempt broke off inside, it is taken again later", exc_info=error)

    async def _work(self, destination: str) -> None:
        # Unless something comes of it, it is not asked again at once: a defect must not turn into a busy loop.
        self._resting[destination] = self._clock() + timedelta(seconds=self._settings.poll)
        try:
            claim = await self._deliveries.claim(destination)
            if claim is None:
                return
            self._resting.pop(destination, None)
            # There may be work for a further association.
            self._wake.set()
            await self._send(claim)
        except _AWAY:
            _log.exception("a delivery can't be taken, trying again", destination=destination)
        finally:
            self._running[destination] -= 1
            self._wake.set()

    async def _send(self, claim: Claim) -> None:
        with _tracer.start_as_current_span(
            "delivery attempt",
            context=study_context(claim.tenant, claim.study_instance_uid),
            links=link_to(claim.traceparent),
            attributes={
                "kivuko.destination": claim.destination,
                "kivuko.attempt": claim.attempt,
                "kivuko.instances": len(claim.parcels),
            },
        ) as span:
            progress = Progress()
            ending = await self._associate(claim, progress)
            arrived = progress.count(Verdict.SENT, Verdict.WARNING)
            span.set_attribute("kivuko.count", arrived)
            span.set_attribute("kivuko.outcome", ending.kind)
            said = _log.info if ending.kind in ("finished", "stopped") else _log.warning
            said(
                "association ended",
                delivery=claim.delivery_id,
                destination=claim.destination,
                attempt=claim.attempt,
                expected=len(claim.parcels),
                count=arrived,
                kind=ending.kind,
                reason=ending.problem,
            )
            damaged = progress.count(Verdict.DAMAGED)
            if damaged:
                _log.error("instances damaged in the object store", delivery=claim.delivery_id, count=damaged)

    async def _associate(self, claim: Claim, progress: Progress) -> Ending:
        loop = asyncio.get_running_loop()
        flush = asyncio.Event()
        stop = _Either(self._stop)
        told: list[Outcome] = []

        def tell(outcome: Outcome) -> None:
            told.append(outcome)
            if len(told) >= self._settings.record_items:
                loop.call_soon_threadsafe(flush.set)

        sending = loop.run_in_executor(self._pool, self._scu.send, claim.target, claim.parcels, tell, stop)
        while not sending.done():
            flushing = asyncio.create_task(flush.wait())
            await asyncio.wait(
                (sending, flushing), timeout=self._settings.record_interval, return_when=asyncio.FIRST_COMPLETED
            )
            flushing.cancel()
            flush.clear()
            if not sending.done():
                await self._record(claim, progress, told, stop)
        ending = await self._ending(sending, claim)
        unrecorded = _taken(told, progress)
        while True:
            try:
                await self._deliveries.finish(claim, progress, unrecorded, ending)
            except _AWAY:
                _log.exception("answers can't be written down, trying again", delivery=claim.delivery_id)
                await asyncio.sleep(self._settings.poll)
            else:
                return ending

    async def _record(self, claim: Claim, progress: Progress, told: list[Outcome], stop: "_Either") -> None:
        batch = told[:]
        try:
            await self._deliveries.record(claim, batch)
        except LeaseLostError:
            _log.warning("delivery taken over by another replica", delivery=claim.delivery_id)
            stop.set()
        except _AWAY:
            _log.exception("answers can't be written down, trying again", delivery=claim.delivery_id)
            return
        del told[: len(batch)]
        progress.outcomes.extend(batch)

    async def _ending(self, sending: "asyncio.Future[Ending]", claim: Claim) -> Ending:
        try:
            return await sending
        except Exception as error:  # noqa: BLE001 - whatever broke, the delivery must go on and people must see it
            _log.exception("sending broke off inside", delivery=claim.delivery_id, destination=claim.destination)
            return Ending("unreachable", f"sending broke off inside Kivuko ({type(error).__name__}): report it")


def _taken(told: list[Outcome], progress: Progress) -> list[Outcome]:
    progress.outcomes.extend(told)
    return told


class _Either(threading.Event):
    """Set when it is set itself or the process is to stop."""

    def __init__(self, process: threading.Event) -> None:
        super().__init__()
        self._process = process

    def is_set(self) -> bool:
        return super().is_set() or self._process.is_set()
