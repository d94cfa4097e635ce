"""Good studies, sent by dcmtk: kept byte for byte, indexed, announced, and complete after a quiet time."""

import asyncio
import hashlib
import json
from datetime import timedelta
from pathlib import Path

import pytest
from sqlalchemy import delete, func, select, update

from contracts.manifest import Manifest, set_hash
from contracts.study import StudyAmended, StudyCompleted
from libs.clock import utc_now
from libs.dicom import part10
from libs.storage.objects import ObjectStore
from services.ingest.models import arrivals, instances, messaging, studies
from tests.integration.ingest.conftest import running
from tests.integration.ingest.peer import send
from tests.support.dcmtk import echoscu, storescu
from tests.support.dicomset import dataset_bytes, real_files, real_set, rt_set
from tests.support.synthetic import PRIVATE_STORAGE, make_ct, make_study, new_uid

pytestmark = pytest.mark.integration


def kept(objects: ObjectStore, key: str) -> bytes:
    """Give the dataset of an object."""
    with objects.open(key) as file:
        part10.decode(file)
        return file.read()


async def test_the_whole_real_set_is_kept_byte_for_byte(tmp_path: Path) -> None:
    paths = [*real_set(), *rt_set(tmp_path), make_ct(tmp_path, sop_class=PRIVATE_STORAGE)]
    async with running(tmp_path / "home") as ingest:
        assert await asyncio.to_thread(send, ingest.port, paths) == [0x0000] * len(paths)
        await ingest.until_indexed()
        rows = await ingest.rows(select(instances))
        assert sorted(hashlib.sha256(dataset_bytes(path)).hexdigest() for path in paths) == sorted(
            row.content_hash for row in rows
        )
        for row in rows:
            assert hashlib.sha256(kept(ingest.objects, row.object_key)).hexdigest() == row.content_hash
        syntaxes = {row.sop_uid: row.transfer_syntax_uid for row in rows}
        for each in real_files():
            assert syntaxes[each.sop_uid] == each.transfer_syntax


async def test_dcmtk_sends_the_whole_real_set(tmp_path: Path) -> None:
    paths = [*real_set(), *rt_set(tmp_path)]
    async with running(tmp_path / "home") as ingest:
        done = await asyncio.to_thread(storescu, ingest.port, paths, calling="CT1")
        assert done.returncode == 0, done.stdout + done.stderr
        await ingest.until_indexed()
        assert len(await ingest.rows(select(instances.c.id))) == len(paths)


async def test_a_batch_is_one_event_of_one_study(tmp_path: Path) -> None:
    first, second = make_study(tmp_path, 5), make_study(tmp_path, 3)
    async with running(tmp_path / "home") as ingest:
        await asyncio.to_thread(storescu, ingest.port, [*first, *second], calling="CT1")
        await ingest.until_indexed()
        events = [event["data"] for event in await ingest.events("instances.stored")]
        by_study: dict[str, set[str]] = {}
        for event in events:
            told = by_study.setdefault(event["study_instance_uid"], set())
            told.update(each["sop_instance_uid"] for each in event["instances"])
            with ingest.objects.open(event["headers"]["key"]) as file:
                assert hashlib.sha256(file.read()).hexdigest() == event["headers"]["sha256"]
        assert sorted(map(len, by_study.values())) == [3, 5]
        assert len(events) < 8
        assert {event["source"]["node"] for event in events} == {"CT1"}


async def test_a_study_completes_once_and_is_amended_by_what_comes_late(tmp_path: Path) -> None:
    study = new_uid()
    early, late = make_study(tmp_path, 3, study_uid=study), make_study(tmp_path, 2, study_uid=study, Modality="SR")
    async with running(tmp_path / "home") as ingest:
        await asyncio.to_thread(storescu, ingest.port, early, calling="CT1")
        (event,) = await ingest.until_events("study.completed", 1)
        completed = StudyCompleted.model_validate(event["data"])
        assert (completed.version, completed.instance_count, completed.series_count) == (1, 3, 1)
        await asyncio.to_thread(storescu, ingest.port, early, calling="CT1")
        await asyncio.to_thread(storescu, ingest.port, late, calling="MR1")
        (event,) = await ingest.until_events("study.amended", 1)
        amended = StudyAmended.model_validate(event["data"])
        assert (amended.version, amended.instance_count, amended.added_count) == (2, 5, 2)
        assert amended.attributes["Modality"] == "CT"
        assert amended.attributes["ModalitiesInStudy"] == ["CT", "SR"]
        assert amended.source.node == "CT1"
        with ingest.objects.open(amended.manifest.key) as file:
            data = file.read()
        assert hashlib.sha256(data).hexdigest() == amended.manifest.sha256
        manifest = Manifest.model_validate(json.loads(data))
        pairs = [(path.stem, hashlib.sha256(dataset_bytes(path)).hexdigest()) for path in [*early, *late]]
        assert manifest.content_hash == set_hash(pairs) == amended.content_hash
        assert len(await ingest.events("study.completed")) == 1
        counted = await ingest.rows(select(arrivals.c.outcome, func.count()).group_by(arrivals.c.outcome))
        outcomes = {row[0]: row[1] for row in counted}
        assert outcomes == {"stored": 5, "duplicate": 3}


async def test_tenants_share_nothing(tmp_path: Path) -> None:
    path = make_ct(tmp_path)
    async with running(tmp_path / "home") as ingest:
        for calling in ("CT1", "NORTH"):
            done = await asyncio.to_thread(storescu, ingest.port, [path], calling=calling)
            assert done.returncode == 0
        await ingest.until_indexed()
        rows = await ingest.rows(select(instances).order_by(instances.c.tenant))
        assert [row.tenant for row in rows] == ["default", "north"]
        assert rows[0].object_key != rows[1].object_key


async def test_echo_is_answered_even_before_there_is_a_definition(tmp_path: Path) -> None:
    async with running(tmp_path / "home", network=None) as ingest:
        assert (await asyncio.to_thread(echoscu, ingest.port)).returncode == 0
        refused = await asyncio.to_thread(storescu, ingest.port, [make_ct(tmp_path)], calling="CT1")
        assert refused.returncode != 0
        (event,) = await ingest.until_events("association.refused", 1)
        assert "kivuko apply" in event["data"]["reason"]


async def test_a_study_does_not_wait_for_a_clock_that_was_put_back(tmp_path: Path) -> None:
    home = tmp_path / "home"
    later = utc_now() + timedelta(hours=1)
    async with running(home) as ingest:
        await asyncio.to_thread(storescu, ingest.port, make_study(tmp_path, 2), calling="CT1")
        await ingest.until_events("instances.stored", 1)
        # As the process before this one left it, an hour ago by a clock that was an hour ahead.
        async with ingest.database.transaction() as tx:
            await tx.execute(update(studies).values(due_at=later, version=0, leased_by="gone", leased_until=later))
            await tx.execute(delete(messaging.outbox).where(messaging.outbox.c.type.contains("study")))
    async with running(home) as ingest:
        assert (await ingest.until_events("study.completed", 1))[0]["data"]["instance_count"] == 2
