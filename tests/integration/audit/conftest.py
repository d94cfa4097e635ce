import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from sqlalchemy import func, select

from libs.storage.database import Database
from services.audit.models import records
from tests.support.migrated import migrate
from tests.support.postgresql import PostgreSQL


class SettableClock:
    """A clock that stands until it is told to move."""

    def __init__(self) -> None:
        self.now = datetime(2026, 11, 20, 9, 30, tzinfo=UTC)

    def __call__(self) -> datetime:
        return self.now

    def move(self, by: timedelta) -> None:
        self.now += by


@pytest.fixture
def clock() -> SettableClock:
    return SettableClock()


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Address of an empty database, of each kind in turn."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'db'}"
    server: PostgreSQL = request.getfixturevalue("postgresql")
    return server.database()


@pytest.fixture
async def database(database_url: str) -> AsyncIterator[Database]:
    """The migrated tables of audit."""
    opened = Database(database_url, "audit")
    await migrate(opened, "services.audit")
    yield opened
    await opened.close()


async def until_recorded(database: Database, count: int) -> None:
    """Return when there are so many records; commits are what it waits for, the test's time limit ends it."""
    committed = asyncio.Event()
    database.on_commit(lambda _session: committed.set())
    while True:
        committed.clear()
        async with database.reading() as tx:
            if (await tx.scalar(select(func.count()).select_from(records)) or 0) >= count:
                return
        await committed.wait()
