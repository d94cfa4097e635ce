"""What must not be taken is refused with the right status, kept for people where bytes came, and stops nobody else."""

import asyncio
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian
from sqlalchemy import select

from libs.dicom import part10
from services.ingest.models import instances, quarantine
from tests.integration.ingest.conftest import Running, running
from tests.integration.ingest.peer import associated, read, send, store
from tests.support.dcmtk import echoscu, storescu
from tests.support.synthetic import make_ct, make_study, new_uid

pytestmark = pytest.mark.integration
CT = (str(CTImageStorage), str(ExplicitVRLittleEndian))


def send_as(port: int, dataset: bytes, *, sop_class: str = CT[0], sop_uid: str, calling: str = "CT1") -> int | None:
    """Send one dataset under the identity that is given."""
    with associated(port, [CT], calling=calling) as association:
        return store(association, CT, dataset, sop_class=sop_class, sop_uid=sop_uid)


async def good_one_goes_through(ingest: Running, folder: Path) -> None:
    """Send a good study and see it indexed."""
    before = len(await ingest.rows(select(instances.c.id)))
    assert await asyncio.to_thread(send, ingest.port, [make_ct(folder)]) == [0x0000]
    await ingest.until_indexed()
    assert len(await ingest.rows(select(instances.c.id))) == before + 1


async def test_garbage_on_the_port_hurts_nobody(tmp_path: Path) -> None:
    async with running(tmp_path / "home") as ingest:
        for garbage in (b"GET / HTTP/1.1\r\n\r\n", b"\x01\x00\xff\xff\xff\xff" + b"\0" * 100, bytes(range(256)) * 40):
            reader, writer = await asyncio.open_connection("127.0.0.1", ingest.port)
            writer.write(garbage)
            writer.write_eof()
            async with asyncio.timeout(40):
                await reader.read()
            writer.close()
        await good_one_goes_through(ingest, tmp_path)


@pytest.mark.parametrize(
    ("called", "calling", "why"),
    [
        ("SOMEONE", "CT1", "not one of ours"),
        ("KIVUKO", "STRANGER", "no node"),
        ("KIVUKO", "OLD", "retired"),
        ("KIVUKO", "FAR", "not from this address"),
        ("KIVUKO", "RIS", "may not store"),
    ],
)
async def test_who_is_no_node_of_ours_is_turned_away(tmp_path: Path, called: str, calling: str, why: str) -> None:
    async with running(tmp_path / "home") as ingest:
        path = make_ct(tmp_path)
        for _ in range(2):
            done = await asyncio.to_thread(storescu, ingest.port, [path], called=called, calling=calling)
            assert done.returncode != 0
            assert "Association Rejected" in done.stdout + done.stderr
        (event,) = await ingest.until_events("association.refused", 1)
        assert why in event["data"]["reason"]
        assert event["data"]["calling_aet"] == calling
        await good_one_goes_through(ingest, tmp_path)


async def test_a_node_that_may_not_store_may_say_hello(tmp_path: Path) -> None:
    async with running(tmp_path / "home") as ingest:
        assert (await asyncio.to_thread(echoscu, ingest.port, calling="RIS")).returncode == 0


@pytest.mark.parametrize(
    ("changes", "status", "reason"),
    [
        ({"dataset": b"\xff\xd8\xff\xe0 not a dataset at all" * 50}, 0xC000, "unreadable-dataset"),
        ({"StudyInstanceUID": None}, 0xC000, "identity-mismatch"),
        ({"SeriesInstanceUID": None}, 0xC000, "identity-mismatch"),
        ({"SOPInstanceUID": None}, 0xC000, "identity-mismatch"),
        ({"StudyInstanceUID": "1.2.three"}, 0xC000, "identity-mismatch"),
        ({"StudyInstanceUID": "../../etc"}, 0xC000, "identity-mismatch"),
        ({"said_instance": "1.2.3.4"}, 0xA900, "identity-mismatch"),
        ({"said_class": "1.2.840.10008.5.1.4.1.1.4"}, 0xA900, "identity-mismatch"),
        ({"said_class": "1.2.840.10008.1.1"}, 0xA900, "identity-mismatch"),
        ({"said_instance": "1.2.x/../y"}, 0x0117, "identity-mismatch"),
    ],
)
async def test_a_bad_object_is_refused_and_kept(
    tmp_path: Path, changes: dict[str, str | bytes | None], status: int, reason: str
) -> None:
    built = {key: value for key, value in changes.items() if key[0].isupper()}
    _, dataset = read(make_ct(tmp_path, sop_uid="1.2.3.5", **built))  # type: ignore[arg-type]  # only texts here
    raw = changes.get("dataset", dataset)
    said_instance, said_class = changes.get("said_instance", "1.2.3.5"), changes.get("said_class", CT[0])
    assert isinstance(raw, bytes)
    async with running(tmp_path / "home") as ingest:
        for _ in range(2):
            got = await asyncio.to_thread(
                send_as, ingest.port, raw, sop_class=str(said_class), sop_uid=str(said_instance)
            )
            assert got == status
        await ingest.until_indexed()
        (row,) = await ingest.rows(select(quarantine))
        assert (row.reason, row.times) == (reason, 2)
        with ingest.objects.open(row.object_key) as file:
            part10.decode(file)
            assert file.read() == raw
        (event,) = await ingest.events("instances.quarantined")
        assert (event["data"]["reason"], event["data"]["quarantine_id"]) == (reason, row.id)
        assert not await ingest.rows(select(instances.c.id))
        await good_one_goes_through(ingest, tmp_path)


async def test_a_command_with_an_endless_identifier_is_refused_and_its_bytes_kept(tmp_path: Path) -> None:
    _, dataset = read(make_ct(tmp_path))
    async with running(tmp_path / "home") as ingest:
        assert await asyncio.to_thread(send_as, ingest.port, dataset, sop_uid="9" * 2000) == 0x0117
        await ingest.until_indexed()
        (row,) = await ingest.rows(select(quarantine))
        assert row.reason == "identity-mismatch"
        await good_one_goes_through(ingest, tmp_path)


async def test_other_content_under_a_known_uid_is_put_aside(tmp_path: Path) -> None:
    sop_uid, study = new_uid(), new_uid()
    (tmp_path / "other").mkdir()
    first = make_ct(tmp_path, sop_uid=sop_uid, study_uid=study)
    second = make_ct(tmp_path / "other", sop_uid=sop_uid, study_uid=study, PatientID="P2")
    async with running(tmp_path / "home") as ingest:
        assert await asyncio.to_thread(send, ingest.port, [first]) == [0x0000]
        await ingest.until_indexed()
        assert await asyncio.to_thread(send, ingest.port, [second]) == [0x0000]
        await ingest.until_indexed()
        (row,) = await ingest.rows(select(quarantine))
        assert row.reason == "content-conflict"
        with ingest.objects.open(row.object_key) as file:
            part10.decode(file)
            assert file.read() == read(second)[1]
        (kept,) = await ingest.rows(select(instances))
        with ingest.objects.open(kept.object_key) as file:
            part10.decode(file)
            assert file.read() == read(first)[1]
        assert sorted(ingest.objects.list("default/")) == [kept.object_key]


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 6 MB. Mounting needs root, as in the test image."""
    folder = tmp_path / "disk"
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=6m", "tmpfs", str(folder)], check=True)
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


@pytest.mark.parametrize("min_free", [1 << 20, 0])
async def test_a_full_disk_refuses_and_recovers_by_itself(
    tmp_path: Path, small_disk: Path, monkeypatch: pytest.MonkeyPatch, min_free: int
) -> None:
    monkeypatch.setenv("KIVUKO_INGEST_MIN_FREE_BYTES", str(min_free))
    elsewhere: dict[str, Any] = {
        "database_url": f"sqlite:///{tmp_path}/db",
        "broker_url": f"sqlite:///{tmp_path}/bus.db",
        "objects_url": f"file://{tmp_path}/objects",
    }
    (tmp_path / "big").mkdir()
    big = make_ct(tmp_path / "big", rows=2000, cols=2000)
    async with running(small_disk / "home", **elsewhere) as ingest:
        assert await asyncio.to_thread(send, ingest.port, [big]) == [0xA700]
        assert not ingest.spool
        filler = small_disk / "filler"
        with filler.open("wb", buffering=0) as file, pytest.raises(OSError, match="No space"):
            file.writelines(bytes(4096) for _ in range(6 << 8))
        assert await asyncio.to_thread(send, ingest.port, make_study(tmp_path, 2)) == [0xA700, 0xA700]
        assert not ingest.spool
        filler.unlink()
        await good_one_goes_through(ingest, tmp_path)


def _cut_behind_the_identifiers(dataset: bytes) -> bytes:
    """Have Rows (0028,0010) claim more bytes than follow."""
    at = dataset.index(b"\x28\0\x10\0US\2\0")
    return dataset[: at + 6] + b"\xf0\xff" + dataset[at + 8 : at + 10]


def _header_without_end(dataset: bytes) -> bytes:
    """Put a sequence of more than 64 MiB of items before the last attribute that events carry."""
    at = dataset.index(b"\x28\0\x10\0US\2\0")
    item = b"\xfe\xff\0\xe0" + (1 << 20).to_bytes(4, "little") + b"\x08\0\x04\0LT" + bytes(2)
    item += bytes(8 + (1 << 20) - len(item))
    sequence = b"\x28\0\1\0SQ\0\0\xff\xff\xff\xff" + item * 65 + b"\xfe\xff\xdd\xe0\0\0\0\0"
    return dataset[:at] + sequence + dataset[at:]


@pytest.mark.parametrize("damaged", [_cut_behind_the_identifiers, _header_without_end])
@pytest.mark.parametrize("ack", ["spool", "object-store"])
async def test_a_header_unreadable_behind_its_identifiers_is_kept_for_people(
    tmp_path: Path, damaged: Callable[[bytes], bytes], ack: str
) -> None:
    """The sender was told success, so it must neither be lost nor be tried again for ever, nor hold up its study."""
    paths = make_study(tmp_path, 3)
    (meta, bad), *_ = [read(path) for path in paths]
    async with running(tmp_path / "home", ack=ack) as ingest:

        def all_of_them() -> list[int | None]:
            with associated(ingest.port, [CT]) as association:
                statuses = []
                for number, path in enumerate(paths, 1):
                    found, dataset = read(path)
                    sent = damaged(dataset) if number == 1 else dataset
                    said = {"sop_class": found.sop_class_uid, "sop_uid": found.sop_instance_uid}
                    statuses.append(store(association, CT, sent, number=number, **said))
                return statuses

        assert await asyncio.to_thread(all_of_them) == [0, 0, 0]
        await ingest.until_indexed()
        (event,) = await ingest.until_events("instances.quarantined", 1)
        assert event["data"]["reason"] == "unreadable-dataset"
        (row,) = await ingest.rows(select(quarantine))
        with ingest.objects.open(row.object_key) as file:
            part10.decode(file)
            assert file.read() == damaged(bad)
        found = {each.sop_uid for each in await ingest.rows(select(instances.c.sop_uid))}
        assert found == {path.stem for path in paths[1:]}
        left = [each for each in (tmp_path / "home" / "objects").rglob(f"{meta.sop_instance_uid}.*") if each.is_file()]
        assert not left


async def test_it_is_kept_for_people_after_a_restart_too(tmp_path: Path) -> None:
    path = make_ct(tmp_path)
    meta, dataset = read(path)
    bad = _cut_behind_the_identifiers(dataset)
    async with running(tmp_path / "home", ack="object-store", loops=False) as ingest:
        assert await asyncio.to_thread(send_as, ingest.port, bad, sop_uid=meta.sop_instance_uid) == 0
    async with running(tmp_path / "home", ack="object-store") as ingest:
        (event,) = await ingest.until_events("instances.quarantined", 1)
        assert event["data"]["study_instance_uid"]
        await ingest.until_indexed()
    left = [each for each in (tmp_path / "home" / "objects").rglob(f"{meta.sop_instance_uid}.*") if each.is_file()]
    assert not left
