"""What a service may rely on in its database."""

import asyncio
import signal
import subprocess
import sys
from datetime import UTC, datetime, timedelta, timezone

import pytest
from sqlalchemy import insert, select, text, update
from sqlalchemy.exc import DBAPIError, IntegrityError, StatementError
from sqlalchemy.ext.asyncio import AsyncSession

from libs.storage.database import Database
from tests.contract.storage.sample import count, counters, insert_second, metadata, names, times

pytestmark = pytest.mark.contract


@pytest.fixture(autouse=True)
async def tables(database: Database) -> None:
    async with database.migrating() as connection:
        await connection.run_sync(metadata.create_all)
        await connection.execute(insert(counters).values(id=1, value=0))


async def test_a_transaction_commits_whole_or_not_at_all(database: Database) -> None:
    async with database.transaction() as tx:
        await tx.execute(insert(names).values(id=1, name="kept"))
    with pytest.raises(IntegrityError):
        async with database.transaction() as tx:
            await tx.execute(insert(names), [{"id": 2, "name": "lost"}, {"id": 3, "name": "kept"}])
    assert await count(database, names) == 1


async def test_reading_refuses_to_write(database: Database) -> None:
    async with database.reading() as session:
        with pytest.raises(DBAPIError, match=r"read-?only"):
            await session.execute(insert(names).values(id=1, name="x"))
    assert await count(database, names) == 0
    # The connection is not read only for whoever has it next.
    async with database.transaction() as tx:
        await tx.execute(insert(names).values(id=1, name="x"))
    assert await count(database, names) == 1


async def test_readers_do_not_wait_for_writers(database: Database) -> None:
    async with database.transaction() as tx:
        await tx.execute(insert(names).values(id=1, name="x"))
        assert await count(database, names) == 0
    assert await count(database, names) == 1


async def test_writers_wait_for_each_other(database: Database, database_url: str) -> None:
    others = [database, Database(database_url, "sample"), Database(database_url, "sample")]

    async def add(writer: Database) -> None:
        async with writer.transaction() as tx:
            row = select(counters.c.value).where(counters.c.id == 1).with_for_update()
            value = (await tx.execute(row)).scalar_one()
            await tx.execute(update(counters).values(value=value + 1))

    await asyncio.gather(*(add(others[number % 3]) for number in range(45)))
    async with database.reading() as session:
        assert (await session.execute(select(counters.c.value))).scalar_one() == 45
    for other in others[1:]:
        await other.close()


async def test_a_writer_that_gives_up_does_not_hold_up_the_others(database: Database) -> None:
    async with database.transaction():
        waiting = asyncio.create_task(insert_second(database))
        await asyncio.wait([waiting], timeout=0.05)
        waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)
    async with database.transaction() as tx:
        await tx.execute(insert(names).values(id=3, name="third"))
    async with database.reading() as session:
        assert 3 in (await session.execute(select(names.c.id))).scalars().all()


async def test_listeners_hear_of_commits_only(database: Database, capsys: pytest.CaptureFixture[str]) -> None:
    heard: list[object] = []

    def fail(_session: AsyncSession) -> None:
        raise ValueError("DOE^JOHN")

    database.on_commit(fail)
    database.on_commit(lambda session: heard.append(session.info.get("mark")))
    async with database.transaction() as tx:
        tx.info["mark"] = "first"
        await tx.execute(insert(names).values(id=1, name="x"))
        assert heard == []
    assert heard == ["first"]
    with pytest.raises(IntegrityError):
        async with database.transaction() as tx:
            await tx.execute(insert(names).values(id=1, name="y"))
    async with database.reading():
        pass
    assert heard == ["first"]
    said = capsys.readouterr().err
    assert "a listener to commits failed" in said
    assert "DOE" not in said


async def test_foreign_keys_are_enforced(database: Database) -> None:
    with pytest.raises(IntegrityError):
        async with database.transaction() as tx:
            await tx.execute(insert(names).values(id=1, name="x", counter=99))


async def test_settings_of_the_connections(database: Database) -> None:
    async with database.transaction() as tx:
        if database.dialect == "sqlite":
            wanted = {"journal_mode": "wal", "synchronous": 2, "foreign_keys": 1, "busy_timeout": 15_000}
            found = {name: (await tx.execute(text(f"PRAGMA {name}"))).scalar_one() for name in wanted}
        else:
            wanted = {"search_path": "sample", "statement_timeout": "1min", "lock_timeout": "15s"}
            wanted["idle_in_transaction_session_timeout"] = "2min"
            found = {name: (await tx.execute(text(f"SHOW {name}"))).scalar_one().strip('"') for name in wanted}
        assert found == wanted


async def test_parameters_are_not_in_errors(database: Database) -> None:
    with pytest.raises(DBAPIError) as raised:
        async with database.transaction() as tx:
            await tx.execute(text("SELECT nothing FROM nowhere WHERE name = :name"), {"name": "DOE^JOHN"})
    assert "DOE" not in str(raised.value)


def committed_until_killed(url: str) -> int:
    """Kill a writer amid its work; give how many commits it was told of."""
    with subprocess.Popen(
        [sys.executable, "-m", "tests.contract.storage.sample", url, "-1"], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        while process.stdout.readline() != "20\n":
            assert process.poll() is None
        process.send_signal(signal.SIGKILL)
        return 21 + sum(line.strip().isdigit() for line in process.stdout)


@pytest.mark.crash
async def test_what_was_committed_outlives_the_process(database: Database, database_url: str) -> None:
    told = committed_until_killed(database_url)
    assert told <= await count(database, times) <= told + 1


async def test_times_on_both_databases(database: Database) -> None:
    moment = datetime(2026, 11, 20, 12, 0, 0, 123456, tzinfo=timezone(timedelta(hours=3)))
    async with database.transaction() as tx:
        await tx.execute(insert(times).values(id=1, at=moment))
        await tx.execute(insert(times).values(id=2, at=None))
    async with database.reading() as session:
        found = (await session.execute(select(times.c.at).order_by(times.c.id))).scalars().all()
    assert found == [moment, None]
    assert found[0].tzinfo is UTC
    with pytest.raises(StatementError, match="without an offset") as raised:
        async with database.transaction() as tx:
            await tx.execute(insert(times).values(id=3, at=datetime(2026, 1, 1)))  # noqa: DTZ001 - that is the point
    assert "2026" not in str(raised.value)
