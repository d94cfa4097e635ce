"""What holds for SQLite alone, and for addresses."""

import asyncio
import subprocess
import sys
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import func, insert, select, text

from libs.storage.database import Database
from tests.contract.storage.sample import count, insert_second, metadata, names, times
from tests.support.port import free_port

pytestmark = pytest.mark.contract


async def test_what_is_read_in_a_transaction_stays_true_on_sqlite(tmp_path: Path) -> None:
    one, other = (Database(f"sqlite:///{tmp_path / 'own'}", "sample") for _ in range(2))
    async with one.migrating() as connection:
        await connection.run_sync(metadata.create_all)
    async with one.transaction() as tx:
        writer = asyncio.create_task(insert_second(other))
        assert (await tx.execute(select(func.count()).select_from(names))).scalar_one() == 0
        done, _ = await asyncio.wait([writer], timeout=0.05)
        assert not done
        await tx.execute(insert(names).values(id=1, name="first"))
    await writer
    assert await count(one, names) == 2
    for each in (one, other):
        await each.close()


async def test_a_transaction_in_a_transaction_is_refused_on_sqlite(tmp_path: Path) -> None:
    database = Database(f"sqlite:///{tmp_path / 'own'}", "sample")
    async with database.transaction():
        with pytest.raises(RuntimeError, match="waits for itself"):
            async with database.transaction():
                pass
    async with database.transaction():
        pass
    await database.close()


async def test_files_are_for_this_user_only(tmp_path: Path) -> None:
    database = Database(f"sqlite:///{tmp_path / 'made' / 'deep'}", "sample")
    async with database.transaction() as tx:
        await tx.execute(text("CREATE TABLE a (b INTEGER)"))
        files = list((tmp_path / "made" / "deep").iterdir())
        assert {file.name for file in files} == {"sample.db", "sample.db-wal", "sample.db-shm"}
        for path in (*files, tmp_path / "made", tmp_path / "made" / "deep"):
            assert path.stat().st_mode & 0o077 == 0, path
    await database.close()


async def test_a_secret_is_never_said() -> None:
    database = Database(f"postgresql://someone:a-secret@127.0.0.1:{free_port()}/kivuko", "sample")
    assert "a-secret" not in repr(database)
    with pytest.raises(OSError, match="Connect call failed") as raised:
        async with database.transaction():
            pass
    assert "a-secret" not in repr(raised.value)
    await database.close()
    with pytest.raises(ValueError, match="KIVUKO_DATABASE_URL") as refused:
        Database("mysql://someone:a-secret@127.0.0.1/kivuko", "sample")
    assert "a-secret" not in str(refused.value)


def system_calls(folder: Path, traced: Path) -> str:
    """Trace three commits."""
    command = ["strace", "-f", "-y", "-e", "trace=fsync,fdatasync,write,pwrite64", "-o", str(traced), sys.executable]
    subprocess.run(
        [*command, "-m", "tests.contract.storage.sample", f"sqlite:///{folder}", "2"], check=True, capture_output=True
    )
    return traced.read_text()


async def test_sqlite_syncs_its_log_before_a_commit_returns(tmp_path: Path) -> None:
    folder = tmp_path / "own"
    database = Database(f"sqlite:///{folder}", "sample")
    async with database.migrating() as connection:
        await connection.run_sync(metadata.create_all)
    await database.close()
    text_ = system_calls(folder, tmp_path / "trace")
    assert f"<{folder}>" in text_
    for number in range(3):
        end = text_.index(f'"{number}\\n"')
        one = text_[text_.rindex('"begin\\n"', 0, end) : end]
        log = f"<{folder}/sample.db-wal>"
        written = [line for line in one.splitlines() if log in line]
        assert "pwrite64(" in written[0]
        assert "sync(" in written[-1]


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=25, deadline=None)
@given(
    moments=st.lists(
        st.datetimes(
            datetime(1900, 1, 1),  # noqa: DTZ001 - bounds of naive times, which get their offset from `timezones`
            datetime(2200, 1, 1),  # noqa: DTZ001 - likewise
            timezones=st.integers(-14, 14).map(lambda hours: timezone(timedelta(hours=hours))),
        ),
        min_size=2,
        max_size=6,
    )
)
def test_times_keep_their_moment_and_their_order(
    tmp_path_factory: pytest.TempPathFactory, moments: list[datetime]
) -> None:
    async def store() -> list[datetime]:
        database = Database(f"sqlite:///{tmp_path_factory.mktemp('times')}", "sample")
        async with database.migrating() as connection:
            await connection.run_sync(metadata.create_all)
        async with database.transaction() as tx:
            await tx.execute(insert(times), [{"id": number, "at": moment} for number, moment in enumerate(moments)])
            found = await tx.execute(select(times.c.at).where(times.c.at >= min(moments)).order_by(times.c.at))
            stored = list(found.scalars())
        await database.close()
        return stored

    stored = asyncio.run(store())
    assert stored == sorted(moments)
    assert all(moment.tzinfo is UTC for moment in stored)
