"""Outbox and relay, on both databases: nothing is lost, the sequence has no gap, several relays share the work."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import suppress
from datetime import datetime, timedelta
from typing import Any

import pytest
from opentelemetry import propagate
from opentelemetry.sdk.trace import TracerProvider
from sqlalchemy import select, update

from contracts.envelope import CONTENT_TYPE, Event
from contracts.study import StudyCompleted
from libs.clock import utc_now
from libs.messaging import inbox
from libs.messaging.listen import DATABASE_AWAY
from libs.messaging.outbox import Outbox
from libs.messaging.relay import LEASE, Relay
from libs.storage.database import Database
from tests.contract.messaging.station import Station, make_tables, study, tables, until
from tests.contract.messaging.test_transport import Received, get, one_queue, receive
from tests.support.postgresql import PostgreSQL
from tests.support.rabbitmq import RabbitMQ

pytestmark = pytest.mark.contract


class Hands:
    """A clock that tests turn."""

    def __init__(self) -> None:
        self.ahead = timedelta()

    def __call__(self) -> datetime:
        return utc_now() + self.ahead


@pytest.fixture
async def database(database_url: str) -> AsyncIterator[Database]:
    database = Database(database_url, "ingest")
    await make_tables(database)
    yield database
    await database.close()


@pytest.fixture
async def producer(station: Station) -> AsyncIterator[Station]:
    """The service `ingest` of the station's process, and a queue that takes its events."""
    producer = Station(station.broker_url, station.database_url, "ingest")
    producer.broker = station.broker
    await make_tables(producer.database)
    yield producer
    await producer.database.close()


async def emit(database: Database, uid: str = "1.2.3") -> str:
    outbox = Outbox("ingest", "local", utc_now, tables)
    async with database.transaction() as tx:
        return await outbox.emit(tx, study(uid), subject=uid, tenant="default", site="clinic")


async def emit_when_back(database: Database) -> str:
    """Emit as a service does that meets a database which was away: until it is taken."""
    while True:
        try:
            return await emit(database)
        except DATABASE_AWAY:
            await asyncio.sleep(0.05)


async def events(database: Database) -> list[dict[str, Any]]:
    async with database.reading() as tx:
        rows = (await tx.execute(select(tables.outbox.c.body).order_by(tables.outbox.c.id))).scalars()
        return [json.loads(body) for body in rows]


async def test_an_event_is_a_cloudevent_as_the_contract_says(database: Database) -> None:
    with TracerProvider().get_tracer("test").start_as_current_span("arrival"):
        carrier: dict[str, str] = {}
        propagate.inject(carrier)
        id_ = await emit(database)
    async with database.reading() as tx:
        row = (await tx.execute(select(tables.outbox))).one()
    event = Event[StudyCompleted].model_validate_json(row.body)
    assert (event.id, event.source, event.sequence) == (id_, "/local/ingest", 1)
    assert (event.type, event.tenant, event.site) == ("kivuko.study.completed.v1", "default", "clinic")
    assert (event.traceparent, row.headers["traceparent"]) == (carrier["traceparent"], carrier["traceparent"])
    assert (row.routing_key, row.content_type) == ("study.completed.v1.default.clinic", CONTENT_TYPE)
    assert event.data == study()


async def test_the_sequence_has_no_gap_whatever_rolls_back(database: Database) -> None:
    async def work(number: int) -> None:
        outbox = Outbox("ingest", "local", utc_now, tables)
        with suppress(ZeroDivisionError):
            async with database.transaction() as tx:
                await outbox.emit(tx, study(), subject="1", tenant="default")
                await outbox.emit(tx, study(), subject="1", tenant="default")
                _ = 1 // (number % 3)  # every third fails and rolls back

    await asyncio.gather(*(work(number) for number in range(12)))
    numbers = sorted(event["sequence"] for event in await events(database))
    assert numbers == list(range(1, 17))


async def test_each_source_counts_for_itself(database: Database) -> None:
    async with database.transaction() as tx:
        for region in ("north", "south"):
            await Outbox("ingest", region, utc_now, tables).emit(tx, study(), subject="1", tenant="default")
    assert [(event["source"], event["sequence"]) for event in await events(database)] == [
        ("/north/ingest", 1),
        ("/south/ingest", 1),
    ]


async def test_nobody_emits_what_the_table_does_not_give_him(database: Database) -> None:
    outbox = Outbox("rules", "local", utc_now, tables)
    async with database.transaction() as tx:
        with pytest.raises(ValueError, match=r"contracts/topics\.py"):
            await outbox.emit(tx, study(), subject="1", tenant="default")
    assert await events(database) == []


async def test_the_inbox_recognises_what_it_has_seen_and_forgets_in_time(database: Database) -> None:
    clock = Hands()

    async def record(queue: str, id_: str) -> bool:
        async with database.transaction() as tx:
            key = ("/local/ingest", id_)
            return await inbox.record(tx, tables, queue=queue, events=[key], now=clock()) == {key}

    assert await record("a", "1")
    assert not await record("a", "1")
    assert await record("b", "1")
    clock.ahead = timedelta(days=4)
    assert await record("a", "2")
    clock.ahead = timedelta(days=8)
    assert await inbox.prune(database, tables, clock) == 2
    assert not await record("a", "2")
    assert await record("a", "1")


def rules_queue(station: Station, prefetch: int = 100) -> Received:
    return receive(station.broker, one_queue(), prefetch)


async def test_what_was_committed_is_published_and_then_gone(station: Station, producer: Station) -> None:
    received = rules_queue(station)
    await station.start()
    relay = asyncio.create_task(Relay(producer.database, station.broker, tables, utc_now).run())
    emitted = {await emit(producer.database) for _ in range(5)}
    heard = set()
    for _ in emitted:
        message = await get(received)
        heard.add(message.raw_message.message_id)
        await message.ack()
    assert heard == emitted

    async def empty() -> bool:
        return await producer.rows(tables.outbox) == 0

    await until(empty, "an empty outbox")
    relay.cancel()
    await asyncio.gather(relay, return_exceptions=True)


async def test_what_no_queue_takes_stays_and_is_offered_again(station: Station, producer: Station) -> None:
    clock = Hands()
    await station.start()
    relay = Relay(producer.database, station.broker, tables, clock)
    await emit(producer.database)
    async with producer.database.transaction() as tx:
        await tx.execute(update(tables.outbox).values(exchange="", routing_key="no-such-queue"))
    assert await relay.relay_once() == 1
    async with producer.database.reading() as tx:
        row = (await tx.execute(select(tables.outbox))).one()
    assert (row.attempts, row.leased_by) == (1, None)
    assert await relay.relay_once() == 0, "not before its pause is over"
    clock.ahead = timedelta(hours=1)
    async with producer.database.transaction() as tx:
        await tx.execute(update(tables.outbox).values(routing_key="rules.study.completed.v1"))
    assert await relay.relay_once() == 1
    assert await producer.rows(tables.outbox) == 0


async def test_a_lease_that_ran_out_is_taken_again(station: Station, producer: Station) -> None:
    clock = Hands()
    await station.start()
    await emit(producer.database)
    async with producer.database.transaction() as tx:
        await tx.execute(update(tables.outbox).values(available_at=utc_now() + LEASE, leased_by="a relay that died"))
    relay = Relay(producer.database, station.broker, tables, clock)
    assert await relay.relay_once() == 0
    clock.ahead = LEASE + timedelta(seconds=1)
    assert await relay.relay_once() == 1
    assert await producer.rows(tables.outbox) == 0


async def test_events_do_not_wait_for_a_clock_that_was_put_back(station: Station, producer: Station) -> None:
    clock = Hands()
    await station.start()
    await emit(producer.database)
    clock.ahead = -timedelta(hours=1)
    assert await Relay(producer.database, station.broker, tables, clock).relay_once() == 1
    assert await producer.rows(tables.outbox) == 0


async def test_while_the_broker_is_away_everything_stays(producer: Station) -> None:
    await emit(producer.database)
    relay = Relay(producer.database, producer.broker, tables, utc_now)  # not connected
    with pytest.raises(ConnectionError):
        await relay.relay_once()
    async with producer.database.reading() as tx:
        row = (await tx.execute(select(tables.outbox))).one()
    assert (row.attempts, row.leased_by) == (0, None)


async def test_two_relays_on_one_postgresql_share_the_work_and_lose_nothing(
    rabbitmq: RabbitMQ, postgresql: PostgreSQL
) -> None:
    broker_url, database_url = rabbitmq.vhost(), postgresql.database()
    stations = [Station(broker_url, database_url, "ingest", instance=name) for name in ("one", "two")]
    await make_tables(stations[0].database)
    received = rules_queue(stations[0], prefetch=1000)
    for station in stations:
        await station.start()
    relays = [
        asyncio.create_task(Relay(station.database, station.broker, tables, utc_now).run()) for station in stations
    ]
    emitted = [await emit(stations[number % 2].database, f"1.{number}") for number in range(250)]
    heard: list[str | None] = []
    for _ in emitted:
        message = await get(received)
        heard.append(message.raw_message.message_id)
        await message.ack()
    assert sorted(heard, key=str) == sorted(emitted)  # leased by one of them at a time: nothing twice either
    for relay in relays:
        relay.cancel()
    await asyncio.gather(*relays, return_exceptions=True)
    for station in stations:
        await station.close()


async def test_rabbitmq_may_go_and_come_back(rabbitmq: RabbitMQ, postgresql: PostgreSQL) -> None:
    station = Station(rabbitmq.vhost(), postgresql.database(), "ingest")
    await make_tables(station.database)
    received = rules_queue(station)
    await station.start()
    relay = asyncio.create_task(Relay(station.database, station.broker, tables, utc_now).run())
    before = await emit(station.database)
    held = await get(received)
    assert held.raw_message.message_id == before
    await asyncio.to_thread(rabbitmq.stop)
    during = await emit(station.database)
    await asyncio.to_thread(rabbitmq.start)
    heard: dict[str | None, bool | None] = {}
    while len(heard) < 2:  # what was held when the broker went comes again, and what was emitted meanwhile comes
        message = await get(received)
        heard[message.raw_message.message_id] = message.raw_message.redelivered
        await message.ack()
    assert set(heard) == {before, during}
    assert heard[before] is True
    relay.cancel()
    await asyncio.gather(relay, return_exceptions=True)
    await station.close()


async def test_postgresql_may_go_and_come_back(rabbitmq: RabbitMQ, postgresql: PostgreSQL) -> None:
    station = Station(rabbitmq.vhost(), postgresql.database(), "ingest")
    await make_tables(station.database)
    received = rules_queue(station)
    await station.start()
    relay = asyncio.create_task(Relay(station.database, station.broker, tables, utc_now).run())
    before = await emit(station.database)
    assert (await get(received)).raw_message.message_id == before
    await asyncio.to_thread(postgresql.stop)
    await asyncio.to_thread(postgresql.start)
    # A connection of the pool may not have heard yet that its server is another one.
    after = await emit_when_back(station.database)
    heard: set[str | None] = set()
    while after not in heard:  # the first may come again: whether it was deleted before the database went is open
        coming = asyncio.ensure_future(get(received))
        await asyncio.wait({coming, relay}, return_when=asyncio.FIRST_COMPLETED)
        if relay.done():
            relay.result()
        heard.add((await coming).raw_message.message_id)
    assert heard <= {before, after}
    assert not relay.done()
    relay.cancel()
    await asyncio.gather(relay, return_exceptions=True)
    await station.close()
