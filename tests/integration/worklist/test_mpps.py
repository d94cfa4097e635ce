"""Performed procedure steps on both databases: each success is kept with all that follows from it."""

import asyncio

import pytest

from contracts.definition import Snapshot
from services.worklist import dataset, step
from services.worklist.models import items, merges, mpps_forwards, mpps_items, mpps_messages
from services.worklist.models import mpps as steps_table
from services.worklist.mpps import forwarded_to
from tests.integration.worklist.conftest import Desk
from tests.integration.worklist.room import Room, caller, definition, open_room, ordered
from tests.unit.worklist.performed import MPPS, STUDY, created, ended, made, reason, scheduled
from tests.unit.worklist.said import JOHN, merge, order

pytestmark = pytest.mark.integration

OTHER = "1.2.826.0.1.3680043.8.498.77.2"


@pytest.fixture
async def room(desk: Desk) -> Room:
    return open_room(desk, mpps={"forward": ["RIS", "ALIEN"]})


async def test_a_step_goes_from_in_progress_to_completed_with_all_that_follows(room: Room) -> None:
    await ordered(room, "S1", "S2")
    assert (await room.create(created(scheduled(step_id="S1", accession="A1")))).status == step.SUCCESS
    assert await room.performed() == {"S1": "in-progress", "S2": None}
    done = await room.set(ended("COMPLETED", made("1.2.3.1", "1.1", "1.2"), made("1.2.3.2", "1.3", others=("1.4",))))
    assert done.status == step.SUCCESS
    assert await room.performed() == {"S1": "completed", "S2": None}
    (started, begun), (completed, end) = await room.told()
    assert (started, completed) == ("started", "completed")
    # Half past one in Malabo is half past twelve in UTC.
    assert begun["started_at"] == "2026-11-20T12:05:00Z"
    assert end["ended_at"] == "2026-11-20T12:15:00Z"
    assert end["instance_count"] == 4
    assert [each["instance_count"] for each in end["series"]] == [2, 2]
    assert (end["study_instance_uid"], end["accession_number"], end["source"]["node"]) == (STUDY, "A1", "CT1")
    assert [row["number"] for row in await room.rows(mpps_messages)] == [0, 1]


async def test_one_step_may_be_done_for_several_scheduled_ones(room: Room) -> None:
    await ordered(room, "S1", "S2", "S3")
    await room.create(created(scheduled(step_id="S1"), scheduled(step_id="S3")))
    assert await room.performed() == {"S1": "in-progress", "S2": None, "S3": "in-progress"}
    await room.set(ended())
    assert await room.performed() == {"S1": "completed", "S2": None, "S3": "completed"}
    # One study, one event each.
    assert [kind for kind, _ in await room.told()] == ["started", "completed"]


async def test_two_orders_done_as_one_study_are_found_by_their_accession_numbers(room: Room) -> None:
    await ordered(room, "S1", study="1.2.1", accession="A1")
    await ordered(room, "S1", study="1.2.2", accession="A2")
    own = "1.2.99"
    await room.create(created(scheduled(own, "S1", "A1"), scheduled(own, "S1", "A2")))
    assert [(row["matched_by"], row["item_id"] is None) for row in await room.rows(mpps_items)] == [
        ("accession", False),
        ("accession", False),
    ]
    await room.set(ended())
    ((_, _), (_, end)) = await room.told()
    assert end["study_instance_uid"] == own
    assert end["instance_count"] == 2


async def test_steps_of_several_studies_do_not_say_what_belongs_to_which(room: Room) -> None:
    await room.create(created(scheduled("1.2.1", "S1"), scheduled("1.2.2", "S1")))
    await room.set(ended())
    told = await room.told()
    assert [(kind, said["study_instance_uid"]) for kind, said in told] == [
        ("started", "1.2.1"),
        ("started", "1.2.2"),
        ("completed", "1.2.1"),
        ("completed", "1.2.2"),
    ]
    assert {said["instance_count"] for kind, said in told if kind == "completed"} == {None}


async def test_an_unscheduled_step_is_kept_and_told(room: Room) -> None:
    await ordered(room, "S1")
    assert (await room.create(created(scheduled("1.2.55")))).status == step.SUCCESS
    assert (await room.set(ended())).status == step.SUCCESS
    assert await room.performed() == {"S1": None}
    assert [said["study_instance_uid"] for _, said in await room.told()] == ["1.2.55", "1.2.55"]


async def test_a_step_appended_to_a_completed_one_does_not_open_its_item_again(room: Room) -> None:
    await ordered(room, "S1")
    await room.create(created(scheduled(step_id="S1")))
    await room.set(ended())
    await room.create(created(scheduled(step_id="S1")), OTHER)
    assert await room.performed() == {"S1": "completed"}
    await room.set(ended("DISCONTINUED"), OTHER)
    assert await room.performed() == {"S1": "completed"}


async def test_what_was_discontinued_may_be_begun_again(room: Room) -> None:
    await ordered(room, "S1")
    await room.create(created(scheduled(step_id="S1")))
    await room.set(ended("DISCONTINUED"))
    assert await room.performed() == {"S1": "discontinued"}
    await room.create(created(scheduled(step_id="S1")), OTHER)
    assert await room.performed() == {"S1": "in-progress"}


async def test_a_step_of_the_wrong_entry_leaves_that_entry_to_be_done(room: Room) -> None:
    await ordered(room, "S1")
    await room.create(created(scheduled(step_id="S1")))
    why = {"PerformedProcedureStepDiscontinuationReasonCodeSequence": (reason("110514"),)}
    await room.set(ended("DISCONTINUED", **why))
    assert await room.performed() == {"S1": None}
    assert (await room.told())[-1][1]["wrong_entry"] is True


async def test_a_step_that_names_another_patient_is_linked_by_its_study_and_shown(room: Room) -> None:
    await ordered(room, "S1")
    await room.create(created(scheduled(step_id="S1"), patient="OTHER"))
    assert [row["contradicts"] for row in await room.rows(mpps_items)] == [True]


async def test_patients_who_are_merged_do_not_contradict_each_other(room: Room) -> None:
    """Whether the modality names the one that was merged before, or since it asked."""
    await ordered(room, "S1")
    await room.create(created(scheduled(step_id="S1"), patient=JOHN.value))
    assert [row["contradicts"] for row in await room.rows(mpps_items)] == [True]
    await room.desk.take(merge(1))
    assert [row["contradicts"] for row in await room.rows(mpps_items)] == [False]
    # Its study is not the order's: the accession number is trusted for the patient.
    await room.create(created(scheduled(study="1.2.3", step_id="S1", accession="A1"), patient=JOHN.value), OTHER)
    assert [row["matched_by"] for row in await room.rows(mpps_items)] == ["step", "accession"]
    [row] = await room.rows(merges)
    assert await room.desk.orders.unmerge(row["id"], "minsabs", "ana", "two people")
    assert [row["contradicts"] for row in await room.rows(mpps_items)] == [True, True]


async def test_the_same_identifier_of_another_issuer_is_another_patient(room: Room) -> None:
    await ordered(room, "S1")
    for uid, issuer in ((MPPS, "ELSE"), (OTHER, "HIS")):
        await room.create({**created(scheduled(step_id="S1")), "IssuerOfPatientID": (issuer,)}, uid)
    assert [row["contradicts"] for row in await room.rows(mpps_items)] == [True, False]
    # Seen anew, and still so.
    await room.desk.take(merge(1))
    assert [row["contradicts"] for row in await room.rows(mpps_items)] == [True, False]


async def test_an_order_that_goes_to_another_patient_contradicts_its_step(room: Room) -> None:
    await ordered(room, "S1")
    await room.create(created(scheduled(step_id="S1")))
    assert [row["contradicts"] for row in await room.rows(mpps_items)] == [False]
    await room.desk.take(order(5, "update", placer="P-A1", patient=JOHN))
    assert [row["contradicts"] for row in await room.rows(mpps_items)] == [True]


@pytest.mark.parametrize(
    ("state", "result"), [(None, "refused"), ("COMPLETED", "refused"), ("DISCONTINUED", "applied")]
)
async def test_the_number_of_a_performed_order_is_not_used_again_for_another_patient(
    room: Room, state: str | None, result: str
) -> None:
    await ordered(room, "S1")
    await room.create(created(scheduled(step_id="S1")))
    if state is not None:
        await room.set(ended(state))
    taken = await room.desk.take(order(5, placer="P-A1", patient=JOHN))
    assert [one.result for one in taken.outcomes] == [result]


async def test_an_accession_number_is_not_enough_for_another_patient(room: Room) -> None:
    await ordered(room, "S1")
    await room.create(created(scheduled("1.2.99", "S1", "A1"), patient="OTHER"))
    assert [row["item_id"] for row in await room.rows(mpps_items)] == [None]
    assert await room.performed() == {"S1": None}


async def test_a_modality_that_saw_no_answer_is_told_that_it_is_there(
    room: Room, capfd: pytest.CaptureFixture[str]
) -> None:
    said = created()
    await room.create(said)
    assert (await room.create(said)).status == step.DUPLICATE_SOP_INSTANCE
    assert (await room.create(created(patient="OTHER"))).status == step.DUPLICATE_SOP_INSTANCE
    await room.set(ended())
    again = await room.set(ended())
    assert (again.status, again.error_id) == (step.PROCESSING_FAILURE, step.NO_LONGER_UPDATED)
    other = await room.set(ended("DISCONTINUED"))
    assert (other.status, other.error_id) == (step.PROCESSING_FAILURE, step.NO_LONGER_UPDATED)
    (row,) = await room.rows(steps_table)
    assert (row["repeated"], row["state"], row["patient"]) == (2, "completed", "100")
    logged = [line for line in capfd.readouterr().err.splitlines() if "performed procedure step" in line]
    assert sum("said again what is known" in line for line in logged) == 2
    assert sum("refused" in line for line in logged) == 2
    assert not any("Nguema" in line for line in logged)


async def test_a_step_is_nobody_elses(room: Room) -> None:
    await room.create(created())
    room.caller = caller("ALIEN", "elsewhere", "other")
    assert (await room.set(ended())).status == step.NO_SUCH_SOP_INSTANCE
    assert (await room.get()).status == step.NO_SUCH_SOP_INSTANCE
    assert (await room.create(created())).status == step.SUCCESS


async def test_what_is_refused_leaves_nothing(room: Room) -> None:
    await ordered(room, "S1")
    wrong = await room.create(created(scheduled(step_id="S1"), PerformedProcedureStepStatus=("COMPLETED",)))
    assert wrong.status == step.INVALID_ATTRIBUTE_VALUE
    assert wrong.attributes == (0x00400252,)
    assert wrong.dataset is not None
    assert step.text(dataset.decode(wrong.dataset, room.syntax), "PerformedProcedureStepStatus") == "COMPLETED"
    assert (await room.set(ended())).status == step.NO_SUCH_SOP_INSTANCE
    assert await room.rows(steps_table) == []
    assert await room.performed() == {"S1": None}
    assert await room.told() == []


@pytest.mark.parametrize("syntax", dataset.TRANSFER_SYNTAXES)
async def test_a_step_is_given_back_as_it_is_now(room: Room, syntax: str) -> None:
    room.syntax = syntax
    await room.create(created())
    await room.set(ended(PerformedProcedureStepDescription=("Schädel",)))
    done = await room.get()
    assert done.status == step.SUCCESS
    assert done.dataset is not None
    given = dict(dataset.decode(done.dataset, syntax))
    assert given.pop("SpecificCharacterSet") == ("ISO_IR 192",)
    assert given == {**created(), **ended(PerformedProcedureStepDescription=("Schädel",))}
    some = await room.get(0x00400252, 0x00100010, 0x00091001)
    assert some.status == step.OPTIONAL_NOT_SUPPORTED
    assert some.dataset is not None
    assert set(dataset.decode(some.dataset, syntax)) - {"SpecificCharacterSet"} == {
        "PerformedProcedureStepStatus",
        "PatientName",
    }


async def test_bytes_that_are_no_dataset_get_a_status(room: Room) -> None:
    done = await asyncio.to_thread(
        room.steps.create, room.caller, MPPS, b"\x40\x00\x70\x02SQ\0\0\xff\xff\xff\xff1234", room.syntax
    )
    assert done.status == step.PROCESSING_FAILURE
    done = await asyncio.to_thread(room.steps.create, room.caller, "1.2.x", b"", room.syntax)
    assert done.status == step.INVALID_OBJECT_INSTANCE


async def test_a_database_that_is_away_gets_a_status(room: Room) -> None:
    await room.create(created())
    async with room.desk.database.migrating() as connection:
        await connection.exec_driver_sql("ALTER TABLE mpps RENAME TO gone")
    done = await room.set(ended())
    assert done.status == step.PROCESSING_FAILURE
    assert done.error_id is None


async def test_steps_are_forwarded_within_their_tenant_only(room: Room) -> None:
    await room.create(created())
    assert [(row["node"], row["state"], row["sent"]) for row in await room.rows(mpps_forwards)] == [("RIS", "open", 0)]


async def test_a_ring_ends_where_it_began(room: Room) -> None:
    """The RIS passes on what it gets: its sender does not get it back, and who has a step does not pass it on again."""
    ring = definition(mpps={"forward": ["CT1", "RIS", "ALIEN"]})
    assert forwarded_to(ring, "CT1", "minsabs") == ("RIS",)
    assert forwarded_to(ring, "RIS", "minsabs") == ("CT1",)
    assert forwarded_to(ring, "ALIEN", "elsewhere") == ()
    room.view.current = Snapshot(version=2, document_hash="h", definition=ring)
    await room.create(created())
    room.caller = caller("RIS")
    assert (await room.create(created())).status == step.DUPLICATE_SOP_INSTANCE
    assert [row["node"] for row in await room.rows(mpps_forwards)] == ["RIS"]


async def test_an_order_that_comes_after_its_step_has_begun_is_linked_to_it(room: Room) -> None:
    await room.create(created(scheduled("1.2.99", accession="A1")))
    await room.create(created(scheduled("1.2.55")), OTHER)
    assert [row["item_id"] for row in await room.rows(mpps_items)] == [None, None]
    await ordered(room, "S1")
    assert await room.performed() == {"S1": "in-progress"}
    await room.set(ended())
    assert await room.performed() == {"S1": "completed"}
    await ordered(room, "S9", study="1.2.55", accession="A2")
    assert await room.performed() == {"S1": "completed", "S9": "in-progress"}
    # The order was sent again: what has its item keeps it.
    assert [row["matched_by"] for row in await room.rows(mpps_items)] == ["accession", "study"]


async def test_what_marks_items_and_what_takes_orders_count_their_revisions_together(room: Room) -> None:
    await room.create(created(scheduled("1.2.99", accession="A1")))
    await ordered(room, "S1", "S2")
    await ordered(room, "S3", study="1.2.3", accession="A3")
    revisions = [row["revision"] for row in await room.rows(items)]
    assert len(set(revisions)) == len(revisions) == 3


async def test_what_was_performed_for_an_order_is_of_the_order_that_it_turns_out_to_be_a_part_of(room: Room) -> None:
    ct = {"S1": {"ScheduledProcedureStepID": ("S1",), "Modality": ("CT",)}}
    await room.desk.take(order(0, placer="P1", steps=ct))
    await room.desk.take(order(1, filler="F1", steps=ct))
    part, whole = sorted(await told_to_modalities(room), key=lambda each: each[2], reverse=True)
    await room.create(created(scheduled(part[0], "S1", part[1])))
    await room.desk.take(order(2, "update", placer="P1", filler="F1"))
    [kept] = await told_to_modalities(room)
    assert kept == whole
    assert await states(room) == {part[2]: ("cancelled", None), whole[2]: ("scheduled", "in-progress")}
    # It goes on under the name that the modality was told.
    await room.set(ended())
    assert await states(room) == {part[2]: ("cancelled", None), whole[2]: ("scheduled", "completed")}
    assert [row["matched_by"] for row in await room.rows(mpps_items)] == ["step"]


async def test_a_modality_may_still_have_the_name_of_an_order_that_became_a_part_of_another(room: Room) -> None:
    ct = {"S1": {"ScheduledProcedureStepID": ("S1",), "Modality": ("CT",)}}
    us = {"S2": {"ScheduledProcedureStepID": ("S2",), "Modality": ("US",)}}
    await room.desk.take(order(0, placer="P1", steps=ct))
    await room.desk.take(order(1, filler="F1", steps={**ct, **us}))
    part, *_ = sorted(await told_to_modalities(room), key=lambda each: each[2], reverse=True)
    await room.desk.take(order(2, "update", placer="P1", filler="F1"))
    await room.create(created(scheduled(part[0], "S1", part[1])))
    await room.create(created(scheduled("1.2.99", "S2", part[1]), Modality=("US",)), OTHER)
    assert await room.performed_now() == {"S1": "in-progress", "S2": "in-progress"}
    assert [row["matched_by"] for row in await room.rows(mpps_items)] == ["step", "accession"]


async def test_what_was_performed_for_an_accession_number_is_of_the_order_that_has_it(room: Room) -> None:
    ct = {"S1": {"ScheduledProcedureStepID": ("S1",), "Modality": ("CT",)}}
    await room.desk.take(order(1, accession="A1", steps=ct))
    [(study, accession, floating)] = await told_to_modalities(room)
    await room.create(created(scheduled(study, "S1", accession)))
    await room.set(ended())
    await room.desk.take(order(0, placer="P1", accession="A1", steps=ct))
    await room.desk.take(order(2, "update", filler="F1", placer="P1"))
    assert (await states(room)).pop(floating) == ("cancelled", None)
    assert await room.performed_now() == {"S1": "completed"}
    # What comes late under the old name finds the order, too.
    await room.create(created(scheduled(study, "S1")), OTHER)
    assert [row["matched_by"] for row in await room.rows(mpps_items)] == ["step", "step"]
    assert len({row["item_id"] for row in await room.rows(mpps_items)}) == 1


async def told_to_modalities(room: Room) -> list[tuple[str, str, int]]:
    """Give Study Instance UID, accession number and row of each item that is shown."""
    rows = [row for row in await room.rows(items) if row["state"] == "scheduled"]
    said = [(row["attributes"], row["id"]) for row in rows]
    return [(each["StudyInstanceUID"][0], each["AccessionNumber"][0], key) for each, key in said]


async def states(room: Room) -> dict[int, tuple[str, str | None]]:
    return {row["id"]: (row["state"], row["performed"]) for row in await room.rows(items)}
