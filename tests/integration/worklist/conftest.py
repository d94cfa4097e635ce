"""Worklist's orders on each database."""

import json
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from datetime import timedelta
from itertools import count
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from sqlalchemy import select

from libs.messaging.outbox import Outbox
from libs.storage.database import Database
from services.worklist.change import Change
from services.worklist.meeting import Meeting
from services.worklist.models import items, messaging
from services.worklist.orders import Orders, Received, Taken
from tests.support.migrated import migrate
from tests.support.postgresql import PostgreSQL
from tests.unit.worklist.said import NOON


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Address of an empty database, of each kind in turn."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'db'}"
    server: PostgreSQL = request.getfixturevalue("postgresql")
    return server.database()


@dataclass
class Desk:
    """Orders on a database."""

    database: Database
    orders: Orders
    meeting: Meeting

    async def take(self, *changes: Change, raw: bytes | None = None, control_id: str | None = None) -> Taken:
        """Take one message."""
        origin = changes[0].origin
        said = repr(changes).encode() if raw is None else raw
        return await self.orders.take(
            Received(origin.source, control_id or origin.message, said, NOON + timedelta(hours=1), changes)
        )

    async def items(self) -> list[dict[str, Any]]:
        """Give what is shown on worklists, in an order of its own."""
        wanted = items.c.state.in_(("scheduled", "arrived", "started"))
        async with self.database.reading() as tx:
            rows = [row._asdict() for row in await tx.execute(select(items).where(wanted))]
        without = ("id", "order_id", "revision", "changed_at", "performed")
        return sorted(
            ({k: v for k, v in row.items() if k not in without} for row in rows),
            key=lambda row: json.dumps(row, sort_keys=True),
        )

    async def events(self) -> Sequence[tuple[str, dict[str, Any]]]:
        """Give the events that were told, in their order."""
        async with self.database.reading() as tx:
            rows = await tx.execute(select(messaging.outbox).order_by(messaging.outbox.c.id))
            return [(row.type.split(".")[2], json.loads(row.body)["data"]) for row in rows]


async def make_desk(url: str) -> Desk:
    """Open orders on a database."""
    database = Database(url, "worklist")
    await migrate(database, "services.worklist")
    ticks = count()

    def clock() -> Any:
        return NOON + timedelta(hours=2, seconds=next(ticks))

    outbox = Outbox("worklist", "local", clock, messaging)
    day = timedelta(days=1)
    meeting = Meeting(
        lambda _: ZoneInfo("Africa/Malabo"), clock, outbox, order_grace=day, study_grace=day / 24, looked_back=30 * day
    )
    return Desk(database, Orders(database, outbox, lambda _: ZoneInfo("Africa/Malabo"), clock, meeting), meeting)


@pytest.fixture
async def desk(database_url: str) -> AsyncIterator[Desk]:
    """Orders on an empty database."""
    made = await make_desk(database_url)
    yield made
    await made.database.close()
