"""Header documents that were put for nothing are removed, and none that a batch names, whatever went wrong."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select
from sqlalchemy.exc import DBAPIError, OperationalError
from sqlalchemy.ext.asyncio import AsyncSession

from libs.clock import utc_now
from libs.storage.database import Database
from libs.storage.folder import FolderStore
from libs.storage.objects import StoreUnavailableError
from services.ingest import repository
from services.ingest.leftovers import Leftovers, batch_of
from services.ingest.models import batches, instances, studies
from services.ingest.spool import Spool
from tests.integration.ingest.conftest import Running, running
from tests.integration.ingest.peer import send
from tests.support.migrated import migrate
from tests.support.postgresql import PostgreSQL
from tests.support.synthetic import make_study

pytestmark = pytest.mark.integration
KEY = f"headers/default/1.2/{'a' * 32}.json.gz"
OTHER = f"headers/default/1.2/{'b' * 32}.json.gz"


async def only_what_batches_name(ingest: Running, count: int) -> None:
    """So many instances are indexed, and neither document nor note is left over."""
    await ingest.until_indexed()
    assert len(await ingest.rows(select(instances.c.id))) == count
    named = {row.headers_key for row in await ingest.rows(select(batches.c.headers_key))}
    assert set(ingest.objects.list("headers/")) == named
    assert named


async def two_studies_in_one_round(home: Path, tmp_path: Path) -> None:
    async with running(home, loops=False) as ingest:
        for number in (1, 2):
            paths = make_study(tmp_path, 2, study_uid=f"1.2.{number}")
            assert await asyncio.to_thread(send, ingest.port, paths) == [0] * 2


async def test_studies_whose_round_failed_half_way_leave_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # They were noted together, and are tried again each by itself.
    await two_studies_in_one_round(tmp_path / "home", tmp_path)
    good, failed = FolderStore.put, asyncio.Event()

    def second_fails(store: FolderStore, key: str, *args: Any, **kwargs: Any) -> bool:
        if key.startswith("headers/") and list(store.list("headers/")) and not failed.is_set():
            failed.set()
            raise StoreUnavailableError("the object store is away: start it")
        return good(store, key, *args, **kwargs)

    monkeypatch.setattr(FolderStore, "put", second_fails)
    async with running(tmp_path / "home") as ingest:
        await only_what_batches_name(ingest, 4)
        assert failed.is_set()


async def test_it_is_tried_again_while_the_store_is_away(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    await two_studies_in_one_round(tmp_path / "home", tmp_path)
    async with running(tmp_path / "home", loops=False) as ingest:
        leftovers = Leftovers(ingest.database, ingest.objects, Spool(ingest.home / "spool", 0))
        Spool(ingest.home / "spool", 0).note_headers([KEY])
        ingest.objects.put(KEY, b"of no use")

        def away(_key: str) -> None:
            raise StoreUnavailableError("the object store is away: start it")

        await leftovers.look()
        with monkeypatch.context() as patched:
            patched.setattr(ingest.objects, "delete", away)
            with pytest.raises(StoreUnavailableError):
                await leftovers.remove()
        assert [note.keys for note in Spool(ingest.home / "spool", 0).noted_headers()] == [(KEY,)]
        await leftovers.remove()
        assert Spool(ingest.home / "spool", 0).noted_headers() == []
        assert list(ingest.objects.list("headers/")) == []


@pytest.mark.parametrize("committed", [True, False])
async def test_whether_it_was_committed_the_tables_say(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, database_url: str, committed: bool
) -> None:
    lost = OperationalError("the connection was lost", None, Exception())
    index, transaction = repository.index, Database._transaction
    indexed: list[AsyncSession] = []
    said: list[bool] = []

    async def noticed(tx: AsyncSession, *args: Any, **kwargs: Any) -> Any:
        found = await index(tx, *args, **kwargs)
        indexed.append(tx)
        return found

    @asynccontextmanager
    async def losing(database: Database) -> AsyncIterator[AsyncSession]:
        async with transaction(database) as tx:
            yield tx
            if tx in indexed and not committed and not said:
                said.append(True)
                raise lost
        if tx in indexed and not said:
            said.append(True)
            raise lost

    monkeypatch.setattr(repository, "index", noticed)
    monkeypatch.setattr(Database, "_transaction", losing)
    async with running(tmp_path / "home", database_url=database_url) as ingest:
        assert await asyncio.to_thread(send, ingest.port, make_study(tmp_path, 3)) == [0] * 3
        await only_what_batches_name(ingest, 3)
    assert said


async def test_a_commit_that_is_under_way_is_waited_for(tmp_path: Path, postgresql: PostgreSQL) -> None:
    database = Database(postgresql.database(), "ingest")
    await migrate(database, "services.ingest")
    objects, spool = FolderStore(tmp_path / "objects"), Spool(tmp_path / "spool", 0)
    spool.note_headers([KEY, OTHER])
    for key in (KEY, OTHER):
        objects.put(key, b"a document")
    leftovers = Leftovers(database, objects, spool)
    await leftovers.look()
    async with database.transaction() as tx:
        await tx.execute(studies.insert().values(_study()))
        await tx.execute(batches.insert().values(_batch(await tx.scalar(select(studies.c.id)))))
        with pytest.raises(DBAPIError):
            await leftovers.remove()
        assert set(objects.list("headers/")) == {KEY, OTHER}
    await leftovers.remove()
    assert list(objects.list("headers/")) == [KEY]
    assert spool.noted_headers() == []
    objects.close()
    await database.close()


def _study() -> dict[str, Any]:
    now = utc_now()
    return {
        "tenant": "default",
        "study_uid": "1.2",
        "first_arrival": now,
        "first_arrival_id": "1",
        "last_arrival": now,
        "source": {},
        "sites": [],
    }


def _batch(study: int | None) -> dict[str, Any]:
    return {
        "id": batch_of(KEY),
        "study_id": study,
        "headers_key": KEY,
        "headers_hash": "0" * 64,
        "headers_size": 1,
        "indexed_at": utc_now(),
    }
