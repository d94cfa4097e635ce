"""Tells partners of studies: an event each, and the delivery is done when the broker has confirmed it."""

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from datetime import datetime
from typing import Any, Final
from uuid import uuid4

from aio_pika.exceptions import CONNECTION_EXCEPTIONS
from faststream.rabbit import RabbitBroker
from sqlalchemy import Row, exists, select
from sqlalchemy.ext.asyncio import AsyncSession

from contracts.envelope import CONTENT_TYPE, Event
from contracts.partner import (
    PARTNER_EXCHANGE,
    STUDY_AVAILABLE,
    StudyAvailable,
    partner_destination,
    partner_queue,
    routing_key,
)
from contracts.routing import PRIORITIES
from libs.clock import Clock
from libs.messaging import inbox
from libs.messaging.listen import DATABASE_AWAY
from libs.messaging.outbox import Message, put
from libs.messaging.topology import QueueSpec, declare_queues
from libs.storage.database import Database
from libs.telemetry import log
from services.egress import lease, repository
from services.egress.claim import parcel_of, stretch_of
from services.egress.deliveries import WORK, Deliveries
from services.egress.models import announcements, deliveries, items, messaging
from services.egress.outcome import Outcome, Verdict
from services.egress.partner import PartnerTarget
from services.egress.work import Work

#: Fixed word of an instance's status: the broker has confirmed the event that tells of it.
ANNOUNCED: Final = "announced"
_TYPE: Final = f"kivuko.{STUDY_AVAILABLE}"
_AT_ONCE: Final = 100
#: A queue of a partner that is away for long must give nothing up.
_NO_LIMIT: Final = 2**31 - 1
_log = log.get(__name__)


class Announcer:
    """Tells partners, from this replica.

    An event is put into the outbox once for each version of a study. The relay publishes it until the broker confirms;
    a partner without a queue is no confirmation. Only when it is out of the outbox the delivery is done.

    Parameters
    ----------
    deliveries, work, database
        Of egress.
    broker
        Where partners have their queues.
    source
        Region of this deployment: the events' source is `/REGION/egress.PARTNER`, numbered by itself.
    public_url
        Address under which partners reach this service.
    poll
        How often to look whether an event is confirmed, in seconds.
    clock
        The time in UTC.
    """

    def __init__(
        self,
        deliveries: Deliveries,
        work: Work,
        database: Database,
        broker: RabbitBroker,
        *,
        region: str,
        public_url: str,
        poll: float,
        clock: Clock,
    ) -> None:
        self._deliveries = deliveries
        self._work = work
        self._database = database
        self._broker = broker
        self._region = region
        self._public_url = public_url.rstrip("/")
        self._poll = poll
        self._clock = clock
        self._declared: set[str] = set()
        self._wake = asyncio.Event()
        database.on_commit(lambda session: self._wake.set() if session.info.get(WORK) else None)

    async def run(self) -> None:
        """Tell partners until cancelled."""
        while True:
            self._wake.clear()
            try:
                await self.turn()
            except (*DATABASE_AWAY, *CONNECTION_EXCEPTIONS, TimeoutError):
                _log.exception("partners can't be told, trying again")
            with suppress(TimeoutError):
                async with asyncio.timeout(self._poll):
                    await self._wake.wait()

    async def turn(self) -> None:
        """Tell of what is complete, and take down what is confirmed."""
        after = ""
        while True:
            async with self._database.reading() as tx:
                found = await _complete(tx, after, self._clock())
            for key, destination in found:
                target = self._deliveries.reach(destination)
                if isinstance(target, PartnerTarget):
                    await self._declare(target)
                    await self._see_to(key, target)
            if len(found) < _AT_ONCE:
                return
            after = found[-1][0]

    async def _declare(self, target: PartnerTarget) -> None:
        """Make the partner's queue: what it is told while it is away waits there."""
        if target.tenant in self._declared:
            return
        arguments = {"x-queue-type": "quorum", "x-delivery-limit": _NO_LIMIT}
        pattern = f"{partner_queue(target.tenant)}.#"
        queue = QueueSpec(partner_queue(target.tenant), arguments, ((PARTNER_EXCHANGE, pattern),))
        await declare_queues(self._broker, [queue])
        self._declared.add(target.tenant)

    async def _see_to(self, key: str, target: PartnerTarget) -> None:
        async with self._database.transaction() as tx:
            now = self._clock()
            row = await _locked(tx, key, now)
            if row is None or not await _is_whole(tx, row):
                return
            message_id = await _announced(tx, key, row.study_version)
            if message_id is None:
                await self._announce(tx, row, target)
                return
            if await _unconfirmed(tx, message_id):
                return
            rows = await lease.take(tx, key, self._work.worker, now, row.expected_count)
            await lease.make_due(tx, key)
            await repository.update_delivery(tx, key, attempts=row.attempts + 1)
        if rows:
            await self._done(row, rows, now)

    async def _announce(self, tx: AsyncSession, row: Row[Any], target: PartnerTarget) -> None:
        count, size = await _measure(tx, row.id)
        source = f"/{self._region}/egress.{target.key}"
        event = Event[StudyAvailable](
            id=str(uuid4()),
            source=source,
            type=_TYPE,
            subject=row.study_instance_uid,
            time=self._clock(),
            traceparent=row.traceparent,
            tenant=row.tenant,
            sequence=await _next_number(tx, source),
            data=StudyAvailable(
                delivery_id=row.id,
                study_instance_uid=row.study_instance_uid,
                study_version=row.study_version,
                instance_count=count,
                size=size,
                priority=PRIORITIES[row.lane],
                reference=f"{self._public_url}/v1/egress/studies/{row.id}",
            ),
        )
        body = event.model_dump_json(exclude_none=True).encode()
        message = Message(event.id, PARTNER_EXCHANGE, routing_key(target.tenant), _TYPE, CONTENT_TYPE, {}, body)
        await put(tx, messaging, self._clock, "egress", [message])
        await tx.execute(
            announcements.insert().values(
                delivery_id=row.id, study_version=row.study_version, message_id=event.id, made_at=self._clock()
            )
        )

    async def _done(self, row: Row[Any], rows: Sequence[Row[Any]], now: datetime) -> None:
        parcels = [parcel_of(row, each, number) for number, each in enumerate(rows)]
        told = [(parcel, Outcome(parcel.item, Verdict.SENT, ANNOUNCED)) for parcel in parcels]
        stretch = stretch_of(row, row.attempts + 1, now)
        for parcel, outcome in told:
            stretch.note(parcel, outcome)
        await self._work.settle(row.destination, told, [], [stretch], [])


async def _complete(tx: AsyncSession, after: str, now: datetime) -> Sequence[tuple[str, str]]:
    """Name deliveries to partners that are closed and have something that they were not told of."""
    found = await tx.execute(
        select(deliveries.c.id, deliveries.c.destination)
        .where(
            deliveries.c.destination.startswith(partner_destination(""), autoescape=True),
            repository.TURN,
            deliveries.c.study_version.is_not(None),
            deliveries.c.next_attempt_at <= now,
            deliveries.c.id > after,
        )
        .order_by(deliveries.c.id)
        .limit(_AT_ONCE)
    )
    return [(row.id, row.destination) for row in found]


async def _locked(tx: AsyncSession, key: str, now: datetime) -> Row[Any] | None:
    """Lock a delivery that still has its turn, unless another transaction has it."""
    found = await tx.execute(
        select(deliveries)
        .where(deliveries.c.id == key, repository.TURN, deliveries.c.next_attempt_at <= now)
        .with_for_update(skip_locked=True)
    )
    return found.one_or_none()


async def _is_whole(tx: AsyncSession, row: Row[Any]) -> bool:
    """Tell whether every instance of the version is known, and none waits for a transform."""
    closing = repository.request_of(row).closing
    tally = await repository.tally(tx, row.id)
    if closing is None or tally.blocked or tally.instances != closing.expected_count:
        return False
    return closing.expected_hash in (None, await repository.set_hash_of(tx, row.id))


async def _announced(tx: AsyncSession, key: str, version: int) -> str | None:
    found = await tx.execute(
        select(announcements.c.message_id).where(
            announcements.c.delivery_id == key, announcements.c.study_version == version
        )
    )
    return found.scalar_one_or_none()


async def _unconfirmed(tx: AsyncSession, message_id: str) -> bool:
    waiting = exists().where(messaging.outbox.c.message_id == message_id)
    return bool((await tx.execute(select(waiting))).scalar_one())


async def _measure(tx: AsyncSession, key: str) -> tuple[int, int]:
    found = await tx.execute(select(items.c.size).where(items.c.delivery_id == key, items.c.current))
    sizes = list(found.scalars())
    return len(sizes), sum(sizes)


async def _next_number(tx: AsyncSession, source: str) -> int:
    sequence = messaging.sequence
    first = inbox.insert(tx, sequence).values(source=source, value=1)
    statement = first.on_conflict_do_update(
        index_elements=[sequence.c.source], set_={"value": sequence.c.value + 1}
    ).returning(sequence.c.value)
    return int((await tx.execute(statement)).scalar_one())
