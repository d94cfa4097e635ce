from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from contracts.instances import StoredInstance
from services.ingest.tally import Tally, of_batch

pytestmark = pytest.mark.unit


def instance(number: int, series: int, attributes: dict[str, Any]) -> StoredInstance:
    return StoredInstance.model_validate(
        {
            "sop_instance_uid": f"1.2.{number}",
            "sop_class_uid": "1.3",
            "series_instance_uid": f"1.4.{series}",
            "transfer_syntax_uid": "1.2.840.10008.1.2.1",
            "content_hash": f"{number:064x}",
            "object_key": f"k/{number}",
            "size": 10 + number,
            "received_at": "2026-01-01T00:00:00Z",
            "attributes": attributes,
        }
    )


parts = st.lists(
    st.tuples(
        st.integers(0, 2),
        st.integers(0, 3),
        st.fixed_dictionaries(
            {},
            optional={
                "Modality": st.sampled_from(["CT", "MR", "SR", ""]),
                "InstanceNumber": st.integers(0, 30),
                "NumberOfFrames": st.sampled_from([1, 1, 1, 40]),
                "NumberOfSeriesRelatedInstances": st.integers(-1, 9),
                "NumberOfStudyRelatedInstances": st.integers(0, 9),
                "InConcatenationTotalNumber": st.integers(1, 3),
            },
        ),
    ),
    max_size=12,
)


@given(parts)
def test_the_sum_of_batches_is_the_whole(given_parts: list[tuple[int, int, dict[str, Any]]]) -> None:
    made = [(batch, instance(n, series, found)) for n, (series, batch, found) in enumerate(given_parts)]
    whole = of_batch(each for _, each in made)
    sums: dict[str, Tally] = {}
    announced: set[int | None] = set()
    for batch in {batch for batch, _ in made}:
        brought = of_batch(each for of, each in made if of == batch)
        announced.add(brought.announced)
        for uid, tally in brought.series.items():
            sums[uid] = sums.get(uid, Tally()) + tally
    assert sums == whole.series
    assert whole.announced == max((each for each in announced if each is not None), default=None)
    assert whole.count == len(made)
    assert whole.size == sum(each.size for _, each in made)


def test_numbers_of_multi_frame_instances_are_of_no_use() -> None:
    (tally,) = of_batch([instance(1, 1, {"InstanceNumber": 1, "NumberOfFrames": 200})]).series.values()
    assert tally.numbers is None


def test_an_instance_without_a_number_makes_those_of_its_series_useless() -> None:
    (tally,) = of_batch([instance(1, 1, {"InstanceNumber": 1}), instance(2, 1, {})]).series.values()
    assert tally.numbers is None


@pytest.mark.parametrize("value", [0, -3, 2**31, "7", [7]])
def test_what_is_no_count_announces_nothing(value: Any) -> None:
    brought = of_batch([instance(1, 1, {"NumberOfStudyRelatedInstances": value})])
    assert brought.announced is None


def test_modalities_are_those_there_were_and_those_that_came() -> None:
    brought = of_batch([instance(1, 1, {"Modality": "MR"}), instance(2, 2, {"Modality": "CT"}), instance(3, 3, {})])
    assert brought.modalities(["SR", "CT"]) == ["CT", "MR", "SR"]
