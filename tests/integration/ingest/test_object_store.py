"""Acknowledged from the object store: uploaded while it arrives, recorded before, and nothing stays of a failure."""

import asyncio
import json
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from itertools import chain
from pathlib import Path
from typing import Any

import psutil
import pytest
from minio import Minio
from sqlalchemy import func, select, update

from libs.clock import utc_now
from libs.storage.bucket import Bucket
from libs.storage.database import Database
from libs.storage.objects import open_store
from services.ingest.models import batches, instances, open_work, received
from services.ingest.storecalls import StoreCalls
from services.ingest.upload import Uploads
from services.ingest.work import Work
from tests.integration.ingest.conftest import Running, running
from tests.integration.ingest.peer import send
from tests.support.bulk import bulk
from tests.support.migrated import migrate
from tests.support.postgresql import PostgreSQL
from tests.support.process import wait_until
from tests.support.proxy import Proxy
from tests.support.requestor import Association, BrokenError
from tests.support.seaweedfs import SeaweedFS
from tests.support.synthetic import make_ct, make_study
from tests.unit.ingest.entries import make_entry

pytestmark = [pytest.mark.integration, pytest.mark.timeout(300)]
_MULTI_FRAME = "1.2.840.10008.5.1.4.1.1.7.3"
_LARGE = 64 << 20


def unfinished(url: str) -> list[str]:
    """List the keys of the uploads in parts that are not finished."""
    bucket = Bucket.from_url(url)
    client = Minio(bucket.host, bucket.key, bucket.secret, secure=bucket.secure, region=bucket.region)
    return [each.object_name or "" for each in client._list_multipart_uploads(bucket.name).uploads]


async def nothing_is_left_over(ingest: Running, url: str) -> None:
    """Wait until spool and records are empty, and every object is named by a row."""

    async def clean() -> bool:
        return not ingest.spool and not await ingest.rows(select(received.c.id))

    await ingest.until(clean, "an empty spool and no records")
    named = {row[0] for row in await ingest.rows(select(instances.c.object_key))}
    named |= {row[0] for row in await ingest.rows(select(batches.c.headers_key))}
    kept = await asyncio.to_thread(lambda: set(ingest.objects.list("")))
    assert {key for key in kept if not key.startswith("manifests/")} == named
    assert await asyncio.to_thread(unfinished, url) == []


def begin_large(port: int, then: threading.Event) -> None:
    """Send most of a large object, wait, and break the association off."""
    large = bulk("encapsulated", _LARGE)

    def most() -> Iterator[bytes]:
        pieces = list(large.fragments())
        yield from pieces[:-8]
        then.wait(60)
        raise BrokenError

    association = Association(port, sop_class=_MULTI_FRAME, syntax=large.syntax, calling="CT1")
    try:
        association.stream(_MULTI_FRAME, large.sop_uid, most())
    except BrokenError:
        association.abort()


async def test_a_large_object_that_breaks_off_leaves_nothing(tmp_path: Path, s3: SeaweedFS) -> None:
    url = s3.bucket()
    then = threading.Event()
    async with running(tmp_path / "home", ack="object-store", objects_url=url) as ingest:
        sender = asyncio.create_task(asyncio.to_thread(begin_large, ingest.port, then))

        async def uploading() -> bool:
            return bool(await asyncio.to_thread(unfinished, url))

        await ingest.until(uploading, "parts in the store before the object is whole")
        assert len(await ingest.rows(select(received.c.id))) == 1
        then.set()
        await sender
        await nothing_is_left_over(ingest, url)


async def test_a_receiver_that_is_killed_leaves_no_parts(tmp_path: Path, s3: SeaweedFS) -> None:
    url = s3.bucket()
    then = threading.Event()
    async with running(tmp_path / "home", ack="object-store", objects_url=url) as ingest:
        sender = asyncio.create_task(asyncio.to_thread(begin_large, ingest.port, then))

        async def uploading() -> bool:
            return bool(await asyncio.to_thread(unfinished, url))

        await ingest.until(uploading, "parts in the store before the object is whole")
        for each in psutil.Process().children():
            if "services.ingest.receiver" in " ".join(each.cmdline()):
                each.kill()
        then.set()
        await sender
        await nothing_is_left_over(ingest, url)
        assert await asyncio.to_thread(send, ingest.port, [make_ct(tmp_path)]) == [0]
        await nothing_is_left_over(ingest, url)


async def test_everything_killed_while_a_large_object_comes_leaves_no_parts(tmp_path: Path, s3: SeaweedFS) -> None:
    url = s3.bucket()
    shared: dict[str, Any] = {"objects_url": url, "ack": "object-store", "instance": "ingest-0"}
    with victim(tmp_path / "home", shared) as (process, port):
        then = threading.Event()
        sender = asyncio.create_task(asyncio.to_thread(begin_large, port, then))
        await asyncio.to_thread(wait_until, lambda: bool(unfinished(url)), "parts in the store")
        process.kill()
        process.wait()
        then.set()
        await sender
    async with running(tmp_path / "home", **shared) as ingest:
        await nothing_is_left_over(ingest, url)


async def test_a_store_that_hangs_is_not_waited_for_by_each_and_works_again_by_itself(
    tmp_path: Path, s3: SeaweedFS, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KIVUKO_INGEST_STORE_TIMEOUT", "1")
    url = s3.bucket()
    async with Proxy(s3.port).standing() as between:
        through = url.replace(f":{s3.port}/", f":{between.port}/")
        async with running(tmp_path / "home", ack="object-store", objects_url=through) as ingest:
            assert await asyncio.to_thread(send, ingest.port, make_study(tmp_path, 2)) == [0, 0]
            await ingest.until_indexed()
            between.hang()
            paths = make_study(tmp_path, 12)
            assert await asyncio.to_thread(send, ingest.port, paths) == [0xA700] * 12
            # The first two wait, the others are told at once, but for one now and then.
            assert len(await ingest.rows(select(received.c.id))) < 12
            assert not ingest.spool
            with pytest.raises(Exception, match="object store"):
                await ingest.service.checks["objects"]()
            between.flow()

            async def taken() -> bool:
                return await asyncio.to_thread(send, ingest.port, paths[:1]) == [0]

            await ingest.until(taken, "the store to be used again")
            assert await asyncio.to_thread(send, ingest.port, paths) == [0] * 12
            await nothing_is_left_over(ingest, url)
            assert len(await ingest.rows(select(instances.c.id))) == 14


async def test_spooled_while_the_store_is_down_and_indexed_when_it_is_back(tmp_path: Path) -> None:
    s3 = SeaweedFS(tmp_path / "s3")
    await asyncio.to_thread(s3.start)
    try:
        url = s3.bucket()
        async with running(tmp_path / "home", ack="spool", objects_url=url) as ingest:
            s3.stop()
            assert await asyncio.to_thread(send, ingest.port, make_study(tmp_path, 3)) == [0] * 3
            assert len(ingest.spool) >= 3
            await asyncio.to_thread(s3.start)
            await ingest.until_indexed()
            await nothing_is_left_over(ingest, url)
            assert len(await ingest.rows(select(instances.c.id))) == 3
    finally:
        s3.stop()


async def test_arrivals_that_come_together_are_recorded_together(tmp_path: Path) -> None:
    database = Database(f"sqlite:///{tmp_path}", "ingest")
    await migrate(database, "services.ingest")
    commits: list[object] = []
    database.on_commit(commits.append)
    objects, calls, work = open_store(f"file://{tmp_path / 'objects'}"), StoreCalls(), Work(lambda: None)
    uploads = Uploads(database, objects, calls, work, name="ingest-0", clock=utc_now, timeout=30)
    entries = [make_entry(number, association=f"a{number % 8}") for number in range(64)]
    async with database.transaction():
        # Whoever comes first waits for this one.
        recording = [asyncio.ensure_future(uploads.expect(entry)) for entry in entries]
        await asyncio.sleep(0)
    assert await asyncio.gather(*recording) == [None] * 64
    async with database.reading() as tx:
        assert await tx.scalar(select(func.count()).select_from(received)) == 64
    # The transaction of this test, and one or two others.
    assert len(commits) <= 3
    for entry in entries:
        uploads.remove(entry.arrival.id, entry.object_key, doubtful=False)
    async with asyncio.timeout(30):
        while uploads.removing():  # noqa: ASYNC110 (what is waited for is in a database)
            await asyncio.sleep(0.01)
    async with database.reading() as tx:
        assert await tx.scalar(select(func.count()).select_from(received)) == 0
    await uploads.stop()
    calls.close()
    objects.close()
    await database.close()


@contextmanager
def victim(home: Path, shared: dict[str, Any], **env: str) -> Iterator[tuple[subprocess.Popen[str], int]]:
    """Run an ingest in a process of its own, to be killed; gives its DICOM port."""
    command = [sys.executable, "-m", "tests.integration.ingest.victim", str(home), json.dumps(shared)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env={**os.environ, **env}) as process:
        try:
            assert process.stdout is not None
            port = next(line for line in chain(process.stdout, ["port 0"]) if line.startswith("port "))
            yield process, int(port.split()[1])
        finally:
            process.kill()


async def test_nothing_is_lost_with_a_replica_and_its_disk(
    tmp_path: Path, postgresql: PostgreSQL, s3: SeaweedFS
) -> None:
    url = s3.bucket()
    shared: dict[str, Any] = {
        "database_url": postgresql.database(),
        "objects_url": url,
        "broker_url": f"sqlite:///{tmp_path}/bus.db",
        "ack": "object-store",
    }
    paths = make_study(tmp_path, 40)
    async with running(tmp_path / "one", instance="ingest-1", **shared) as one:
        # Nothing is indexed there: it dies with all that it has acknowledged.
        never = {"KIVUKO_INGEST_LINGER_SECONDS": "3600", "KIVUKO_INGEST_LONGEST_LINGER_SECONDS": "3600"}
        with victim(tmp_path / "lost", {**shared, "instance": "ingest-0"}, **never) as (process, port):
            statuses = await asyncio.to_thread(send, port, paths)
            assert statuses == [0] * 40
            its = psutil.Process(process.pid).children()
            process.kill()
            process.wait()
            # Its receivers end by themselves, and tidy up.
            await asyncio.to_thread(psutil.wait_procs, its, 30)
        shutil.rmtree(tmp_path / "lost")
        ago = utc_now() - timedelta(hours=1)
        async with one.database.transaction() as tx:
            await tx.execute(update(received).where(received.c.replica == "ingest-0").values(renewed_at=ago))
            await tx.execute(update(open_work).where(open_work.c.replica == "ingest-0").values(renewed_at=ago))
        # What it has in hand changes, and so it looks around.
        assert len(await one.rows(select(received.c.id))) == 40
        assert await asyncio.to_thread(send, one.port, [make_ct(tmp_path)]) == [0]
        await one.until_events("study.completed", 2)
        await nothing_is_left_over(one, url)
        assert {row[0] for row in await one.rows(select(instances.c.sop_uid))} >= {path.stem for path in paths}
