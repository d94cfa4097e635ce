"""Whatever ends the process: what was acknowledged is indexed at the next start, and nothing is left over."""

import asyncio
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select, update
from sqlalchemy.exc import OperationalError

from libs.clock import utc_now
from libs.storage.objects import StoreUnavailableError
from services.ingest import indexer, preparation, repository
from services.ingest.arrival import Entry
from services.ingest.models import arrivals, batches, instances, received, studies
from tests.integration.ingest.conftest import Running, running
from tests.integration.ingest.peer import send
from tests.support.postgresql import PostgreSQL
from tests.support.synthetic import make_ct, make_study

pytestmark = pytest.mark.integration

HOUR = timedelta(hours=1)


async def nothing_is_left_over(ingest: Running) -> None:
    """Every object has its row and every row its object; the spool is empty."""
    await ingest.until_indexed()
    rows = {row.object_key for row in await ingest.rows(select(instances.c.object_key))}
    documents = {row.headers_key for row in await ingest.rows(select(batches.c.headers_key))}

    async def clean() -> bool:
        return set(ingest.objects.list("headers/")) == documents

    await ingest.until(clean, "header documents without a batch to go")
    assert set(ingest.objects.list("default/")) == rows


async def test_a_spool_that_was_never_indexed_is_taken_up(tmp_path: Path) -> None:
    paths = make_study(tmp_path, 4)
    async with running(tmp_path / "home", loops=False) as ingest:
        assert await asyncio.to_thread(send, ingest.port, paths) == [0] * 4
        assert len(ingest.spool) == 4
    (tmp_path / "home" / "spool" / "half.part").write_bytes(b"half a file")
    async with running(tmp_path / "home") as ingest:
        (event,) = await ingest.until_events("study.completed", 1)
        assert event["data"]["instance_count"] == 4
        assert event["data"]["source"]["node"] == "CT1"
        await nothing_is_left_over(ingest)


async def test_objects_without_rows_are_repaired(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def lost(*_args: Any, **_kwargs: Any) -> None:
        raise OperationalError("the connection was lost", None, Exception())

    paths = make_study(tmp_path, 4)
    async with running(tmp_path / "home") as ingest:
        with monkeypatch.context() as patched:
            patched.setattr(repository, "index", lost)
            assert await asyncio.to_thread(send, ingest.port, paths) == [0] * 4

            async def published() -> bool:
                return len(list(ingest.objects.list("default/"))) == 4 and bool(list(ingest.objects.list("headers/")))

            await ingest.until(published, "objects without rows")
    async with running(tmp_path / "home") as ingest:
        await nothing_is_left_over(ingest)
        assert len(await ingest.rows(select(instances.c.id))) == 4
        events = await ingest.events("instances.stored")
        assert sum(len(event["data"]["instances"]) for event in events) == 4


async def test_entries_that_were_indexed_already_are_dropped(tmp_path: Path) -> None:
    path = make_ct(tmp_path)
    async with running(tmp_path / "home", loops=False) as ingest:
        await asyncio.to_thread(send, ingest.port, [path])
        (name,) = ingest.spool
        copy = (ingest.home / "spool" / name).read_bytes()
    async with running(tmp_path / "home") as ingest:
        await ingest.until_indexed()
    (tmp_path / "home" / "spool" / name).write_bytes(copy)
    async with running(tmp_path / "home") as ingest:
        await nothing_is_left_over(ingest)
        assert len(await ingest.rows(select(arrivals.c.id))) == 1
        assert len(await ingest.events("instances.stored")) == 1


async def test_the_object_store_away(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def away(*_args: Any, **_kwargs: Any) -> bool:
        raise StoreUnavailableError("the object store is away: start it")

    async with running(tmp_path / "home") as ingest:
        with monkeypatch.context() as patched:
            patched.setattr(ingest.objects, "keep", away)
            assert await asyncio.to_thread(send, ingest.port, [make_ct(tmp_path)]) == [0]

            async def said() -> bool:
                try:
                    await ingest.service.checks["index"]()
                except Exception as error:  # noqa: BLE001 (the text is what is looked at)
                    return "start it" in str(error)
                return False

            await ingest.until(said, "readiness to say so")
        await nothing_is_left_over(ingest)
        await ingest.service.checks["index"]()


async def test_an_entry_that_can_not_be_indexed_holds_up_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = make_study(tmp_path, 8)
    good = preparation.prepare

    def defect(entry: Entry) -> Any:
        if entry.arrival.sop_instance_uid == paths[2].stem:
            raise ZeroDivisionError
        return good(entry)

    async with running(tmp_path / "home") as ingest:
        with monkeypatch.context() as patched:
            patched.setattr(indexer, "prepare", defect)
            assert await asyncio.to_thread(send, ingest.port, paths) == [0] * 8

            async def others() -> bool:
                return len(await ingest.rows(select(instances.c.id))) == 7

            await ingest.until(others, "the others to be indexed")
            assert len(ingest.spool) >= 1
        await ingest.until_indexed()
        assert len(await ingest.rows(select(instances.c.id))) == 8
        # Halves, and halves of these: not an event of each instance.
        assert len(await ingest.events("instances.stored")) <= 5
    async with running(tmp_path / "home") as ingest:
        await nothing_is_left_over(ingest)


async def test_acknowledged_from_the_object_store_survives_the_loss_of_the_disk(
    tmp_path: Path, postgresql: PostgreSQL
) -> None:
    shared: dict[str, Any] = {
        "database_url": postgresql.database(),
        "objects_url": f"file://{tmp_path}/objects",
        "broker_url": f"sqlite:///{tmp_path}/bus.db",
        "ack": "object-store",
        "instance": "ingest-0",
    }
    paths = make_study(tmp_path, 3)
    async with running(tmp_path / "lost", loops=False, **shared) as ingest:
        assert await asyncio.to_thread(send, ingest.port, paths) == [0] * 3
        async with ingest.database.transaction() as tx:
            # The clock of the machine that it is started on again is behind.
            await tx.execute(update(received).values(renewed_at=utc_now() + HOUR))
    async with running(tmp_path / "new", **shared) as ingest:
        (event,) = await ingest.until_events("study.completed", 1)
        assert event["data"]["instance_count"] == 3
        await nothing_is_left_over(ingest)


async def test_with_the_object_store_away_nothing_is_acknowledged_from_it(tmp_path: Path) -> None:
    async with running(tmp_path / "home", ack="object-store") as ingest:
        objects, elsewhere = tmp_path / "home" / "objects", tmp_path / "elsewhere"
        objects.rename(elsewhere)
        assert await asyncio.to_thread(send, ingest.port, [make_ct(tmp_path)]) == [0xA700]
        assert not ingest.spool
        elsewhere.rename(objects)
        assert await asyncio.to_thread(send, ingest.port, [make_ct(tmp_path)]) == [0]
        await nothing_is_left_over(ingest)


async def test_two_replicas_take_one_study(tmp_path: Path, postgresql: PostgreSQL) -> None:
    shared: dict[str, Any] = {
        "database_url": postgresql.database(),
        "objects_url": f"file://{tmp_path}/objects",
        "broker_url": f"sqlite:///{tmp_path}/bus.db",
    }
    paths = make_study(tmp_path, 20)
    async with (
        running(tmp_path / "one", instance="ingest-0", **shared) as one,
        running(tmp_path / "two", instance="ingest-1", **shared) as two,
    ):
        # Each instance to both: half of all is a duplicate, whoever is first.
        first, second = await asyncio.gather(
            asyncio.to_thread(send, one.port, paths), asyncio.to_thread(send, two.port, paths[::-1])
        )
        assert first == second == [0] * 20
        await one.until_indexed()
        await two.until_indexed()
        (event, *_) = await one.until_events("study.completed", 1)
        versions = [event, *await one.events("study.amended")]
        assert versions[-1]["data"]["instance_count"] == 20
        assert len(await one.rows(select(instances.c.id))) == 20
        assert len(await one.rows(select(arrivals.c.id))) == 40
        told = [
            each["sop_instance_uid"]
            for event in await one.events("instances.stored")
            for each in event["data"]["instances"]
        ]
        assert sorted(told) == sorted(path.stem for path in paths)


async def test_a_study_that_was_leased_when_the_process_was_killed_is_completed_at_once(tmp_path: Path) -> None:
    paths = make_study(tmp_path, 2)
    async with running(tmp_path / "home", instance="ingest-0") as ingest:
        await asyncio.to_thread(send, ingest.port, paths)
        await ingest.until_events("study.completed", 1)
        async with ingest.database.transaction() as tx:
            # As if the kill had come between lease and version.
            leased = {
                "version": 0,
                "manifest_key": None,
                "due_at": utc_now(),
                "leased_by": "ingest-0",
                "leased_until": utc_now() + HOUR,
            }
            await tx.execute(update(studies).values(leased))
    async with running(tmp_path / "home", instance="ingest-0") as ingest:
        await ingest.until_events("study.completed", 2)


async def test_what_a_power_loss_cut_off_keeps_no_loop_from_running(tmp_path: Path) -> None:
    spool = tmp_path / "home" / "spool"
    spool.mkdir(parents=True)
    for name in ("empty.dcm", "empty.bad", "empty.part", "empty.headers", "empty.link"):
        (spool / name).write_bytes(b"")
    (spool / "half.headers").write_text("headers/default/1.2")
    async with running(tmp_path / "home") as ingest:
        assert await asyncio.to_thread(send, ingest.port, make_study(tmp_path, 2)) == [0] * 2
        await ingest.until_events("study.completed", 1)
        assert sorted(path.name for path in spool.iterdir() if path.is_file()) == ["empty.damaged"]


async def test_a_study_that_can_not_be_completed_holds_up_no_other(tmp_path: Path) -> None:
    home = tmp_path / "home"
    async with running(home, loops=False) as ingest:
        assert await asyncio.to_thread(send, ingest.port, make_study(tmp_path, 1, study_uid="1.2.3")) == [0]
    async with running(home) as ingest:
        await ingest.until_events("study.completed", 1)
        async with ingest.database.transaction() as tx:
            await tx.execute(update(instances).values(sop_class_uid="no UID"))
            await tx.execute(update(studies).values(due_at=utc_now() - HOUR))
        assert await asyncio.to_thread(send, ingest.port, make_study(tmp_path, 1, study_uid="1.2.4")) == [0]
        assert (await ingest.until_events("study.completed", 2))[1]["subject"] == "1.2.4"
