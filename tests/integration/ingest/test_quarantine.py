"""People list, look into, correct, release and discard what was put aside; nothing is lost on the way, or twice."""

import asyncio
import io
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
from pydicom import Dataset, dcmread
from sqlalchemy import select, update

from libs.storage.objects import StoreUnavailableError
from libs.web.principal import Principal
from services.ingest import holding
from services.ingest.models import arrivals, garbage, instances, quarantine, replaced, studies
from services.ingest.quarantine import Quarantine
from tests.integration.ingest.conftest import Running, running
from tests.integration.ingest.peer import read, send
from tests.integration.ingest.test_api import client
from tests.integration.ingest.test_bad_input import send_as
from tests.integration.ingest.test_same_uid import contents
from tests.support.synthetic import make_ct, new_uid

pytestmark = pytest.mark.integration
OPERATOR = Principal(name="night", role="operator")
ELSEWHERE = Principal(name="bata", role="operator", sites=frozenset({"bata"}))
PATH = "/v1/ingest/quarantine"
WHY = {"reason": "the worklist was wrong"}
NEW_STUDY = {"StudyInstanceUID": "1.2.3.4"}


@asynccontextmanager
async def calling(ingest: Running, caller: Principal = OPERATOR) -> AsyncIterator[httpx.AsyncClient]:
    """Call the routes."""
    async with client(ingest, caller) as http:
        yield http


async def put_aside(ingest: Running, path: Path, *, sop_uid: str | None = None) -> Any:
    """Send a file under another SOP Instance UID than its own; give the quarantine's row."""
    _, dataset = read(path)
    status = await asyncio.to_thread(send_as, ingest.port, dataset, sop_uid=sop_uid or new_uid())
    assert status in (0xA900, 0xC000)
    await ingest.until_indexed()
    return (await ingest.rows(select(quarantine).order_by(quarantine.c.id.desc())))[0]


async def post(ingest: Running, path: str, body: Mapping[str, Any], status: int = 200) -> Any:
    """Ask for something, and compare the status of the answer."""
    async with calling(ingest) as http:
        answer = await http.post(f"{PATH}{path}", json=dict(body))
    assert answer.status_code == status, answer.text
    return answer.json()


def stored(ingest: Running, key: str) -> tuple[bytes, Dataset]:
    """Give the dataset of an object: its bytes, and parsed."""
    with ingest.objects.open(key) as file:
        data = file.read()
    path = ingest.home / "found.dcm"
    path.write_bytes(data)
    return read(path)[1], dcmread(io.BytesIO(data))


async def test_an_object_is_corrected_and_released_into_a_study(tmp_path: Path) -> None:
    study = new_uid()
    there = make_ct(tmp_path, study_uid=study, PatientID="P1", PatientName="Doe^Jane")
    wrong = make_ct(tmp_path, StudyInstanceUID=None, PatientID="P9", PatientName="Roe^Richard")
    async with running(tmp_path / "home") as ingest:
        await asyncio.to_thread(send, ingest.port, [there])
        await ingest.until_events("study.completed", 1)
        row = await put_aside(ingest, wrong, sop_uid=str(dcmread(wrong).SOPInstanceUID))
        body = {**WHY, "corrections": {"StudyInstanceUID": study, "PatientID": "P1", "PatientName": "Doe^Jane"}}
        trial = await post(ingest, f"/{row.id}/release", {**body, "dry_run": True})
        assert trial["outcome"] == "would-release"
        assert (trial["study_instance_uid"], trial["new_study"], trial["replaces"]) == (study, False, False)
        assert (await ingest.rows(select(quarantine)))[0].state == "open"
        done = await post(ingest, f"/{row.id}/release", body)
        assert done == {**trial, "outcome": "released"}
        assert done["corrected"] == ["PatientName", "PatientID", "StudyInstanceUID"]
        (instance,) = await ingest.rows(select(instances).where(instances.c.sop_uid == done["sop_instance_uid"]))
        data, found = stored(ingest, instance.object_key)
        assert (found.StudyInstanceUID, found.PatientID, found.PatientName) == (study, "P1", "Doe^Jane")
        (noted,) = found.OriginalAttributesSequence
        assert (noted.ReasonForTheAttributeModification, noted.SourceOfPreviousValues) == ("CORRECT", "CT1")
        assert noted.ModifiedAttributesSequence[0].PatientID == "P9"
        before = read(wrong)[1]
        assert data.endswith(before[before.index(b"\xe0\x7f\x10\x00") :])
        (event,) = await ingest.events("instances.resolved")
        assert event["data"]["principal"] == "night"
        assert (event["data"]["resolution"], event["data"]["content_hash"]) == ("released", instance.content_hash)
        (amended,) = await ingest.until_events("study.amended", 1)
        assert (amended["data"]["added_count"], amended["subject"]) == (1, study)
        assert len(await ingest.events("instances.stored")) == 2
        assert stored(ingest, row.object_key)[0] == before
        (arrival,) = await ingest.rows(select(arrivals).where(arrivals.c.sop_uid == done["sop_instance_uid"]))
        assert arrival.association_id == f"release-{row.id}"
        again = await post(ingest, f"/{row.id}/release", body, 409)
        assert "released by night" in again["detail"]


async def test_command_or_dataset_is_right(tmp_path: Path, database_url: str) -> None:
    async with running(tmp_path / "home", database_url=database_url) as ingest:
        command = new_uid()
        one = await put_aside(ingest, make_ct(tmp_path), sop_uid=command)
        refused = await post(ingest, f"/{one.id}/release", WHY, 409)
        assert "trust" in refused["advice"]
        done = await post(ingest, f"/{one.id}/release", {**WHY, "trust": "command"})
        assert (done["sop_instance_uid"], done["corrected"]) == (command, ["SOPInstanceUID"])
        path = make_ct(tmp_path)
        other = await put_aside(ingest, path)
        done = await post(ingest, f"/{other.id}/release", {**WHY, "trust": "dataset"})
        assert (done["sop_instance_uid"], done["corrected"]) == (path.stem, [])
        (instance,) = await ingest.rows(select(instances).where(instances.c.sop_uid == path.stem))
        assert stored(ingest, instance.object_key)[0] == read(path)[1]
        # What was released as it is has its bytes in the study, and nowhere else.
        assert await asyncio.to_thread(ingest.objects.stat, other.object_key) is None
        assert await ingest.rows(select(garbage)) == []


async def test_other_content_takes_the_place_or_gets_its_own_uid(tmp_path: Path) -> None:
    first, second, third = contents(tmp_path, 3)
    async with running(tmp_path / "home") as ingest:
        for path in (first, second, third):
            await asyncio.to_thread(send, ingest.port, [path])
            await ingest.until_indexed()
        two, three = await ingest.rows(select(quarantine).order_by(quarantine.c.id))
        refused = await post(ingest, f"/{two.id}/release", WHY, 409)
        assert "replace" in refused["advice"]
        done = await post(ingest, f"/{two.id}/release", {**WHY, "replace": True})
        assert (done["outcome"], done["replaces"]) == ("released", True)
        (kept,) = await ingest.rows(select(instances))
        assert stored(ingest, kept.object_key)[0] == read(second)[1]
        (old,) = await ingest.rows(select(replaced))
        assert stored(ingest, old.object_key)[0] == read(first)[1]
        fresh = new_uid()
        await post(ingest, f"/{three.id}/release", {**WHY, "corrections": {"SOPInstanceUID": fresh}})
        rows = await ingest.rows(select(instances.c.sop_uid).order_by(instances.c.id))
        assert [row.sop_uid for row in rows] == [kept.sop_uid, fresh]


async def test_bytes_that_a_release_let_go_are_put_aside_once_more(tmp_path: Path) -> None:
    first, other = contents(tmp_path)
    async with running(tmp_path / "home") as ingest:
        for path in (first, other, first):
            await asyncio.to_thread(send, ingest.port, [path])
            await ingest.until_indexed()
            for row in await ingest.rows(select(quarantine).where(quarantine.c.state == "open")):
                await post(ingest, f"/{row.id}/release", {**WHY, "replace": True})
        # The first content stands again; the other is in no study any more, and its sender is told success.
        await asyncio.to_thread(send, ingest.port, [other])
        await ingest.until_indexed()
        (row,) = await ingest.rows(select(quarantine).where(quarantine.c.state == "open"))
        assert stored(ingest, row.object_key)[0] == read(other)[1]


async def test_a_release_counts_as_the_latest_whatever_the_clock_says(tmp_path: Path) -> None:
    first, other = contents(tmp_path)
    async with running(tmp_path / "home") as ingest:
        for path in (first, other):
            await asyncio.to_thread(send, ingest.port, [path])
            await ingest.until_indexed()
        async with ingest.database.transaction() as tx:
            # What is kept arrived before the clock was put back.
            await tx.execute(update(instances).values(received_at=datetime.now(UTC) + timedelta(hours=1)))
        (row,) = await ingest.rows(select(quarantine))
        done = await post(ingest, f"/{row.id}/release", {**WHY, "replace": True})
        assert done["outcome"] == "released"
        (kept,) = await ingest.rows(select(instances))
        assert stored(ingest, kept.object_key)[0] == read(other)[1]


async def test_a_release_changes_no_study_out_of_scope(tmp_path: Path) -> None:
    first, other = contents(tmp_path)
    study = str(dcmread(first).StudyInstanceUID)
    async with running(tmp_path / "home") as ingest:
        for path in (first, other):
            await asyncio.to_thread(send, ingest.port, [path])
            await ingest.until_indexed()
        lost = await put_aside(ingest, make_ct(tmp_path, StudyInstanceUID=None))
        async with ingest.database.transaction() as tx:
            await tx.execute(update(quarantine).values(site="bata"))
        (row,) = await ingest.rows(select(quarantine).where(quarantine.c.reason == "content-conflict"))
        into = {"trust": "dataset", "corrections": {"StudyInstanceUID": study}}
        async with calling(ingest, ELSEWHERE) as http:
            for entry, wish in ((row, {"replace": True}), (lost, into), (row, {"dry_run": True, "replace": True})):
                refused = await http.post(f"{PATH}/{entry.id}/release", json={**WHY, **wish})
                assert refused.status_code == 409, refused.text
                assert "scope" in refused.json()["detail"]
            answer = await http.post(f"{PATH}/{lost.id}/release", json={**WHY, **into, "corrections": NEW_STUDY})
            assert answer.json()["outcome"] == "released", answer.text
        assert {each.state for each in await ingest.rows(select(quarantine))} == {"open", "released"}
        assert await ingest.rows(select(replaced)) == []


async def test_what_is_refused_changes_nothing(tmp_path: Path) -> None:
    async with running(tmp_path / "home") as ingest:
        row = await put_aside(ingest, make_ct(tmp_path, StudyInstanceUID=None))
        await asyncio.to_thread(send_as, ingest.port, b"not a dataset", sop_uid="1.2.3")
        await ingest.until_indexed()
        unreadable = (await ingest.rows(select(quarantine).order_by(quarantine.c.id.desc())))[0]
        for entry, wrong, why in (
            (row, {"StudyInstanceUID": "1.2..3"}, "not a valid UID"),
            (row, {"StudyInstanceUID": ""}, "can't be empty"),
            (row, {"PixelData": "1"}, "can't be corrected"),
            (row, {"StudyInstanceUID": "1.2", "PatientName": "山田"}, "character set"),
            (row, {"SOPInstanceUID": new_uid()}, "no Study Instance UID"),
            (unreadable, {"StudyInstanceUID": "1.2.3"}, "no dataset that can be read"),
        ):
            refused = await post(ingest, f"/{entry.id}/release", {**WHY, "trust": "dataset", "corrections": wrong}, 409)
            assert why in refused["detail"], refused
            assert refused["advice"]
        await post(ingest, f"/{row.id}/release", {**WHY, "tenant": "north"}, 422)
        await post(ingest, f"/{row.id}/release", {}, 422)
        async with calling(ingest, ELSEWHERE) as http:
            assert (await http.post(f"{PATH}/{row.id}/release", json=WHY)).status_code == 404
            assert (await http.get(f"{PATH}/{row.id}/header")).status_code == 404
        assert {each.state for each in await ingest.rows(select(quarantine))} == {"open"}
        assert await ingest.events("instances.resolved") == []
        assert await ingest.rows(select(instances)) == []


async def test_a_release_stays_in_its_tenant(tmp_path: Path) -> None:
    study = new_uid()
    async with running(tmp_path / "home") as ingest:
        theirs = make_ct(tmp_path, study_uid=study)
        await asyncio.to_thread(send, ingest.port, [theirs], calling="NORTH")
        await ingest.until_indexed()
        row = await put_aside(ingest, make_ct(tmp_path, StudyInstanceUID=None))
        body = {**WHY, "trust": "dataset", "corrections": {"StudyInstanceUID": study}}
        done = await post(ingest, f"/{row.id}/release", body)
        assert done["new_study"] is True
        found = await ingest.rows(select(studies.c.tenant, studies.c.instance_count).order_by(studies.c.tenant))
        assert [tuple(each) for each in found] == [("default", 1), ("north", 1)]


async def test_lists_filters_and_headers(tmp_path: Path, database_url: str) -> None:
    async with running(tmp_path / "home", database_url=database_url) as ingest:
        row = await put_aside(ingest, make_ct(tmp_path, StudyInstanceUID=None, PatientName="Doe^Jane"))
        await asyncio.to_thread(send_as, ingest.port, b"not a dataset", sop_uid="1.2.3")
        await ingest.until_indexed()
        async with calling(ingest) as http:
            for query, count in (
                ({}, 2),
                ({"state": "open"}, 2),
                ({"state": ["released", "discarded"]}, 0),
                ({"reason": "unreadable-dataset"}, 1),
                ({"node": "CT1", "site": "luba", "tenant": "default"}, 2),
                ({"node": "MR1"}, 0),
                ({"site": "bata"}, 0),
                ({"since": "2020-01-01T00:00:00Z"}, 2),
                ({"since": "2999-01-01T00:00:00Z"}, 0),
            ):
                answer = await http.get(PATH, params=query)
                assert len(answer.json()["entries"]) == count, query
            shown = (await http.get(f"{PATH}/{row.id}/header")).json()["elements"]
            assert shown["00100010"]["Value"] == ["Doe^Jane"]
            other = next(each for each in (await http.get(PATH)).json()["entries"] if each["id"] != row.id)
            assert (await http.get(f"{PATH}/{other['id']}/header")).status_code == 409


async def test_what_is_discarded_is_kept_until_it_is_deleted(tmp_path: Path) -> None:
    first, other = contents(tmp_path)
    async with running(tmp_path / "home") as ingest:
        for path in (first, other):
            await asyncio.to_thread(send, ingest.port, [path])
            await ingest.until_indexed()
        (row,) = await ingest.rows(select(quarantine))
        await post(ingest, f"/{row.id}/discard", {**WHY, "dry_run": True})
        assert (await post(ingest, f"/{row.id}/discard", WHY))["outcome"] == "discarded"
        assert stored(ingest, row.object_key)[0] == read(other)[1]
        await post(ingest, f"/{row.id}/release", {**WHY, "replace": True}, 409)
        # The same bytes once more were decided on already.
        await asyncio.to_thread(send, ingest.port, [other])
        await ingest.until_indexed()
        assert [(each.state, each.times) for each in await ingest.rows(select(quarantine))] == [("discarded", 2)]
        await post(ingest, f"/{row.id}/discard", {**WHY, "delete_bytes": True})
        assert await asyncio.to_thread(ingest.objects.stat, row.object_key) is None
        await post(ingest, f"/{row.id}/discard", {**WHY, "delete_bytes": True}, 409)
        # Once more, and the sender is told success: people are asked anew.
        await asyncio.to_thread(send, ingest.port, [other])
        await ingest.until_indexed()
        (again,) = await ingest.rows(select(quarantine))
        assert again.state == "open"
        assert stored(ingest, again.object_key)[0] == read(other)[1]
        told = [event["data"]["resolution"] for event in await ingest.events("instances.resolved")]
        assert told == ["discarded"]


async def test_many_at_once(tmp_path: Path) -> None:
    async with running(tmp_path / "home") as ingest:
        study, series = new_uid(), new_uid()
        rows = [await put_aside(ingest, make_ct(tmp_path, StudyInstanceUID=None, series_uid=series)) for _ in range(3)]
        await asyncio.to_thread(send_as, ingest.port, b"not a dataset", sop_uid="1.2.3")
        await ingest.until_indexed()
        body = {
            **WHY,
            "trust": "dataset",
            "corrections": {"StudyInstanceUID": study},
            "filter": {"node": "CT1", "reason": "identity-mismatch"},
        }
        trial = (await post(ingest, "/release", {**body, "dry_run": True}))["outcomes"]
        assert {each["outcome"] for each in trial} == {"would-release"}
        made = (await post(ingest, "/release", {**body, "filter": {"node": "CT1"}}))["outcomes"]
        assert sorted(each["outcome"] for each in made) == ["refused", "released", "released", "released"]
        (found,) = await ingest.rows(select(studies))
        assert (found.study_uid, found.instance_count) == (study, 3)
        left = (await post(ingest, "/discard", {**WHY, "filter": {}}))["outcomes"]
        assert [each["outcome"] for each in left] == ["discarded"]
        assert left[0]["id"] not in {row.id for row in rows}


async def test_a_store_that_goes_away_hides_nothing_that_was_decided(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with running(tmp_path / "home") as ingest:
        rows = [await put_aside(ingest, make_ct(tmp_path, StudyInstanceUID=None)) for _ in range(3)]
        store = type(ingest.objects)
        read_object = store.open

        def away(self: Any, key: str, *place: Any) -> Any:
            if key == rows[0].object_key:
                raise StoreUnavailableError("the object store does not answer")
            return read_object(self, key, *place)

        def nothing_goes(*_arguments: Any) -> None:
            raise StoreUnavailableError("the object store does not answer")

        monkeypatch.setattr(store, "open", away)
        monkeypatch.setattr(store, "delete", nothing_goes)
        body = {**WHY, "trust": "dataset", "corrections": NEW_STUDY}
        ids = [row.id for row in rows[:2]]
        made = {
            each["id"]: each for each in (await post(ingest, "/release", {**body, "filter": {"ids": ids}}))["outcomes"]
        }
        assert [made[each]["outcome"] for each in ids] == ["refused", "released"]
        assert "can't be read" in made[ids[0]]["problem"]
        assert made[ids[0]]["advice"]
        await post(ingest, f"/{ids[0]}/release", body, 503)
        gone = await post(ingest, f"/{rows[2].id}/discard", {**WHY, "delete_bytes": True})
        assert gone["outcome"] == "discarded"
        assert [row.object_key for row in await ingest.rows(select(garbage))] == [rows[2].object_key]
        assert (await ingest.rows(select(quarantine.c.state).order_by(quarantine.c.id)))[2].state == "discarded"


@pytest.mark.parametrize("killed_at", ["claimed", "spooled", "indexed"])
async def test_a_release_that_was_cut_off_comes_to_its_end_once(
    tmp_path: Path, killed_at: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = tmp_path / "home"

    async def nothing(*_arguments: Any) -> None:
        return

    async with running(home) as ingest:
        row = await put_aside(ingest, make_ct(tmp_path, StudyInstanceUID=None))
        body = {**WHY, "trust": "dataset", "corrections": {"StudyInstanceUID": new_uid()}}
        with monkeypatch.context() as patched:
            patched.setattr("services.ingest.quarantine_api._PATIENCE", 0.1)
            patched.setattr(Quarantine, "_round", nothing)
            if killed_at == "claimed":
                patched.setattr(Quarantine, "_try_to_enter", nothing)
            if killed_at == "spooled":
                patched.setattr("services.ingest.indexer.Indexer._index", _never)
            assert (await post(ingest, f"/{row.id}/release", body))["outcome"] == "releasing"
            if killed_at == "indexed":
                await ingest.until_indexed()
            # Ended here as a power cut would: what is durable is all that the next life has.
    async with running(home) as ingest:
        (event,) = await ingest.until_events("instances.resolved", 1)
        await ingest.until_indexed()
        (entry,) = await ingest.rows(select(quarantine))
        assert entry.state == "released"
        (instance,) = await ingest.rows(select(instances))
        assert instance.content_hash == event["data"]["content_hash"]
        assert stored(ingest, instance.object_key)[1].StudyInstanceUID == event["data"]["study_instance_uid"]
        assert len(await ingest.events("instances.stored")) == 1
        assert len(await ingest.rows(select(arrivals))) == 1


async def _never(*_arguments: Any) -> None:
    await asyncio.Event().wait()


async def test_a_release_whose_bytes_are_damaged_is_given_back(tmp_path: Path) -> None:
    async with running(tmp_path / "home") as ingest:
        row = await put_aside(ingest, make_ct(tmp_path))
        with ingest.objects.open(row.object_key) as file:
            data = bytearray(file.read())
        data[-1] ^= 1
        await asyncio.to_thread(ingest.objects.put, row.object_key, bytes(data))
        refused = await post(ingest, f"/{row.id}/release", {**WHY, "trust": "dataset"})
        assert refused["outcome"] == "refused"
        assert "not what arrived" in refused["problem"]
        (entry,) = await ingest.rows(select(quarantine))
        assert (entry.state, entry.resolved_by) == ("open", None)
        assert await ingest.rows(select(instances)) == []
        async with ingest.database.reading() as tx:
            assert await holding.releasing(tx) == []


async def test_flags_are_cleared_by_people(tmp_path: Path) -> None:
    async with running(tmp_path / "home") as ingest:
        for uid, name in (("1.1", "Doe^Jane"), ("1.2", "Roe^Jane")):
            await asyncio.to_thread(send, ingest.port, [make_ct(tmp_path, study_uid=uid, PatientName=name)])
            await ingest.until_indexed()
        async with calling(ingest) as http:
            listed = (await http.get("/v1/ingest/studies")).json()["studies"]
            assert [each["flags"] for each in listed] == [1, 1]
            (flag,) = (await http.get("/v1/ingest/studies/1.1")).json()["flagged"]
            assert (flag["other_study_instance_uid"], flag["fields"]) == ("1.2", ["PatientName"])
            cleared = (await http.post(f"/v1/ingest/studies/1.1/flags/{flag['id']}/clear")).json()
            assert cleared["cleared_by"] == "night"
            assert (await http.get("/v1/ingest/studies/1.1")).json()["flags"] == 0
            assert (await http.get("/v1/ingest/studies/1.2")).json()["flags"] == 1
            assert (await http.post(f"/v1/ingest/studies/1.2/flags/{flag['id']}/clear")).status_code == 404
