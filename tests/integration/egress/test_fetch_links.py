"""Links to single instances: a real S3 server gives what one names to whoever has it, for minutes and nothing else."""

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import httpx
import pytest
from sqlalchemy import update

from libs.clock import utc_now
from libs.storage.bucket import Bucket
from libs.storage.objects import ObjectStore, open_store
from libs.storage.presigned import Presigned
from services.egress.linking import Links, make_links
from services.egress.models import items
from tests.integration.egress.served import HERE, STUDY, Server, partners, serving
from tests.integration.egress.stand import TENANT
from tests.support.port import free_port
from tests.support.seaweedfs import SeaweedFS
from tests.support.synthetic import make_study

pytestmark = pytest.mark.integration
_ANCIENT = timedelta(days=365)


@dataclass
class Linked:
    """A server that gives links to a study of two instances, all of which was taken in now."""

    server: Server
    store: ObjectStore
    kept: list[Any]
    paths: list[Path]

    def one(self, number: int = 0) -> str:
        """Give the path of an instance."""
        return f"{HERE}/instances/{self.kept[number].sop_instance_uid}"

    async def received(self, at: datetime | None) -> None:
        """Have the study have been taken in at another time."""
        async with self.server.database.transaction() as tx:
            await tx.execute(update(items).values(received_at=at))


@asynccontextmanager
async def linked(folder: Path, s3: SeaweedFS, *, late: timedelta = timedelta(0)) -> AsyncIterator[Linked]:
    """Serve; the clock of who signs the links is late by so much."""
    url = s3.bucket()
    store = open_store(url)
    paths = make_study(folder, 2, study_uid=STUDY)
    presigned = Presigned(Bucket.from_url(url), f"http://127.0.0.1:{s3.port}")
    links = Links(presigned, store, lambda now: now - timedelta(hours=1), lambda: utc_now() - late)
    try:
        async with serving(folder, paths, store, links) as (server, kept):
            made = Linked(server, store, kept, paths)
            await made.received(utc_now())
            yield made
    finally:
        store.close()


async def test_an_instance_is_fetched_by_a_link_and_that_is_recorded(
    tmp_path: Path, s3: SeaweedFS, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    caplog.set_level(logging.DEBUG)
    async with linked(tmp_path, s3) as study, httpx.AsyncClient() as anyone:
        for number, path in enumerate(study.paths):
            answer = await study.server.get(study.one(number))
            assert (answer.status_code, answer.content) == (307, b"")
            assert answer.headers["cache-control"] == "no-store"
            use, tenant = study.server.used[-1]
            assert (use.permission, use.target, use.actor, use.status, tenant) == (
                "studies.fetch",
                STUDY,
                "reader",
                307,
                TENANT,
            )
            link = answer.headers["location"]
            assert parse_qs(urlsplit(link).query)["X-Amz-Expires"] == ["300"]
            given = await anyone.get(link)
            assert given.content == path.read_bytes()
            assert given.headers["content-type"] == "application/dicom"
            # What an ordinary client does by itself; the token stays with us: the store refuses two credentials.
            followed = await study.server.get(study.one(number), follow_redirects=True)
            assert followed.content == path.read_bytes()
    ours = [record for record in caplog.records if not record.name.startswith(("httpx", "httpcore"))]
    assert not any("X-Amz" in str(record.__dict__) for record in ours)
    assert "X-Amz" not in "".join(capfd.readouterr())


async def test_a_link_is_of_one_object_for_reading_until_it_expires(
    tmp_path_factory: pytest.TempPathFactory, s3: SeaweedFS
) -> None:
    now, late, later = map(tmp_path_factory.mktemp, ("now", "late", "later"))
    async with linked(now, s3) as study, httpx.AsyncClient() as anyone:
        link = (await study.server.get(study.one())).headers["location"]
        other = link.replace(study.kept[0].object_key, study.kept[1].object_key)
        assert other != link
        assert (await anyone.get(other)).status_code == 403
        assert (await anyone.put(link, content=b"x")).status_code == 403
        assert (await anyone.delete(link)).status_code == 403
        longer = link.replace("X-Amz-Expires=300", "X-Amz-Expires=3000")
        assert (await anyone.get(longer)).status_code == 403
        assert (await anyone.get(link)).content == study.paths[0].read_bytes()
    async with linked(late, s3, late=timedelta(minutes=4)) as study, httpx.AsyncClient() as anyone:
        link = (await study.server.get(study.one())).headers["location"]
        assert (await anyone.get(link)).content == study.paths[0].read_bytes()
    async with linked(later, s3, late=timedelta(minutes=6)) as study, httpx.AsyncClient() as anyone:
        link = (await study.server.get(study.one())).headers["location"]
        assert (await anyone.get(link)).status_code == 403


@pytest.mark.parametrize(("token", "status"), [("other", 404), ("everywhere", 404), ("owner", 403), ("admin", 307)])
async def test_a_token_of_another_gets_no_link(tmp_path: Path, s3: SeaweedFS, token: str, status: int) -> None:
    async with linked(tmp_path, s3) as study:
        answer = await study.server.get(study.one(), token)
        assert answer.status_code == status
        assert ("location" in answer.headers) == (status == 307)
        assert (await study.server.client.get(study.one())).status_code == 401
        study.server.snapshot[0] = partners().model_copy(update={"version": 2})
        await study.server.network.refresh()
        assert (await study.server.get(study.one())).status_code == 404


@pytest.mark.parametrize("age", [None, timedelta(hours=2)])
async def test_what_we_have_to_check_is_streamed(tmp_path: Path, s3: SeaweedFS, age: timedelta | None) -> None:
    async with linked(tmp_path, s3) as study:
        await study.received(None if age is None else utc_now() - age)
        answer = await study.server.get(study.one())
        assert (answer.status_code, answer.content) == (200, study.paths[0].read_bytes())
        assert answer.headers["content-type"] == "application/dicom"
        # All of them in one file are made by nobody but us.
        await study.received(utc_now())
        assert (await study.server.get(f"{HERE}.zip")).status_code == 200


async def test_there_is_no_link_to_what_is_not_as_it_was(tmp_path: Path, s3: SeaweedFS) -> None:
    async with linked(tmp_path, s3) as study:
        study.store.delete(study.kept[0].object_key)
        study.store.put(study.kept[1].object_key, study.paths[1].read_bytes() + b"\0\0")
        for number in range(2):
            answer = await study.server.get(study.one(number))
            assert (answer.status_code, answer.json()["title"]) == (410, "Gone")


async def test_without_a_store_there_is_no_link(tmp_path: Path) -> None:
    url = f"s3://key:secret@127.0.0.1:{free_port()}/away"
    away = open_store(url)
    links = make_links(url, "https://objects.example", away, lambda now: now - _ANCIENT, utc_now)
    async with serving(tmp_path, make_study(tmp_path, 1), links=links) as (server, kept):
        async with server.database.transaction() as tx:
            await tx.execute(update(items).values(received_at=utc_now()))
        answer = await server.get(f"{HERE}/instances/{kept[0].sop_instance_uid}")
        assert (answer.status_code, answer.headers["retry-after"]) == (503, "60")
    away.close()


def test_only_an_s3_store_with_an_address_gives_links(tmp_path: Path) -> None:
    store, clock = open_store(f"file://{tmp_path}"), utc_now
    assert make_links(f"file://{tmp_path}", "https://objects.example", store, lambda now: now, clock) is None
    assert make_links("s3://key:secret@127.0.0.1:1/bucket", None, store, lambda now: now, clock) is None
