"""The same SOP Instance UID again: nothing new, put aside, kept first, or a new version; never lost, never silent."""

import asyncio
import copy
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from pydicom import dcmread
from sqlalchemy import event as sql_event
from sqlalchemy import select

from services.ingest.models import arrivals, conflicts, instances, quarantine, replaced, series, studies
from services.ingest.repository import tally_of
from services.ingest.tally import of_batch
from services.ingest.versions import stored_instances
from tests.integration.ingest.conftest import NETWORK, Running, running
from tests.integration.ingest.peer import read, send
from tests.support.synthetic import make_ct, new_uid

pytestmark = pytest.mark.integration


def network(policy: str | None = None, **nodes: str) -> dict[str, Any]:
    """Make the definition with a policy, and with other ones for single nodes."""
    made = copy.deepcopy(NETWORK)
    if policy is not None:
        made["same-uid"] = policy
    for node, own in nodes.items():
        made["nodes"][node]["same-uid"] = own
    return made


def contents(folder: Path, count: int = 2, **attributes: Any) -> list[Path]:
    """Write several contents of one instance of one study."""
    same = {"study_uid": new_uid(), "series_uid": new_uid(), "sop_uid": new_uid()} | attributes
    made = []
    for number in range(count):
        inside = folder / f"content-{number}"
        inside.mkdir()
        made.append(make_ct(inside, **same, SeriesDescription=f"content {number}"))
    return made


async def arrive(ingest: Running, paths: Sequence[Path], calling: str = "CT1") -> None:
    """Send files one after the other, each indexed before the next comes."""
    for path in paths:
        assert await asyncio.to_thread(send, ingest.port, [path], calling=calling) == [0]
        await ingest.until_indexed()


def stored(ingest: Running, key: str) -> bytes:
    """Give the dataset of an object."""
    path = ingest.home / "found.dcm"
    with ingest.objects.open(key) as file:
        path.write_bytes(file.read())
    return read(path)[1]


async def outcomes(ingest: Running) -> list[str]:
    """List what became of the arrivals, in their order."""
    return [row.outcome for row in await ingest.rows(select(arrivals.c.outcome).order_by(arrivals.c.id))]


async def test_identical_content_is_no_news(tmp_path: Path) -> None:
    path = make_ct(tmp_path)
    async with running(tmp_path / "home", network=network("new-version")) as ingest:
        await arrive(ingest, [path, path])
        assert await outcomes(ingest) == ["stored", "duplicate"]
        assert await ingest.rows(select(conflicts)) == []
        assert len(await ingest.events("instances.stored")) == 1


@pytest.mark.parametrize(("policy", "state"), [(None, "open"), ("quarantine", "open"), ("keep-first", "kept-first")])
async def test_other_content_is_put_aside_and_told(tmp_path: Path, policy: str | None, state: str) -> None:
    first, other = contents(tmp_path)
    async with running(tmp_path / "home", network=network(policy)) as ingest:
        await arrive(ingest, [first, other, other])
        (row,) = await ingest.rows(select(quarantine))
        assert (row.reason, row.state, row.times) == ("content-conflict", state, 2)
        assert stored(ingest, row.object_key) == read(other)[1]
        (instance,) = await ingest.rows(select(instances))
        assert stored(ingest, instance.object_key) == read(first)[1]
        assert await outcomes(ingest) == ["stored"]
        told = [event["data"] for event in await ingest.events("instances.conflicted")]
        assert [each["policy"] for each in told] == [policy or "quarantine"] * 2
        assert {each["quarantine_id"] for each in told} == {row.id}
        assert {(each["kept_hash"], each["other_hash"]) for each in told} == {(instance.content_hash, row.content_hash)}
        assert len(await ingest.rows(select(conflicts))) == 2
        assert len(await ingest.events("instances.quarantined")) == 1


@pytest.mark.parametrize("policy", ["quarantine", "keep-first", "new-version"])
async def test_an_instance_never_moves_to_another_study(tmp_path: Path, policy: str) -> None:
    sop_uid = new_uid()
    (tmp_path / "other").mkdir()
    first, other = make_ct(tmp_path, sop_uid=sop_uid), make_ct(tmp_path / "other", sop_uid=sop_uid)
    async with running(tmp_path / "home", network=network(policy)) as ingest:
        await arrive(ingest, [first, other])
        (row,) = await ingest.rows(select(quarantine))
        assert row.state == "open"
        assert "another study" in row.detail
        (instance,) = await ingest.rows(select(instances))
        assert stored(ingest, instance.object_key) == read(first)[1]
        (told,) = await ingest.events("instances.conflicted")
        assert told["data"]["policy"] == "quarantine"
        assert len(await ingest.rows(select(studies))) == 1


async def test_a_new_version_takes_the_place_and_the_old_one_stays_readable(tmp_path: Path, database_url: str) -> None:
    first, second = contents(tmp_path)
    another = make_ct(tmp_path, study_uid=_uid(first, "StudyInstanceUID"), series_uid=new_uid())
    async with running(tmp_path / "home", network=network(MR1="new-version"), database_url=database_url) as ingest:
        await arrive(ingest, [first, another])
        await ingest.until_events("study.completed", 1)
        await arrive(ingest, [second], calling="MR1")
        (amended,) = await ingest.until_events("study.amended", 1)
        assert (amended["data"]["replaced_count"], amended["data"]["instance_count"]) == (1, 2)
        rows = {row.sop_uid: row for row in await ingest.rows(select(instances))}
        kept = rows[_uid(second, "SOPInstanceUID")]
        assert stored(ingest, kept.object_key) == read(second)[1]
        assert kept.attributes["SeriesDescription"] == "content 1"
        (old,) = await ingest.rows(select(replaced))
        assert stored(ingest, old.object_key) == read(first)[1]
        event = (await ingest.events("instances.stored"))[-1]["data"]
        assert [(each["replaces"], each["content_hash"]) for each in event["instances"]] == [
            (old.content_hash, kept.content_hash)
        ]
        assert event["source"]["node"] == "MR1"
        assert (await ingest.events("instances.conflicted"))[0]["data"]["quarantine_id"] is None
        assert await outcomes(ingest) == ["stored", "stored", "replaced"]
        (study,) = await ingest.rows(select(studies))
        assert study.size == sum(row.size for row in rows.values())
        assert (study.instance_count, study.series_count) == (2, 2)
        assert sum(row.size for row in await ingest.rows(select(series))) == study.size
        assert await ingest.rows(select(quarantine)) == []


async def test_a_content_that_comes_again_takes_its_place_back(tmp_path: Path) -> None:
    first, second = contents(tmp_path)
    async with running(tmp_path / "home", network=network("new-version")) as ingest:
        await arrive(ingest, [first, second, first, second, second])
        assert await outcomes(ingest) == ["stored", "replaced", "replaced", "replaced", "duplicate"]
        (kept,) = await ingest.rows(select(instances))
        assert stored(ingest, kept.object_key) == read(second)[1]
        old = await ingest.rows(select(replaced).order_by(replaced.c.id))
        assert [stored(ingest, row.object_key) for row in old] == [read(path)[1] for path in (first, second, first)]
        assert len({row.object_key for row in (*old, kept)}) == 4


async def test_a_series_is_counted_anew_only_where_what_it_counts_is_another(tmp_path: Path) -> None:
    first, same, other = contents(tmp_path, 3)
    changed = dcmread(other)
    changed.InstanceNumber = 7
    changed.save_as(other)
    counted: list[str] = []
    async with running(tmp_path / "home", network=network("new-version")) as ingest:

        @sql_event.listens_for(ingest.database.engine.sync_engine, "before_cursor_execute")
        def note(_connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
            if "instances.series_uid IN" in statement:
                counted.append(statement)

        for path, times in ((first, 0), (same, 0), (other, 1)):
            await arrive(ingest, [path])
            assert len(counted) == times
            rows = await ingest.rows(select(instances))
            (brought,) = of_batch(stored_instances(rows)).series.values()
            (kept,) = await ingest.rows(select(series))
            assert tally_of(kept) == brought
        assert brought.numbers == ((7, 7),)


async def test_contents_that_come_together_are_settled_one_by_one(tmp_path: Path) -> None:
    made = contents(tmp_path, 4)
    async with running(tmp_path / "home", network=network("new-version")) as ingest:
        assert await asyncio.to_thread(send, ingest.port, made) == [0, 0, 0, 0]
        await ingest.until_indexed()
        (kept,) = await ingest.rows(select(instances))
        assert stored(ingest, kept.object_key) == read(made[-1])[1]
        assert len(await ingest.rows(select(replaced))) == 3


def _uid(path: Path, keyword: str) -> str:

    return str(dcmread(path, stop_before_pixels=True)[keyword].value)
