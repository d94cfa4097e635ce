"""Orders meet studies, whichever comes first, on both databases."""

from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import select

from contracts.envelope import Event
from contracts.fact import ObjectRef, Source
from contracts.study import StudyCompleted
from services.worklist import matching_rows
from services.worklist.change import OrderChange
from services.worklist.models import orders, studies
from tests.integration.worklist.conftest import Desk
from tests.unit.worklist.said import JOHN, NOON, merge, order

pytestmark = pytest.mark.integration
CT = {
    "S1": {
        "Modality": ("CT",),
        "ScheduledProcedureStepStartDate": ("20261120",),
        "ScheduledProcedureStepStartTime": ("130000",),
    }
}


def completed(uid: str, **attributes: str) -> Event[Any]:
    return Event[Any](
        id=uid,
        source="/local/ingest",
        type="kivuko.study.completed.v1",
        subject=uid,
        time=NOON,
        tenant="minsabs",
        site="malabo",
        sequence=1,
        data=StudyCompleted(
            study_instance_uid=uid,
            version=1,
            instance_count=1,
            series_count=1,
            content_hash="0" * 64,
            manifest=ObjectRef(key="k", sha256="0" * 64, size=1),
            first_arrival=NOON,
            last_arrival=NOON,
            source=Source(site="malabo", node="CT1", calling_aet="CT1", called_aet="KIVUKO", address="10.0.0.1"),
            sites=("malabo",),
            attributes={"Modality": "CT", **attributes},
            evidence=(),
        ),
    )


async def complete(desk: Desk, *events: Event[Any]) -> None:
    async with desk.database.transaction() as tx:
        for event in events:
            await desk.meeting.completed(event, tx)


async def linked(desk: Desk) -> dict[str, tuple[str | None, str | None, bool]]:
    wanted = select(studies, orders.c.placer).join(orders, orders.c.id == studies.c.order_id, isouter=True)
    async with desk.database.reading() as tx:
        rows = await tx.execute(wanted)
        return {row.study_instance_uid: (row.placer, row.matched_by, row.contradicts) for row in rows}


@pytest.mark.parametrize("first", ["order", "study"])
async def test_a_study_is_given_its_order_whichever_comes_first(desk: Desk, first: str) -> None:
    said = [
        order(0, placer="P1", about={"StudyInstanceUID": ("1.1",)}, steps=CT),
        order(0, placer="P2", accession="A2", message="m2", steps=CT),
    ]
    came = completed("1.1", PatientID="100"), completed("1.2", AccessionNumber="A2", PatientID="300")
    if first == "study":
        await complete(desk, *came)
    for one in said:
        await desk.take(one)
    if first == "order":
        await complete(desk, *came)
    assert await linked(desk) == {"1.1": ("P1", "study-uid", False), "1.2": ("P2", "accession", True)}


async def test_the_patient_alone_is_enough_where_it_decides_also_under_a_merged_identifier(desk: Desk) -> None:
    await desk.take(order(0, placer="P1", patient=JOHN, steps=CT))
    await desk.take(merge(1))
    await complete(desk, completed("1.1", PatientID="100"))
    assert await linked(desk) == {"1.1": ("P1", "patient", False)}


async def test_orders_that_join_keep_their_studies(desk: Desk) -> None:
    await desk.take(order(0, placer="P1", steps=CT))
    await desk.take(order(1, filler="F1", about={"StudyInstanceUID": ("1.1",)}, steps=CT))
    await complete(desk, completed("1.1", PatientID="100"))
    await desk.take(order(2, "update", placer="P1", filler="F1"))
    assert await linked(desk) == {"1.1": ("P1", "study-uid", False)}


async def test_what_stays_alone_is_listed_and_counted_after_its_time(desk: Desk) -> None:
    await desk.take(order(0, placer="P1", steps=CT))
    await complete(desk, completed("1.1", PatientID="999"))
    assert await desk.meeting.look(desk.database) == (1, 0)
    desk.meeting.order_grace = timedelta(hours=1)
    assert await desk.meeting.look(desk.database) == (1, 1)
    async with desk.database.reading() as tx:
        [study] = await matching_rows.studies_without(tx, [], *desk.meeting.studies_between(), 10)
        [alone] = await matching_rows.orders_without(tx, [], *desk.meeting.orders_between(), 10)
    assert (study.study_instance_uid, alone.placer) == ("1.1", "P1")
    await desk.take(order(1, "cancel", placer="P1"))
    assert await desk.meeting.look(desk.database) == (1, 0)


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> int:
    """As many as are looked at together, for as long as a test lasts."""
    monkeypatch.setattr(matching_rows, "MOST", 5)
    return matching_rows.MOST


async def test_an_accession_number_of_very_many_orders_hides_no_study_s_own_and_decides_nothing(
    desk: Desk, few: int
) -> None:
    those = [
        order(
            0, placer=f"P{number}", accession="NONE", message=f"m{number}", about={"StudyInstanceUID": (uid,)}, steps=CT
        )
        for number, uid in enumerate([*(f"2.{each}" for each in range(few)), "1.1"])
    ]
    for one in those:
        await desk.take(one)
    await complete(
        desk, completed("1.1", PatientID="100", AccessionNumber="NONE"), completed("1.2", AccessionNumber="NONE")
    )
    assert await linked(desk) == {
        "1.1": (f"P{few}", "study-uid", False),
        "1.2": (None, None, False),
    }


async def test_an_order_that_goes_to_another_patient_once_its_study_came_is_told(desk: Desk) -> None:
    await desk.take(order(0, placer="P1", accession="A1", steps=CT))
    await complete(desk, completed("1.1", AccessionNumber="A1", PatientID="100"))
    assert await linked(desk) == {"1.1": ("P1", "accession", False)}
    await desk.take(order(1, "update", placer="P1", patient=JOHN))
    assert await linked(desk) == {"1.1": ("P1", "accession", True)}
    await desk.take(order(2, "update", placer="P1"))
    assert await linked(desk) == {"1.1": ("P1", "accession", False)}


async def test_two_orders_of_different_patients_that_become_one_are_told(desk: Desk) -> None:
    await desk.take(order(0, filler="F1", accession="A1", steps=CT))
    await complete(desk, completed("1.1", AccessionNumber="A1", PatientID="100"))
    await desk.take(order(1, placer="P1", patient=JOHN, steps=CT))
    await desk.take(order(2, "update", placer="P1", filler="F1", patient=JOHN))
    assert await linked(desk) == {"1.1": ("P1", "accession", True)}


async def test_an_accession_number_of_very_many_studies_hides_no_order_s_own(desk: Desk, few: int) -> None:
    uids = ["1.1", *(f"2.{number}" for number in range(few))]
    await complete(desk, *(completed(uid, AccessionNumber="NONE", PatientID="999") for uid in uids))
    await desk.take(order(0, placer="P1", accession="NONE", about={"StudyInstanceUID": ("1.1",)}, steps=CT))
    found = await linked(desk)
    assert found["1.1"] == ("P1", "study-uid", True)


@pytest.mark.parametrize(
    ("again", "result"),
    [
        (order(9, placer="P1", patient=JOHN, steps=CT), "refused"),
        (order(9, accession="A1", patient=JOHN, steps=CT), "refused"),
        (order(9, placer="P1", steps=CT), "applied"),
        (order(9, "update", placer="P1", patient=JOHN), "applied"),
        (order(9, placer="P2", patient=JOHN, steps=CT), "applied"),
        # It says what was before the order became Jane's.
        (order(0, placer="P1", patient=JOHN, steps=CT, message="late"), "older"),
    ],
)
async def test_a_number_of_an_order_that_was_performed_is_not_used_again_for_somebody_else(
    desk: Desk, again: OrderChange, result: str
) -> None:
    await desk.take(order(1, placer="P1", accession="A1", steps=CT))
    await complete(desk, completed("1.1", AccessionNumber="A1", PatientID="100"))
    before = await desk.items()
    taken = await desk.take(again)
    assert [one.result for one in taken.outcomes] == [result]
    assert ("another patient's order" in taken.outcomes[0].reason) is (result == "refused")
    if result == "refused":
        assert await desk.items() == before


async def test_a_number_of_an_order_that_nobody_performed_or_of_the_same_patient_can_be_used_again(desk: Desk) -> None:
    await desk.take(order(0, placer="P1", steps=CT))
    assert [one.result for one in (await desk.take(order(1, placer="P1", patient=JOHN, steps=CT))).outcomes] == [
        "applied"
    ]
    await complete(desk, completed("1.2", PatientID="200"))
    # One message says that both are the same, and orders anew.
    both = (merge(2), order(2, placer="P1", steps=CT, part=1))
    assert [one.result for one in (await desk.take(*both)).outcomes] == ["applied", "applied"]
