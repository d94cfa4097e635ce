"""The embedded profile on a full disk: nothing becomes a dead letter for it, and all goes on when there is room."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import event as sqlalchemy_event
from sqlalchemy import insert
from sqlalchemy.ext.asyncio import AsyncSession

from contracts.envelope import Event
from contracts.study import StudyCompleted
from libs.clock import utc_now
from libs.messaging.consume import consume
from libs.messaging.deadletter import take_dead_letters
from tests.contract.messaging.station import LADDER, Station, event, make_tables, note, tables, until

pytestmark = pytest.mark.contract
#: More failures than the ladder has rungs, and more deliveries than a queue allows.
MANY = 12


@pytest.fixture
async def embedded(tmp_path: Path) -> AsyncIterator[Station]:
    station = Station(f"sqlite:///{tmp_path / 'bus.db'}", f"sqlite:///{tmp_path / 'db'}", "rules")
    await make_tables(station.database)
    yield station
    await station.close()


def limit(station: Station, pages: int) -> None:
    """Let no connection of the service's database use more pages; SQLite never goes below what is there."""

    def set_limit(connection: Any) -> None:
        cursor = connection.cursor()
        cursor.execute(f"PRAGMA max_page_count = {pages}")
        cursor.close()

    @sqlalchemy_event.listens_for(station.database.engine.sync_engine, "checkout")
    def checked_out(connection: Any, _record: object, _proxy: object) -> None:
        set_limit(connection)


async def test_a_full_database_makes_no_dead_letters(embedded: Station) -> None:
    tried = asyncio.Semaphore(0)

    @consume(embedded.broker, "rules", StudyCompleted, embedded.database, tables, utc_now, ladder=LADDER)
    async def handle(event: Event[StudyCompleted], tx: AsyncSession) -> None:
        tried.release()
        for _ in range(500):
            await tx.execute(insert(note).values(text=event.id.ljust(200)))

    take_dead_letters(embedded.broker, "rules", embedded.database, tables, utc_now)
    limit(embedded, 1)
    await embedded.start()
    await embedded.publish(event())
    for _ in range(MANY):
        await asyncio.wait_for(tried.acquire(), 60)
    limit(embedded, 1_000_000)

    async def handled() -> bool:
        return len(await embedded.notes()) == 500

    await until(handled, "the event took effect by itself")
    assert await embedded.rows(tables.dead_letter) == 0
