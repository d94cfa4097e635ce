from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from libs.definition.condition import compile_condition
from libs.definition.inputs import Inputs, bind
from libs.definition.lookup import united
from libs.definition.shortlist import Shortlist, demand

NOW = datetime(2026, 11, 20, 9, 30, tzinfo=UTC)


@pytest.mark.parametrize(
    ("when", "expected"),
    [
        ('study.Modality == "CT"', ("study.Modality", {"CT"})),
        ('"CT" == study.Modality && study.Rows > 5', ("study.Modality", {"CT"})),
        ('study.Modality in ["CT", "MR"]', ("study.Modality", {"CT", "MR"})),
        ('study.Modality in ["CT", "MR"] && source.site == "bata"', ("source.site", {"bata"})),
        ('study.Modality in ["CT", "MR"] && study.Modality in ["MR", "US"]', ("study.Modality", {"MR"})),
        ('study.Modality == "CT" || study.Modality == "MR" && study.Rows > 5', ("study.Modality", {"CT", "MR"})),
        ('"SR" in study.ModalitiesInStudy && study.Rows > 5', ("study.ModalitiesInStudy", {"SR"})),
        ('study.Modality == "CT" || study.Rows > 5', None),
        ('!(study.Modality == "CT")', None),
        ('study.Modality != "CT"', None),
        ('study.Modality == "CT" ? true : false', None),
        ("study.Rows == 5", None),
        ("study.Modality == study.BodyPartExamined", None),
        (None, None),
    ],
)
def test_what_a_condition_demands(when: Any, expected: Any) -> None:
    assert demand(compile_condition(when, trigger="study")) == expected


LEAVES = st.sampled_from(
    (
        'study.Modality == "CT"', 'study.Modality in ["MR", ""]', '"SR" in study.ModalitiesInStudy',
        '"CT" in study.ModalitiesInStudy', 'source.site == "bata"', 'source.site == ""', "study.Rows > 5",
        'study.Modality != "CT"', 'study.Tags.x == "1"', 'order.priority == "STAT"', "true",
        'study.Modality.startsWith("C")',
    )
)  # fmt: skip
CONDITIONS = st.recursive(
    LEAVES,
    lambda inner: st.one_of(
        st.tuples(inner, inner).map(lambda two: f"({two[0]}) && ({two[1]})"),
        st.tuples(inner, inner).map(lambda two: f"({two[0]}) || ({two[1]})"),
        inner.map(lambda one: f"!({one})"),
    ),
    max_leaves=5,
)
STUDIES = st.fixed_dictionaries(
    {},
    optional={
        "Modality": st.sampled_from(("CT", "MR", "")),
        "Rows": st.integers(4, 8),
        "ModalitiesInStudy": st.lists(st.sampled_from(("CT", "SR", "MR")), max_size=3),
        "Tags.x": st.sampled_from(("1", "2")),
    },
)


@given(st.lists(CONDITIONS, min_size=1, max_size=6), STUDIES, st.sampled_from(({}, {"site": "bata"}, {"site": ""})))
def test_none_that_is_true_is_left_out(texts: list[str], study: dict[str, Any], source: dict[str, str]) -> None:
    conditions = [compile_condition(text, trigger="study") for text in texts]
    inputs = Inputs(NOW, study=study, source=source)
    scope = united(condition.reads for condition in conditions)
    candidates = Shortlist("study", conditions).candidates(bind(inputs, "study", scope), inputs)
    assert candidates == sorted(set(candidates))
    true = {position for position, condition in enumerate(conditions) if condition.matches(inputs)}
    assert true <= set(candidates)
