"""Each test runs against SQLite and against a real PostgreSQL server."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from libs.storage.database import Database


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Address of an empty database."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'db'}"
    url: str = request.getfixturevalue("postgresql").database()
    return url


@pytest.fixture
async def database(database_url: str) -> AsyncIterator[Database]:
    """The tables of a service that has none yet; the schema is there."""
    opened = Database(database_url, "sample")
    if opened.dialect == "postgresql":
        async with opened.migrating() as connection:
            await connection.exec_driver_sql("CREATE SCHEMA sample")
    yield opened
    await opened.close()
