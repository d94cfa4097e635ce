"""Orders, one case at a time."""

import pytest

from services.worklist.change import Change, Number, PatientMerge
from tests.unit.worklist.said import JANE, JOHN, Books, about, merge, order, value

CT = {
    "S1": {"Modality": ("CT",), "ScheduledStationAETitle": ("CT1",), "ScheduledProcedureStepStartDate": ("20261121",)}
}
TWO = {"S1": {"Modality": ("CT",)}, "S2": {"Modality": ("MR",)}}


@pytest.fixture
def books() -> Books:
    return Books()


def test_what_an_order_has_not_is_minted_within_the_limits_of_its_vr(books: Books) -> None:
    books.take(order(0, placer="P1", steps=CT))
    [item] = books.items()
    assert len(value(item, "AccessionNumber")) == 16
    assert value(item, "StudyInstanceUID").startswith("2.25.")
    assert len(value(item, "StudyInstanceUID")) <= 64
    assert len(value(item, "RequestedProcedureID")) == 16
    assert (value(item, "ScheduledProcedureStepID"), item["start"]) == ("S1", "20261121000000")


def test_what_is_minted_stays_when_numbers_are_added_and_when_it_is_sent_again(books: Books) -> None:
    books.take(order(0, placer="P1", steps=CT))
    first = books.states()
    books.take(order(1, placer="P1", filler="F1", steps=CT))
    books.take(order(2, filler="F1", steps=CT))
    assert books.states() == first


def test_two_orders_that_turn_out_to_be_one_make_one_item(books: Books) -> None:
    books.take(order(0, placer="P1", about={"RequestedProcedureDescription": ("HEAD",)}, steps=CT))
    books.take(order(1, filler="F1", steps=CT))
    assert len(books.items()) == 2
    books.take(order(2, "update", placer="P1", filler="F1"))
    [item] = books.items()
    assert value(item, "RequestedProcedureDescription") == "HEAD"
    assert value(item, "FillerOrderNumberImagingServiceRequest") == "F1"


def test_of_two_orders_that_turn_out_to_be_one_the_other_is_told_as_cancelled(books: Books) -> None:
    books.take(order(0, placer="P1", steps=CT))
    books.take(order(1, filler="F1", steps=CT))
    items = {one.id for entry in books.ledger.entries.values() for one in entry.items}
    books.take(order(2, "update", placer="P1", filler="F1"))
    first, second, *joined = books.told
    assert [kind for kind, _ in joined] == ["OrderChanged", "OrderCancelled"]
    assert joined[0][1].study_instance_uid == first[1].study_instance_uid
    assert (joined[1][1].study_instance_uid, joined[1][1].state) == (second[1].study_instance_uid, "cancelled")
    assert joined[1][1].revision not in {each.revision for _, each in (first, second, joined[0])}
    # A modality may have been shown either: none is made anew.
    assert {one.id for entry in books.ledger.entries.values() for one in entry.items} == items


@pytest.mark.parametrize(("study", "kind"), [("1.2.3", "OrderChanged"), (None, "OrderCancelled")])
def test_of_a_part_nothing_is_told_that_was_over_or_has_the_study_of_the_whole(
    books: Books, study: str | None, kind: str
) -> None:
    about = {"StudyInstanceUID": (study,)} if study else {}
    books.take(order(0, placer="P1", about=about, steps=CT))
    books.take(order(1, filler="F1", about=about, steps=CT))
    if study is None:
        books.take(order(2, "cancel", filler="F1"))
    before = len(books.told)
    books.take(order(3, "update", placer="P1", filler="F1", about={"RequestingService": ("ER",)}))
    [(told, of_whole)] = books.told[before:]
    assert (told, of_whole.study_instance_uid) == (kind, books.told[0][1].study_instance_uid)


def test_parts_that_join_bring_the_steps_that_the_whole_has_not(books: Books) -> None:
    books.take(order(0, placer="P1", steps={"S1": TWO["S1"]}))
    books.take(order(1, filler="F1", steps={"S2": TWO["S2"]}))
    known = {one.step_id: one.id for entry in books.ledger.entries.values() for one in entry.items}
    books.take(order(2, "update", placer="P1", filler="F1"))
    [whole] = [entry for entry in books.ledger.entries.values() if entry.joined_into is None]
    assert {one.step_id: one.id for one in whole.items} == known


def test_a_number_without_an_issuer_is_a_sites_own(books: Books) -> None:
    books.take(order(0, accession="A1", site="malabo", steps=CT))
    books.take(order(1, accession="A1", site="bata", steps=CT))
    assert len(books.items()) == 2


def test_what_is_said_of_an_accession_number_holds_for_each_order_that_has_it(books: Books) -> None:
    books.take(order(2, "cancel", accession="A1"))
    books.take(order(0, placer="P1", accession="A1", steps=CT))
    books.take(order(1, placer="P2", accession="A1", steps=CT))
    assert books.items() == []
    assert [state for _, _, state in books.states()] == ["cancelled", "cancelled"]


def test_null_empties_and_absent_keeps(books: Books) -> None:
    both = {"RequestedProcedureDescription": ("HEAD",), "RequestingService": ("ER",)}
    books.take(order(0, placer="P1", about=both, steps=CT))
    books.take(order(1, placer="P1", about={"RequestingService": ()}))
    [item] = books.items()
    assert item["attributes"]["RequestingService"] == []
    assert value(item, "RequestedProcedureDescription") == "HEAD"


def test_a_late_message_never_undoes_a_newer_one(books: Books) -> None:
    books.take(order(5, "cancel", placer="P1"))
    books.take(order(0, placer="P1", steps=CT))
    assert books.items() == []
    books.take(order(6, placer="P1", steps=CT))
    assert len(books.items()) == 1


def test_a_step_that_a_newer_schedule_leaves_out_is_gone_until_it_is_named_again(books: Books) -> None:
    books.take(order(0, placer="P1", steps=TWO))
    books.take(order(1, placer="P1", steps={"S2": {}}))
    assert [item["step_id"] for item in books.items()] == ["S2"]
    books.take(order(2, "arrive", placer="P1"))
    assert [(item["step_id"], item["state"]) for item in books.items()] == [("S2", "arrived")]
    books.take(order(3, "update", placer="P1", steps={"S1": {}}))
    assert [item["step_id"] for item in books.items()] == ["S1", "S2"]


def test_a_step_that_was_named_again_is_a_step_like_any_other(books: Books) -> None:
    books.take(order(0, placer="P1", steps=TWO))
    books.take(order(1, placer="P1", steps={"S1": {}}))
    books.take(order(2, "cancel", placer="P1", steps={"S2": {}}))
    books.take(order(3, "arrive", placer="P1"))
    assert [(item["step_id"], item["state"]) for item in books.items()] == [("S1", "arrived")]
    books.take(order(4, "update", placer="P1", steps={"S2": {}}))
    books.take(order(5, "cancel", placer="P1"))
    assert books.items() == []


def test_steps_of_one_message_do_not_leave_each_other_out(books: Books) -> None:
    books.take(
        order(0, placer="P1", steps={"S1": {}}, message="m", part=0),
        order(0, placer="P1", steps={"S2": {}}, message="m", part=1),
    )
    assert [item["step_id"] for item in books.items()] == ["S1", "S2"]


def test_a_reschedule_moves_the_only_step_whatever_it_is_called(books: Books) -> None:
    books.take(order(0, placer="P1", steps=CT))
    books.take(order(1, "update", placer="P1", steps={"": {"ScheduledProcedureStepStartDate": ("20261130",)}}))
    [item] = books.items()
    assert (item["step_id"], item["start"][:8], value(item, "Modality")) == ("S1", "20261130", "CT")


def test_one_step_can_be_cancelled(books: Books) -> None:
    books.take(order(0, placer="P1", steps=TWO))
    books.take(order(1, "cancel", placer="P1", steps={"S1": {}}))
    assert [item["step_id"] for item in books.items()] == ["S2"]


def test_news_of_the_patient_reach_all_open_items(books: Books) -> None:
    books.take(order(0, placer="P1", person={"PatientName": ("DOE^JANE",), "PatientWeight": ("60",)}, steps=CT))
    books.take(order(1, placer="P2", person={"PatientWeight": ("61",)}, steps=CT))
    books.take(about(2, PatientName=("ROE^JANE",)))
    assert {(value(item, "PatientName"), value(item, "PatientWeight")) for item in books.items()} == {
        ("ROE^JANE", "60"),
        ("ROE^JANE", "61"),
    }


def test_an_order_that_changes_its_patient_keeps_nothing_of_the_one_before(books: Books) -> None:
    books.take(order(0, placer="P1", person={"PatientName": ("DOE^JANE",), "PatientWeight": ("60",)}, steps=CT))
    books.take(order(1, placer="P1", patient=JOHN, person={"PatientName": ("DOE^JOHN",)}, steps=CT))
    [item] = books.items()
    assert (value(item, "PatientName"), value(item, "PatientID")) == ("DOE^JOHN", "200")
    assert "PatientWeight" not in item["attributes"]


def test_a_merge_counts_before_the_order_comes_and_along_chains(books: Books) -> None:
    old = Number("099", "HIS")
    assert books.take(merge(0, JOHN, old)) == [None]
    assert books.take(merge(1, JANE, JOHN)) == [None]
    books.take(about(2, JANE, PatientName=("DOE^JANE",)))
    books.take(order(3, placer="P1", patient=old, person={"PatientName": ("DOE^J",)}, steps=CT))
    [item] = books.items()
    assert (value(item, "PatientID"), value(item, "PatientName")) == ("100", "DOE^JANE")


@pytest.mark.parametrize(
    ("first", "second", "why"),
    [
        (merge(0, JANE, JANE), None, "twice"),
        (merge(0, JANE, JOHN), merge(1, JOHN, JANE), "inverse"),
        (merge(0, JANE, JOHN), merge(1, Number("099", "HIS"), JOHN), "before"),
    ],
)
def test_a_merge_that_makes_no_sense_is_refused_and_changes_nothing(
    books: Books, first: PatientMerge, second: PatientMerge | None, why: str
) -> None:
    books.take(order(0, placer="P1", patient=JOHN, steps=CT))
    said = books.take(first)
    before = books.items()
    if second is not None:
        assert said == [None]
        said = books.take(second)
    assert why in (said[0] or "")
    assert books.items() == before


def test_two_merges_of_one_message_that_contradict_each_other_are_refused(books: Books) -> None:
    said = books.take(merge(0, JANE, JOHN), merge(0, JOHN, JANE))
    assert said[0] is None
    assert "inverse" in (said[1] or "")
    assert books.ledger.new_merges == []


def test_a_merge_that_is_told_once_more_is_taken_and_changes_nothing(books: Books) -> None:
    books.take(order(0, placer="P1", patient=JOHN, steps=CT))
    assert books.take(merge(1)) == [None]
    before = books.items()
    assert books.take(merge(2)) == [None]
    assert books.items() == before


def test_who_is_merged_gives_what_is_not_known_of_who_stays_but_no_identifier(books: Books) -> None:
    books.take(about(0, JOHN, PatientName=("DOE^JOHN",), PatientSex=("M",), OtherPatientIDs=("7",)))
    books.take(about(0, JANE, PatientName=("DOE^JANE",)))
    books.take(merge(1))
    books.take(order(2, placer="P1", steps=CT))
    [item] = books.items()
    found = [item["attributes"].get(keyword) for keyword in ("PatientName", "PatientSex", "OtherPatientIDs")]
    assert found == [["DOE^JANE"], ["M"], None]
    books.take(about(3, JANE, OtherPatientIDs=("8",)))
    assert books.items()[0]["attributes"]["OtherPatientIDs"] == ["8"]


def test_an_undone_merge_leaves_each_patient_what_was_said_of_it(books: Books) -> None:
    books.take(order(0, placer="P1", patient=JOHN, person={"PatientName": ("DOE^JOHN",)}, steps=CT))
    before = books.items()
    books.take(merge(1))
    assert value(books.items()[0], "PatientID") == "100"
    books.unmerge(JOHN)
    assert books.items() == before


def test_what_names_no_order_is_refused(books: Books) -> None:
    [said] = books.take(order(0, steps=CT))
    assert said is not None
    assert "names no order" in said
    assert books.items() == []


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (order(0, placer=" ", steps=CT), "order number is empty"),
        (order(0, placer="P" * 200), "order number is longer than 199"),
        (order(0, placer="P\0"), "NUL"),
        (order(0, placer="P1", patient=Number("")), "patient identifier is empty"),
        (order(0, placer="P1", patient=Number("1", "H" * 199)), "patient identifier is longer"),
        (order(0, placer="P1", steps={"S" * 65: {}}), "step's identifier is longer than 64"),
        (about(0, Number("")), "patient identifier is empty"),
        (merge(0, JANE, Number(" ")), "patient identifier is empty"),
        (merge(0, Number("\0"), JANE), "NUL"),
    ],
)
def test_what_cannot_be_kept_is_refused_with_the_reason(books: Books, change: Change, why: str) -> None:
    [said] = books.take(change)
    assert why in (said or "")
    assert books.items() == []


def test_the_longest_numbers_are_kept(books: Books) -> None:
    patient = Number("1" * 199, "H" * 198)
    assert books.take(order(0, placer="P" * 199, patient=patient, steps={"S" * 64: {}})) == [None]
    assert len(books.items()) == 1


def test_an_identifier_that_nobody_issued_is_the_own_of_the_site_where_it_was_said(books: Books) -> None:
    here, there = Number("100", site="malabo"), Number("100", site="bata")
    books.take(order(0, placer="P1", patient=here, person={"PatientName": ("DOE^JANE",)}, steps=CT))
    books.take(
        order(1, placer="P2", patient=there, person={"PatientName": ("ROE^JOHN",)}, steps=CT, site="bata", source="HIS")
    )
    books.take(about(2, there, PatientSex=("M",)))
    books.take(merge(3, Number("200", site="bata"), there))
    shown = {
        item["site"]: [value(item, keyword) for keyword in ("PatientID", "PatientName", "PatientSex")]
        for item in books.items()
    }
    assert shown == {"malabo": ["100", "DOE^JANE", None], "bata": ["200", "ROE^JOHN", "M"]}
    assert all(item["attributes"]["IssuerOfPatientID"] == [] for item in books.items())
