"""The loop that sends: looks what is due where, has it dispatched, sleeps until something else is due."""

import asyncio
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import datetime
from pathlib import Path

from libs.clock import Clock
from libs.messaging.listen import DATABASE_AWAY
from libs.snapshot import NetworkView
from libs.storage.database import Database
from libs.telemetry import log
from services.egress import calls, repository
from services.egress.backoff import Circuit
from services.egress.calling import Timeouts
from services.egress.deliveries import WORK, Deliveries
from services.egress.dispatch import Dispatch
from services.egress.journal import Journal, left_behind
from services.egress.limits import Paces
from services.egress.parcel import Readable
from services.egress.partner import PartnerTarget
from services.egress.reach import Obstacle
from services.egress.settings import EgressSettings
from services.egress.transforming import Spooled, Transforming
from services.egress.work import Work

_log = log.get(__name__)
#: How long what is under way may take when the process is to stop, in seconds.
_GRACE = 5.0


class Sender:
    """Sends what is due, from this replica.

    A destination that hangs holds only its own associations: each has a thread, and there are as many threads as
    associations are allowed.
    """

    def __init__(
        self,
        work: Work,
        deliveries: Deliveries,
        database: Database,
        network: NetworkView,
        *,
        objects: Readable,
        timeouts: Timeouts,
        settings: EgressSettings,
        clock: Clock,
        folder: Path,
        transforming: Transforming | None = None,
    ) -> None:
        self._work = work
        self._deliveries = deliveries
        self._database = database
        self._objects = Spooled(objects)
        self._transforming = transforming
        self._timeouts = timeouts
        self._settings = settings
        self._clock = clock
        self._folder = folder
        self._dispatches: dict[str, Dispatch] = {}
        self._network_changed = True
        self._paces = Paces(time.monotonic)
        self._windowless: set[str] = set()
        self._wake = asyncio.Event()
        database.on_commit(lambda session: self._wake.set() if session.info.get(WORK) else None)
        network.on_change(lambda _snapshot: self._applied())

    async def run(self) -> None:
        """Send until cancelled; then let each association finish the instance that is under way. May be run again."""
        self._network_changed = True
        self._pool = ThreadPoolExecutor(self._settings.associations, thread_name_prefix="egress")
        staying = None
        await self._recover()
        self._journal = Journal(self._folder, self._work.worker)
        try:
            await self._work.adopt()
            staying = asyncio.create_task(self._stay())
            while True:
                self._wake.clear()
                pause = await self._turn()
                with suppress(TimeoutError):
                    async with asyncio.timeout(pause):
                        await self._wake.wait()
        finally:
            if staying is not None:
                staying.cancel()
            await asyncio.gather(*(dispatch.stop(_GRACE) for dispatch in self._dispatches.values()))
            self._dispatches.clear()
            if self._transforming is not None:
                await self._transforming.stop()
            self._journal.close()
            self._pool.shutdown(wait=False)

    async def _stay(self) -> None:
        """Say that this replica is alive, until cancelled; let go of everything when it was taken for dead."""
        while True:
            try:
                await self._recover()
                if not await self._work.stay():
                    _log.error("this replica was taken for dead: what it had in hand is others' now")
                    for dispatch in self._dispatches.values():
                        dispatch.abandon()
            except Exception:  # noqa: BLE001 - whoever stays silent is taken for dead: it is said again, and alarmed
                _log.exception("this replica can't say that it is alive, trying again")
            await asyncio.sleep(self._settings.lease / 4)

    async def _recover(self) -> None:
        """Write down what processes on this machine that were killed had not; before their leases are others'."""
        with left_behind(self._folder) as answers:
            if answers:
                await self._work.remember(answers)
                _log.warning("answers that a process left when it ended are written down", count=len(answers))

    async def follow_clock(self) -> None:
        """See once a minute that nothing waits for a clock that was put back; until cancelled."""
        while True:
            await self._work.follow_clock()
            await asyncio.sleep(60)

    def _applied(self) -> None:
        self._network_changed = True
        # At once: what an association takes next is changed as the definition says now.
        for dispatch in self._dispatches.values():
            dispatch.renew()
        self._wake.set()

    async def _turn(self) -> float | None:
        """Start what is due; give the seconds until something else is, None if only new work can be."""
        try:
            if self._network_changed:
                self._network_changed = False
                self._windowless.clear()
                await self._deliveries.apply_network()
            return await self._start_due()
        except DATABASE_AWAY:
            self._network_changed = True
            _log.exception("deliveries can't be read, trying again")
            return self._settings.poll

    async def _start_due(self) -> float | None:
        now = self._clock()
        claims = {key: dispatch.claims for key, dispatch in self._dispatches.items()}
        async with self._database.reading() as tx:
            due = await repository.due_destinations(tx, now)
            circuits = await calls.circuits(tx)
            in_hand = [key for each in self._dispatches.values() for key in each.deliveries]
            stopped = await repository.stopped(tx, in_hand) if in_hand else set()
        for dispatch in self._dispatches.values():
            dispatch.take_off(stopped)
        later = [
            at
            for key, (first, _) in due.items()
            if (at := max(first, circuits.get(key, Circuit()).retry_at or now)) > now
        ]
        urgent = {key: lane for key, (_, lane) in due.items() if lane is not None}
        for key in {*urgent, *self._dispatches}:
            mine = self._dispatches.get(key)
            # What was taken in hand while this was read looks as if it were still there; it is looked at again at once.
            known = mine is None or mine.claims == claims.get(key, 0)
            urgency = urgent.get(key) if known else None
            later += await self._serve(key, urgency, circuits.get(key, Circuit()), now)
        seconds = max(0.0, (min(later) - now).total_seconds()) if later else None
        if self._database.dialect == "postgresql":
            return self._settings.poll if seconds is None else min(self._settings.poll, seconds)
        return seconds

    async def _serve(self, key: str, urgency: int | None, circuit: Circuit, now: datetime) -> list[datetime]:
        """See to one destination; give when it is to be looked at again, besides when something else is due there."""
        target, limits = self._deliveries.reach(key), self._deliveries.limits(key)
        dispatch = self._dispatches.get(key)
        if isinstance(target, Obstacle | PartnerTarget) or limits is None or circuit.paused:
            if dispatch is not None:
                dispatch.pause()
                self._forget_idle(key, dispatch)
            return []
        opens_at = limits.opens_at(now)
        if opens_at is not None:
            if dispatch is not None:
                dispatch.pause()
            if urgency is not None:
                await self._work.wait_for_window(key, opens_at)
            return [opens_at]
        if dispatch is None:
            if urgency is None or not circuit.allowance(now, target.associations):
                return []
            dispatch = self._dispatches[key] = self._dispatch(key)
        room = self._settings.associations - sum(each.associations for each in self._dispatches.values())
        dispatch.turn(target, limits, circuit, urgency, room, now)
        self._forget_idle(key, dispatch)
        closes_at = limits.closes_at(now)
        return [] if closes_at is None else [closes_at]

    def _forget_idle(self, key: str, dispatch: Dispatch) -> None:
        if dispatch.idle:
            del self._dispatches[key]

    def _dispatch(self, key: str) -> Dispatch:
        return Dispatch(
            key,
            self._work,
            self._objects,
            self._timeouts,
            self._settings,
            self._paces,
            self._windowless,
            self._journal,
            self._pool,
            self._wake.set,
            self._transforming,
        )
