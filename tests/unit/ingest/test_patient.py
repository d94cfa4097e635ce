"""One Patient ID, two people: what is found, and what is no contradiction."""

import random
from itertools import combinations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from contracts.fact import Attributes
from services.ingest.patient import Identity, Patient, contradictions, differing, name_key, patient_of

HERE = Identity("LUBA", "P1")
names = st.lists(st.lists(st.sampled_from(["", "Doe", "Ánna", "小東"]), max_size=5), max_size=3).map(
    lambda groups: name_key("=".join("^".join(components) for components in groups))
)
patients = st.builds(
    Patient,
    identity=st.builds(Identity, st.sampled_from(["", "LUBA"]), st.sampled_from(["P1", "P2"])),
    name_key=names,
    birth_date=st.sampled_from(["", "19700101", "19800202"]),
)
studies = st.dictionaries(st.sampled_from(["1.1", "1.2", "1.3", "1.4"]), st.lists(patients, max_size=3), max_size=4)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("DOE^JANE", "Doe^Jane^^^"),
        ("Doe^Jane", " doe ^ JANE "),
        ("Doe ^Jane  Maria", "doe^jane maria"),
        ("Zo\u00eb^A", "Zoe\u0308^a"),
        ("Doe^Jane^^Dr.", "Doe^Jane"),
        ("Stra\u00dfe", "STRASSE"),
        ("Yamada^Tarou=山田^太郎==", "YAMADA^TAROU=山田^太郎"),
    ],
)
def test_names_that_are_the_same(one: str, other: str) -> None:
    assert name_key(one) == name_key(other)


@pytest.mark.parametrize(
    ("one", "other", "fields"),
    [
        (("Doe^Jane", "19700101"), ("Doe^John", "19700101"), ("PatientName",)),
        (("Doe^Jane", "19700101"), ("Doe^Jane", "19800101"), ("PatientBirthDate",)),
        (("Doe^Jane", "19700101"), ("Roe^John", "19800101"), ("PatientName", "PatientBirthDate")),
        (("Doe^Jane", "19700101"), ("", ""), ()),
        (("Doe^Jane", ""), ("Doe^Jane^Maria", "19700101"), ()),
        (("Doe^John^^^Jr.", ""), ("Doe^John^^^Sr.", ""), ("PatientName",)),
        (("Doe^John^^Mr.", ""), ("Doe^John^^Dr.", ""), ()),
        (("Yamada^Tarou", ""), ("=山田^太郎", ""), ()),
        (("Yamada^Tarou=山田^太郎", ""), ("Yamada^Tarou=山田^次郎", ""), ("PatientName",)),
    ],
)
def test_what_contradicts(one: tuple[str, str], other: tuple[str, str], fields: tuple[str, ...]) -> None:
    first, second = (Patient(HERE, name_key(name), born) for name, born in (one, other))
    assert differing(first, second) == differing(second, first) == fields


def test_the_dataset_s_issuer_counts_before_the_node_s() -> None:
    said: Attributes = {"PatientID": " P1 ", "PatientName": "Doe", "PatientBirthDate": "19700101"}
    assert patient_of(said, "LUBA") == Patient(HERE, "doe", "19700101")
    assert patient_of({**said, "IssuerOfPatientID": "BATA"}, "LUBA") == Patient(
        Identity("BATA", "P1"), "doe", "19700101"
    )
    assert patient_of(said, None) == Patient(Identity("", "P1"), "doe", "19700101")
    assert patient_of({"PatientName": "Doe"}, "LUBA") is None
    assert patient_of({**said, "PatientBirthDate": "1970.01.01"}, "LUBA") == Patient(HERE, "doe", "19700101")
    assert patient_of({"PatientID": "P1", "PatientBirthDate": "1970"}, "LUBA") == Patient(HERE, "", "")


@given(st.text())
def test_a_key_is_its_own_key(name: str) -> None:
    assert name_key(name_key(name)) == name_key(name)


@given(patients, patients)
def test_only_one_and_the_same_identity_contradicts_itself(one: Patient, other: Patient) -> None:
    assert differing(one, one) == ()
    assert set(differing(one, other)) == set(differing(other, one))
    if one.identity != other.identity:
        assert differing(one, other) == ()


@given(studies, st.randoms(use_true_random=False), st.integers(1, 4))
def test_the_same_studies_give_the_same_pairs_in_any_order_and_batches(
    found: dict[str, list[Patient]], chance: random.Random, batch: int
) -> None:
    said = [(study, patient) for study, patients in found.items() for patient in patients]
    expected: dict[tuple[str, str], set[str]] = {}
    for (study, one), (other, another) in combinations(said, 2):
        if fields := differing(one, another):
            expected.setdefault((min(study, other), max(study, other)), set()).update(fields)
    chance.shuffle(said)
    known: list[tuple[str, Patient]] = []
    gathered: dict[tuple[str, str], set[str]] = {}
    for study in found:
        mine = [patient for name, patient in said if name == study]
        for start in range(0, len(mine), batch):
            new = mine[start : start + batch]
            for other, fields in contradictions(study, new, known).items():
                gathered.setdefault((min(study, other), max(study, other)), set()).update(fields)
            known += [(study, patient) for patient in new]
    assert gathered == expected
