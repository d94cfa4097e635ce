from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from libs.definition.clause import tokens
from libs.definition.condition import Condition, ConditionError, Known, compile_condition
from libs.definition.inputs import Inputs
from libs.definition.outline import outline

KNOWN = Known(("office", "night"), ("pacs", "hub"))
INPUTS = Inputs(
    datetime(2026, 11, 20, 22, 10, tzinfo=UTC),
    study={
        "Modality": "CT", "StudyDescription": "Ct Head", "Rows": 512, "SliceThickness": 1.2, "StudyDate": "20261120",
        "ImageType": ["ORIGINAL", "AXIAL"], "Tags.project": "tb", "(0029,xx10) GE": "abc",
        "RequestAttributesSequence.StudyID": ["7"],
    },
    source={"site": "bata", "address": "10.2.0.9"},
    order={"priority": "STAT"},
    clock={"time": "23:10", "day": "fri"},
    calendars={"office": False, "night": True},
    destinations={"pacs": False},
)  # fmt: skip


def compiled(when: Any) -> Condition:
    return compile_condition(when, trigger="study", calendars=KNOWN.calendars, destinations=KNOWN.destinations)


@pytest.mark.parametrize(
    ("when", "expected"),
    [
        ({"StudyDescription": {"starts-with": "CT", "ignore-case": True}}, True),
        ({"StudyDescription": {"starts-with": ["CT", "Ct"]}}, True),
        ({"StudyDescription": {"ends-with": "HEAD"}}, False),
        ({"StudyDescription": {"matches": "^ct.*d$", "ignore-case": True}}, True),
        ({"StudyDescription": {"contains": "t H", "is-not": ["Ct Neck"]}}, True),
        ({"Modality": {"is": ["ct", "mr"], "ignore-case": True}}, True),
        ({"Rows": {"between": [256, 512]}}, True),
        ({"Rows": {"above": 512}}, False),
        ({"Rows": {"at-least": 512, "below": 513}}, True),
        ({"SliceThickness": {"at-most": 1}}, False),
        ({"StudyDate": {"between": ["20260101", "20261231"]}}, True),
        ({"PatientAge": {"present": False}}, True),
        ({"ImageType": {"starts-with": "AX"}}, True),
        ({"ImageType": {"is-not": "AXIAL"}}, False),
        ({"RequestAttributesSequence.StudyID": ["7", "8"]}, True),
        ({"private": {"creator": "GE", "element": "0029,10", "contains": "b"}}, True),
        ({"private": {"creator": "GE", "element": "0029,11", "present": True}}, False),
        ({"tag": "project"}, True),
        ({"tag": {"project": ["tb", "hiv"]}}, True),
        ({"source": {"site": ["bata", "luba"], "address": {"in-network": ["10.3.0.0/24", "10.2.0.0/24"]}}}, True),
        ({"order": {"priority": "STAT", "location": {"present": False}}}, True),
        ({"clock": {"time": {"between": ["20:00", "06:00"]}, "day": ["fri", "sat"]}}, True),
        ({"calendar": ["office", "night"]}, True),
        ({"healthy": ["hub", "pacs"]}, False),
        ({"any": [{"Modality": "MR"}, {"not": {"healthy": "pacs"}}]}, True),
        ({"not": {"clock": {"time": {"between": ["20:00", "06:00"]}}, "Modality": "CT"}}, False),
    ],
)
def test_a_structure_decides(when: Any, expected: bool) -> None:
    assert compiled(when).matches(INPUTS) is expected


@pytest.mark.parametrize(
    ("when", "path", "said"),
    [
        ({"Modality": {"start-with": "C"}}, ("Modality", "start-with"), "did you mean `starts-with`?"),
        ({"Modality": {}}, ("Modality",), "say what the value must be"),
        ({"Modality": {"ignore-case": True}}, ("Modality",), "say what the value must be"),
        ({"Rows": {"contains": "5"}}, ("Rows", "contains"), "for texts only"),
        ({"Rows": {"is": 5, "ignore-case": True}}, ("Rows", "ignore-case"), "for texts only"),
        ({"Rows": {"between": [1]}}, ("Rows", "between"), "takes two values"),
        ({"Rows": {"above": "many"}}, ("Rows", "above"), "whole number"),
        ({"Rows": {"present": "yes"}}, ("Rows", "present"), "true or false"),
        ({"Rows": list(range(1001))}, ("Rows",), "split it"),
        ({"RequestAttributesSequence.Foo": "x"}, ("RequestAttributesSequence.Foo",), "`Foo` is not a DICOM keyword"),
        ({"source": {"sit": "x"}}, ("source", "sit"), "did you mean `site`?"),
        ({"source": "bata"}, ("source",), "takes its parts"),
        ({"source": {"address": {"in-network": "10.2.0.1/24"}}}, ("source", "address", "in-network"), "not a network"),
        ({"healthy": "pax"}, ("healthy",), "no destination `pax`"),
        ({"calendar": []}, ("calendar",), "no calendar"),
        ({"private": {"creator": "GE", "is": "x"}}, ("private",), "takes creator and element"),
        ({"private": {"creator": "GE", "element": "0029,10"}}, ("private",), "say what the value must be"),
        ({"tag": {"a b": "x"}}, ("tag",), "name of a tag"),
        ({"procedure": {"station": "x"}}, ("procedure",), "`procedure` is not a DICOM keyword"),
    ],
)
def test_what_is_wrong_is_said_with_its_path(when: Any, path: tuple[str, ...], said: str) -> None:
    with pytest.raises(ConditionError) as raised:
        compiled(when)
    assert said in raised.value.message
    assert raised.value.path == path


def test_what_an_order_has_not_is_refused() -> None:
    for when in ({"tag": "x"}, {"private": {"creator": "GE", "element": "0029,10", "is": "x"}}, {"Modality": "CT"}):
        with pytest.raises(ConditionError):
            compile_condition(when, trigger="order")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('study.Modality == "CT"', {"Modality": "CT"}),
        ('study.Modality in ["CT", "MR"] && !calendars["office"]',
         {"all": [{"Modality": ["CT", "MR"]}, {"not": {"calendar": "office"}}]}),
        ('study.Rows >= 5 || source.site == "bata"',
         {"any": [{"Rows": {"at-least": 5}}, {"source": {"site": "bata"}}]}),
        ('study.StudyDescription.startsWith("CT")', {"StudyDescription": {"starts-with": "CT"}}),
        ("has(study.PatientAge)", {"PatientAge": {"present": True}}),
        ('destination["pacs"].healthy', {"healthy": "pacs"}),
        ('"x" in study.Tags', {"tag": "x"}),
        ('source.address.inNetwork("10.2.0.0/24")', {"source": {"address": {"in-network": "10.2.0.0/24"}}}),
        ("study.Rows + 1 > study.Columns", "study.Rows + 1 > study.Columns"),
        ('!(study.Rows > 5 ? true : "x" in study.ImageType)',
         {"not": 'study.Rows > 5 ? true : "x" in study.ImageType'}),
    ],
)  # fmt: skip
def test_a_text_is_shown_as_a_structure(text: str, expected: Any) -> None:
    assert outline(text, trigger="study", known=KNOWN) == expected


STRUCTURES = st.recursive(
    st.sampled_from(
        (
            {"Modality": "CT"}, {"Modality": ["CT", "MR"]}, {"Rows": {"above": 5}}, {"calendar": "office"},
            {"StudyDescription": {"contains": 'a "quoted" && \\ text'}}, {"source": {"site": "bata"}},
            {"tag": "project"}, {"healthy": "hub"}, {"PatientAge": {"present": True}},
            {"SliceThickness": {"below": 1.5}}, "study.Rows * 2 > study.Columns",
        )
    ),
    lambda inner: st.one_of(
        st.lists(inner, min_size=2, max_size=3).map(lambda parts: {"all": parts}),
        st.lists(inner, min_size=2, max_size=3).map(lambda parts: {"any": parts}),
        inner.map(lambda part: {"not": part}),
    ),
    max_leaves=6,
)  # fmt: skip


@given(STRUCTURES, st.sampled_from(("CT", "MR", "US")), st.booleans())
def test_a_structure_comes_back_from_its_text(when: Any, modality: str, office: bool) -> None:
    condition = compiled(when)
    shown = outline(condition.text, trigger="study", known=KNOWN)
    again = compiled(shown)
    inputs = replace(INPUTS, study={**INPUTS.study, "Modality": modality}, calendars={"office": office})
    assert again.matches(inputs) is condition.matches(inputs)
    assert outline(again.text, trigger="study", known=KNOWN) == shown
    bare = [[one.text for one in tokens(each.text) if one.text not in "()"] for each in (condition, again)]
    assert bare[0] == bare[1]
