"""A person's word for it: studies linked to orders and taken back, on both databases."""

from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from tests.integration.worklist.conftest import Desk, make_desk
from tests.integration.worklist.office import Office, office
from tests.integration.worklist.test_meeting import CT, complete, completed, linked
from tests.unit.worklist.said import JANE, JOHN, merge, order

pytestmark = pytest.mark.integration


@dataclass
class House:
    """People at the desk, and what comes by events and HL7, on one database."""

    people: Office
    machines: Desk

    async def order(self, placer: str, minute: int = 0, **said: Any) -> int:
        """Have an order come; give its id."""
        taken = await self.machines.take(order(minute, placer=placer, steps=CT, **said))
        assert taken.outcomes[0].order_id is not None
        return taken.outcomes[0].order_id

    async def link(self, study: str, order_id: int, who: str = "night") -> Any:
        return await self.people.post(f"/studies/{study}/link", {"order": order_id, "reason": "seen"}, who=who)

    async def told(self, kind: str = "changed") -> list[tuple[str, list[str], list[str]]]:
        """Give what events said of links: the order's UID, studies that are its own, and that are not."""
        fields = ("study_instance_uid", "linked_study_instance_uids", "unlinked_study_instance_uids")
        return [tuple(data[name] for name in fields) for name, data in await self.machines.events() if name == kind]


@pytest.fixture
async def house(database_url: str, tmp_path: Path) -> AsyncIterator[House]:
    async with office(database_url, tmp_path) as people:
        machines = await make_desk(database_url)
        yield House(people, machines)
        await machines.database.close()


async def test_a_study_is_linked_by_hand_taken_back_and_linked_again(house: House) -> None:
    wanted = await house.order("P1", about={"StudyInstanceUID": ("2.1",)}, patient=JOHN)
    await complete(house.machines, completed("1.1", PatientID="999"))
    assert (await house.people.get("/unmatched"))["studies"] == []
    house.people.clock.now += timedelta(hours=2)
    assert [one["order_id"] for one in (await house.people.get("/unmatched"))["studies"]] == [None]
    shown = await house.link("1.1", wanted)
    assert (shown["order_id"], shown["matched_by"], shown["contradicts"]) == (wanted, "hand", False)
    assert (await house.people.get("/unmatched"))["studies"] == []
    assert [one["study_instance_uid"] for one in (await house.people.get(f"/orders/{wanted}"))["studies"]] == ["1.1"]
    await house.link("1.1", wanted, who="day")
    back = await house.people.post("/studies/1.1/unlink", {"reason": "not that one"}, who="day")
    assert (back["order_id"], back["matched_by"]) == (None, None)
    assert [(one["who"], one["act"], one["reason"]) for one in back["journal"]] == [
        ("night", "link", "seen"),
        ("day", "unlink", "not that one"),
    ]
    assert len((await house.people.get("/unmatched"))["studies"]) == 1
    await house.link("1.1", wanted)
    assert await house.told() == [("2.1", ["1.1"], []), ("2.1", [], ["1.1"]), ("2.1", ["1.1"], [])]
    # What is told later says it still.
    await house.order("P1", minute=1, about={"RequestingService": ("ER",)}, patient=JOHN)
    assert (await house.told())[-1] == ("2.1", ["1.1"], [])


async def test_what_a_person_took_back_is_not_matched_again_with_the_same_order(house: House) -> None:
    first = await house.order("P1", accession="A1")
    await complete(house.machines, completed("1.1", AccessionNumber="A1", PatientID="100"))
    await house.people.post("/studies/1.1/unlink", {"reason": "wrong item chosen"})
    await complete(house.machines, completed("1.1", AccessionNumber="A1", PatientID="100"))
    await house.order("P1", minute=1, accession="A1", about={"RequestingService": ("ER",)})
    assert (await linked(house.machines))["1.1"] == (None, None, False)
    await house.order("P2", minute=2, about={"StudyInstanceUID": ("1.1",)})
    assert (await linked(house.machines))["1.1"] == ("P2", "study-uid", False)
    problem = await house.people.refused("/studies/1.1/link", {"order": first, "reason": "x"})
    assert (problem["status"], "kivuko worklist unlink" in problem["advice"]) == (409, True)


async def test_a_link_that_does_not_fit_is_refused_and_changes_nothing(house: House) -> None:
    mine = await house.order("P1")
    theirs = (await house.people.post(
        "/orders",
        {"site": "far", "patient_id": "1", "patient_name": "X^Y", "modality": "CT", "start": "2026-11-20"},
        who="stranger",
    ))["id"]  # fmt: skip
    part = (await house.machines.take(order(0, filler="F1", message="f"))).outcomes[0].order_id
    await house.machines.take(order(1, "update", placer="P1", filler="F1"))
    await complete(house.machines, completed("1.1", PatientID="999"))
    before = await linked(house.machines)
    for path, body, who, status, words in (
        ("/studies/1.9/link", {"order": mine, "reason": "x"}, "night", 404, "once it is complete"),
        ("/studies/1.1/link", {"order": 999, "reason": "x"}, "night", 404, "no order"),
        ("/studies/1.1/link", {"order": theirs, "reason": "x"}, "night", 409, "tenant other"),
        ("/studies/1.1/link", {"order": theirs, "reason": "x"}, "stranger", 404, "no study"),
        ("/studies/1.1/link", {"order": part, "reason": "x"}, "night", 409, f"order {mine}"),
        ("/studies/1.1/link", {"order": mine}, "night", 422, "reason"),
        ("/studies/1.1/link", {"order": mine, "reason": "x"}, "looker", 403, "orders.manage"),
        ("/studies/1.1/unlink", {"reason": "x"}, "night", 409, "belongs to no order"),
    ):
        problem = await house.people.refused(path, body, who=who)
        assert (problem["status"], words in str(problem)) == (status, True), problem
    assert await linked(house.machines) == before


async def test_links_follow_when_orders_become_one(house: House) -> None:
    await house.order("P1", about={"StudyInstanceUID": ("2.1",)})
    part = (await house.machines.take(order(1, filler="F1", about={"StudyInstanceUID": ("2.2",)}))).outcomes[0].order_id
    assert part is not None
    await complete(house.machines, completed("1.1", PatientID="999"), completed("1.2", PatientID="998"))
    await house.link("1.1", part)
    await house.link("1.2", part)
    await house.people.post("/studies/1.2/unlink", {"reason": "no"})
    await house.machines.take(order(2, "update", placer="P1", filler="F1"))
    assert (await linked(house.machines))["1.1"] == ("P1", "hand", False)
    assert (await house.told())[-1][1:] == (["1.1"], ["1.2"])
    [first, *_] = (await house.people.get("/studies/1.1"))["journal"]
    assert first["order_id"] != part


async def test_a_study_of_an_order_with_an_accession_number_alone_follows_it(
    house: House,
) -> None:
    await house.machines.take(order(0, accession="A1", steps=CT))
    await complete(house.machines, completed("1.1", AccessionNumber="A1", PatientID="100"))
    whole = await house.order("P1", minute=1, accession="A1")
    assert (await linked(house.machines))["1.1"] == ("P1", "accession", False)
    assert (await house.people.get("/studies/1.1"))["order_id"] == whole
    # A second order with the number, of another patient: the first is the study's still.
    await house.order("P2", minute=2, accession="A1", patient=JOHN)
    assert (await linked(house.machines))["1.1"] == ("P1", "accession", False)


async def test_a_merge_and_its_undoing_look_anew_at_who_contradicts_whom(house: House) -> None:
    await house.order("P1", accession="A1", patient=JANE)
    await complete(house.machines, completed("1.1", AccessionNumber="A1", PatientID="200"))
    assert (await linked(house.machines))["1.1"] == ("P1", "accession", True)
    await house.machines.take(merge(1, JANE, JOHN))
    assert (await linked(house.machines))["1.1"] == ("P1", "accession", False)
    [row] = (await house.people.get("/merges"))["merges"]
    await house.people.post(f"/merges/{row['id']}/undo", {"reason": "two persons"})
    assert (await linked(house.machines))["1.1"] == ("P1", "accession", True)
    await complete(house.machines, completed("1.1", AccessionNumber="A1", PatientID="100"))
    assert (await linked(house.machines))["1.1"] == ("P1", "accession", False)


async def test_a_person_confirms_what_contradicts(house: House) -> None:
    wanted = await house.order("P1", accession="A1")
    await complete(house.machines, completed("1.1", AccessionNumber="A1", PatientID="999"))
    assert [one["order_id"] for one in (await house.people.get("/unmatched"))["studies"]] == [wanted]
    await house.link("1.1", wanted)
    assert (await house.people.get("/unmatched"))["studies"] == []
    await complete(house.machines, completed("1.1", AccessionNumber="A1", PatientID="999"))
    assert (await linked(house.machines))["1.1"] == ("P1", "hand", False)


async def test_a_study_found_by_its_patient_is_told_until_a_number_names_another_order(house: House) -> None:
    await house.order("P1", about={"StudyInstanceUID": ("2.1",)})
    await complete(house.machines, completed("1.1", PatientID="100"))
    assert await house.told() == [("2.1", ["1.1"], [])]
    await house.order("P2", minute=1, about={"StudyInstanceUID": ("1.1",)})
    assert (await linked(house.machines))["1.1"] == ("P2", "study-uid", False)
    assert (await house.told())[-1] == ("2.1", [], [])
