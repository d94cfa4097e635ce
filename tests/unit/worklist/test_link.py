"""Which item a performed step is: rather none than a wrong one, for it would close another patient's item."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.worklist.link import Candidate, Link, Performed, Reference, choose, follow, references
from tests.unit.worklist.performed import created, scheduled

pytestmark = pytest.mark.unit


def item(
    item_id: int,
    study: str = "1.1",
    step_id: str = "S1",
    accession: str = "A1",
    patient: str = "100",
    modality: str = "CT",
    site: str = "malabo",
    issuer: str = "",
    **more: Any,
) -> Candidate:
    return Candidate(
        item_id,
        study,
        accession,
        step_id,
        frozenset((each, issuer) for each in patient.split()),
        modality,
        site,
        **more,
    )


CT = Performed("100", "", "CT", "malabo")


@pytest.mark.parametrize(
    ("reference", "items", "expected"),
    [
        (Reference("1.1", "A1", "S2"), [item(1), item(2, step_id="S2")], Link(2, "step")),
        # The order was sent again, and its only step has another name now.
        (Reference("1.1", "A1", "OLD"), [item(1)], Link(1, "study")),
        (Reference("1.1"), [item(1)], Link(1, "study")),
        # Which of two: the one of its modality, or none.
        (Reference("1.1"), [item(1), item(2, step_id="S2", modality="MR")], Link(1, "study")),
        (Reference("1.1"), [item(1), item(2, step_id="S2")], None),
        # Neither has a name: the study alone says which.
        (Reference("1.1"), [item(1, step_id="")], Link(1, "study")),
        (Reference("1.1", "", "S9"), [item(1), item(2, step_id="S2")], None),
        (Reference("1.1", "", "S9"), [item(1), item(2, step_id="S2", modality="MR")], None),
        # Patients merge: the study is trusted, and people are told.
        (Reference("1.1", "A1", "S1"), [item(1, patient="200")], Link(1, "step", contradicts=True)),
        # The modality has made a study of its own.
        (Reference("1.9", "A1", "S1"), [item(1), item(2, step_id="S2")], Link(1, "accession")),
        (Reference("1.9", "A1", "S1"), [item(1, patient="200")], None),
        # It asked before its patient was merged, or after.
        (Reference("1.1", "A1", "S1"), [item(1, patient="200 100")], Link(1, "step")),
        (Reference("1.9", "A1", "S1"), [item(1, patient="200 100")], Link(1, "accession")),
        (Reference("1.9", "A1", "S1"), [item(1, patient="")], Link(1, "accession")),
        (Reference("1.9", "", "S1", ("1.1",)), [item(1), item(2, study="1.2")], Link(1, "referenced")),
        (Reference("1.9", "", "S1", ("1.1",)), [item(1, patient="200")], None),
        # A step's name is no number of an order.
        (Reference("1.9", "", "S1"), [item(1)], None),
        (Reference("1.9"), [], None),
    ],
)
def test_the_item_of_a_step(reference: Reference, items: list[Candidate], expected: Link | None) -> None:
    assert choose(reference, items, CT) == expected


words = st.sampled_from(["", "x", "y"])
candidates = st.lists(
    st.builds(
        Candidate,
        st.integers(1, 5),
        st.sampled_from(["1.1", "1.2"]),
        words,
        words,
        st.frozensets(st.tuples(st.sampled_from("xy"), st.sampled_from(["", "HGM", "GQ"]))),
        words,
        st.sampled_from(["here", "there"]),
    ),
    max_size=4,
    unique_by=lambda each: each.item_id,
)


@given(
    st.builds(Reference, st.sampled_from(["1.1", "1.2", "1.3"]), words, words),
    candidates,
    words,
    words,
    st.sampled_from(["", "HGM"]),
)
def test_no_link_without_a_study_or_the_patients_accession_number(
    reference: Reference, those: list[Candidate], patient: str, modality: str, issuer: str
) -> None:
    found = choose(reference, those, Performed(patient, issuer, modality, "here"))
    if found is None:
        return
    (chosen,) = (each for each in those if each.item_id == found.item_id)
    same = (
        not chosen.patients
        or not patient
        or any(value == patient and (issuer == known or "" in (issuer, known)) for value, known in chosen.patients)
    )
    if chosen.study_instance_uid != reference.study_instance_uid:
        assert reference.accession
        assert chosen.accession == reference.accession
        assert same
        assert patient or chosen.site == "here"
    assert found.contradicts == (not same)


@pytest.mark.parametrize(
    ("site", "patient", "expected"),
    [("malabo", "", Link(1, "accession")), ("bata", "", None), ("bata", "100", Link(1, "accession"))],
)
def test_an_accession_number_of_another_site_is_trusted_for_the_named_patient_only(
    site: str, patient: str, expected: Link | None
) -> None:
    assert choose(Reference("1.9", "A1"), [item(1, site=site)], Performed(patient, "", "CT", "malabo")) == expected


@pytest.mark.parametrize(("issuer", "contradicts"), [("HGM", False), ("", False), ("GQ", True)])
def test_the_same_identifier_of_another_issuer_is_another_patient(issuer: str, contradicts: bool) -> None:
    said = Performed("100", "HGM", "CT", "malabo")
    those = [item(1, issuer=issuer)]
    assert choose(Reference("1.1", "A1", "S1"), those, said) == Link(1, "step", contradicts=contradicts)
    assert choose(Reference("1.9", "A1"), those, said) == (None if contradicts else Link(1, "accession"))


def test_a_sequence_is_read() -> None:
    study = {"ReferencedSOPClassUID": ("1.2.840.10008.3.1.2.3.1",), "ReferencedSOPInstanceUID": ("1.5",)}
    said = created(scheduled("1.1", "S1", "A1"), scheduled("1.2", ReferencedStudySequence=(study, study)))
    assert references(said) == (Reference("1.1", "A1", "S1"), Reference("1.2", referenced=("1.5",)))


@pytest.mark.parametrize(
    ("reference", "items", "expected"),
    [
        # What is to be done comes first, as long as it is not another step that is named.
        (Reference("1.1", "A1", "S1"), [item(1, cancelled=True), item(2)], Link(2, "step")),
        (Reference("1.1"), [item(1, cancelled=True), item(2, step_id="S2")], Link(2, "study")),
        (Reference("1.1", "A1", "S1"), [item(1, cancelled=True), item(2, step_id="S2")], Link(1, "step")),
        (Reference("1.1", "A1", "S1"), [item(1, cancelled=True)], Link(1, "step")),
        (Reference("1.1", "A1", "S1"), [item(1), item(2), item(3, step_id="S3", modality="MR")], None),
        (Reference("1.1"), [item(1, cancelled=True), item(2, step_id="S2", cancelled=True)], None),
        # The modality was told a name that its order has no more.
        (Reference("1.5", "A5", "S1"), [item(1, former_studies=frozenset({"1.5"}))], Link(1, "step")),
        (Reference("1.9", "A5", "S1"), [item(1, former_accessions=frozenset({"A5"}))], Link(1, "accession")),
        (Reference("1.9", "", "S1", ("1.5",)), [item(1, former_studies=frozenset({"1.5"}))], Link(1, "referenced")),
        (Reference("1.9", "A9", "S1", ("1.8",)), [item(1, former_studies=frozenset({"1.5"}))], None),
        (Reference("1.9", "", "S1"), [item(1, accession="", former_accessions=frozenset({""}))], None),
    ],
)
def test_what_was_cancelled_and_what_had_another_name(
    reference: Reference, items: list[Candidate], expected: Link | None
) -> None:
    assert choose(reference, items, CT) == expected


def test_the_step_that_was_taken_off_is_followed_by_its_name_in_the_order() -> None:
    named = Reference("1.1", "", "OLD")
    both = [item(1, step_id="N1", key="long name 1"), item(2, step_id="N2", key="long name 2", patient="200")]
    assert follow(named, "long name 1", "step", both, CT) == Link(1, "step")
    assert follow(named, "long name 2", "accession", both, CT) == Link(2, "accession", contradicts=True)
    assert follow(named, "other", "step", both, CT) is None
    assert follow(named, "other", "step", both[:1], CT) == Link(1, "study")
    twice = [item(1, key="same"), item(2, step_id="OLD", key="same")]
    assert follow(named, "same", "accession", twice, CT) == Link(2, "step")
