from pathlib import Path

import pytest

from services.ingest.models import metadata
from tests.support.postgresql import PostgreSQL
from tests.support.schema import assert_migrated

pytestmark = pytest.mark.integration


async def test_migrated_equals_fresh_on_sqlite(tmp_path: Path) -> None:
    await assert_migrated(f"sqlite:///{tmp_path}", "ingest", metadata)


async def test_migrated_equals_fresh_on_postgresql(postgresql: PostgreSQL) -> None:
    await assert_migrated(postgresql.database(), "ingest", metadata)
