"""Partners are told by the real broker; a delivery to one is done when the broker has its event."""

import asyncio
import json
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aio_pika
import pytest

from contracts.definition import Definition, Snapshot
from contracts.envelope import Event
from contracts.partner import StudyAvailable
from libs.clock import utc_now
from libs.messaging.broker import make_broker
from libs.messaging.outbox import Outbox
from libs.messaging.relay import Relay
from libs.snapshot import NetworkView
from libs.storage.database import Database
from services.egress.announcing import ANNOUNCED, Announcer
from services.egress.deliveries import Deliveries
from services.egress.models import deliveries as table
from services.egress.models import items, messaging
from services.egress.work import Work
from tests.integration.egress.stand import QUICK, TENANT, request
from tests.support.migrated import migrate
from tests.support.rabbitmq import RabbitMQ

pytestmark = pytest.mark.integration
URL = "https://images.example"


def partners(**changes: Any) -> Snapshot:
    partner = {"tenant": "reader", "events": ["study.available"], "sites": ["a"]} | changes
    document = {"kivuko": 1, "name": "test", "sites": {"a": {"name": "A"}}, "partners": {"telerad": partner}}
    return Snapshot(version=1, document_hash="0" * 64, definition=Definition.model_validate(document))


@dataclass
class Teller:
    database: Database
    deliveries: Deliveries
    announcer: Announcer

    async def request(self, **values: Any) -> None:
        async with self.database.transaction() as tx:
            await self.deliveries.merge(request(**({"destination": "partner:telerad"} | values)), tx)

    async def row(self) -> Any:
        async with self.database.reading() as tx:
            return (await tx.execute(table.select())).one()

    async def until_done(self) -> Any:
        committed = asyncio.Event()
        self.database.on_commit(lambda _session: committed.set())
        async with asyncio.timeout(60):
            while True:
                committed.clear()
                await self.announcer.turn()
                row = await self.row()
                if row.state == "done":
                    return row
                # The relay commits when the broker has confirmed.
                await committed.wait()


@asynccontextmanager
async def teller(folder: Path, rabbitmq: RabbitMQ, *, queues: bool = True, relay: bool = True) -> AsyncIterator[Teller]:
    database = Database(f"sqlite://{folder / 'db'}", "egress")
    await migrate(database, "services.egress")

    async def fetch() -> Snapshot:
        return partners()

    network = NetworkView(fetch, folder / "snapshot.json")
    await network.refresh()
    deliveries = Deliveries(
        database,
        Outbox("egress", "test", utc_now, messaging),
        network,
        QUICK.model_copy(update={"public_url": URL}),
        clock=utc_now,
        partner_queues=queues,
    )
    broker = make_broker(rabbitmq.url, instance="test")
    await broker.connect()
    work = Work(database, deliveries, QUICK, worker="a", clock=utc_now, random=random.Random(1).random)
    await work.adopt()
    announcer = Announcer(deliveries, work, database, broker, region="test", public_url=URL, poll=0.05, clock=utc_now)
    running = asyncio.create_task(Relay(database, broker, messaging, utc_now).run()) if relay else None
    try:
        yield Teller(database, deliveries, announcer)
    finally:
        if running is not None:
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)
        await broker.stop()
        await database.close()


async def told(rabbitmq: RabbitMQ) -> list[tuple[str | None, Event[StudyAvailable]]]:
    """Take what waits in the partner's queue."""
    connection = await aio_pika.connect(rabbitmq.url)
    async with connection:
        channel = await connection.channel()
        queue = await channel.get_queue("partner.reader")
        found = []
        while (message := await queue.get(fail=False)) is not None:
            found.append((message.routing_key, Event[StudyAvailable].model_validate(json.loads(message.body))))
            await message.ack()
        return found


def kept(count: int, first: int = 1) -> list[Any]:
    return [
        {
            "sop_instance_uid": f"1.2.{number}",
            "sop_class_uid": "1.2",
            "transfer_syntax_uid": "1.2.840.10008.1.2",
            "content_hash": f"{number:064x}",
            "object_key": f"t/{number}.dcm",
            "size": 10,
        }
        for number in range(first, first + count)
    ]


async def test_a_partner_is_told_once_of_each_version(tmp_path: Path, rabbitmq: RabbitMQ) -> None:
    async with teller(tmp_path, rabbitmq) as egress:
        await egress.request(wanted=kept(2), closes=False)
        await egress.announcer.turn()
        assert (await egress.row()).state == "open"
        await egress.request(wanted=kept(1, 3), expected=3, priority="stat", study_version=1)
        row = await egress.until_done()
        await egress.announcer.turn()
        [(key, event)] = await told(rabbitmq)
        assert key == "partner.reader.study.available.v1"
        assert (event.type, event.tenant, event.sequence) == ("kivuko.study.available.v1", TENANT, 1)
        assert event.data == StudyAvailable(
            delivery_id=row.id,
            study_instance_uid="1.2.3",
            study_version=1,
            instance_count=3,
            size=30,
            priority="stat",
            reference=f"{URL}/v1/egress/studies/{row.id}",
        )
        async with egress.database.reading() as tx:
            assert {each.status for each in await tx.execute(items.select())} == {ANNOUNCED}

        await egress.request(wanted=kept(1, 4), expected=4, study_version=2)
        await egress.until_done()
        [(_, again)] = await told(rabbitmq)
        assert (again.data.study_version, again.data.instance_count, again.sequence) == (2, 4, 2)
        assert again.data.reference == event.data.reference


async def test_until_the_broker_has_the_event_nothing_is_done(tmp_path: Path, rabbitmq: RabbitMQ) -> None:
    async with teller(tmp_path, rabbitmq, relay=False) as egress:
        await egress.request(wanted=kept(1))
        for _ in range(3):
            await egress.announcer.turn()
        assert (await egress.row()).state == "open"
        async with egress.database.reading() as tx:
            [message] = (await tx.execute(messaging.outbox.select())).all()
    # Another run, after a crash, tells of it no second time.
    async with teller(tmp_path, rabbitmq) as egress:
        await egress.until_done()
        assert [event.id for _, event in await told(rabbitmq)] == [message.message_id]


async def test_without_queues_for_partners_it_is_held_and_says_why(tmp_path: Path, rabbitmq: RabbitMQ) -> None:
    async with teller(tmp_path, rabbitmq, queues=False) as egress:
        await egress.request(wanted=kept(1))
        await egress.announcer.turn()
        row = await egress.row()
    assert row.state == "held"
    assert "RabbitMQ only" in row.reason
