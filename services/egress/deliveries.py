"""What happens to deliveries: each step is one transaction that changes them and says so."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from itertools import count
from types import MappingProxyType
from typing import Any

from sqlalchemy import Row
from sqlalchemy.ext.asyncio import AsyncSession

from contracts.delivery import DeliveryRequested
from contracts.envelope import Event
from contracts.fact import Fact
from contracts.partner import partner_of
from libs.clock import Clock
from libs.messaging.outbox import Outbox
from libs.snapshot import NetworkView
from libs.storage.database import Database
from libs.telemetry import log
from services.egress import alarm, calls, joint, lease, metric, report, repository
from services.egress.backoff import Backoff, Circuit, Random
from services.egress.budget import today
from services.egress.calling import Ending
from services.egress.claim import FAILURES_TOLD, Stretch, parcel_of, stretch_of
from services.egress.confirmation import Confirm, confirm_of, unconfirmed
from services.egress.delivery import (
    Closing,
    Diversion,
    Order,
    Request,
    State,
    answered,
    asks_again,
    delivery_id,
    lane,
    standing,
)
from services.egress.failover import unfit
from services.egress.fairness import Group, Shares, turn
from services.egress.folder import FolderTarget
from services.egress.journal import Answer
from services.egress.limits import Limits, limits
from services.egress.outcome import ARRIVED, NO_ANSWER, Outcome, Verdict
from services.egress.parcel import Parcel
from services.egress.partner import PartnerTarget, reach_partner
from services.egress.reach import NO_DEFINITION, Contexts, Obstacle, Target, no_contexts, reach
from services.egress.settings import EgressSettings

#: Key in a session's `info`: this transaction made work for the sender.
WORK = "egress.work"
#: Likewise: there may be something to ask a destination for.
CONFIRM = "egress.confirm"
NOTHING: Mapping[str, Stretch] = MappingProxyType({})
_SETTLED_AT_ONCE = 100
#: Instances that one of several who wait gets in its turn.
_TURN = 4
#: The clocks of replicas may differ by so much.
_CLOCKS_DIFFER = timedelta(minutes=1)
#: For so many seconds after a probe was due it counts as made in time.
_SHORTEST_GRACE = 60.0
#: How associations end because of the destination.
_THEIRS = ("unreachable", "busy")
_log = log.get(__name__)


class Deliveries:
    """The deliveries of this deployment.

    Parameters
    ----------
    database, outbox
        Tables of egress and its events.
    network
        The network definition in force.
    settings
        Times and limits.
    worker
        Name of this replica's run: a restarted process is another worker.
    clock, random
        The time in UTC; a number in [0, 1) for jitter.
    contexts
        Where our certificates come from.
    partner_queues
        Whether the broker has queues for partners.
    """

    def __init__(
        self,
        database: Database,
        outbox: Outbox,
        network: NetworkView,
        settings: EgressSettings,
        *,
        worker: str,
        clock: Clock,
        random: Random,
        contexts: Contexts = no_contexts,
        partner_queues: bool = False,
    ) -> None:
        self._database = database
        self._outbox = outbox
        self._network = network
        self._settings = settings
        self.worker = worker
        self._clock = clock
        self._random = random
        self._contexts = contexts
        self._partner_queues = partner_queues
        self._began_at = clock()
        self._numbers = count()
        self._shares: dict[tuple[str, int], Shares] = {}
        self._reached: set[str] = set()
        self._backoff = Backoff(settings.backoff_first, settings.backoff_cap)
        database.on_commit(alarm.sound)

    def reach(self, destination: str) -> Target | FolderTarget | PartnerTarget | Obstacle:
        """Tell how a destination is reached now, or why it can't be."""
        snapshot = self._network.current
        if partner_of(destination) is not None:
            if snapshot is None:
                return NO_DEFINITION
            found = reach_partner(
                snapshot.definition,
                destination,
                queues=self._partner_queues,
                public_url=self._settings.public_url,
            )
            return Obstacle(found) if isinstance(found, str) else found
        return reach(None if snapshot is None else snapshot.definition, destination, self._contexts)

    def destinations(self) -> list[str]:
        """Name the destinations of the network definition in force; groups are none."""
        snapshot = self._network.current
        known = {} if snapshot is None else snapshot.definition.destinations
        return [key for key, destination in known.items() if destination.group is None]

    def confirm(self, destination: str) -> Confirm:
        """Tell what counts as delivered at a destination."""
        snapshot = self._network.current
        return confirm_of(None if snapshot is None else snapshot.definition, destination)

    def node(self, destination: str) -> str | None:
        """Name a destination's node, if it has one in the definition in force."""
        snapshot = self._network.current
        known = {} if snapshot is None else snapshot.definition.destinations
        return known[destination].node if destination in known else None

    def unfit(self, destination: str, to: str, source_node: str) -> str | None:
        """Tell why what was to go to a destination can't go to another one instead; none if it can."""
        snapshot = self._network.current
        if snapshot is None:
            return NO_DEFINITION.reason
        return unfit(snapshot.definition, destination, to, source_node)

    def place(self, destination: str) -> tuple[str, str] | None:
        """Tell to which tenant and site a destination's node belongs, if it has one in the definition in force."""
        snapshot = self._network.current
        if snapshot is None or destination not in snapshot.definition.destinations:
            return None
        node = snapshot.definition.destinations[destination].node
        if node is None or node not in snapshot.definition.nodes:
            return None
        return snapshot.definition.tenant_of(node), snapshot.definition.nodes[node].site

    async def merge(self, event: Event[DeliveryRequested], tx: AsyncSession) -> None:
        """Merge a request into its delivery, in the consumer's transaction."""
        wanted, now = event.data, self._clock()
        key = delivery_id(event.tenant, wanted.study_instance_uid, wanted.destination)
        new = _request(event)
        row = await repository.lock_delivery(tx, key)
        if row is None:
            await repository.ensure_delivery(
                tx,
                id=key,
                tenant=event.tenant,
                site=event.site,
                study_instance_uid=wanted.study_instance_uid,
                destination=wanted.destination,
                state="open",
                traceparent=event.traceparent,
                wanted_since=now,
                **_columns(new),
            )
            row = await repository.lock_delivery(tx, key)
        if row is None:
            raise RuntimeError("a delivery vanished between its insertion and its lock")
        before = joint.own_request(row)
        merged = before.merged(new)
        again = asks_again(before.closing, merged.closing)
        changes = joint.asked(row, now, again=again)
        if merged != before or changes:
            await repository.update_delivery(tx, key, **_merging(row, merged), **changes)
            row = await repository.lock_delivery(tx, key)
        await repository.add_items(tx, key, wanted.transform, wanted.items, now)
        if row is not None and (row.joined or row.diverted_to is not None):
            await self._merge_jointly(tx, row, new, wanted, again=again)
            row = None
        await self._settle(tx, key, row=row)
        tx.info[WORK] = True

    async def _merge_jointly(
        self, tx: AsyncSession, row: Row[Any], new: Request, wanted: DeliveryRequested, *, again: bool
    ) -> None:
        """Note what was asked for of a delivery that carries others, and hand on what was of a diverted one."""
        if row.joined:
            await joint.own(tx, row.id, wanted.transform, wanted.items)
            await joint.reckon(tx, row.id)
        if row.diverted_to is None:
            return
        if again and row.diverted_by is None and await calls.answers(tx, row.destination):
            await self.go_alone(tx, row, "egress", f"{row.destination} is in reach again")
            return
        now = self._clock()
        for key in await joint.pass_on(tx, row, new, wanted.transform, wanted.items, now, again=again):
            await self._settle(tx, key)

    async def go_alone(self, tx: AsyncSession, row: Row[Any], by: str, why: str | None) -> None:
        """Let a locked, diverted delivery go to its own destination again; what only it asked for elsewhere ends."""
        now = self._clock()
        for key in await joint.part(tx, row):
            other = await repository.lock_delivery(tx, key)
            if other is not None and other.state != "done":
                values = {"ordered": "cancelled", "ordered_by": by, "ordered_at": now, "ordered_why": why}
                await repository.update_delivery(tx, key, **values)
                await self.reconsider(tx, key, lambda each: report.ordered(each, "cancelled", by, why))
            else:
                await self._settle(tx, key)

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
        rows = await lease.take(tx, row.id, self.worker, now, most, left)
        if not rows:
            # A worker died between its last answer and its last word.
            await lease.make_due(tx, row.id)
            await self._settle(tx, row.id)
            return []
        attempts = row.attempts
        if row.id not in begun:
            attempts += row.id not in stretches
            begun[row.id] = stretch_of(row, attempts, now)
        await lease.note_attempt(tx, row.id, attempts)
        trusted = self.trusted_since(now)
        return [
            parcel_of(
                row, item, next(self._numbers), fresh=item.received_at is not None and item.received_at >= trusted
            )
            for item in rows
        ]

    def limits(self, destination: str) -> Limits | None:
        """Tell what limits a destination now; none if it is not in the definition in force."""
        snapshot = self._network.current
        if snapshot is None or destination not in snapshot.definition.destinations:
            return None
        return limits(snapshot.definition, destination)

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
            moved = any(outcome.verdict is not Verdict.LATER for _, outcome in told)
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
                await self._settle(tx, key, circuit, _telling(ended.get(key), now), row=row)
            if rows or endings:
                tx.info[WORK] = True

    async def _count_bytes(self, tx: AsyncSession, destination: str, told: "Sequence[tuple[Parcel, Outcome]]") -> None:
        found = self.limits(destination)
        if found is None or not found.budgeted:
            return
        count = sum(parcel.size for parcel, outcome in told if outcome.verdict in ARRIVED)
        if count:
            await calls.count_bytes(tx, found.budgeted, today(found.timezone, self._clock()), count)

    async def left(self, tx: AsyncSession, destination: str, in_hand: int = 0) -> int | None:
        """Give the bytes that are left of today's budgets besides what is in hand; none: no end."""
        found = self.limits(destination)
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

    async def reconsider(self, tx: AsyncSession, key: str, ordered: Callable[[Row[Any]], Fact] | None) -> None:
        """Tell what was decided, if it is to be told, and give the delivery the state that follows from it."""
        row = await repository.lock_delivery(tx, key)
        if row is None:
            raise RuntimeError("a delivery vanished while something was ordered for it")
        if ordered is not None:
            await self._emit(tx, row, ordered(row))
        await self._settle(tx, key)
        tx.info[WORK] = True

    async def resettle(self, tx: AsyncSession, key: str) -> None:
        """Give a delivery the state that follows from what was written down about its items."""
        await self._settle(tx, key)
        tx.info[WORK] = True

    async def apply_network(self) -> None:
        """Hold and release deliveries as the network definition in force says."""
        async with self._database.transaction() as tx:
            names = await repository.unfinished_destinations(tx)
            await calls.probe_now(tx, self._clock())
            for name in names:
                await self.hold_or_release(tx, name)
        for name in names:
            await self.settle_held(name)

    async def hold_or_release(self, tx: AsyncSession, destination: str) -> None:
        """Show what is to go to a destination as held, where it is paused or can't be called, or else let it go."""
        target, paused = self.reach(destination), await calls.paused(tx, destination)
        if paused is not None:
            await repository.hold(tx, destination, paused.reason)
        elif isinstance(target, Obstacle):
            await repository.hold(tx, destination, target.reason)
        else:
            await repository.release(tx, destination, self._clock())
        tx.info[WORK] = tx.info[CONFIRM] = True

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
                await self._settle(tx, key)
            tx.info[WORK] = True

    async def adopt(self) -> None:
        """Make this replica known, and take over what an earlier run held where no other replica can be."""
        async with self._database.transaction() as tx:
            if self._database.dialect == "sqlite":
                await lease.free_all(tx)
            await lease.enter(tx, self.worker, self._alive_until(self._clock()))

    async def settle_held(self, destination: str) -> None:
        """Give the deliveries that are held, though nothing of them could be sent, the state that follows now."""
        after = ""
        while True:
            async with self._database.reading() as tx:
                keys = await repository.held_sent(tx, destination, after, _SETTLED_AT_ONCE)
            for key in keys:
                # One a transaction: an event that is told makes all other tellers wait until the commit.
                async with self._database.transaction() as tx:
                    await self._settle(tx, key)
            if len(keys) < _SETTLED_AT_ONCE:
                return
            after = keys[-1]

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
            return circuit
        if moved or any(ending.kind == "finished" for ending in endings):
            if known.failures or endings or destination not in self._reached:
                await calls.reached(tx, destination, now)
                self._reached.add(destination)
            return None
        return known if known.failures else None

    async def _settle(
        self,
        tx: AsyncSession,
        key: str,
        circuit: Circuit | None = None,
        attempted: Callable[[datetime | None], Fact] | None = None,
        row: Row[Any] | None = None,
    ) -> None:
        """Give a locked delivery the state that follows from its items, and tell what follows from that.

        Parameters
        ----------
        tx, key
            The delivery.
        circuit
            Its destination's, if that is left alone for a while.
        attempted
            Makes the report of the attempt that led here, of when the next one is due; it is told first.
        row
            It, as it was locked, where nothing of it was changed since.
        """
        row = row or await repository.lock_delivery(tx, key)
        if row is None:
            raise RuntimeError("a delivery vanished while it was worked on")
        now = self._clock()
        tally = await repository.tally(tx, key)
        closing = repository.request_of(row).closing
        target = self.reach(row.destination)
        found = standing(
            tally,
            closing,
            now,
            obstacle=target.reason if isinstance(target, Obstacle) else None,
            unconfirmed=unconfirmed(
                self.confirm(row.destination),
                row.destination,
                tally,
                done=row.state == "done" and closing is not None and row.completed_version == closing.study_version,
                next_at=row.confirm_at if row.confirm_asks or row.confirm_problem else None,
                problem=row.confirm_problem,
            ),
            set_hash=await repository.set_hash_of(tx, key) if answered(tally, closing) else None,
            order=_order(row),
            diverted=_diversion(row),
            given_up=row.given_up,
        )
        state: State = found.state
        reason = found.reason
        if circuit is not None and state in ("open", "waiting") and tally.due:
            state, reason = "waiting", circuit.problem
        if attempted is not None:
            await self._emit(tx, row, attempted(_next_attempt(state, tally.next_attempt_at, circuit)))
        changes: dict[str, Any] = {"state": state, "reason": reason, "next_attempt_at": tally.next_attempt_at}
        if not found.unconfirmed:
            changes |= {"confirm_at": None, "confirm_asks": 0, "confirm_problem": None}
        elif row.confirm_at is None:
            changes |= {"confirm_at": now}
            tx.info[CONFIRM] = True
        if state == "done" and closing is not None and row.completed_version != closing.study_version:
            changes |= {"completed_at": now, "completed_version": closing.study_version}
            await self._emit(tx, row, report.completed(row, closing, now, tally.bytes_sent))
            metric.DELIVERED.observe(max(0.0, (now - row.requested_at).total_seconds()))
        if state == "failed" and row.state != "failed":
            failures = await repository.unsent_items(tx, key, FAILURES_TOLD)
            await self._emit(tx, row, report.failed(row, failures, tally, str(reason)))
            alarm.raise_alarm(tx, row, str(reason))
        if row.state == "held" and state in ("open", "waiting"):
            # Whatever held it, it was not tried meanwhile.
            changes |= {"wanted_since": now}
        await repository.update_delivery(tx, key, **changes)
        if state == "done" and row.joined:
            await self._tell_arrived(tx, row, row.destination)

    async def _tell_arrived(self, tx: AsyncSession, row: Row[Any], where: str) -> None:
        """Tell of the deliveries that were diverted to one which is done now that all of theirs has arrived here."""
        for each in await joint.sources(tx, row):
            if each.study_version is not None and each.arrived_version != each.study_version:
                await repository.update_delivery(tx, each.id, arrived_version=each.study_version)
                told = await repository.read_delivery(tx, each.id)
                if told is not None:
                    await self._emit(tx, told, report.diverted(told, where))
            await self._tell_arrived(tx, each, where)

    async def _emit(self, tx: AsyncSession, row: Row[Any], fact: Fact) -> None:
        await self._outbox.emit(tx, fact, subject=row.study_instance_uid, tenant=row.tenant, site=row.site)

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


def _next_attempt(state: State, due: datetime | None, circuit: Circuit | None) -> datetime | None:
    if state not in ("open", "waiting") or due is None:
        return None
    return max(due, circuit.retry_at) if circuit and circuit.retry_at else due


def _order(row: Row[Any]) -> Order | None:
    if row.ordered is not None:
        return Order(row.ordered, row.ordered_by, row.ordered_at, row.ordered_why)
    return calls.pause_of(row)


def _diversion(row: Row[Any]) -> Diversion | None:
    if row.diverted_to is None:
        return None
    return Diversion(row.diverted_to, row.diverted_at, row.diverted_by, row.diverted_why)


def _request(event: Event[DeliveryRequested]) -> Request:
    wanted = event.data
    closing = None
    if wanted.study_version is not None and wanted.expected_count is not None:
        closing = Closing(wanted.study_version, wanted.expected_count, wanted.expected_hash)
    return Request(lane(wanted.priority), (event.time, wanted.source_node), wanted.network_version, closing)


def _merging(row: Row[Any], merged: Request) -> dict[str, Any]:
    """Give the columns of a delivery for which more was asked."""
    changes = _columns(merged)
    if row.joined:
        changes = _columns(replace(merged, closing=repository.request_of(row).closing))
        changes |= joint.own_columns(merged.closing)
    if row.lane_by is not None:
        changes["lane"] = row.lane
    return changes


def _columns(request: Request) -> dict[str, Any]:
    return {
        "lane": request.lane,
        "requested_at": request.first[0],
        "source_node": request.first[1],
        "network_version": request.network_version,
        "study_version": None if request.closing is None else request.closing.study_version,
        "expected_count": None if request.closing is None else request.closing.expected_count,
        "expected_hash": None if request.closing is None else request.closing.expected_hash,
    }
