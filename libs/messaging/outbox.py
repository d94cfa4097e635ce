"""The outbox: events are written in the transaction of the change that they tell of, and published afterwards."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from typing import Any
from uuid import uuid4

from opentelemetry import propagate
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession

from contracts.envelope import CONTENT_TYPE, Event
from contracts.fact import Fact
from contracts.topics import BY_MODEL, EXCHANGE
from libs.clock import Clock
from libs.messaging.inbox import insert
from libs.messaging.tables import MessagingTables
from libs.storage import bulk
from libs.storage.database import before_commit

#: Set on a session that has put something into the outbox: the relay looks for it when the session commits.
PENDING = "kivuko.outbox"


def channel(service: str) -> str:
    """Name the PostgreSQL channel on which relays hear of new events."""
    return f"kivuko_outbox_{service}"


@dataclass(frozen=True)
class Message:
    """One message as it goes to the broker."""

    message_id: str
    exchange: str
    routing_key: str
    type: str | None
    content_type: str
    headers: Mapping[str, Any]
    body: bytes


async def put(
    tx: AsyncSession, tables: MessagingTables, clock: Clock, service: str, messages: Sequence[Message]
) -> None:
    """Write messages into the outbox, in their order, and see to it that a relay wakes when the transaction commits."""
    now = clock()
    rows = [{**vars(one), "headers": dict(one.headers), "created_at": now, "available_at": now} for one in messages]
    await bulk.insert(tx, tables.outbox, rows)
    if PENDING not in tx.info and tx.get_bind().dialect.name == "postgresql":
        await tx.execute(text("SELECT pg_notify(:channel, '')"), {"channel": channel(service)})
    tx.info[PENDING] = True


@dataclass(frozen=True)
class _Emitted:
    event: Event[Any]
    routing_key: str
    carrier: Mapping[str, str]


class Outbox:
    """Where one service puts its events.

    Parameters
    ----------
    service
        Name of the service; it must be a producer of what it emits.
    region
        Name of the deployment; the events' source is `/REGION/SERVICE`.
    clock
        The time in UTC.
    tables
        The service's messaging tables.
    """

    def __init__(self, service: str, region: str, clock: Clock, tables: MessagingTables) -> None:
        self._service = service
        self._source = f"/{region}/{service}"
        self._clock = clock
        self._tables = tables
        # Made once: to make a statement takes longer than to run it.
        self._counting: Any = None

    async def emit(
        self,
        tx: AsyncSession,
        data: Fact,
        *,
        subject: str,
        tenant: str,
        site: str | None = None,
        at: datetime | None = None,
    ) -> str:
        """Write an event in the caller's transaction and return its id.

        The row and its sequence number come with all others of the transaction right before it commits: if it rolls
        back, the numbers are used by the next events. On PostgreSQL transactions of one source wait for each other
        only there, after whatever else they have locked.

        Parameters
        ----------
        tx
            The caller's transaction.
        data
            The fact.
        subject
            What it is about, mostly a StudyInstanceUID.
        tenant, site
            Whom it concerns.
        at
            When it happened; now if it isn't given.

        Raises
        ------
        ValueError
            The table of topics does not name this service as a producer of this fact.
        """
        topic = BY_MODEL.get(type(data))
        if topic is None or self._service not in topic.producers:
            raise ValueError(f"{self._service} must not emit {type(data).__name__}: see contracts/topics.py")
        carrier: dict[str, str] = {}
        propagate.inject(carrier)
        traceparent, tracestate = carrier.get("traceparent"), carrier.get("tracestate")
        event = Event[Any](
            id=str(uuid4()),
            source=self._source,
            type=topic.type,
            subject=subject,
            time=self._clock() if at is None else at,
            traceparent=traceparent,
            tracestate=tracestate or None,
            tenant=tenant,
            site=site,
            sequence=1,
            data=data,
        )
        place = f"{PENDING}{self._source}"
        if place not in tx.info:
            tx.info[place] = []
            before_commit(tx, partial(self._write, tx, tx.info[place]))
        tx.info[place].append(_Emitted(event, topic.routing_key(tenant, site), carrier))
        return event.id

    async def _write(self, tx: AsyncSession, emitted: Sequence[_Emitted]) -> None:
        last = await self._count_on(tx, len(emitted))
        numbers = range(last - len(emitted) + 1, last + 1)
        messages = [_message(each, number) for each, number in zip(emitted, numbers, strict=True)]
        await put(tx, self._tables, self._clock, self._service, messages)

    async def _count_on(self, tx: AsyncSession, by: int) -> int:
        sequence = self._tables.sequence
        if self._counting is None:
            first = insert(tx, sequence)
            self._counting = first.on_conflict_do_update(
                index_elements=[sequence.c.source], set_={"value": sequence.c.value + first.excluded.value}
            ).returning(sequence.c.value)
        return int((await tx.execute(self._counting, {"source": self._source, "value": by})).scalar_one())


def _message(emitted: _Emitted, sequence: int) -> Message:
    event = emitted.event.model_copy(update={"sequence": sequence})
    absent = {name for name in ("traceparent", "tracestate", "site") if getattr(event, name) is None}
    return Message(
        message_id=event.id,
        exchange=EXCHANGE,
        routing_key=emitted.routing_key,
        type=event.type,
        content_type=CONTENT_TYPE,
        headers=emitted.carrier,
        body=event.model_dump_json(exclude=absent).encode(),
    )
