from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from contracts.instances import StoredInstance
from services.ingest.assembly import primary_modality, study_attributes
from services.ingest.preparation import shared_attributes

pytestmark = pytest.mark.unit


def instance(number: int, attributes: dict[str, Any]) -> StoredInstance:
    return StoredInstance.model_validate(
        {
            "sop_instance_uid": f"1.2.{number}",
            "sop_class_uid": f"1.3.{number % 3}",
            "series_instance_uid": f"1.4.{number % 2}",
            "transfer_syntax_uid": "1.2.840.10008.1.2.1",
            "content_hash": f"{number:064x}",
            "object_key": f"k/{number}",
            "size": 1,
            "received_at": "2026-01-01T00:00:00Z",
            "attributes": attributes,
        }
    )


attributes = st.fixed_dictionaries(
    {},
    optional={
        "Modality": st.sampled_from(["CT", "SR", "PR", "MR", "SEG"]),
        "StudyDate": st.sampled_from(["20260101", "20260102", ""]),
        "StudyTime": st.sampled_from(["101112", "1011", "2359"]),
        "StudyDescription": st.sampled_from(["Head", "head", "Kopf"]),
        "StationName": st.sampled_from(["A", "B"]),
        "PatientWeight": st.sampled_from([70.5, 71.0]),
    },
)
studies = st.lists(attributes, min_size=1, max_size=8).map(lambda all_: [instance(n, a) for n, a in enumerate(all_)])


@given(studies, st.randoms(use_true_random=False), st.data())
def test_order_and_repetition_change_nothing(study: list[StoredInstance], random: Any, data: st.DataObject) -> None:
    again = [*study, *data.draw(st.lists(st.sampled_from(study)))]
    random.shuffle(again)
    assert study_attributes(again) == study_attributes(study)


@given(studies)
def test_every_attribute_of_a_study_is_one_of_an_instance(study: list[StoredInstance]) -> None:
    found = study_attributes(study)
    for keyword in ("Modality", "StudyDate", "StudyTime", "StudyDescription", "StationName"):
        if keyword in found:
            assert found[keyword] in [each.attributes.get(keyword) for each in study]
    assert found["NumberOfStudyRelatedInstances"] == len(study)


@pytest.mark.parametrize(
    ("modalities", "primary"), [(["SR", "CT"], "CT"), (["PR", "MR", "CT"], "CT"), (["SR"], "SR"), (["SR", "KO"], "KO")]
)
def test_reports_never_stand_for_a_study_with_images(modalities: list[str], primary: str) -> None:
    assert primary_modality(modalities) == primary


def test_the_earliest_time_of_the_earliest_date() -> None:
    found = study_attributes(
        [
            instance(1, {"StudyDate": "20260102", "StudyTime": "0100"}),
            instance(2, {"StudyDate": "20260101"}),
            instance(3, {"StudyDate": "20260101", "StudyTime": "2200"}),
        ]
    )
    assert (found["StudyDate"], found["StudyTime"]) == ("20260101", "2200")


@given(st.lists(attributes, min_size=1, max_size=5))
def test_shared_and_own_attributes_make_the_whole(all_: list[dict[str, Any]]) -> None:
    shared = shared_attributes(all_)
    for each in all_:
        own = {key: value for key, value in each.items() if key not in shared}
        assert {**shared, **own} == each
