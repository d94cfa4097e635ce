"""What partners fetch: listed, one by one, and as a ZIP file, over real connections."""

import asyncio
import tracemalloc
import zipfile
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path

import httpx
import pytest
from sqlalchemy import update

from libs.storage.folder import FolderStore
from services.egress.models import deliveries as table
from services.egress.parcel import DamagedError, Readable
from services.egress.zipped import zipped
from tests.integration.egress.peer import keep
from tests.integration.egress.served import HERE, STUDY, partners, serving
from tests.integration.egress.stand import TENANT
from tests.support.synthetic import make_ct, make_study

pytestmark = pytest.mark.integration


async def test_a_partner_lists_and_fetches_what_it_was_told_of(tmp_path: Path) -> None:
    paths = make_study(tmp_path, 3)
    async with serving(tmp_path, paths) as (server, kept):
        listed = (await server.get()).raise_for_status().json()
        assert (listed["study_instance_uid"], listed["study_version"], listed["complete"]) == (STUDY, 1, True)
        assert [each["sop_instance_uid"] for each in listed["instances"]] == [each.sop_instance_uid for each in kept]
        for each, path in zip(listed["instances"], paths, strict=True):
            answer = await server.get(each["reference"])
            assert answer.headers["content-type"] == "application/dicom"
            assert answer.headers["content-length"] == str(each["size"])
            assert answer.content == path.read_bytes()
        page = (await server.get(params={"limit": 2})).json()
        rest = (await server.get(params={"limit": 2, "after": page["next"]})).json()
        assert page["instances"] + rest["instances"] == listed["instances"]

        answer = await server.get(listed["archive"])
        assert answer.headers["content-type"] == "application/zip"
        archive = zipfile.ZipFile(BytesIO(answer.content))
        assert archive.testzip() is None
        assert {entry.filename: archive.read(entry) for entry in archive.infolist()} == {
            f"{STUDY}/{each.sop_instance_uid}.dcm": path.read_bytes() for each, path in zip(kept, paths, strict=True)
        }
        assert {entry.compress_type for entry in archive.infolist()} == {zipfile.ZIP_STORED}
        assert server.counted.still_open == 0

    use, tenant = server.used[0]
    assert (use.permission, use.target, use.actor, use.status, tenant) == (
        "studies.fetch",
        STUDY,
        "reader",
        200,
        TENANT,
    )
    assert len(server.used) == 7


@pytest.mark.parametrize(("token", "status"), [("other", 404), ("everywhere", 404), ("owner", 403), ("admin", 200)])
async def test_a_token_of_another_gets_nothing(tmp_path: Path, token: str, status: int) -> None:
    async with serving(tmp_path, make_study(tmp_path, 1)) as (server, kept):
        for path in (HERE, f"{HERE}.zip", f"{HERE}/instances/{kept[0].sop_instance_uid}"):
            assert (await server.get(path, token)).status_code == status
        assert (await server.client.get(HERE)).status_code == 401


async def test_what_a_partner_may_not_have_any_more_is_not_there(tmp_path: Path) -> None:
    async with serving(tmp_path, make_study(tmp_path, 1)) as (server, kept):
        one = f"{HERE}/instances/{kept[0].sop_instance_uid}"
        assert (await server.get(f"{HERE}/instances/9.9")).status_code == 404
        assert (await server.get("/v1/egress/studies/unknown")).status_code == 404
        server.snapshot[0] = partners().model_copy(update={"version": 2})
        await server.network.refresh()
        for path in (HERE, f"{HERE}.zip", one):
            assert (await server.get(path)).status_code == 404
        server.snapshot[0] = partners("a").model_copy(update={"version": 3})
        await server.network.refresh()
        # A delivery to a destination is nobody's to fetch.
        async with server.database.transaction() as tx:
            await tx.execute(update(table).values(destination="telerad"))
        assert (await server.get(one)).status_code == 404


async def test_what_can_t_be_read_is_never_taken_for_the_whole(tmp_path: Path) -> None:
    paths = [*make_study(tmp_path, 2), make_ct(tmp_path, rows=2048, cols=2048)]
    async with serving(tmp_path, paths) as (server, kept):
        server.objects.delete(kept[0].object_key)
        flipped = bytearray(paths[2].read_bytes())
        flipped[-1] ^= 1
        server.objects.put(kept[2].object_key, bytes(flipped))
        assert (await server.get(f"{HERE}/instances/{kept[0].sop_instance_uid}")).status_code == 410
        assert (await server.get(f"{HERE}.zip")).status_code == 410
        # Only at its end it turns out that it is another.
        with pytest.raises(httpx.RemoteProtocolError):
            await server.get(f"{HERE}/instances/{kept[2].sop_instance_uid}")
        server.counted.away = True
        assert (await server.get(f"{HERE}.zip")).status_code == 503
        assert server.counted.still_open == 0


async def test_a_caller_that_breaks_off_leaves_nothing_open(tmp_path: Path) -> None:
    paths = make_study(tmp_path, 6, rows=2048, cols=2048)
    async with serving(tmp_path, paths) as (server, _kept):
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        writer.write(f"GET {HERE}.zip HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer reader\r\n\r\n".encode())
        assert (await reader.readline()).startswith(b"HTTP/1.1 200")
        await reader.readexactly(1 << 20)
        assert server.counted.still_open == 1
        writer.transport.abort()
        async with asyncio.timeout(60):
            while server.counted.still_open:
                # Whoever serves it has to hear of it first: another request is behind that.
                await server.get()
        assert len(server.counted.open_now) < len(paths)


def test_memory_does_not_grow_with_the_study(tmp_path: Path) -> None:
    objects = FolderStore(tmp_path / "objects")
    parcels = [keep(objects, path, n) for n, path in enumerate(make_study(tmp_path, 5, rows=2048, cols=2048))]

    def most(count: int) -> tuple[int, int]:
        tracemalloc.start()
        size = sum(map(len, zipped("1", parcels[:count], objects)))
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return size, peak

    size, one = most(1)
    assert size > parcels[0].size
    _, five = most(5)
    assert five < one * 1.2 < parcels[0].size


def test_a_zip_that_broke_off_is_none(tmp_path: Path) -> None:
    objects = FolderStore(tmp_path / "objects")
    parcels = [keep(objects, path, n) for n, path in enumerate(make_study(tmp_path, 3))]
    objects.delete(parcels[2].object_key)
    made = bytearray()

    def take(pieces: Iterator[bytes]) -> None:
        for piece in pieces:
            made.extend(piece)

    reading: Readable = objects
    with pytest.raises(DamagedError):
        take(zipped("1", parcels, reading))
    assert len(made) > parcels[0].size
    with pytest.raises(zipfile.BadZipFile):
        zipfile.ZipFile(BytesIO(bytes(made)))
