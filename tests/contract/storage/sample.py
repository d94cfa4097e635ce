"""Tables and a writer that several tests use. As a program: `sample.py URL LAST` commits rows until LAST."""

import asyncio
import os
import sys

from sqlalchemy import Column, ForeignKey, Integer, MetaData, String, Table, func, insert, select

from libs.storage.database import Database
from libs.storage.instant import Instant

metadata = MetaData()
counters = Table("counters", metadata, Column("id", Integer, primary_key=True), Column("value", Integer))
names = Table(
    "names",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("name", String(64), unique=True),
    Column("counter", Integer, ForeignKey("counters.id", ondelete="CASCADE")),
)
times = Table("times", metadata, Column("id", Integer, primary_key=True), Column("at", Instant))


async def count(database: Database, table: Table) -> int:
    async with database.reading() as session:
        return (await session.execute(select(func.count()).select_from(table))).scalar_one()


async def insert_second(database: Database) -> None:
    async with database.transaction() as tx:
        await tx.execute(insert(names).values(id=2, name="second"))


async def commit_until(url: str, last: int) -> None:
    database = Database(url, "sample")
    for number in range(100_000):
        os.write(1, b"begin\n")
        async with database.transaction() as tx:
            await tx.execute(insert(times).values(id=number))
        os.write(1, f"{number}\n".encode())
        if number == last:
            break
    await database.close()


if __name__ == "__main__":
    asyncio.run(commit_until(sys.argv[1], int(sys.argv[2])))
