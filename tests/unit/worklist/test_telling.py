"""What the others are told of an order, and what stands on its items, value by value."""

from datetime import UTC, datetime
from typing import Any

import pytest

from contracts.order import OrderCancelled, OrderChanged, OrderPlaced
from services.worklist import item
from services.worklist.attributes import Attributes
from services.worklist.change import OrderChange
from services.worklist.identity import short_number, study_instance_uid
from services.worklist.order import Order, fold
from services.worklist.telling import event, placed
from tests.unit.worklist.said import ZONE, order

LATE = {"Modality": ("CT",), "ScheduledStationAETitle": ("CT2",), "ScheduledProcedureStepStartDate": ("20261122",)}
EARLY = {
    "Modality": ("MR",),
    "ScheduledStationAETitle": ("MR1", " ", "CT2"),
    "ScheduledProcedureStepStartDate": ("20261121",),
    "ScheduledProcedureStepStartTime": ("0930",),
}


def told(
    *changes: OrderChange, patient: dict[str, Any] | None = None, before: OrderPlaced | None = None
) -> OrderPlaced:
    """Tell an order that is made of these changes."""
    made = fold(changes)
    return placed(made, item.identity(made, "minsabs"), patient or {"PatientID": ("100",)}, before, ZONE)


def named(**about: tuple[Any, ...]) -> Order:
    """Make an order with these attributes."""
    return fold([order(0, placer="P1", about=about)])


def test_an_order_is_told_with_the_first_of_its_open_steps() -> None:
    made = told(order(0, placer="P1", filler="F1", steps={"A": LATE, "B": EARLY, "C": {"Modality": ("US",)}}))
    assert (made.modality, made.station_aet, made.state) == ("MR", "MR1", "scheduled")
    assert made.scheduled_at == datetime(2026, 11, 21, 8, 30, tzinfo=UTC)
    assert made.station_aets == ("CT2", "MR1")
    assert (made.placer_order_number, made.filler_order_number) == ("P1", "F1")
    after = told(order(0, placer="P1", steps={"A": LATE, "B": EARLY}), order(1, "cancel", placer="P1", steps={"B": {}}))
    assert (after.modality, after.station_aets, after.filler_order_number) == ("CT", ("CT2",), None)


def test_an_order_without_a_step_that_has_a_start_is_told_without_one() -> None:
    made = told(order(0, placer="P1"))
    assert (made.modality, made.station_aet, made.scheduled_at, made.station_aets) == ("", None, None, ())
    assert told(order(0, placer="P1", steps={"A": {**LATE, **_day("20261399")}})).scheduled_at is None


def _day(text: str) -> dict[str, tuple[str, ...]]:
    return {"ScheduledProcedureStepStartDate": (text,)}


def test_what_rules_read_of_an_order_is_told() -> None:
    about = {
        "RequestedProcedurePriority": ("STAT",),
        "RequestedProcedureDescription": ("CT HEAD",),
        "RequestedProcedureCodeSequence": ({"CodeValue": ("CTH",)},),
        "ReferringPhysicianName": ("House^Gregory",),
        "RequestingService": ("ER",),
        "ReasonForTheRequestedProcedure": ("fall",),
        "AccessionNumber": ("A1",),
        "StudyInstanceUID": ("1.2.3",),
    }
    patient = {"PatientID": ("100",), "IssuerOfPatientID": ("HIS",), "CurrentPatientLocation": ("WARD 3",)}
    before = told(order(0, placer="P1", about={"StudyInstanceUID": ("1.2.1",)}))
    made = told(order(0, placer="P1", about=about), patient=patient, before=before)
    assert (made.priority, made.requested_priority, made.procedure, made.code) == ("stat", "STAT", "CT HEAD", "CTH")
    assert (made.physician, made.service, made.reason) == ("House^Gregory", "ER", "fall")
    assert (made.patient_id, made.issuer_of_patient_id, made.location) == ("100", "HIS", "WARD 3")
    assert (made.accession_number, made.study_instance_uid, made.former_study_instance_uids) == (
        *("A1", "1.2.3"),
        ("1.2.1",),
    )


def test_a_study_uid_that_an_order_had_before_is_told_as_long_as_it_has_another() -> None:
    def with_uid(uid: str, before: OrderPlaced | None) -> OrderPlaced:
        return told(order(0, placer="P1", about={"StudyInstanceUID": (uid,)}), before=before)

    first = with_uid("1.2.1", None)
    second = with_uid("1.2.2", first)
    third = with_uid("1.2.3", second)
    assert (first.former_study_instance_uids, second.former_study_instance_uids) == ((), ("1.2.1",))
    assert third.former_study_instance_uids == ("1.2.1", "1.2.2")
    assert with_uid("1.2.1", third).former_study_instance_uids == ("1.2.2", "1.2.3")
    assert with_uid("1.2.1", first).former_study_instance_uids == ()


@pytest.mark.parametrize(
    ("state", "first", "later"),
    [
        ("schedule", OrderPlaced, OrderChanged),
        ("start", OrderPlaced, OrderChanged),
        ("complete", OrderPlaced, OrderChanged),
        ("cancel", OrderCancelled, OrderCancelled),
        ("discontinue", OrderCancelled, OrderCancelled),
    ],
)
def test_the_kind_of_event_follows_from_what_was_told_before(state: Any, first: type, later: type) -> None:
    made = told(order(0, state, placer="P1"))
    assert type(event(made, None)) is first
    assert type(event(made, made)) is later
    assert dict(event(made, made)) == dict(made)


@pytest.mark.parametrize(
    ("written", "lane"),
    [("STAT", "stat"), ("high", "urgent"), ("ROUTINE", "routine"), ("MEDIUM", "routine"), ("LOW", "bulk")],
)
def test_the_lane_of_a_priority(written: str, lane: str) -> None:
    assert item.priority(named(RequestedProcedurePriority=(written,))) == lane
    assert item.priority(named()) == item.priority(named(RequestedProcedurePriority=("SOON",))) == "routine"


@pytest.mark.parametrize(
    ("date", "time", "start"),
    [
        ("20261121", "0930", "20261121093000"),
        ("20261121", "093015.123456", "20261121093015"),
        ("20261121", "", "20261121000000"),
        ("2026.11.21", "09:30", "20261121093000"),
        ("202611", "0930", ""),
        ("", "0930", ""),
    ],
)
def test_the_start_of_a_step(date: str, time: str, start: str) -> None:
    step = {"ScheduledProcedureStepStartDate": (date,), "ScheduledProcedureStepStartTime": (time,)}
    assert item.start(step) == start


def test_minted_numbers_are_the_same_in_every_release() -> None:
    """Another value would give orders that are known a second study."""
    assert study_instance_uid("study", "t", "placer", "P1", "HIS") == "2.25.224972758854813688730615805045639014793"
    assert short_number("K", "t", "placer", "P1", "HIS") == "KTHCZE1FF3N6YFZS"
    assert short_number("K", "ab", "c") != short_number("K", "a", "bc")


def test_an_order_keeps_the_numbers_that_it_has_and_gets_those_that_do_not_fit() -> None:
    has = item.identity(named(AccessionNumber=("A1",), StudyInstanceUID=("1.2.3",)), "t")
    assert (has.accession, has.study_instance_uid, has.minted) == ("A1", "1.2.3", frozenset())
    accession = item.identity(fold([order(0, accession="A2")]), "t")
    assert (accession.accession, accession.minted) == ("A2", frozenset({"StudyInstanceUID"}))
    sixteen, more = "A" * 16, "A" * 17
    assert item.identity(named(AccessionNumber=(sixteen,)), "t").accession == sixteen
    minted = item.identity(named(AccessionNumber=(more,), StudyInstanceUID=("1.2.x",)), "t")
    assert minted.minted == {"AccessionNumber", "StudyInstanceUID"}
    assert minted.accession.startswith("K")
    assert item.identity(named(StudyInstanceUID=("1." + "2" * 62,)), "t").minted == {"AccessionNumber"}
    assert "StudyInstanceUID" in item.identity(named(StudyInstanceUID=("1." + "2" * 63,)), "t").minted


def step_id(shown: Attributes) -> str:
    """Give the identifier of the step of a worklist answer."""
    [step] = shown["ScheduledProcedureStepSequence"]
    assert not isinstance(step, str)
    return item.first(step, "ScheduledProcedureStepID")


def test_an_item_has_the_numbers_of_its_order_and_step() -> None:
    made = fold([order(0, placer="P1", filler="F1", steps={"S" * 16: {}, "S" * 17: {}})])
    shown = [item.dataset(made, step, item.identity(made, "t"), {"PatientID": ("1",)}, "t") for step in made.steps]
    first, second = (step_id(each) for each in shown)
    assert (first, len(second), second == first) == ("S" * 16, 16, False)
    assert shown[0]["PlacerOrderNumberImagingServiceRequest"] == ("P1",)
    assert shown[0]["FillerOrderNumberImagingServiceRequest"] == ("F1",)
    own = fold([order(0, placer="P1", about={"RequestedProcedureID": ("RP",)}, steps={"": LATE})])
    assert item.dataset(own, own.steps[0], item.identity(own, "t"), {}, "t")["RequestedProcedureID"] == ("RP",)
