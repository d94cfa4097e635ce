"""The outbox: events are written in the transaction of the change that they tell of, and published afterwards."""

from collections.abc import Mapping
from typing import Any
from uuid import uuid4

from opentelemetry import propagate
from sqlalchemy import insert as plain_insert
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession

from contracts.envelope import CONTENT_TYPE, Event
from contracts.fact import Fact
from contracts.topics import BY_MODEL, EXCHANGE
from libs.clock import Clock
from libs.messaging.inbox import insert
from libs.messaging.tables import MessagingTables

#: Set on a session that has put something into the outbox: the relay looks for it when the session commits.
PENDING = "kivuko.outbox"


def channel(service: str) -> str:
    """Name the PostgreSQL channel on which relays hear of new events."""
    return f"kivuko_outbox_{service}"


async def put(
    tx: AsyncSession,
    tables: MessagingTables,
    clock: Clock,
    service: str,
    *,
    message_id: str,
    exchange: str,
    routing_key: str,
    type: str | None,  # noqa: A002 - AMQP's name
    content_type: str,
    headers: Mapping[str, Any],
    body: bytes,
) -> None:
    """Write one message into the outbox and see to it that a relay wakes when the transaction commits."""
    now = clock()
    await tx.execute(
        plain_insert(tables.outbox).values(
            message_id=message_id,
            exchange=exchange,
            routing_key=routing_key,
            type=type,
            content_type=content_type,
            headers=dict(headers),
            body=body,
            created_at=now,
            available_at=now,
        )
    )
    if PENDING not in tx.info and tx.get_bind().dialect.name == "postgresql":
        await tx.execute(text("SELECT pg_notify(:channel, '')"), {"channel": channel(service)})
    tx.info[PENDING] = True


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

    async def emit(self, tx: AsyncSession, data: Fact, *, subject: str, tenant: str, site: str | None = None) -> str:
        """Write an event in the caller's transaction and return its id.

        The sequence number is taken in the same transaction: if that rolls back, the number is used by the next event.
        On PostgreSQL transactions of one source therefore wait for each other from here on: emit last.

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
            time=self._clock(),
            traceparent=traceparent,
            tracestate=tracestate or None,
            tenant=tenant,
            site=site,
            sequence=await self._next(tx),
            data=data,
        )
        absent = {name for name in ("traceparent", "tracestate", "site") if getattr(event, name) is None}
        await put(
            tx,
            self._tables,
            self._clock,
            self._service,
            message_id=event.id,
            exchange=EXCHANGE,
            routing_key=topic.routing_key(tenant, site),
            type=topic.type,
            content_type=CONTENT_TYPE,
            headers=carrier,
            body=event.model_dump_json(exclude=absent).encode(),
        )
        return event.id

    async def _next(self, tx: AsyncSession) -> int:
        sequence = self._tables.sequence
        first = insert(tx, sequence).values(source=self._source, value=1)
        statement = first.on_conflict_do_update(
            index_elements=[sequence.c.source], set_={"value": sequence.c.value + 1}
        ).returning(sequence.c.value)
        return int((await tx.execute(statement)).scalar_one())
