"""Many events, one transaction: what is ready goes together, what fails goes alone."""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from typing import Any

import pytest
from aio_pika import IncomingMessage
from aiormq.abc import DeliveredMessage
from faststream.rabbit.message import RabbitMessage
from pamqp import commands as spec
from pamqp.header import ContentHeader
from sqlalchemy import insert
from sqlalchemy.ext.asyncio import AsyncSession

from contracts.envelope import Event
from contracts.study import StudyCompleted
from libs.clock import utc_now
from libs.messaging.batch import HOLD_S, TOGETHER, Batches
from libs.messaging.consume import consume
from libs.messaging.deadletter import DeadLetters, take_dead_letters
from libs.messaging.failure import Refuse, Retry
from libs.messaging.ladder import ATTEMPT
from libs.messaging.topology import DELIVERY_LIMIT
from libs.messaging.verdict import Verdict
from libs.storage.database import Database
from tests.contract.messaging.station import LADDER, Station, event, make_tables, note, tables, until

pytestmark = pytest.mark.contract
QUEUE = "rules.study.completed.v1"


@pytest.fixture
async def database(database_url: str) -> AsyncIterator[Database]:
    """A database with the tables of the station."""
    opened = Database(database_url, "rules")
    await make_tables(opened)
    yield opened
    await opened.close()


class Bench:
    """Batches on a real database, whose events are ready at the same time."""

    def __init__(self, database: Database, linger: float = 0.0) -> None:
        self.station = database
        self.transactions: list[list[str]] = []
        self.failing: dict[str, Exception] = {}
        self.now = 0.0
        self.takes_s = 0.0
        self._last: AsyncSession | None = None
        self.deeds: list[str] = []
        self._outcomes: dict[RabbitMessage, str | Verdict] = {}
        self._batches = Batches(
            QUEUE, self._handle, self._settle, database, tables, utc_now, linger=linger, monotonic=lambda: self.now
        )

    async def _settle(self, message: RabbitMessage, outcome: str | Verdict) -> None:
        await asyncio.sleep(0.01)  # as long as a broker may take: whoever does not wait for it comes first
        self._outcomes[message] = outcome
        self.deeds.append("settled")

    async def _handle(self, _body: bytes, tx: AsyncSession, event: Event[Any]) -> None:
        if tx is not self._last:
            self._last = tx
            self.transactions.append([])
        self.transactions[-1].append(event.id)
        self.deeds.append(event.id)
        await tx.execute(insert(note).values(text=event.id))
        self.now += self.takes_s
        if event.id in self.failing:
            raise self.failing[event.id]

    async def work_off(self, *taken: "tuple[Event[Any], RabbitMessage]") -> list[str | Verdict]:
        """Have events processed that are ready together; give their outcomes."""
        await asyncio.gather(*(self._batches.process(message, event) for event, message in taken))
        return [self._outcomes[message] for _, message in taken]


def taken(
    id: str,  # noqa: A002 - CloudEvents' name
    *,
    subject: str = "1.2.3",
    redelivered: bool = False,
    headers: Mapping[str, Any] | None = None,
) -> tuple[Event[Any], RabbitMessage]:
    """Give an event and the message that a broker would deliver it in."""
    found = event(id=id).model_copy(update={"subject": subject})
    properties = spec.Basic.Properties(headers=dict(headers or {}))
    deliver = spec.Basic.Deliver("tag", 1, redelivered, "kivuko.events", "study.completed.v1.default")
    raw = IncomingMessage(DeliveredMessage(deliver, ContentHeader(0, 0, properties), b"", None))  # type: ignore[arg-type] # nothing is settled here
    return found, RabbitMessage(body=b"", headers=dict(headers or {}), raw_message=raw)


async def notes(database: Database) -> list[str]:
    station = object.__new__(Station)
    station.database = database
    return await station.notes()


async def test_what_is_ready_shares_a_transaction_in_the_order_of_what_it_is_about(database: Database) -> None:
    bench = Bench(database)
    outcomes = await bench.work_off(taken("a", subject="2"), taken("b", subject="1"), taken("c", subject="2"))
    assert outcomes == ["processed"] * 3
    assert bench.transactions == [["b", "a", "c"]]
    assert await notes(database) == ["b", "a", "c"]


async def test_where_nobody_waits_a_batch_waits_for_others_until_it_is_full(database: Database) -> None:
    bench = Bench(database, linger=3600)
    first = asyncio.create_task(bench.work_off(taken("first")))
    await asyncio.sleep(0.05)
    assert bench.transactions == []
    await bench.work_off(*(taken(str(number)) for number in range(TOGETHER - 1)))
    assert await first == ["processed"]
    assert [len(each) for each in bench.transactions] == [TOGETHER]


async def test_a_batch_does_not_wait_for_ever(database: Database) -> None:
    bench = Bench(database, linger=0.01)
    assert await bench.work_off(taken("alone")) == ["processed"]


async def test_a_batch_is_bounded(database: Database) -> None:
    bench = Bench(database)
    outcomes = await bench.work_off(*(taken(str(number)) for number in range(2 * TOGETHER + 1)))
    assert outcomes == ["processed"] * (2 * TOGETHER + 1)
    assert [len(transaction) for transaction in bench.transactions] == [TOGETHER, TOGETHER, 1]


async def test_a_batch_that_takes_long_commits_and_the_rest_follows(database: Database) -> None:
    bench = Bench(database)
    bench.takes_s = HOLD_S / 2
    ids = ["a", "b", "c", "d", "e"]
    outcomes = await bench.work_off(*(taken(id_) for id_ in ids))
    assert outcomes == ["processed"] * 5
    assert bench.transactions == [["a", "b"], ["c", "d"], ["e"]]
    assert await notes(database) == ids
    assert await bench.work_off(*(taken(id_) for id_ in ids)) == ["repeated"] * 5


@pytest.mark.parametrize(
    ("failure", "final"), [(ValueError("x"), False), (Retry("later"), False), (Refuse("no"), True)]
)
async def test_one_that_fails_costs_the_others_a_second_try_and_no_more(
    database: Database, failure: Exception, final: bool
) -> None:
    bench = Bench(database)
    bench.failing = {"poison": failure}
    outcomes = await bench.work_off(taken("a"), taken("poison"), taken("b"))
    verdict = outcomes[1]
    assert isinstance(verdict, Verdict)
    assert (outcomes[0], verdict.final, verdict.ours, outcomes[2]) == ("processed", final, False, "processed")
    assert bench.transactions == [["a", "poison"], ["a"], ["poison"], ["b"]]
    assert await notes(database) == ["a", "b"]
    del bench.failing["poison"]
    assert await bench.work_off(taken("a"), taken("poison"), taken("b")) == ["repeated", "processed", "repeated"]


@pytest.mark.parametrize("headers", [{ATTEMPT: 1}, None])
async def test_what_failed_or_was_delivered_before_takes_no_other_with_it(
    database: Database, headers: dict[str, Any] | None
) -> None:
    bench = Bench(database)
    suspect = taken("suspect", headers=headers, redelivered=headers is None)
    assert await bench.work_off(taken("a"), taken("b"), suspect, taken("c"), taken("d")) == ["processed"] * 5
    assert bench.transactions == [["a", "b"], ["suspect"], ["c", "d"]]


async def test_an_event_that_comes_twice_in_a_batch_takes_effect_once(database: Database) -> None:
    bench = Bench(database)
    assert sorted(str(one) for one in await bench.work_off(taken("a"), taken("a"), taken("b"))) == [
        "processed",
        "processed",
        "repeated",
    ]
    assert await notes(database) == ["a", "b"]


async def test_without_a_database_no_event_is_to_blame(tmp_path: Any) -> None:
    database = Database(f"sqlite:///{tmp_path}", "rules")  # has no tables
    outcomes = await Bench(database).work_off(taken("a"), taken("b"), taken("c"))
    assert [isinstance(one, Verdict) and one.ours for one in outcomes] == [True] * 3
    await database.close()


async def publish_early(station: Station, ids: Sequence[str]) -> None:
    """Have events wait for a consumer that has not started."""
    early = Station(station.broker_url, station.database_url, "ingest")
    await early.start()
    for id_ in ids:
        await early.publish(event(id=id_))
    await early.close()


async def test_one_poisonous_event_among_many_becomes_the_only_dead_letter(station: Station) -> None:
    ids = [f"event-{number}" for number in range(TOGETHER + 10)]
    await publish_early(station, [*ids[:30], "poison", *ids[30:]])

    @consume(station.broker, "rules", StudyCompleted, station.database, tables, utc_now, ladder=LADDER)
    async def handle(event: Event[StudyCompleted], tx: AsyncSession) -> None:
        await tx.execute(insert(note).values(text=event.id))
        if event.id == "poison":
            raise ValueError("whatever it is")

    take_dead_letters(station.broker, "rules", station.database, tables, utc_now)
    await station.start()
    letters = DeadLetters(station.database, tables, utc_now)

    async def worked_off() -> bool:
        return len(await letters.list(10)) == 1 and len(await station.notes()) >= len(ids)

    await until(worked_off, "all events, and a dead letter")
    [letter] = await letters.list(10)
    assert (letter.message_id, letter.attempts) == ("poison", len(LADDER) + 1)
    assert sorted(await station.notes()) == sorted(ids)


async def test_what_may_end_the_process_waits_until_the_broker_knows_what_is_done(database: Database) -> None:
    bench = Bench(database)
    often = {"x-delivery-count": 4}
    await bench.work_off(*(taken(id_, headers=often, redelivered=True) for id_ in "abc"))
    assert bench.deeds == ["a", "settled", "b", "settled", "c", "settled"]


@pytest.mark.crash
async def test_a_batch_whose_process_was_killed_takes_effect_once(
    station: Station, start_peer: Callable[..., Any]
) -> None:
    ids = [f"event-{number}" for number in range(8)]
    await publish_early(station, ids)
    peer = start_peer("handle_some", station.broker_url, station.database_url, "rules")
    assert await asyncio.to_thread(peer.line) == "third"
    peer.kill()

    @consume(station.broker, "rules", StudyCompleted, station.database, tables, utc_now)
    async def handle(event: Event[StudyCompleted], tx: AsyncSession) -> None:
        await tx.execute(insert(note).values(text=event.id))

    await station.start()

    async def all_there() -> bool:
        return len(await station.notes()) >= len(ids)

    await until(all_there, "every event")
    assert sorted(await station.notes()) == ids


@pytest.mark.crash
async def test_who_ends_the_process_each_time_dies_alone(tmp_path: Any, start_peer: Callable[..., Any]) -> None:
    station = Station(f"sqlite:///{tmp_path / 'bus.db'}", f"sqlite:///{tmp_path / 'db'}", "rules")
    await make_tables(station.database)
    innocent = [f"event-{number}" for number in range(6)]
    await publish_early(station, [*innocent[:3], "poison", *innocent[3:]])
    for _ in range(DELIVERY_LIMIT + 1):
        peer = start_peer("die", station.broker_url, station.database_url, "rules")
        assert await asyncio.to_thread(peer.rest) == []
        peer.kill()
    take_dead_letters(station.broker, "rules", station.database, tables, utc_now)
    await station.start()
    letters = DeadLetters(station.database, tables, utc_now)

    async def died() -> bool:
        return bool(await letters.list(10))

    await until(died, "a dead letter")
    assert [letter.message_id for letter in await letters.list(10)] == ["poison"]
    assert sorted(await station.notes()) == innocent
    await station.close()
