"""One event, one transaction: on both profiles."""

import asyncio
from typing import Any

import pytest
from faststream.rabbit.annotations import RabbitMessage
from opentelemetry import propagate, trace
from opentelemetry.sdk.trace import TracerProvider
from sqlalchemy import insert
from sqlalchemy.exc import OperationalError
from sqlalchemy.ext.asyncio import AsyncSession

from contracts.envelope import Event
from contracts.network import NetworkApplied
from contracts.study import StudyCompleted
from libs.clock import utc_now
from libs.messaging.consume import consume, consume_all, consume_replica
from libs.messaging.deadletter import DeadLetters, take_dead_letters
from libs.messaging.failure import Refuse, Retry
from libs.messaging.topology import QueueSpec, declare, declare_queues, delay_queue
from tests.contract.messaging.station import (
    LADDER,
    PATIENCE_S,
    Station,
    event,
    make_tables,
    note,
    publish,
    tables,
    until,
)
from tests.support.postgresql import PostgreSQL
from tests.support.rabbitmq import RabbitMQ

pytestmark = pytest.mark.contract
SECRET = "Mwangi^Achieng"


async def wait(happened: asyncio.Event) -> None:
    await asyncio.wait_for(happened.wait(), PATIENCE_S)


async def dead(station: Station) -> Any:
    """Wait for the one dead letter."""
    letters = DeadLetters(station.database, tables, utc_now)

    async def arrived() -> bool:
        return bool(await letters.list(10))

    await until(arrived, "a dead letter")
    found = await letters.list(10)
    assert len(found) == 1
    return found[0]


async def test_an_event_takes_effect_once_however_often_it_comes(station: Station) -> None:
    both = asyncio.Event()

    @consume(station.broker, "rules", StudyCompleted, station.database, tables, utc_now)
    async def handle(event: Event[StudyCompleted], tx: AsyncSession) -> None:
        await tx.execute(insert(note).values(text=event.id))
        if event.id == "last":
            both.set()

    await station.start()
    for _ in range(3):
        await station.publish(event(id="first"))
    await station.publish(event(id="last"))
    await wait(both)

    async def settled() -> bool:
        return sorted(await station.notes()) == ["first", "last"] and await station.rows(tables.inbox) == 2

    await until(settled, "each event once")


async def test_what_is_published_before_the_consumer_first_starts_waits_for_it(station: Station) -> None:
    early = Station(station.broker_url, station.database_url, "ingest")
    await early.start()
    await early.publish(event())
    await early.close()
    heard = asyncio.Event()

    @consume(station.broker, "rules", StudyCompleted, station.database, tables, utc_now)
    async def handle(_event: Event[StudyCompleted], _tx: AsyncSession) -> None:
        heard.set()

    await station.start()
    await wait(heard)


@pytest.mark.parametrize(
    "failure", [Retry("not now"), ValueError(SECRET), OperationalError(SECRET, {}, OSError(SECRET))]
)
async def test_a_failure_rolls_back_climbs_the_ladder_and_may_succeed(station: Station, failure: Exception) -> None:
    tries: list[str] = []
    done = asyncio.Event()

    @consume(station.broker, "rules", StudyCompleted, station.database, tables, utc_now, ladder=LADDER)
    async def handle(event: Event[StudyCompleted], tx: AsyncSession) -> None:
        tries.append(event.id)
        await tx.execute(insert(note).values(text=f"try {len(tries)}"))
        if len(tries) <= len(LADDER):
            raise failure
        done.set()

    await station.start()
    await station.publish(event())
    await wait(done)

    async def committed() -> bool:
        return await station.notes() == [f"try {len(LADDER) + 1}"]

    await until(committed, "only the last try")


async def test_after_the_last_rung_it_is_a_dead_letter_with_its_reason_and_without_its_values(station: Station) -> None:
    tries: list[str] = []

    @consume(station.broker, "rules", StudyCompleted, station.database, tables, utc_now, ladder=LADDER)
    async def handle(event: Event[StudyCompleted], _tx: AsyncSession) -> None:
        tries.append(event.id)
        raise ValueError(SECRET)

    take_dead_letters(station.broker, "rules", station.database, tables, utc_now)
    await station.start()
    await station.publish(event())
    letter = await dead(station)
    assert len(tries) == len(LADDER) + 1 == letter.attempts
    assert "ValueError" in letter.reason
    assert SECRET not in letter.reason + str(letter.headers) + str(letter.deaths)
    assert (letter.queue, letter.message_id, letter.subject) == ("rules.study.completed.v1", "event-1", "1.2.3")
    assert await station.rows(tables.inbox) == 0


async def test_an_outage_of_the_database_makes_no_dead_letters(rabbitmq: RabbitMQ, postgresql: PostgreSQL) -> None:
    station = Station(rabbitmq.vhost(), postgresql.database(), "rules")
    await make_tables(station.database)

    @consume(station.broker, "rules", StudyCompleted, station.database, tables, utc_now, ladder=LADDER)
    async def handle(event: Event[StudyCompleted], tx: AsyncSession) -> None:
        await tx.execute(insert(note).values(text=event.id))

    returns: asyncio.Queue[RabbitMessage] = asyncio.Queue()
    rung = delay_queue(LADDER[len(LADDER) // 2])
    await station.broker.connect()
    await declare(station.broker, ladder=LADDER)
    copies = QueueSpec("copies", {"x-queue-type": "quorum"}, ((rung.name, "#"),))
    await declare_queues(station.broker, [copies])
    connection = await station.broker.connect()
    queue = await (await connection.channel()).declare_queue("copies", passive=True)
    await queue.consume(returns.put, no_ack=True)  # type: ignore[arg-type] # aio-pika's messages do here
    await asyncio.to_thread(postgresql.stop)
    await station.broker.start()
    await station.publish(event(id="patient"))
    try:
        for _ in range(len(LADDER) + 3):  # more often than it would survive if each were counted
            assert (await asyncio.wait_for(returns.get(), PATIENCE_S)).headers["x-attempt"] == 0
    finally:
        await asyncio.to_thread(postgresql.start)

    async def handled() -> bool:
        return await station.notes() == ["patient"]

    await until(handled, "the event, once the database is back")
    await station.close()


async def test_what_is_refused_is_a_dead_letter_at_once(station: Station) -> None:
    tries: list[str] = []

    @consume(station.broker, "rules", StudyCompleted, station.database, tables, utc_now, ladder=LADDER)
    async def handle(event: Event[StudyCompleted], _tx: AsyncSession) -> None:
        tries.append(event.id)
        raise Refuse("this study has no manifest")

    take_dead_letters(station.broker, "rules", station.database, tables, utc_now)
    await station.start()
    await station.publish(event())
    letter = await dead(station)
    assert (letter.reason, letter.attempts, len(tries)) == ("this study has no manifest", 1, 1)


@pytest.mark.parametrize("body", [b"\xff\x00 no JSON", b"{}", b'{"data": "' + SECRET.encode() + b'"}', b""])
async def test_what_is_no_event_is_kept_byte_by_byte(station: Station, body: bytes) -> None:
    @consume(station.broker, "rules", StudyCompleted, station.database, tables, utc_now, ladder=LADDER)
    async def handle(_event: Event[StudyCompleted], _tx: AsyncSession) -> None:
        raise AssertionError("must not be called")

    take_dead_letters(station.broker, "rules", station.database, tables, utc_now)
    await station.start()
    await publish(station.broker, body, "study.completed.v1.default")
    letter = await dead(station)
    assert letter.body == body
    assert letter.reason.startswith("not an event")
    assert SECRET not in letter.reason


async def test_the_handler_goes_on_in_the_producers_trace(station: Station) -> None:
    contexts: asyncio.Queue[tuple[int, str | None]] = asyncio.Queue()
    tracer = TracerProvider().get_tracer("test")

    @consume(station.broker, "rules", StudyCompleted, station.database, tables, utc_now, ladder=LADDER)
    async def handle(_event: Event[StudyCompleted], _tx: AsyncSession) -> None:
        carrier: dict[str, str] = {}
        propagate.inject(carrier)
        await contexts.put((trace.get_current_span().get_span_context().trace_id, carrier.get("traceparent")))
        if contexts.qsize() == 1:
            raise Retry("the trace must survive the ladder, too")

    await station.start()
    with tracer.start_as_current_span("produce") as span:
        carrier: dict[str, str] = {}
        propagate.inject(carrier)
    await station.publish(event(traceparent=carrier["traceparent"]), traceparent=carrier["traceparent"])
    for _ in range(2):
        trace_id, _parent = await asyncio.wait_for(contexts.get(), PATIENCE_S)
        assert trace_id == span.get_span_context().trace_id


async def test_audit_hears_everything_as_it_was_written(station: Station) -> None:
    audit = Station(station.broker_url, station.database_url, "audit")
    if station.broker_url.startswith("sqlite"):
        audit.broker = station.broker
    await make_tables(audit.database)
    heard: asyncio.Queue[tuple[str, bytes]] = asyncio.Queue()

    @consume_all(audit.broker, "audit", audit.database, tables, utc_now)
    async def handle(event: Event[Any], raw: bytes, _tx: AsyncSession) -> None:
        await heard.put((event.type, raw))

    await audit.start()
    known = event().model_dump_json().encode()
    unknown = (
        event().model_copy(update={"id": "event-2", "type": "kivuko.study.invented.v9"}).model_dump_json().encode()
    )
    await publish(audit.broker, known, "study.completed.v1.default.clinic")
    await publish(audit.broker, unknown, "study.invented.v9.default")
    found = [await asyncio.wait_for(heard.get(), PATIENCE_S) for _ in range(2)]
    assert sorted(found) == sorted([("kivuko.study.completed.v1", known), ("kivuko.study.invented.v9", unknown)])
    await audit.close()


async def test_every_replica_hears_and_a_failing_one_tries_again_by_itself(station: Station) -> None:
    heard: asyncio.Queue[str] = asyncio.Queue()
    slept: list[float] = []

    async def sleep(seconds: float) -> None:
        slept.append(seconds)

    for instance in ("one", "two"):

        @consume_replica(station.broker, "rules", NetworkApplied, instance=instance, ladder=LADDER, sleep=sleep)
        async def handle(_event: Event[NetworkApplied], instance: str = instance) -> None:
            if instance == "two" and len(slept) < len(LADDER):
                raise ValueError(SECRET)
            await heard.put(instance)

    await station.start()
    await station.publish(event(NetworkApplied(version=1, document_hash="0" * 64, applied_by="local", change_count=0)))
    assert sorted([await asyncio.wait_for(heard.get(), PATIENCE_S) for _ in range(2)]) == ["one", "two"]
    assert slept == list(LADDER)


def test_only_what_the_table_says_can_be_consumed(station: Station) -> None:
    with pytest.raises(ValueError, match=r"contracts/topics\.py"):
        consume(station.broker, "network", StudyCompleted, station.database, tables, utc_now)
    with pytest.raises(ValueError, match=r"contracts/topics\.py"):
        consume_replica(station.broker, "rules", StudyCompleted, instance="one")
