from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from libs.definition.clause import clauses, operands
from libs.definition.condition import Condition, ConditionFailed, compile_condition
from libs.definition.explanation import Explanation, Part, explanation
from libs.definition.inputs import Inputs

INPUTS = Inputs(
    datetime(2026, 11, 20, 9, 30, tzinfo=UTC),
    study={
        "Modality": "MR", "StudyDescription": "ct head", "Rows": 5, "ImageType": ["A", "B"], "Tags.x": "1",
        "(0029,xx10) GE": "one", "RequestAttributesSequence.StudyID": ["7"],
    },
    source={"site": "bata"},
    calendars={"office": True},
    destinations={"pacs": False},
)  # fmt: skip


def compiled(when: Any) -> Condition:
    return compile_condition(when, trigger="study", calendars=("office",), destinations=("pacs",))


def explained(when: Any) -> Explanation:
    return explanation(compiled(when), INPUTS)


@pytest.mark.parametrize(
    ("when", "because"),
    [
        ('study.Modality == "CT" && study.Rows > 3', ['`study.Modality == "CT"` is false: study.Modality is "MR"']),
        ('study.Modality == "MR" && study.Rows > 9', ["`study.Rows > 9` is false: study.Rows is 5"]),
        (
            'study.Modality == "CT" || order.priority == "STAT"',
            [
                '`study.Modality == "CT"` is false: study.Modality is "MR"',
                '`order.priority == "STAT"` is false: order.priority is absent',
            ],
        ),
        ("study.Rows > 9 || study.Rows > 4", ["`study.Rows > 4` is true: study.Rows is 5"]),
        ('!(study.Modality == "MR")', ['`study.Modality == "MR"` is true: study.Modality is "MR"']),
        (
            'study.Rows > 4 ? source.site == "a" : calendars.office',
            ["`study.Rows > 4` is true: study.Rows is 5", '`source.site == "a"` is false: source.site is "bata"'],
        ),
        (
            'study.StudyDescription.upperAscii() == "CT NECK"',
            [
                (
                    '`study.StudyDescription.upperAscii() == "CT NECK"` is false: study.StudyDescription is "ct head", '
                    'study.StudyDescription.upperAscii() is "CT HEAD"'
                )
            ],
        ),
        (
            'study.ImageType.all(t, t == "A" || t == "C")',
            ['`study.ImageType.all(t, t == "A" || t == "C")` is false: study.ImageType is ["A", "B"]'],
        ),
        ('study.Tags["x"] == "2"', ['`study.Tags["x"] == "2"` is false: study.Tags["x"] is "1"']),
        (
            'study.private("GE", "0029,10") == "two"',
            ['`study.private("GE", "0029,10") == "two"` is false: study.private("GE", "0029,10") is "one"'],
        ),
        (
            '"8" in study.RequestAttributesSequence.StudyID',
            [
                (
                    '`"8" in study.RequestAttributesSequence.StudyID` is false: '
                    'study.RequestAttributesSequence.StudyID is ["7"]'
                )
            ],
        ),
        (
            "destination.pacs.healthy",
            ['`destination.pacs.healthy` is false: destination["pacs"].healthy is "not healthy"'],
        ),
        (
            {"all": [{"Modality": ["CT", "MR"]}, {"not": {"calendar": "office"}}]},
            ['`calendars["office"]` is true: calendars["office"] is "working time"'],
        ),
        ("1 / study.Columns == 1", ["`1 / study.Columns == 1` could not be decided: it divides by zero"]),
        (None, ["`true` is true"]),
    ],
)
def test_what_the_result_is_due_to_is_said(when: Any, because: list[str]) -> None:
    assert [part.sentence() for part in explained(when).because()] == because


def test_parts_have_their_places() -> None:
    root = explained('study.Rows > 3 &&\n  (study.Rows > 9 || // not this\n   "&&" == study.Modality)').root
    assert [(leaf.text, leaf.line, leaf.column) for leaf in leaves(root)] == [
        ("study.Rows > 3", 1, 1),
        ("study.Rows > 9", 2, 4),
        ('"&&" == study.Modality', 3, 4),
    ]
    assert (root.kind, [part.kind for part in root.parts]) == ("all", ["leaf", "any"])


def leaves(part: Part) -> list[Part]:
    return [leaf for one in part.parts for leaf in leaves(one)] or [part]


def test_any_number_of_negations_is_explained() -> None:
    assert explained("!" * 5001 + "calendars.office").root.kind == "not"
    assert explained("!" * 5000 + "calendars.office").root.holds is True


def test_a_long_value_is_cut_in_sentences() -> None:
    condition = compiled('study.StudyDescription == "x"')
    inputs = Inputs(INPUTS.now, study={"StudyDescription": "y" * 5000})
    (part,) = explanation(condition, inputs).because()
    assert len(part.sentence()) < 300


def test_sides_of_a_comparison_are_told_from_what_stands_in_brackets_and_texts() -> None:
    assert operands('study.private("a == b", "c") == f(x < y)') == ('study.private("a == b", "c")', "f(x < y)")
    assert operands("study.ImageType.exists(a, a == b)") == ()
    assert [one.kind for one in clauses('a ? b ? c : d : r"\\" == "?:"').parts] == ["leaf", "choice", "leaf"]


LEAVES = st.sampled_from(
    (
        'study.Modality == "MR"', "study.Rows > 9", "1 / study.Columns == 1", "!has(study.Rows)", "calendars.office",
        'study.StudyDescription.contains("a && b || !c ? \\" :")', "study.ImageType.exists(a, a == 'A' && true)",
        "[1, 2, 3].all(x, x > 0 ? true : false)", "true", '{"a": true}["a"]', 'r"\\d" == study.Modality',
        "(study.Rows < 6)", "!!(study.Rows < 6)", "! !!calendars.office",
        'study.Modality == """a \\""" && " ||""" ', "study.Modality == '''\\''' || '''",
        "!calendars.office == true", "study.ImageType[5] == 'X'",
    )
)  # fmt: skip
CONDITIONS = st.recursive(
    LEAVES,
    lambda inner: st.one_of(
        st.tuples(inner, inner).map(lambda two: f"({two[0]}) && {two[1]}"),
        st.tuples(inner, inner).map(lambda two: f"({two[0]} || ({two[1]}))"),
        st.tuples(inner, inner).map(lambda two: f"{two[0]}\n && {two[1]} // or ||" + "\n"),
        st.tuples(inner, inner, inner).map(lambda three: f"({three[0]}) ? ({three[1]}) : ({three[2]})"),
        inner.map(lambda one: f"!({one})"),
    ),
    max_leaves=6,
)


@given(CONDITIONS)
def test_the_parts_together_say_what_the_whole_says(text: str) -> None:
    condition = compiled(text)
    try:
        matched: bool | None = condition.matches(INPUTS)
    except ConditionFailed:
        matched = None
    found = explanation(condition, INPUTS)
    assert found.matched is matched
    assert found.root.holds is matched
    assert found.because()
    for leaf in leaves(found.root):
        assert leaf.text in text
