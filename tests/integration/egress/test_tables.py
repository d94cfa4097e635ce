"""The tables of egress on both databases."""

from pathlib import Path

import pytest

from services.egress.models import metadata
from tests.support.postgresql import PostgreSQL
from tests.support.schema import assert_migrated

pytestmark = pytest.mark.integration


@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
async def test_revisions_make_the_tables_of_the_metadata(kind: str, tmp_path: Path, postgresql: PostgreSQL) -> None:
    url = postgresql.database() if kind == "postgresql" else f"sqlite://{tmp_path / 'db'}"
    await assert_migrated(url, "egress", metadata)
