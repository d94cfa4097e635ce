"""Dead letters on both profiles: taken, listed, shown, replayed."""

import asyncio

import pytest
from sqlalchemy import insert
from sqlalchemy.ext.asyncio import AsyncSession

from contracts.envelope import Event
from contracts.study import StudyCompleted
from libs.clock import utc_now
from libs.messaging.consume import consume
from libs.messaging.deadletter import DeadLetters, ReplayError, take_dead_letters
from libs.messaging.failure import Refuse
from libs.messaging.relay import Relay
from libs.messaging.topology import DEAD_LETTERS
from tests.contract.messaging.station import PATIENCE_S, Station, event, note, publish, tables, until
from tests.contract.messaging.test_transport import get, one_queue, receive

pytestmark = pytest.mark.contract
KEY = "study.completed.v1.default.clinic"


def letters(station: Station) -> DeadLetters:
    return DeadLetters(station.database, tables, utc_now)


async def count(station: Station, expected: int) -> None:
    async def arrived() -> bool:
        return await station.rows(tables.dead_letter) == expected

    await until(arrived, f"{expected} dead letters")


async def test_a_replayed_event_is_handled_anew(station: Station) -> None:
    mended = asyncio.Event()

    @consume(station.broker, "rules", StudyCompleted, station.database, tables, utc_now)
    async def handle(event: Event[StudyCompleted], tx: AsyncSession) -> None:
        if not mended.is_set():
            raise Refuse("not mended yet")
        await tx.execute(insert(note).values(text=event.id))

    take_dead_letters(station.broker, "rules", station.database, tables, utc_now)
    await station.start()
    relay = asyncio.create_task(Relay(station.database, station.broker, tables, utc_now).run())
    await station.publish(event(id="patient"), traceparent="00-1")
    await count(station, 1)
    first = (await letters(station).list(10))[0]

    assert await letters(station).replay([first.id]) == 1  # too early: it dies again, as a letter of its own
    await count(station, 2)
    mended.set()
    second = (await letters(station).list(10))[0]
    assert second.id != first.id
    assert await letters(station).replay([first.id, second.id]) == 1  # the first was replayed before

    async def handled() -> bool:
        return await station.notes() == ["patient"]

    await until(handled, "the effect, once")
    kept = await letters(station).list(10)
    assert [each.replayed_at is not None for each in kept] == [True, True]
    assert kept[0].attempts == kept[1].attempts == 1  # counted anew after the replay
    assert kept[1].headers["traceparent"] == "00-1"
    relay.cancel()
    await asyncio.gather(relay, return_exceptions=True)


async def test_the_same_message_taken_twice_is_one_letter(station: Station) -> None:
    take_dead_letters(station.broker, "rules", station.database, tables, utc_now)
    await station.start()
    for _ in range(2):
        await station.broker.publish(
            b"body", exchange=DEAD_LETTERS, routing_key="rules.dead", persist=True,
            headers={"x-queue": "rules.study.completed.v1", "x-reason": "because"},
        )  # fmt: skip
    await station.broker.publish(b"another", exchange=DEAD_LETTERS, routing_key="rules.dead", persist=True)
    await count(station, 2)
    assert {each.body for each in await letters(station).list(10)} == {b"body", b"another"}


async def test_lists_are_read_page_by_page(station: Station) -> None:
    take_dead_letters(station.broker, "rules", station.database, tables, utc_now)
    await station.start()
    for number in range(5):
        await station.broker.publish(b"%d" % number, exchange=DEAD_LETTERS, routing_key="rules.dead", persist=True)
    await count(station, 5)
    first = await letters(station).list(3)
    rest = await letters(station).list(3, before=first[-1].id)
    assert len(first) == 3
    assert len(rest) == 2
    assert sorted((each.id for each in [*first, *rest]), reverse=True) == [each.id for each in [*first, *rest]]
    assert await letters(station).show(first[0].id) == first[0]
    assert await letters(station).show(10**6) is None


async def test_what_the_broker_gave_up_says_so_and_can_be_replayed(station: Station) -> None:
    take_dead_letters(station.broker, "rules", station.database, tables, utc_now)
    received = receive(station.broker, one_queue())
    await station.start()
    await publish(station.broker, b"\xff\x00", KEY)
    limit = one_queue().arguments["x-delivery-limit"]
    for _ in range(limit + 1):
        await (await get(received)).reject(requeue=True)
    await count(station, 1)
    letter = (await letters(station).list(1))[0]
    assert (letter.queue, letter.body) == ("rules.study.completed.v1", b"\xff\x00")
    assert "process ended" in letter.reason
    assert letter.deaths[0]["reason"] == "delivery_limit"
    assert letter.message_id is not None
    assert (letter.type, letter.subject) == (None, None)
    assert await letters(station).replay([letter.id]) == 1
    assert await Relay(station.database, station.broker, tables, utc_now).relay_once() == 1
    again = await asyncio.wait_for(received.get(), PATIENCE_S)
    assert (again.body, again.raw_message.redelivered) == (b"\xff\x00", False)
    await again.ack()


async def test_what_came_from_nowhere_cannot_be_replayed_and_nothing_else_is(station: Station) -> None:
    take_dead_letters(station.broker, "rules", station.database, tables, utc_now)
    await station.start()
    for queue in ("rules.study.completed.v1", "rules.replica.one.network.applied.v1"):
        await station.broker.publish(
            b"body", exchange=DEAD_LETTERS, routing_key="rules.dead", persist=True, headers={"x-queue": queue}
        )
    await count(station, 2)
    with pytest.raises(ReplayError, match=r"rules\.replica"):
        await letters(station).replay([each.id for each in await letters(station).list(10)])
    assert await station.rows(tables.outbox) == 0
    assert all(each.replayed_at is None for each in await letters(station).list(10))
