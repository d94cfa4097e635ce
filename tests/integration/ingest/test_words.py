"""What egress says of deliveries, from the broker into what retention knows."""

import asyncio
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select

from contracts.delivery import DeliveryDiverted, DeliveryOrdered
from contracts.envelope import CONTENT_TYPE, Event
from contracts.fact import Fact
from libs.clock import utc_now
from libs.messaging.broker import make_broker
from libs.messaging.topology import EVENTS, declare
from libs.storage.database import Database
from services.ingest import handlers
from services.ingest.models import deliveries
from tests.support.migrated import migrate

pytestmark = pytest.mark.integration
_WHICH: dict[str, Any] = {"delivery_id": "d", "study_instance_uid": "1.2", "destination": "archive"}


def ordered(order: str, version: int | None = 2) -> DeliveryOrdered:
    return DeliveryOrdered.model_validate(_WHICH | {"order": order, "actor": "op", "study_version": version})


def diverted(arrived: int | None) -> DeliveryDiverted:
    return DeliveryDiverted.model_validate(_WHICH | {"instead": "spare", "arrived_version": arrived})


@pytest.mark.parametrize(
    ("words", "waived", "instead"),
    [
        ([(1, ordered("cancelled"))], 2, None),
        # A release that did not say of which version: nothing is let go.
        ([(1, ordered("cancelled", None))], 0, None),
        ([(1, ordered("cancelled")), (2, ordered("released"))], 0, None),
        # They come in any order; the number tells which was said last.
        ([(2, ordered("retried")), (1, ordered("cancelled"))], 0, None),
        ([(1, diverted(None)), (2, diverted(2))], 2, "spare"),
        ([(2, diverted(2)), (1, diverted(None))], 2, "spare"),
        ([(1, diverted(2)), (2, ordered("retried"))], 0, None),
        ([(1, ordered("cancelled")), (2, diverted(None))], 0, None),
    ],
)
async def test_the_last_word_counts(
    tmp_path: Path, words: list[tuple[int, Fact]], waived: int, instead: str | None
) -> None:
    database = Database(f"sqlite://{tmp_path / 'db'}", "ingest")
    await migrate(database, "services.ingest")
    broker = make_broker(f"sqlite://{tmp_path / 'bus.db'}", instance="test")
    handlers.register(broker, database, utc_now)
    committed = asyncio.Event()
    database.on_commit(lambda _session: committed.set())
    await broker.connect()
    await declare(broker)
    await broker.start()
    try:
        for number, fact in words:
            committed.clear()
            name = "ordered" if isinstance(fact, DeliveryOrdered) else "diverted"
            made: Any = Event[DeliveryOrdered] if name == "ordered" else Event[DeliveryDiverted]
            event = made(
                id=f"{number}",
                source="/test/egress",
                type=f"kivuko.delivery.{name}.v1",
                subject="1.2",
                time=utc_now(),
                tenant="t",
                sequence=number,
                data=fact,
            )
            await broker.publish(
                event.model_dump_json().encode(),
                exchange=EVENTS,
                routing_key=f"delivery.{name}.v1.t",
                persist=True,
                content_type=CONTENT_TYPE,
            )
            async with asyncio.timeout(60):
                await committed.wait()
        async with database.reading() as tx:
            row = (await tx.execute(select(deliveries))).one()
        assert (row.wanted_version, row.done_version, row.waived_version, row.instead) == (0, 0, waived, instead)
    finally:
        await broker.stop()
        await database.close()
