"""Rows by the hundred: written by one statement, and found by a list of keys."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
from sqlalchemy import JSON, Column, Integer, LargeBinary, MetaData, String, Table, select
from sqlalchemy.exc import IntegrityError

from libs.storage import bulk, keys
from libs.storage.database import Database
from libs.storage.instant import Instant

pytestmark = pytest.mark.contract

metadata = MetaData()
things = Table(
    "things",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=True),
    Column("owner", String(64), nullable=False),
    Column("name", String(64), nullable=False, unique=True),
    Column("said", JSON, nullable=False),
    Column("raw", LargeBinary, nullable=True),
    Column("at", Instant, nullable=False),
    Column("count", Integer, nullable=False, server_default="7"),
)
AT = datetime(2026, 11, 20, 12, 0, 0, 5, tzinfo=timezone(timedelta(hours=1)))


@pytest.fixture(autouse=True)
async def tables(database: Database) -> None:
    async with database.migrating() as connection:
        await connection.run_sync(metadata.create_all)


def thing(number: int, owner: str = "A") -> dict[str, Any]:
    raw = None if number % 2 else b"\0\xff"
    return {"owner": owner, "name": f'n"{number}\\é', "said": {"n": [number, None]}, "raw": raw, "at": AT}


async def found(database: Database, columns: Sequence[Column[Any]], wanted: Sequence[Sequence[str | int]]) -> list[int]:
    statement = keys.find(database.dialect, things, *columns, give=[things.c.id])
    async with database.reading() as tx:
        return sorted(await tx.scalars(statement, keys.of(wanted)))


@pytest.mark.parametrize("count", [0, 1, 3, 500])
async def test_what_is_written_is_read(database: Database, count: int) -> None:
    rows = [thing(number) for number in range(count)]
    async with database.transaction() as tx:
        await bulk.insert(tx, things, rows)
    async with database.reading() as tx:
        kept = [row._asdict() for row in await tx.execute(select(things).order_by(things.c.id))]
    assert [row.pop("id") for row in kept] == list(range(1, count + 1))
    assert kept == [{**row, "count": 7, "at": AT.astimezone(UTC)} for row in rows]


async def test_all_rows_or_none(database: Database) -> None:
    with pytest.raises(IntegrityError):
        async with database.transaction() as tx:
            await bulk.insert(tx, things, [thing(1), thing(2), thing(1)])
    async with database.reading() as tx:
        assert (await tx.execute(select(things))).all() == []


async def test_rows_by_keys(database: Database) -> None:
    async with database.transaction() as tx:
        await bulk.insert(tx, things, [thing(number, "AB"[number % 2]) for number in range(300)])
    of_name, of_both, of_id = [things.c.name], [things.c.owner, things.c.name], [things.c.id]
    assert await found(database, of_name, [('n"3\\é',), ("n3",), ('n"3\\é',)]) == [4]
    assert await found(database, of_both, [("B", 'n"3\\é'), ("A", 'n"3\\é'), ("A", 'n"0\\é')]) == [1, 4]
    assert await found(database, of_id, [(7,), (9,), (0,), (2**40,)]) == [7, 9]
    assert await found(database, of_id, []) == []
    own = keys.find(database.dialect, things, things.c.id, give=[things.c.id], where=things.c.owner == "B")
    async with database.reading() as tx:
        assert sorted(await tx.scalars(own, keys.of([(1,), (2,), (3,), (4,)]))) == [2, 4]
    assert await found(database, of_id, [(number,) for number in range(1, 301)]) == list(range(1, 301))
