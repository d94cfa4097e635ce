"""What this replica has in hand: what is due is taken, what became of it is written down; each step one transaction."""

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timedelta
from itertools import count
from types import MappingProxyType
from typing import Any, Final

from sqlalchemy import Row
from sqlalchemy.ext.asyncio import AsyncSession

from contracts.fact import Fact
from libs.clock import Clock
from libs.storage.database import Database
from libs.telemetry import log
from services.egress import calls, decided, lease, metric, report, repository
from services.egress.backoff import Backoff, Circuit, Random
from services.egress.budget import today
from services.egress.calling import Ending
from services.egress.claim import Stretch, parcel_of, stretch_of
from services.egress.deliveries import WORK, Deliveries
from services.egress.fairness import Group, Shares, turn
from services.egress.journal import Answer
from services.egress.outcome import ARRIVED, NO_ANSWER, Outcome, Verdict
from services.egress.parcel import Parcel
from services.egress.settings import EgressSettings

NOTHING: Final[Mapping[str, Stretch]] = MappingProxyType({})
#: Instances that one of several who wait gets in its turn.
_TURN: Final = 4
#: The clocks of replicas may differ by so much.
_CLOCKS_DIFFER: Final = timedelta(minutes=1)
#: For so many seconds after a probe was due it counts as made in time.
_SHORTEST_GRACE: Final = 60.0
#: How associations end because of the destination.
_THEIRS: Final = ("unreachable", "busy")
_log = log.get(__name__)


class Work:
    """What is in the hand of this replica.

    Parameters
    ----------
    database, deliveries
        Tables of egress, and what happens to deliveries.
    settings
        Times and limits.
    worker
        Name of this replica's run: a restarted process is another worker.
    clock, random
        The time in UTC; a number in [0, 1) for jitter.
    """

    def __init__(
        self,
        database: Database,
        deliveries: Deliveries,
        settings: EgressSettings,
        *,
        worker: str,
        clock: Clock,
        random: Random,
    ) -> None:
        self._database = database
        self._deliveries = deliveries
        self._settings = settings
        self.worker = worker
        self._clock = clock
        self._random = random
        self._began_at = clock()
        self._numbers = count()
        self._shares: dict[tuple[str, int], Shares] = {}
        self._reached: set[str] = set()
        self._backoff = Backoff(settings.backoff_first, settings.backoff_cap)

    async def claim(self, destination: str, most: int, stretches: dict[str, Stretch], in_hand: int = 0) -> list[Parcel]:
        """Take up to so many due instances for a destination in hand, the most urgent first; one to probe with.

        Parameters
        ----------
        stretches
            Attempts of deliveries that this replica is about, by delivery. What is taken in hand is added to them, and
            new ones are begun.
        in_hand
            Bytes that this replica has in hand for the destination already.
        """
        taken: list[Parcel] = []
        begun: dict[str, Stretch] = {}
        # Asked before the wait for the database: what has just come to its end may not be written down yet.
        busy = any(stretch.in_hand for stretch in stretches.values())
        async with self._database.transaction() as tx:
            now = self._clock()
            circuit = await calls.lock_circuit(tx, destination, wait=False)
            if circuit is None or not circuit.allowance(now, most):
                return []
            if circuit.failures:
                # One instance probes; no other is taken in hand while it is under way.
                if busy:
                    return []
                most = 1
            lanes: dict[int, list[Group[None]]] = {}
            for number, group in await lease.groups(tx, destination, now):
                lanes.setdefault(number, []).append(group)
            for number, waiting in lanes.items():
                while waiting and len(taken) < most:
                    room = most - len(taken) if len(waiting) == 1 else min(_TURN, most - len(taken))
                    shares = self._shares.get((destination, number), Shares())
                    group, self._shares[destination, number] = turn(waiting, shares)
                    row = await lease.lock_oldest(tx, destination, number, group, now)
                    left = await self.left(tx, destination, in_hand + sum(parcel.size for parcel in taken))
                    if row is None or left == 0:
                        waiting.remove(group)
                        continue
                    taken += await self._take(tx, row, room, left, begun, stretches)
        for key, stretch in begun.items():
            # One that was there may have come to its end meanwhile.
            mine = [parcel for parcel in taken if parcel.delivery_id == key]
            stretches.setdefault(key, stretch).add(mine, closed=stretch.closed)
        return taken

    async def _take(
        self,
        tx: AsyncSession,
        row: Row[Any],
        most: int,
        left: int | None,
        begun: dict[str, Stretch],
        stretches: Mapping[str, Stretch],
    ) -> list[Parcel]:
        """Take instances of a locked delivery in hand."""
        now = self._clock()
        if row.joined and await self._deliveries.bypass(tx, row) is not None:
            await self._deliveries.give_state(tx, row.id)
            return []
        rows = await lease.take(tx, row.id, self.worker, now, most, left)
        if not rows:
            # A worker died between its last answer and its last word.
            await lease.make_due(tx, row.id)
            await self._deliveries.give_state(tx, row.id)
            return []
        attempts = row.attempts
        if row.id not in begun:
            attempts += row.id not in stretches
            begun[row.id] = stretch_of(row, attempts, now)
        await lease.note_attempt(tx, row.id, attempts)
        trusted = self.trusted_since(now)
        said = await self._deliveries.documents.of(tx, (item.transform_version for item in rows))
        return [
            parcel_of(
                row,
                item,
                next(self._numbers),
                fresh=item.received_at is not None and item.received_at >= trusted,
                said=said.get(item.transform_version),
            )
            for item in rows
        ]

    async def wait_for_window(self, destination: str, opens_at: datetime) -> None:
        """Show what is due at a destination as waiting for its window."""
        async with self._database.transaction() as tx:
            await calls.wait(tx, destination, f"the window of destination {destination} opens at {opens_at:%H:%M} UTC")

    async def take_place(self, destination: str, associations: int, alone: Sequence[str]) -> bool:
        """Take a place for one more association with a destination, unless all replicas together have as many."""
        if self._database.dialect == "sqlite":
            return True
        async with self._database.transaction() as tx:
            now = self._clock()
            known = await calls.lock_circuit(tx, destination, wait=False)
            if known is None:
                return False
            return await lease.take_place(tx, destination, self.worker, known.allowance(now, associations), alone, now)

    async def settle(
        self,
        destination: str,
        told: "Sequence[tuple[Parcel, Outcome]]",
        returned: Sequence[Parcel],
        over: Sequence[Stretch],
        endings: Sequence[Ending],
        left: Sequence[str] = (),
        going_on: Mapping[str, Stretch] = NOTHING,
    ) -> None:
        """Write down what became of instances and associations, and tell what follows.

        Parameters
        ----------
        destination
            Where all of it went.
        told
            Outcomes that are not written down yet.
        returned
            Instances that had no turn and are in nobody's hand from now on.
        over
            Attempts of deliveries that end with this.
        endings
            Of associations that end with this.
        left
            Places that are given back.
        going_on
            Attempts that may have more to do, by delivery. Nothing follows from what arrived until nothing is in hand
            and the version of the study is known.
        """
        async with self._database.transaction() as tx:
            now = self._clock()
            known = await calls.lock_circuit(tx, destination, wait=True) or Circuit()
            moved = any(outcome.verdict not in (Verdict.LATER, Verdict.UNFIT) for _, outcome in told)
            ended = {stretch.delivery_id: stretch for stretch in over}
            follows = {parcel.delivery_id for parcel in returned} | ended.keys()
            follows |= {p.delivery_id for p, o in told if o.verdict not in ARRIVED or p.delivery_id not in going_on}
            out_of_hand = {p.delivery_id for p, _ in told} - follows
            out_of_hand = {key for key in out_of_hand if not going_on[key].in_hand}
            rows = {key: await repository.lock_delivery(tx, key) for key in sorted(follows | out_of_hand)}
            for key in out_of_hand:
                row = rows[key]
                if row is not None and row.study_version is None:
                    # More of the study will come. Who completes it waits for this lock, and sees then what was sent.
                    del rows[key]
            await self._write(tx, [outcome for _, outcome in told])
            await lease.give_back(tx, self.worker, [parcel.item for parcel in returned])
            circuit = await self._judge(tx, destination, moved=moved, endings=endings, known=known)
            if self._database.dialect == "postgresql":
                await lease.leave_places(tx, left, self.worker)
            await self._count_bytes(tx, destination, told)
            for key, row in rows.items():
                await self._deliveries.give_state(tx, key, circuit, _telling(ended.get(key), now), row=row)
            if rows or endings:
                tx.info[WORK] = True

    async def _count_bytes(self, tx: AsyncSession, destination: str, told: "Sequence[tuple[Parcel, Outcome]]") -> None:
        found = self._deliveries.limits(destination)
        if found is None or not found.budgeted:
            return
        count = sum(parcel.size for parcel, outcome in told if outcome.verdict in ARRIVED)
        if count:
            await calls.count_bytes(tx, found.budgeted, today(found.timezone, self._clock()), count)

    async def left(self, tx: AsyncSession, destination: str, in_hand: int = 0) -> int | None:
        """Give the bytes that are left of today's budgets besides what is in hand; none: no end."""
        found = self._deliveries.limits(destination)
        if found is None or not found.budgeted:
            return None
        day = today(found.timezone, self._clock())
        own = await calls.bytes_sent(tx, destination, day)
        line = await calls.bytes_sent(tx, found.line, day)
        return found.caps.left(own + in_hand, line + in_hand)

    async def accepted(self, destination: str) -> dict[tuple[str, str], bool]:
        """Tell what a destination is known to accept, and not to."""
        async with self._database.reading() as tx:
            return await calls.accepted(tx, destination)

    async def learn(self, destination: str, answers: Mapping[tuple[str, str], bool]) -> None:
        """Write down what a destination answered to presentation contexts."""
        async with self._database.transaction() as tx:
            await calls.remember(tx, destination, answers.items(), self._clock())

    async def stay(self) -> bool:
        """Say that this replica is alive; False if it was taken for dead, and holds nothing any more."""
        if self._database.dialect == "sqlite":
            return True
        async with self._database.transaction() as tx:
            now = self._clock()
            alive = await lease.keep_alive(tx, self.worker, self._alive_until(now))
            if not alive:
                await lease.enter(tx, self.worker, self._alive_until(now))
            if await lease.free_dead(tx, now):
                tx.info[WORK] = True
        return alive

    async def follow_clock(self) -> None:
        """Make due what would wait too long because the clock was put back, as after a power cut without a battery."""
        now = self._clock()
        latest = now + timedelta(seconds=max(self._settings.backoff_cap, self._settings.lease)) + _CLOCKS_DIFFER
        async with self._database.reading() as tx:
            furthest = await repository.furthest(tx)
        if furthest is None or furthest <= latest:
            return
        async with self._database.transaction() as tx:
            await repository.follow_clock(tx, now, latest)
            tx.info[WORK] = True
        _log.warning("the clock was put back: what waited for its old time is due now", until=furthest)

    async def remember(self, answers: Sequence[Answer]) -> None:
        """Write down successes that a process left in its journal when it ended."""
        async with self._database.transaction() as tx:
            known = await repository.identities(tx, [answer.item for answer in answers])
            fitting = [each for each in answers if known.get(each.item) == (each.delivery_id, each.content_hash)]
            await self._write(tx, [Outcome(each.item, each.verdict, each.status) for each in fitting])
            for key in sorted({each.delivery_id for each in fitting}):
                await repository.lock_delivery(tx, key)
                await lease.make_due(tx, key)
                await self._deliveries.give_state(tx, key)
            tx.info[WORK] = True

    async def adopt(self) -> None:
        """Make this replica known, and take over what an earlier run held where no other replica can be."""
        async with self._database.transaction() as tx:
            if self._database.dialect == "sqlite":
                await lease.free_all(tx)
            await lease.enter(tx, self.worker, self._alive_until(self._clock()))

    async def _write(self, tx: AsyncSession, outcomes: Sequence[Outcome]) -> None:
        if not outcomes:
            return
        now = self._clock()
        before = await repository.standings(tx, [outcome.item for outcome in outcomes])
        after = [
            (
                outcome,
                before[outcome.item][0].after(
                    outcome.verdict, now, self._backoff, self._random, self._settings.refusals
                ),
            )
            for outcome in outcomes
        ]
        await repository.record(tx, after, now, self.worker)
        arrived = [o.item for o in outcomes if o.verdict in ARRIVED]
        for key in await decided.repeat(tx, arrived, now) if arrived else ():
            await lease.make_due(tx, key)
            tx.info[WORK] = True
        metric.REPEATED.inc(sum(before[i][0].state == "sent" or before[i][1] == NO_ANSWER for i in arrived))

    async def _judge(
        self, tx: AsyncSession, destination: str, *, moved: bool, endings: Sequence[Ending], known: Circuit
    ) -> Circuit | None:
        """Decide what is known of a destination now; give the circuit if it is left alone."""
        now = self._clock()
        problems = [e.problem for e in endings if e.kind not in ("finished", "stopped") and e.problem is not None]
        if problems:
            # One that took something and then broke off is not one that can't be reached: it is tried again soon.
            before = Circuit() if moved else known
            grace = max(self._settings.failover_after, _SHORTEST_GRACE)
            if before.overlooked(now, grace) and await calls.waited(tx, destination, before.retry_at):
                # It was not tried though it should have been: its window was closed, or this service was not running.
                before = before.anew()
            there = any(ending.kind in _THEIRS for ending in endings)
            circuit = before.failed(problems[0], now, self._backoff, self._random, there=there)
            await calls.not_reached(tx, destination, circuit, now)
            if known.healthy:
                await self._deliveries.tell_health(tx, destination, circuit.problem)
            return circuit
        if moved or any(ending.kind == "finished" for ending in endings):
            if known.failures or endings or destination not in self._reached:
                await calls.reached(tx, destination, now)
                if known.failures and not known.paused:
                    await self._deliveries.tell_health(tx, destination, None)
                self._reached.add(destination)
            return None
        return known if known.failures else None

    def trusted_since(self, now: datetime) -> datetime:
        """Tell when an instance must have been taken in for its hash not to be computed again before it leaves."""
        # What came before this process may have met a power cut, and what came long ago, a failing disk.
        return max(self._began_at, now - timedelta(seconds=self._settings.verify_after))

    def _alive_until(self, now: datetime) -> datetime:
        return now + timedelta(seconds=self._settings.lease)


def _telling(stretch: Stretch | None, now: datetime) -> Callable[[datetime | None], Fact] | None:
    if stretch is None:
        return None
    return lambda next_attempt_at: report.attempted(stretch, now, next_attempt_at)
