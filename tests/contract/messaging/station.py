"""One process as the tests see it: a broker, a service's database, and facts to send."""

import asyncio
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import Any

from faststream.rabbit import RabbitBroker
from sqlalchemy import Column, Integer, MetaData, String, Table, func, select, text

from contracts.envelope import CONTENT_TYPE, Event
from contracts.fact import Fact, ObjectRef, Source
from contracts.study import StudyCompleted
from contracts.topics import BY_MODEL
from libs.clock import utc_now
from libs.messaging.broker import make_broker
from libs.messaging.tables import messaging_tables
from libs.messaging.topology import EVENTS, declare
from libs.storage.database import Database

#: A ladder that tests can climb: two rungs.
LADDER = (0.05, 0.1)
#: How long a test waits for what must happen; far longer than it takes.
PATIENCE_S = 60.0

metadata = MetaData()
tables = messaging_tables(metadata)
#: What handlers change: one row for each event that took effect.
note = Table("note", metadata, Column("id", Integer, primary_key=True), Column("text", String(200), nullable=False))


class Station:
    """A broker and the database of one service.

    `publish` sends an event as a relay does.
    """

    def __init__(self, broker_url: str, database_url: str, service: str, *, instance: str = "one") -> None:
        self.broker_url = broker_url
        self.database_url = database_url
        self.service = service
        self.broker = make_broker(broker_url, instance=instance)
        self.database = Database(database_url, service)

    async def start(self) -> None:
        await self.broker.connect()
        await declare(self.broker, ladder=LADDER)
        await self.broker.start()

    async def close(self) -> None:
        await self.broker.stop()
        await self.database.close()

    async def publish(self, event: Event[Any], **headers: Any) -> None:
        topic = BY_MODEL[type(event.data)]
        await publish(
            self.broker, event.model_dump_json().encode(), topic.routing_key(event.tenant, event.site), **headers
        )

    async def notes(self) -> list[str]:
        async with self.database.reading() as tx:
            return list((await tx.execute(select(note.c.text).order_by(note.c.id))).scalars())

    async def rows(self, table: Table) -> int:
        async with self.database.reading() as tx:
            return int((await tx.execute(select(func.count()).select_from(table))).scalar_one())


async def make_tables(database: Database) -> None:
    async with database.migrating() as connection:
        if database.dialect == "postgresql":
            await connection.execute(text(f'CREATE SCHEMA IF NOT EXISTS "{database.service}"'))
        await connection.run_sync(metadata.create_all)


async def publish(broker: RabbitBroker, body: bytes, key: str, **headers: Any) -> None:
    await broker.publish(
        body, exchange=EVENTS, routing_key=key, persist=True, content_type=CONTENT_TYPE, headers=headers, mandatory=True
    )


async def until(done: Callable[[], Awaitable[bool]], what: str) -> None:
    """Return as soon as `done()` is true."""
    async with asyncio.timeout(PATIENCE_S):
        while not await done():  # noqa: ASYNC110 - asks servers, which tell nobody when they are done
            await asyncio.sleep(0.02)
    assert await done(), what


def study(uid: str = "1.2.3") -> StudyCompleted:
    moment = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
    return StudyCompleted(
        study_instance_uid=uid,
        version=1,
        instance_count=1,
        series_count=1,
        content_hash="0" * 64,
        manifest=ObjectRef(key="manifest", sha256="0" * 64, size=1),
        first_arrival=moment,
        last_arrival=moment,
        source=Source(site="clinic", node="ct", calling_aet="CT", called_aet="KIVUKO", address="127.0.0.1"),
        sites=("clinic",),
        attributes={"PatientName": "Mwangi^Achieng"},
        evidence=("quiet",),
    )


def event(data: Fact | None = None, *, id: str = "event-1", traceparent: str | None = None) -> Event[Any]:  # noqa: A002
    fact = data or study()
    return Event[Any](
        id=id,
        source="/local/ingest",
        type=BY_MODEL[type(fact)].type,
        subject="1.2.3",
        time=utc_now(),
        tenant="default",
        site="clinic",
        sequence=1,
        traceparent=traceparent,
        data=fact,
    )
