"""Orders by hand over HTTP, on both databases: added, changed, ended, listed, and as files."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import func, select

from services.worklist.change import Number
from services.worklist.models import changes, orders
from tests.integration.worklist.conftest import make_desk
from tests.integration.worklist.office import Office, office
from tests.unit.worklist.said import merge
from tests.unit.worklist.said import order as said

pytestmark = pytest.mark.integration
JANE: dict[str, Any] = {
    "site": "bata", "patient_id": "4711", "patient_name": "DOE^JANE", "birth_date": "1980-03-27", "sex": "F",
    "modality": "US", "station": "US1", "start": "2026-11-21 10:15", "procedure": "US ABDOMEN",
}  # fmt: skip
HEAD = "site;patient_id;patient_name;modality;start;order"
STEPS = "ScheduledProcedureStepSequence"
EDITS: list[tuple[dict[str, Any], str]] = [
    ({"station": "US9"}, "AE title US9"),
    ({"station": "CT1"}, "CT1 is a CT"),
    ({"modality": "CT"}, "US1 is a US"),
    ({"procedure": "US PELVIS"}, "the code of the procedure is as it was"),
    ({"procedure": "US PELVIS", "procedure_code": None}, "the description of the step is as it was"),
    ({"procedure": "US PELVIS", "procedure_code": "P", "step_description": "US PELVIS"}, ""),
]
REFUSED: list[tuple[str, dict[str, Any], str, int, str]] = [
    ("/orders", {**JANE, "site": "nowhere"}, "night", 422, "no site nowhere"),
    ("/orders", JANE, "stranger", 422, "no site bata"),
    ("/orders", JANE, "malabo", 422, "no site bata"),
    ("/orders", JANE, "looker", 403, "orders.manage"),
    ("/orders", {**JANE, "start": "tomorrow"}, "night", 422, "is not a date here"),
    ("/orders", {**JANE, "shoe": "42"}, "night", 422, "shoe"),
    ("/orders", {**JANE, "patient_name": "\ud800"}, "night", 422, "patient_name"),
    ("/orders/{id}/edit", {"issuer": "HGB"}, "night", 422, "give both"),
    ("/orders/{id}/edit", {"step": "S9", "room": "1"}, "night", 422, "no open step S9"),
    ("/orders/{id}/edit", {"room": "1"}, "stranger", 404, "no order"),
    ("/orders/{id}/cancel", {"reason": "a\nb"}, "night", 422, "reason"),
    ("/orders/{id}/cancel", {}, "malabo", 404, "no order"),
    ("/orders/999/cancel", {}, "night", 404, "no order"),
]
BAD = [
    ("nowhere;2;DOE^J;US;2026-11-21;", 3, "no site nowhere"),
    ("bata;2;DOE^J;US;21/11/2026;", 3, "day-first"),
    ("bata;4711;ROE^JOHN;US;2026-11-21;", 3, "is another one than is known"),
]


@pytest.fixture
async def desk(database_url: str, tmp_path: Path) -> AsyncIterator[Office]:
    async with office(database_url, tmp_path) as made:
        yield made


def step(item: dict[str, Any]) -> dict[str, Any]:
    [found] = item[STEPS]
    return dict(found)


async def count(desk: Office) -> list[int]:
    async with desk.database.reading() as tx:
        return [await tx.scalar(select(func.count()).select_from(table)) or 0 for table in (orders, changes)]


async def test_an_order_is_added_changed_cancelled_and_reopened(desk: Office) -> None:
    made = await desk.post("/orders", JANE)
    assert (made["state"], made["patient"], made["start"], made["warnings"]) == (
        "scheduled",
        "4711",
        "20261121101500",
        [],
    )
    assert made["minted"] == ["AccessionNumber", "StudyInstanceUID"]
    path = f"/orders/{made['id']}"
    edited = await desk.post(f"{path}/edit", {"start": "2026-11-22 09:00", "station": None, "weight": 61})
    assert (edited["start"], edited["steps"][0]["station_aets"]) == ("20261122090000", [])
    assert any("no station" in each for each in edited["warnings"])
    [item] = await desk.shown()
    assert item["PatientWeight"] == ["61"]
    gone = await desk.post(f"{path}/cancel", {"reason": "not fasting"}, who="day")
    assert (gone["state"], await desk.shown()) == ("cancelled", [])
    noted = await desk.post(f"{path}/edit", {"room": "2"})
    assert any("reopened" in each for each in noted["warnings"])
    assert (await desk.post(f"{path}/reopen", {"reason": "fasting after all"}))["state"] == "scheduled"
    detail = await desk.get(path)
    assert detail["attributes"]["AccessionNumber"] == [made["accession"]]
    told = [(one["source"], one["body"]["action"], one["body"].get("reason")) for one in detail["journal"]]
    assert told == [
        ("hand:night", "schedule", None),
        ("hand:night", "update", None),
        ("hand:day", "cancel", "not fasting"),
        ("hand:night", "update", None),
        ("hand:night", "schedule", "fasting after all"),
    ]
    assert {use.target for use in desk.uses if use.permission == "orders.manage" and use.status == 200} == {
        made["study_instance_uid"]
    }


async def test_items_have_what_type_1_and_1c_ask_for(desk: Office) -> None:
    await desk.post("/orders", {**JANE, "station": None})
    bare = {name: JANE[name] for name in ("site", "patient_id", "patient_name", "modality")}
    odd = await desk.post("/orders", {**bare, "modality": "MG", "start": "2026-11-21"})
    await desk.post("/orders", {**JANE, "procedure": None, "procedure_code": "USABD", "procedure_scheme": "L"})
    full, poor, coded = await desk.shown()
    assert step(full)["ScheduledStationAETitle"] == ["US1", "US2"]
    assert step(full)["ScheduledProcedureStepDescription"] == ["US ABDOMEN"]
    assert step(poor)["ScheduledProcedureStepDescription"] == poor["RequestedProcedureDescription"] == ["MG"]
    assert step(poor)["ScheduledProcedureStepStartTime"] == ["000000"]
    assert step(coded)["ScheduledProtocolCodeSequence"] == coded["RequestedProcedureCodeSequence"]
    words = ("midnight", "what is to be done", "no station")
    assert [next(word for word in words if word in each) for each in odd["warnings"]] == list(words)
    needed = {"Modality", "ScheduledStationAETitle", "ScheduledProcedureStepID", "ScheduledProcedureStepDescription"}
    needed |= {"ScheduledProcedureStepStartDate", "ScheduledProcedureStepStartTime"}
    for item in (full, coded):
        assert not [name for name in needed if not step(item).get(name)]
        assert all(item.get(name) for name in ("PatientName", "PatientID", "RequestedProcedureID", "StudyInstanceUID"))


async def test_what_an_edit_leaves_odd_is_said(desk: Office) -> None:
    for number, (change, words) in enumerate(EDITS):
        given = {"order": f"N{number}", "procedure_code": "USABD", "step_description": "US ABDOMEN"}
        made = await desk.post("/orders", {**JANE, **given})
        edited = await desk.post(f"/orders/{made['id']}/edit", change)
        assert bool(edited["warnings"]) == bool(words), change
        assert any(words in each for each in edited["warnings"]) or not words, change


async def test_a_patient_id_that_is_somebody_else_s_is_refused_unless_it_is_said_to_be_the_same(desk: Office) -> None:
    await desk.post("/orders", JANE)
    before = await desk.shown()
    other = {**JANE, "patient_name": "ROE^JOHN", "modality": "CT", "station": "CT1"}
    problem = await desk.refused("/orders", other)
    assert (problem["status"], "--same-patient" in problem["advice"]) == (409, True)
    assert not any(word in str(problem) for word in ("ROE", "DOE", "4711"))
    assert await desk.shown() == before
    await desk.post("/orders", {**JANE, "patient_name": "dóe^jane^", "modality": "CT", "station": "CT1"})
    third = await desk.post("/orders", {**JANE, "patient_id": "4712", "patient_name": "ROE^JOHN", "sex": "M"})
    slip = {"patient_id": "4711", "patient_name": "ROE^JOHN"}
    assert (await desk.refused(f"/orders/{third['id']}/edit", slip))["status"] == 409
    assert (await desk.post(f"/orders/{third['id']}/edit", slip, same_patient=True))["patient"] == "4711"
    await desk.post("/orders", other, same_patient=True)
    assert {item["PatientName"][0] for item in await desk.shown()} == {"ROE^JOHN"}


async def test_another_site_s_own_identifiers_are_no_obstacle_unless_the_same_hospital_issued_both(
    desk: Office,
) -> None:
    await desk.post("/orders", JANE)
    other = {**JANE, "site": "malabo", "patient_name": "ROE^JOHN"}
    await desk.post("/orders", other)
    lines = ("bata;9;DOE^J;US;2026-11-21 10:00;", "malabo;9;ROE^R;US;2026-11-21 10:00;")
    assert (await sheet(desk, *lines))["applied"] == 2
    assert {item["PatientName"][0] for item in await desk.shown()} == {"DOE^JANE", "ROE^JOHN", "DOE^J", "ROE^R"}
    await desk.post("/orders", {**JANE, "issuer": "HGB"})
    assert (await desk.refused("/orders", {**other, "issuer": "HGB"}))["status"] == 409


async def test_the_same_number_is_the_same_order_and_a_given_accession_number_names_it(
    desk: Office, database_url: str
) -> None:
    first = await desk.post("/orders", {**JANE, "order": "N1"})
    assert (await desk.post("/orders", {**JANE, "order": "N1", "station": "US2"}, who="day"))["id"] == first["id"]
    edited = await desk.post(f"/orders/{first['id']}/edit", {"accession": "A1"})
    assert edited["accession"] == "A1"
    hl7 = await make_desk(database_url)
    await hl7.take(said(600, "update", accession="A1", site="bata", about={"RequestingService": ("ER",)}))
    await hl7.database.close()
    assert (await desk.get(f"/orders/{first['id']}"))["attributes"]["RequestingService"] == ["ER"]
    assert [one["id"] for one in (await desk.get("/orders", accession="A1"))["orders"]] == [first["id"]]


async def test_what_is_refused_says_why_and_changes_nothing(desk: Office) -> None:
    made = await desk.post("/orders", JANE)
    before = await desk.shown(), await count(desk)
    for path, body, who, status, words in REFUSED:
        problem = await desk.refused(path.replace("{id}", str(made["id"])), body, who=who)
        assert (problem["status"], words in str(problem)) == (status, True), problem
        assert (await desk.shown(), await count(desk)) == before


async def test_orders_are_listed_by_what_people_look_for_and_within_their_scope(desk: Office) -> None:
    first = await desk.post("/orders", {**JANE, "order": "N1", "accession": "A1"})
    second = await desk.post("/orders", {**JANE, "site": "malabo", "start": "2026-11-22 08:00", "patient_id": "4712"})
    await desk.post("/orders", {**JANE, "site": "far"}, who="stranger")
    await desk.post(f"/orders/{first['id']}/cancel")

    async def ids(who: str = "day", **query: Any) -> list[int]:
        return [one["id"] for one in (await desk.get("/orders", who, **query))["orders"]]

    both = [second["id"], first["id"]]
    assert await ids("malabo") == [second["id"]]
    assert [each for each in await ids() if each in both] == both
    assert len(await ids("stranger")) == 1
    for query, found in (
        ({"patient": "4711", "site": "bata"}, [first["id"]]),
        ({"accession": "A1"}, [first["id"]]),
        ({"number": "N1"}, [first["id"]]),
        ({"study": second["study_instance_uid"]}, [second["id"]]),
        ({"day": "20261122"}, [second["id"]]),
        ({"state": ["cancelled"]}, [first["id"]]),
        ({"site": "nowhere"}, []),
    ):
        assert await ids(**query) == found, query
    page = await desk.get("/orders", limit=1)
    assert (await desk.get("/orders", limit=2, before=page["before"]))["orders"][-1]["id"] == first["id"]
    assert (await desk.missing(f"/orders/{first['id']}", "malabo"))["status"] == 404
    assert (await desk.missing("/orders", state="bogus"))["status"] == 422


async def sheet(desk: Office, *lines: str, who: str = "night", **how: Any) -> Any:
    return await desk.post("/orders/import", {"csv": "\r\n".join((HEAD, *lines)), **how}, who=who)


async def test_a_file_is_imported_once_whoever_imports_it_and_undoes_no_edit(desk: Office) -> None:
    lines = [f"bata;{n};DOE^N{n};US;2026-11-21 10:{n:02};" for n in range(40)]
    assert (await sheet(desk, *lines, dry_run=True))["orders"] == 40
    assert await count(desk) == [0, 0]
    done = await sheet(desk, *lines, lines[0])
    assert (done["orders"], done["applied"], done["unchanged"], done["warnings"][0]["line"]) == (41, 40, 1, 2)
    one = (await desk.get("/orders", patient="0"))["orders"][0]
    await desk.post(f"/orders/{one['id']}/edit", {"start": "2026-11-23 08:00"})
    for who in ("night", "day"):
        again = await sheet(desk, *lines, who=who)
        assert (again["applied"], again["unchanged"]) == (0, 40)
    assert (await desk.get(f"/orders/{one['id']}"))["start"] == "20261123080000"
    assert await count(desk) == [40, 41]


async def test_a_line_with_a_number_changes_its_order_also_back_again(desk: Office) -> None:
    monday, tuesday = (f"bata;1;DOE^JANE;US;2026-11-{day} 10:00;N1" for day in (23, 24))
    for line, applied in ((monday, 1), (tuesday, 1), (tuesday, 0), (monday, 1), (monday, 0)):
        assert (await sheet(desk, line))["applied"] == applied
        [order] = (await desk.get("/orders"))["orders"]
        assert order["start"][6:8] == line.split(";")[4][8:10]


async def test_a_file_with_a_bad_line_changes_nothing(desk: Office) -> None:
    await desk.post("/orders", JANE)
    before = await desk.shown(), await count(desk)
    for bad, line, words in BAD:
        body = {"csv": f"{HEAD}\nbata;1;DOE^JANE;US;2026-11-21 10:00;\n{bad}"}
        problem = await desk.refused("/orders/import", body)
        assert [(one["line"], words in one["message"]) for one in problem["problems"]] == [(line, True)]
        assert (await desk.shown(), await count(desk)) == before


async def test_two_people_import_at_the_same_time_and_each_order_is_there_once(desk: Office) -> None:
    lines = [f"bata;{n};DOE^N{n};US;2026-11-21 10:{n:02};" for n in range(30)]
    await asyncio.gather(*(sheet(desk, *lines, who=who) for who in ("night", "day", "night")))
    assert (await count(desk))[0] == 30


async def test_an_order_that_became_a_part_of_another_is_shown_as_that_one_and_changed_as_that_one(
    desk: Office, database_url: str
) -> None:
    first = await desk.post("/orders", {**JANE, "order": "N1"})
    hl7 = await make_desk(database_url)
    [other] = (await hl7.take(said(0, filler="F1", site="bata"))).outcomes
    change = said(1, "update", filler="F1", site="bata")
    await hl7.take(replace(change, placer=Number("N1")))
    await hl7.database.close()
    assert (await desk.get(f"/orders/{other.order_id}"))["id"] == first["id"]
    problem = await desk.refused(f"/orders/{other.order_id}/cancel")
    assert (problem["status"], f"order {first['id']}" in problem["advice"]) == (409, True)
    assert (await desk.post(f"/orders/{first['id']}/edit", {"room": "3"}))["filler"] == "F1"


async def test_a_patient_id_that_was_merged_into_another_is_that_patient(desk: Office, database_url: str) -> None:
    await desk.post("/orders", JANE)
    hl7 = await make_desk(database_url)
    await hl7.take(merge(0, *(Number(each, site="bata") for each in ("4711", "4712"))))
    await hl7.database.close()
    other = {**JANE, "patient_id": "4712", "patient_name": "ROE^JOHN"}
    assert (await desk.refused("/orders", other))["status"] == 409
    await desk.post("/orders", {**other, "patient_name": "DOE^JANE", "modality": "CT", "station": "CT1"})
