"""Other senders than dcmtk's storescu, through the whole of ingest: what they send is what is kept."""

import asyncio
import hashlib
import io
import subprocess
import zlib
from pathlib import Path

import httpx
import pytest
from pydicom.uid import DeflatedExplicitVRLittleEndian
from sqlalchemy import select

from libs.dicom import part10
from services.ingest.models import instances
from tests.integration.ingest.conftest import Running, running
from tests.integration.ingest.peer import associated, read, store
from tests.support.dicomset import dataset_bytes, real_files
from tests.support.orthanc import Orthanc
from tests.support.process import program
from tests.support.synthetic import make_ct, make_study, new_uid

pytestmark = pytest.mark.integration
#: Ultrasound Multi-frame Image Storage as it was before 1993, PS3.6 table A-1.
RETIRED = "1.2.840.10008.5.1.4.1.1.3"


async def hashes(ingest: Running) -> dict[str, str]:
    """Give the content hash of what is indexed, by SOP Instance UID; each object has that content."""
    await ingest.until_indexed()
    rows = await ingest.rows(select(instances))
    for row in rows:
        with ingest.objects.open(row.object_key) as file:
            part10.decode(file)
            assert hashlib.sha256(file.read()).hexdigest() == row.content_hash
    return {row.sop_uid: row.content_hash for row in rows}


async def test_orthanc_sends_a_study(tmp_path: Path) -> None:
    study = make_study(tmp_path, 5)
    paths = [*study, *(each.path for each in real_files()[:5])]

    def forward(port: int) -> dict[str, str]:
        """Have Orthanc send all; gives the content that it holds, by SOP Instance UID."""
        settings = {"DicomModalities": {"kivuko": ["KIVUKO", "127.0.0.1", port]}}
        orthanc = Orthanc(tmp_path / "orthanc", aet="CT1", settings=settings)
        try:
            orthanc.start()
            with httpx.Client(base_url=orthanc.http_url, timeout=60, trust_env=False) as http:
                for path in paths:
                    http.post("/instances", content=path.read_bytes()).raise_for_status()
                held = orthanc.instances()
                done = http.post("/modalities/kivuko/store", json={"Resources": held, "Synchronous": True})
                assert done.raise_for_status().json()["FailedInstancesCount"] == 0
            found = {}
            for each in held:
                file = io.BytesIO(orthanc.file(each))
                meta, _ = part10.decode(file)
                found[meta.sop_instance_uid] = hashlib.sha256(file.read()).hexdigest()
            return found
        finally:
            orthanc.close()

    async with running(tmp_path / "home") as ingest:
        held = await asyncio.to_thread(forward, ingest.port)
        assert len(held) == len(paths)
        kept = await hashes(ingest)
        assert kept.keys() == held.keys()
        # Orthanc writes odd lengths and private elements of real files anew as it sends them.
        own = {path.stem for path in study}
        assert {uid: kept[uid] for uid in own} == {uid: held[uid] for uid in own}


async def test_dcmsend_sends_a_folder(tmp_path: Path) -> None:
    folder = tmp_path / "sent"
    folder.mkdir()
    paths = make_study(folder, 12)
    async with running(tmp_path / "home") as ingest:
        command = [program("dcmsend", "dcmtk"), "-aec", "KIVUKO", "-aet", "CT1", "127.0.0.1", str(ingest.port)]
        done = await asyncio.to_thread(
            subprocess.run, [*command, "+sd", str(folder)], capture_output=True, text=True, timeout=60, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr
        assert (await hashes(ingest)).keys() == {path.stem for path in paths}


async def test_contexts_of_all_kinds_on_one_association(tmp_path: Path) -> None:
    """Deflated, encapsulated, retired, private: each byte for byte, whatever its context."""
    plain = make_ct(tmp_path, rows=400, cols=400)
    meta, dataset = read(plain)
    sent: list[tuple[tuple[str, str], str, bytes]] = [
        ((meta.sop_class_uid, meta.transfer_syntax_uid), meta.sop_instance_uid, dataset)
    ]
    for sop_class in (RETIRED, f"{new_uid()[:30]}.1"):
        path = make_ct(tmp_path, sop_class=sop_class)
        found, own = read(path)
        sent.append(((sop_class, found.transfer_syntax_uid), found.sop_instance_uid, own))
    found, own = read(make_ct(tmp_path))
    deflate = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    deflated = deflate.compress(own) + deflate.flush()
    sent.append(
        (
            (found.sop_class_uid, str(DeflatedExplicitVRLittleEndian)),
            found.sop_instance_uid,
            deflated + b"\0" * (len(deflated) % 2),
        )
    )
    for each in [each for each in real_files() if each.transfer_syntax.startswith("1.2.840.10008.1.2.4.")][:3]:
        found, _ = read(each.path)
        sent.append(((found.sop_class_uid, each.transfer_syntax), each.sop_uid, dataset_bytes(each.path)))

    def all_of_them(port: int) -> list[int | None]:
        with associated(port, [context for context, _, _ in sent]) as association:
            return [
                store(association, context, data, sop_class=context[0], sop_uid=uid, number=number)
                for number, (context, uid, data) in enumerate(sent, 1)
            ]

    async with running(tmp_path / "home") as ingest:
        assert await asyncio.to_thread(all_of_them, ingest.port) == [0] * len(sent)
        assert await hashes(ingest) == {uid: hashlib.sha256(data).hexdigest() for _, uid, data in sent}
