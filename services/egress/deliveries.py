"""What happens to deliveries: each step is one transaction that changes them and says so."""

from collections.abc import Callable
from dataclasses import replace
from datetime import datetime
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
from services.egress import alarm, calls, decided, joint, metric, report, repository
from services.egress.backoff import Circuit
from services.egress.claim import FAILURES_TOLD
from services.egress.confirmation import Confirm, confirm_of, unconfirmed
from services.egress.decided import Decided, Documents
from services.egress.delivery import (
    Closing,
    Diversion,
    Order,
    Request,
    State,
    Tally,
    answered,
    asks_again,
    delivery_id,
    lane,
    standing,
)
from services.egress.failover import unfit
from services.egress.folder import FolderTarget
from services.egress.hold import asked, columns, lasting
from services.egress.limits import Limits, limits
from services.egress.partner import PartnerTarget, reach_partner
from services.egress.project import Projects
from services.egress.reach import NO_DEFINITION, Contexts, Obstacle, Target, no_contexts, reach
from services.egress.settings import EgressSettings
from services.egress.transforms.engine import version

#: Key in a session's `info`: this transaction made work for the sender.
WORK = "egress.work"
#: Likewise: there may be something to ask a destination for.
CONFIRM = "egress.confirm"
_SETTLED_AT_ONCE = 100
#: Tenant of what concerns the whole network.
NETWORK = "kivuko"


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
    clock
        The time in UTC.
    contexts
        Where our certificates come from.
    projects
        Where the secrets of projects come from.
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
        clock: Clock,
        contexts: Contexts = no_contexts,
        projects: Projects | None = None,
        partner_queues: bool = False,
    ) -> None:
        self._database = database
        self._outbox = outbox
        self._network = network
        self._settings = settings
        self._clock = clock
        self._contexts = contexts
        self._projects = projects or Projects(None)
        self._partner_queues = partner_queues
        #: What transforms said when they were decided.
        self.documents = Documents()
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
        target = reach(None if snapshot is None else snapshot.definition, destination, self._contexts)
        if isinstance(target, Obstacle) or snapshot is None:
            return target
        obstacle = self._projects.obstacle(snapshot.definition, destination)
        return target if obstacle is None else Obstacle(obstacle)

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

    async def bypass(self, tx: AsyncSession, row: Row[Any]) -> str | None:
        """Tell why what a delivery carries for others would get around their transforms now; none if it does not.

        When it was diverted it did not; the network definition may have changed since.
        """
        if not row.joined:
            return None
        for each in await joint.carried(tx, row):
            why = self.unfit(each.destination, row.destination, "")
            if why is not None:
                return f"it carries what was to go to {each.destination}: {why}"
        return None

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
        if row is None:
            raise RuntimeError("a delivery vanished while it was locked")
        document = wanted.transform_document
        told = "" if document is None else await decided.keep(tx, document)
        asks = Decided(wanted.transform or "", told, wanted.decided_under or wanted.network_version)
        await joint.ask_for(tx, row, asks, wanted.items, now, self.aim, own=True)
        if row.joined or row.diverted_to is not None:
            await self._merge_jointly(tx, row, new, wanted, asks, again=again)
            row = None
        await self.give_state(tx, key, row=row)
        tx.info[WORK] = True

    async def _merge_jointly(
        self,
        tx: AsyncSession,
        row: Row[Any],
        new: Request,
        wanted: DeliveryRequested,
        asks: Decided,
        *,
        again: bool,
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
        for key in await joint.pass_on(tx, row, new, asks, wanted.items, now, self.aim, again=again):
            await self.give_state(tx, key)

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
                await self.give_state(tx, key)

    async def aim(self, tx: AsyncSession, destination: str, asks: Decided) -> str | None:
        """Tell the version of all that would be done to instances for a destination now; none: nobody knows."""
        said = (await self.documents.of(tx, [asks.version])).get(asks.version)
        snapshot = self._network.current
        found = decided.steps(None if snapshot is None else snapshot.definition, destination, asks.transform, said)
        if isinstance(found, str):
            return None
        return version(found) if found else ""

    async def mend(self, tx: AsyncSession, key: str) -> None:
        """Have what failed at a rule's transform changed by what that says now: a person tries it again."""
        snapshot = self._network.current
        if snapshot is not None:
            await decided.mend(tx, key, snapshot.definition, snapshot.version)

    def limits(self, destination: str) -> Limits | None:
        """Tell what limits a destination now; none if it is not in the definition in force."""
        snapshot = self._network.current
        if snapshot is None or destination not in snapshot.definition.destinations:
            return None
        return limits(snapshot.definition, destination)

    async def reconsider(self, tx: AsyncSession, key: str, ordered: Callable[[Row[Any]], Fact] | None = None) -> None:
        """Give a delivery the state that follows from what was written down of it; tell what was decided, if it was."""
        row = await repository.lock_delivery(tx, key)
        if row is None:
            raise RuntimeError("a delivery vanished while something was ordered for it")
        if ordered is not None:
            await self._emit(tx, row, ordered(row))
        await self.give_state(tx, key)
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
            now = self._clock()
            await repository.release(tx, destination, now)
            for key in await repository.held_by_rules(tx, destination, now):
                # It is shown what holds it still.
                await self.give_state(tx, key)
        tx.info[WORK] = tx.info[CONFIRM] = True

    async def settle_held(self, destination: str) -> None:
        """Give the deliveries that are held, though nothing of them could be sent, the state that follows now."""
        after = ""
        while True:
            async with self._database.reading() as tx:
                keys = await repository.held_sent(tx, destination, after, _SETTLED_AT_ONCE)
            for key in keys:
                # One a transaction: an event that is told makes all other tellers wait until the commit.
                async with self._database.transaction() as tx:
                    await self.give_state(tx, key)
            if len(keys) < _SETTLED_AT_ONCE:
                return
            after = keys[-1]

    async def give_state(
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
            obstacle=await self._obstacle(tx, row, target, tally),
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
            hold=lasting(row, now),
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

    async def _obstacle(
        self, tx: AsyncSession, row: Row[Any], target: Target | FolderTarget | PartnerTarget | Obstacle, tally: Tally
    ) -> str | None:
        """Tell why nothing of a delivery may be sent at present."""
        if isinstance(target, Obstacle):
            return target.reason
        if isinstance(target, PartnerTarget) and tally.blocked:
            return "a rule's transform has to change what the partner may fetch, which this release cannot do"
        return await self.bypass(tx, row)

    async def _tell_arrived(self, tx: AsyncSession, row: Row[Any], where: str) -> None:
        """Tell of the deliveries that were diverted to one which is done now that all of theirs has arrived here."""
        for each in await joint.sources(tx, row):
            if each.study_version is not None and each.arrived_version != each.study_version:
                await repository.update_delivery(tx, each.id, arrived_version=each.study_version)
                told = await repository.read_delivery(tx, each.id)
                if told is not None:
                    await self._emit(tx, told, report.diverted(told, where))
            await self._tell_arrived(tx, each, where)

    async def tell_health(self, tx: AsyncSession, destination: str, problem: str | None) -> None:
        """Tell that a locked destination can be reached from now on, or why not."""
        if partner_of(destination) is None:
            changed = report.health(destination, problem, self._clock())
            await self._outbox.emit(tx, changed, subject=destination, tenant=NETWORK)

    async def _emit(self, tx: AsyncSession, row: Row[Any], fact: Fact) -> None:
        await self._outbox.emit(tx, fact, subject=row.study_instance_uid, tenant=row.tenant, site=row.site)


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
    first = (event.time, wanted.source_node)
    return Request(lane(wanted.priority), first, wanted.network_version, closing, asked(wanted.hold))


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
        **columns(request.hold),
    }
