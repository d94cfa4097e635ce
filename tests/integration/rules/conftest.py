from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.support.postgresql import PostgreSQL
from tests.unit.rules.scene import Scene, make_scene


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Address of an empty database, of each kind in turn."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'db'}"
    server: PostgreSQL = request.getfixturevalue("postgresql")
    return server.database()


@pytest.fixture
async def scene(tmp_path: Path, database_url: str) -> AsyncIterator[Scene]:
    """A decider on each database."""
    made = await make_scene(tmp_path, database_url)
    yield made
    await made.database.close()
