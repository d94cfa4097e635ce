"""What happens to deliveries: each step is one transaction that changes them and says so."""

from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Row
from sqlalchemy.ext.asyncio import AsyncSession

from contracts.delivery import DeliveryRequested
from contracts.envelope import Event
from contracts.fact import Fact
from libs.clock import Clock
from libs.messaging.outbox import Outbox
from libs.snapshot import NetworkView
from libs.storage.database import Database
from libs.telemetry import log
from services.egress import metric, report, repository
from services.egress.backoff import Backoff, Circuit, Random
from services.egress.claim import Claim, Progress
from services.egress.delivery import Closing, Request, State, answered, delivery_id, lane, standing
from services.egress.outcome import NO_ANSWER, Outcome, Verdict
from services.egress.parcel import Parcel
from services.egress.reach import Obstacle, Target, reach, unconfirmed
from services.egress.scu import Ending
from services.egress.settings import EgressSettings

#: Key in a session's `info`: this transaction made work for the sender.
WORK = "egress.work"
_SETTLED_AT_ONCE = 100
#: The clocks of replicas may differ by so much.
_CLOCKS_DIFFER = timedelta(minutes=1)
_log = log.get(__name__)


class LeaseLostError(Exception):
    """Another replica has taken the delivery over: this one was silent for longer than its lease."""


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
    ) -> None:
        self._database = database
        self._outbox = outbox
        self._network = network
        self._settings = settings
        self._worker = worker
        self._clock = clock
        self._random = random
        self._backoff = Backoff(settings.backoff_first, settings.backoff_cap)

    def reach(self, destination: str) -> Target | Obstacle:
        """Tell how a destination is reached now, or why it can't be."""
        snapshot = self._network.current
        return reach(None if snapshot is None else snapshot.definition, destination)

    def destinations(self) -> list[str]:
        """Name the destinations of the network definition in force; groups are none."""
        snapshot = self._network.current
        known = {} if snapshot is None else snapshot.definition.destinations
        return [key for key, destination in known.items() if destination.group is None]

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
        await repository.ensure_delivery(
            tx,
            id=key,
            tenant=event.tenant,
            site=event.site,
            study_instance_uid=wanted.study_instance_uid,
            destination=wanted.destination,
            state="open",
            traceparent=event.traceparent,
            **_columns(new),
        )
        row = await repository.lock_delivery(tx, key)
        if row is None:
            raise RuntimeError("a delivery vanished between its insertion and its lock")
        merged = repository.request_of(row).merged(new)
        await repository.update_delivery(tx, key, **_columns(merged))
        await repository.add_items(tx, key, wanted.transform, wanted.items, now)
        await self._settle(tx, key)
        tx.info[WORK] = True

    async def claim(self, destination: str) -> Claim | None:
        """Take the next batch for a destination, unless it can't be reached, is busy enough, or nothing is due."""
        target = self.reach(destination)
        if isinstance(target, Obstacle):
            return None
        async with self._database.transaction() as tx:
            now = self._clock()
            circuit = await repository.lock_circuit(tx, destination, wait=False)
            if circuit is None:
                return None
            allowed = circuit.allowance(now, target.associations)
            if allowed <= await repository.active_leases(tx, destination, now):
                return None
            row = await repository.next_delivery(tx, destination, now)
            if row is None:
                return None
            due = await repository.due_items(tx, row.id, now, self._settings.batch_items)
            if not due:
                # A worker died between its last answer and its last word.
                await self._settle(tx, row.id)
                return None
            await repository.update_delivery(
                tx,
                row.id,
                state="open",
                reason=None,
                attempts=row.attempts + 1,
                lease_owner=self._worker,
                lease_until=self._lease_end(now),
            )
            return Claim(
                row.id,
                row.tenant,
                row.site,
                row.study_instance_uid,
                destination,
                target,
                row.attempts + 1,
                now,
                row.traceparent,
                tuple(_parcel(item) for item in due),
            )

    async def record(self, claim: Claim, outcomes: Sequence[Outcome]) -> None:
        """Write answers down and keep the lease.

        Raises
        ------
        LeaseLostError
            Another replica has the delivery by now. The answers are written down all the same.
        """
        async with self._database.transaction() as tx:
            circuit = await repository.lock_circuit(tx, claim.destination, wait=True)
            kept = await repository.renew_lease(tx, claim.delivery_id, self._worker, self._lease_end(self._clock()))
            await self._write(tx, outcomes)
            answered = any(outcome.verdict is not Verdict.LATER for outcome in outcomes)
            if answered and circuit is not None and circuit.failures:
                await repository.reached(tx, claim.destination, self._clock())
        if not kept:
            raise LeaseLostError

    async def finish(self, claim: Claim, progress: Progress, unrecorded: Sequence[Outcome], ending: Ending) -> None:
        """Write down how an association ended, give the lease back and tell what follows."""
        async with self._database.transaction() as tx:
            now = self._clock()
            known = await repository.lock_circuit(tx, claim.destination, wait=True)
            row = await repository.lock_delivery(tx, claim.delivery_id)
            await self._write(tx, unrecorded)
            circuit = await self._judge(tx, claim, progress, ending, known or Circuit())
            if row is not None and row.lease_owner == self._worker:
                await repository.update_delivery(tx, claim.delivery_id, lease_owner=None, lease_until=None)

            def attempted(next_attempt_at: datetime | None) -> Fact:
                return report.attempted(claim, progress, ending, now, next_attempt_at)

            await self._settle(tx, claim.delivery_id, circuit, attempted)
            tx.info[WORK] = True
        metric.count_attempt(claim.destination, ending.kind, progress.outcomes)

    async def retry(self, key: str) -> int:
        """Try at once what of a delivery isn't sent, as a person asks; give the number of instances."""
        async with self._database.transaction() as tx:
            now = self._clock()
            destination = await repository.destination_of(tx, key)
            if destination is None:
                return 0
            await repository.probe_now(tx, now, destination)
            await repository.lock_delivery(tx, key)
            count = await repository.retry_items(tx, key, now)
            await self._settle(tx, key)
            tx.info[WORK] = True
        return count

    async def apply_network(self) -> None:
        """Hold and release deliveries as the network definition in force says."""
        async with self._database.transaction() as tx:
            names = await repository.unfinished_destinations(tx)
            await repository.probe_now(tx, self._clock())
            for name in names:
                target = self.reach(name)
                if isinstance(target, Obstacle):
                    await repository.hold(tx, name, target.reason, self._clock())
                else:
                    await repository.release(tx, name)
            tx.info[WORK] = True
        for name in names:
            await self._settle_held(name)

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

    async def adopt(self) -> None:
        """Take over what an earlier run of this process held, where no other replica can be."""
        if self._database.dialect == "sqlite":
            async with self._database.transaction() as tx:
                await repository.drop_leases(tx)

    async def _settle_held(self, destination: str) -> None:
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
        await repository.record(tx, after, now)
        arrived = [o.item for o in outcomes if o.verdict in (Verdict.SENT, Verdict.WARNING)]
        metric.REPEATED.inc(sum(before[i][0].state == "sent" or before[i][1] == NO_ANSWER for i in arrived))

    async def _judge(
        self, tx: AsyncSession, claim: Claim, progress: Progress, ending: Ending, known: Circuit
    ) -> Circuit | None:
        """Decide what the association says of its destination; give the circuit if the destination is left alone."""
        now = self._clock()
        if ending.kind == "finished":
            await repository.reached(tx, claim.destination, now)
        if ending.kind in ("finished", "stopped") or ending.problem is None:
            return None
        # One that took something and then broke off is not one that can't be reached: it is tried again soon.
        moved = progress.count(Verdict.SENT, Verdict.WARNING) > 0
        circuit = (Circuit() if moved else known).failed(ending.problem, now, self._backoff, self._random)
        await repository.not_reached(tx, claim.destination, circuit, now)
        return circuit

    async def _settle(
        self,
        tx: AsyncSession,
        key: str,
        circuit: Circuit | None = None,
        attempted: Callable[[datetime | None], Fact] | None = None,
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
        """
        row = await repository.lock_delivery(tx, key)
        if row is None:
            raise RuntimeError("a delivery vanished while it was worked on")
        now = self._clock()
        tally = await repository.tally(tx, key)
        closing = repository.request_of(row).closing
        target = self.reach(row.destination)
        snapshot = self._network.current
        found = standing(
            tally,
            closing,
            now,
            obstacle=target.reason if isinstance(target, Obstacle) else None,
            unconfirmed=unconfirmed(None if snapshot is None else snapshot.definition, row.destination),
            set_hash=await repository.set_hash_of(tx, key) if answered(tally, closing) else None,
        )
        state: State = found.state
        reason = found.reason
        if circuit is not None and state in ("open", "waiting") and tally.due:
            state, reason = "waiting", circuit.problem
        if attempted is not None:
            await self._emit(tx, row, attempted(_next_attempt(state, tally.next_attempt_at, circuit)))
        changes: dict[str, Any] = {"state": state, "reason": reason, "next_attempt_at": tally.next_attempt_at}
        if state == "done" and closing is not None and row.completed_version != closing.study_version:
            changes |= {"completed_at": now, "completed_version": closing.study_version}
            await self._emit(tx, row, report.completed(row, closing, now, tally.bytes_sent))
            metric.DELIVERED.observe(max(0.0, (now - row.requested_at).total_seconds()))
        if state == "failed" and row.state != "failed":
            failures = await repository.failed_items(tx, key, report.FAILURES_TOLD)
            await self._emit(tx, row, report.failed(row, failures, tally))
        await repository.update_delivery(tx, key, **changes)

    async def _emit(self, tx: AsyncSession, row: Row[Any], fact: Fact) -> None:
        await self._outbox.emit(tx, fact, subject=row.study_instance_uid, tenant=row.tenant, site=row.site)

    def _lease_end(self, now: datetime) -> datetime:
        return now + timedelta(seconds=self._settings.lease)


def _next_attempt(state: State, due: datetime | None, circuit: Circuit | None) -> datetime | None:
    if state not in ("open", "waiting") or due is None:
        return None
    return max(due, circuit.retry_at) if circuit and circuit.retry_at else due


def _request(event: Event[DeliveryRequested]) -> Request:
    wanted = event.data
    closing = None
    if wanted.study_version is not None and wanted.expected_count is not None:
        closing = Closing(wanted.study_version, wanted.expected_count, wanted.expected_hash)
    return Request(lane(wanted.priority), (event.time, wanted.source_node), wanted.network_version, closing)


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


def _parcel(item: Row[Any]) -> Parcel:
    return Parcel(
        item=item.id,
        sop_class_uid=item.sop_class_uid,
        sop_instance_uid=item.sop_instance_uid,
        transfer_syntax_uid=item.transfer_syntax_uid,
        content_hash=item.content_hash,
        object_key=item.object_key,
        size=item.size,
    )
