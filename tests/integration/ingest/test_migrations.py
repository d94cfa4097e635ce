from pathlib import Path

import pytest
from sqlalchemy import select, text

from libs.storage.database import Database
from libs.storage.migration import migrate, pending
from services.ingest.models import metadata, series, studies
from tests.support.postgresql import PostgreSQL
from tests.support.schema import assert_migrated, upgrade_to

pytestmark = pytest.mark.integration


async def test_migrated_equals_fresh_on_sqlite(tmp_path: Path) -> None:
    await assert_migrated(f"sqlite:///{tmp_path}", "ingest", metadata)


async def test_migrated_equals_fresh_on_postgresql(postgresql: PostgreSQL) -> None:
    await assert_migrated(postgresql.database(), "ingest", metadata)


async def test_what_the_first_release_has_indexed_is_counted_and_completes(database_url: str) -> None:
    database = Database(database_url, "ingest")
    try:
        async with database.migrating() as connection:
            if database.dialect == "postgresql":
                await connection.execute(text('CREATE SCHEMA "ingest"'))
            await connection.run_sync(upgrade_to, "ingest", "0001")
            # Words of this test alone come into the statements below.
            json = "CAST('{}' AS json)" if database.dialect == "postgresql" else "'{}'"
            for number, due in ((1, "NULL"), (2, "'2026-01-15 10:01:00'"), (3, "NULL")):
                await connection.execute(
                    text(
                        "INSERT INTO studies (id, tenant, study_uid, first_arrival, first_arrival_id,"  # noqa: S608
                        " last_arrival,"
                        f" source, sites, due_at) VALUES ({number}, 'default', '1.2.{number}', '2026-01-15 09:00:00',"
                        f" 'a', '2026-01-15 10:00:00', {json}, {json}, {due})"
                    )
                )
            for number, (study, uid, size) in enumerate([(1, "1.1", 10), (1, "1.1", 20), (1, "1.2", 5), (2, "2.1", 7)]):
                await connection.execute(
                    text(
                        "INSERT INTO instances (study_id, tenant, sop_uid, sop_class_uid, series_uid,"  # noqa: S608
                        " transfer_syntax_uid, content_hash, object_key, size, received_at, batch_id, attributes)"
                        f" VALUES ({study}, 'default', '9.{number}', '1.2', '{uid}', '1.2', 'h', 'k', {size},"
                        f" '2026-01-15 09:00:00', 'b', {json})"
                    )
                )
        assert "0002" in await pending(database, "services.ingest")
        await migrate(database, "services.ingest")
        async with database.reading() as tx:
            counted = await tx.execute(
                select(series.c.study_id, series.c.series_uid, series.c.instance_count, series.c.size, series.c.numbers)
            )
            assert sorted(tuple(row) for row in counted) == [
                (1, "1.1", 2, 30, None),
                (1, "1.2", 1, 5, None),
                (2, "2.1", 1, 7, None),
            ]
            found = await tx.execute(
                select(studies.c.id, studies.c.size, studies.c.pending_since == studies.c.last_arrival)
            )
            # One that waited for its version goes on waiting from its last arrival; the others have theirs.
            assert sorted(tuple(row) for row in found) == [(1, 35, None), (2, 7, True), (3, 0, None)]
    finally:
        await database.close()
