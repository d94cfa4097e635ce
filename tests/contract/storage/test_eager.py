"""Many rows of one INSERT, and the end of a connection, on a real SQLite."""

import asyncio
from pathlib import Path

import pytest
from sqlalchemy import Column, Integer, MetaData, String, Table, select
from sqlalchemy.dialects import sqlite
from sqlalchemy.exc import IntegrityError

from libs.storage.database import Database
from libs.storage.eager import connect

METADATA = MetaData()
THINGS = Table("things", METADATA, Column("id", Integer, primary_key=True), Column("said", String, nullable=False))


@pytest.fixture
async def database(tmp_path: Path) -> Database:
    made = Database(f"sqlite:///{tmp_path}", "things")
    async with made.migrating() as connection:
        await connection.run_sync(METADATA.create_all)
    return made


@pytest.mark.parametrize("count", [1, 3, 4, 63, 64, 65, 200, 1001])
async def test_every_row_is_there_in_its_order(database: Database, count: int) -> None:
    rows = [{"id": number, "said": f"? VALUES ({number})"} for number in reversed(range(count))]
    async with database.transaction() as tx:
        written = await tx.execute(THINGS.insert(), rows)
        assert written.rowcount == count  # type: ignore[attr-defined]
    async with database.reading() as tx:
        found = [tuple(row) for row in await tx.execute(select(THINGS).order_by(THINGS.c.id.desc()))]
    assert found == [(row["id"], row["said"]) for row in rows]
    await database.close()


async def test_what_is_there_is_left_out_and_not_counted(database: Database) -> None:
    absent = sqlite.insert(THINGS).on_conflict_do_nothing()
    async with database.transaction() as tx:
        await tx.execute(THINGS.insert(), [{"id": 70, "said": "first"}])
        written = await tx.execute(absent, [{"id": number, "said": "second"} for number in range(100)])
        assert written.rowcount == 99  # type: ignore[attr-defined]
    async with database.reading() as tx:
        assert await tx.scalar(select(THINGS.c.said).where(THINGS.c.id == 70)) == "first"
    await database.close()


async def test_one_bad_row_of_many_leaves_none(database: Database) -> None:
    rows = [{"id": number % 150, "said": "x"} for number in range(151)]
    with pytest.raises(IntegrityError):
        async with database.transaction() as tx:
            await tx.execute(THINGS.insert(), rows)
    async with database.reading() as tx:
        assert (await tx.execute(select(THINGS))).all() == []
    await database.close()


async def test_a_connection_that_is_told_to_end_twice_ends(tmp_path: Path) -> None:
    connection = await connect(str(tmp_path / "db"), at_once=False)
    connection.stop()
    async with asyncio.timeout(10):
        with pytest.raises(ValueError, match="Connection closed"):
            await connection.close()
