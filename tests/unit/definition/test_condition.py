import json
from datetime import UTC, datetime
from typing import Any

import pytest
import re2
from hypothesis import given
from hypothesis import strategies as st

from contracts.fact import Attributes
from contracts.routing import Trigger
from libs.definition.attributes import AttributeType, coerce, dicom_attributes
from libs.definition.condition import Condition, ConditionError, ConditionFailed, compile_condition
from libs.definition.inputs import Inputs

NOW = datetime(2026, 11, 20, 9, 30, tzinfo=UTC)
CALENDARS = ("office", "on-call")


def study(when: Any, **attributes: Any) -> bool:
    inputs = Inputs(
        NOW,
        study=attributes,
        source={"site": "bata", "node": "CT1"},
        site={"key": "bata", "name": "Hospital Regional de Bata"},
        order={"priority": "STAT"},
        calendars={"office": True, "on-call": False},
    )
    return compiled(when).matches(inputs)


def compiled(when: Any, trigger: Trigger = "study") -> Condition:
    return compile_condition(when, trigger=trigger, calendars=CALENDARS, destinations=("pacs",))


@pytest.mark.parametrize(
    ("when", "attributes", "expected"),
    [
        ('study.Modality == "CT"', {"Modality": "CT"}, True),
        ('study.Modality == "CT"', {"Modality": "MR"}, False),
        ('study.Modality == "CT"', {}, False),
        ('study.Modality == ""', {}, True),
        ("study.Rows == 0", {}, True),
        ("has(study.Modality)", {}, False),
        ("has(study.Modality)", {"Modality": "CT"}, True),
        ("has(study.Rows)", {"Rows": 0}, True),
        ("has(study.ImageType)", {}, False),
        ('"CT" in study.ModalitiesInStudy', {"ModalitiesInStudy": ["CT", "SR"]}, True),
        ('"CT" in study.ModalitiesInStudy', {"ModalitiesInStudy": "CT"}, True),
        ("size(study.ModalitiesInStudy) == 0", {}, True),
        ('study.Sites.exists(s, s == "bata")', {"Sites": ["bata", "malabo"]}, True),
        ('study.StudyDescription.lowerAscii().contains("trauma")', {"StudyDescription": "CT HEAD TRAUMA"}, True),
        ("study.SliceThickness < 1.5", {"SliceThickness": 1}, True),
        ("study.PatientSize > 1.5 && study.Rows > 100", {"PatientSize": "1.7", "Rows": "512"}, True),
        ('study.PatientName.startsWith("Ñ")', {"PatientName": "Ñuñez^Ana"}, True),
        ('study.BodyPartExamined.contains("CHEST")', {"BodyPartExamined": ["CHEST", "PELVIS"]}, True),
        ('source.site == "bata" && source.node == "CT1"', {}, True),
        ('site.name.contains("Bata")', {}, True),
        ('order.priority == "STAT"', {}, True),
        ('has(order.accession) || order.accession != ""', {}, False),
        ('now.getHours("Africa/Malabo") == 10', {}, True),
        ('now > timestamp("2026-01-01T00:00:00Z")', {}, True),
        ('calendars["office"] && !calendars["on-call"]', {}, True),
        ("calendars.office", {}, True),
        ('study.StudyDescription.matches("^CT.*(HEAD|NECK)$")', {"StudyDescription": "CT HEAD"}, True),
        ('study.Modality == "CT" // nothing else', {"Modality": "CT"}, True),
        (None, {}, True),
        ({"Modality": "CT"}, {"Modality": "CT"}, True),
        ({"Modality": ["CT", "MR"]}, {"Modality": "MR"}, True),
        ({"Modality": ["CT", "MR"]}, {}, False),
        ({"ModalitiesInStudy": "SR"}, {"ModalitiesInStudy": ["CT", "SR"]}, True),
        ({"ModalitiesInStudy": ["US", "XA"]}, {"ModalitiesInStudy": ["CT", "SR"]}, False),
        ({"Rows": 512}, {"Rows": 512}, True),
        ({"SliceThickness": 1}, {"SliceThickness": 1.0}, True),
        ({"Modality": "CT", "BodyPartExamined": "HEAD"}, {"Modality": "CT", "BodyPartExamined": "NECK"}, False),
        ({"all": [{"Modality": ["CT", "MR"]}, {"not": {"calendar": "on-call"}}]}, {"Modality": "CT"}, True),
        ({"all": [{"Modality": ["CT", "MR"]}, {"not": {"calendar": "office"}}]}, {"Modality": "CT"}, False),
        ({"any": [{"Modality": "US"}, 'study.Modality == "CT" // or this']}, {"Modality": "CT"}, True),
        ({"not": {"any": [{"Modality": "US"}, {"Modality": "CT"}]}}, {"Modality": "MR"}, True),
        ({"StudyDescription": 'a "quoted" \\ text'}, {"StudyDescription": 'a "quoted" \\ text'}, True),
    ],
)
def test_conditions_decide(when: Any, attributes: dict[str, Any], expected: bool) -> None:
    assert study(when, **attributes) is expected


def test_a_condition_of_an_instance_reads_the_instance() -> None:
    condition = compiled('instance.Modality == "CT" && "ORIGINAL" in instance.ImageType', "instance")
    assert condition.matches(Inputs(NOW, instance={"Modality": "CT", "ImageType": ["ORIGINAL", "PRIMARY"]}))
    assert not condition.matches(Inputs(NOW, study={"Modality": "CT", "ImageType": ["ORIGINAL", "PRIMARY"]}))


@pytest.mark.parametrize(
    ("when", "line", "column", "said"),
    [
        ('study.Modalty == "CT"', 1, 7, "`Modalty` is not a DICOM keyword; did you mean `Modality`?"),
        ('study.Modality == "CT" &&\n  study.Rwos > 1', 2, 9, "`Rwos` is not a DICOM keyword"),
        ('study.modality == "CT"', 1, 7, "did you mean `Modality`?"),
        ('"ñ" == study.Modalty', 1, 14, "did you mean `Modality`?"),
        ('study.PixelData == "x"', 1, 7, "is binary in DICOM"),
        ("size(study.ReferencedStudySequence) > 0", 1, 5, "a group of attributes"),
        ('instance.Modality == "CT"', 1, 1, "sees the study as a whole; write `study.`"),
        ('Modality == "CT"', 1, 1, "write `study.Modality`"),
        ('stdy.Modality == "CT"', 1, 1, "unknown name `stdy`; did you mean `study`?"),
        ('source.sit == "a"', 1, 8, "`source` has no `sit`; did you mean `site`?"),
        ('order.colour == "a"', 1, 7, "it has accession, priority, modality, station"),
        ('study.Rows == "512"', 1, 12, "`==` can't compare text with a number"),
        ("study.SliceThickness > 1", 1, 22, "write a whole number as 1.0"),
        ('study.ImageType == "AXIAL"', 1, 17, 'write `"VALUE" in ATTRIBUTE`'),
        ('"CT" in study.Modality', 1, 6, "`in` needs a list"),
        ("study.Modality.matches(study.PatientID)", 1, 23, "must be written out"),
        ("now.getHours(study.Modality) > 1", 1, 13, "time zone must be written out"),
        ("source.address.inNetwork(source.site)", 1, 25, "must be written out"),
        ('source.address.inNetwork("10.2.0.1/24")', 1, 25, "write such as 10.2.0.0/24"),
        ('destination["pax"].healthy', 1, 1, "no destination `pax`"),
        ('destination["pacs"] == destination["pacs"]', 1, 1, "ask for the health"),
        ("has(study.RequestAttributesSequence)", 1, 5, "name what stands inside it"),
        ('"A" in study.RequestAttributesSequence.RequestedProcedurID', 1, 40, "did you mean `RequestedProcedureID`?"),
        ('"A" in study.Modality.RequestedProcedureID', 1, 22, "text has no parts"),
        ('study.private("SIEMENS", "0028,10") == ""', 1, 14, "can't be a private element"),
        ('study.private(study.Modality, "0029,10") == ""', 1, 14, "write creator and element"),
        ("size(study.Tags) > 1", 1, 12, "name a tag"),
        ('study.Tags["a b"] == ""', 1, 7, "name a tag"),
        ('study.Modality.format([1]) == ""', 1, 22, "`format` is not offered"),
        ("procedure.station == ''", 1, 1, "or use trigger `procedure`"),
        ("study.Modality == null", 1, 16, "use has()"),
        ("!study.Modality", 1, 1, "`!` needs true or false, not text"),
        ("study.Modality", 1, 1, "must give true or false, and this gives text"),
        ("study.Rows + 1", 1, 1, "this gives a whole number"),
        ('study.Modality = "CT"', 1, 16, "write `==` to compare"),
        ('study.Modality <> "CT"', 1, 17, "write `!=` for not equal"),
        ('study.Modality == "CT" and true', 1, 24, "write `&&` instead of `and`"),
        ("not has(study.Modality)", 1, 1, "write `!` instead of `not`"),
        ("study.Modality == “CT”", 1, 19, "straight quotes"),  # as people paste them
        ('study.Modality == "CT', 1, 19, "doesn't end"),
        ('(study.Modality == "CT"', 1, 24, "`)` is missing"),
        ('study.Modality == "CT" &&', 1, 26, "ends too early"),
        ("", 1, 1, "is empty; leave `when` out"),
        ("   ", 1, 4, "is empty; leave `when` out"),
        ('study.Modality.startswith("C")', 1, 16, "did you mean `startsWith`?"),
        ("study.Modality.contains()", 1, 16, "wrong number of values"),
        ('calendars["offce"]', 1, 1, "no calendar `offce`; did you mean `office`?"),
        ("calendars.night", 1, 1, "no calendar `night`"),
        ("size(calendars) > 1", 1, 6, "name a calendar"),
        ("study == study", 1, 1, "name one of its parts"),
        ('[study].exists(s, s.Modality == "CT")', 1, 2, "name one of its parts"),
        ('study.Modality.matches("[")', 1, 23, "not a regular expression"),
        ('now > timestamp("yesterday")', 1, 16, "write a time such as"),
        ('now.getHours("Africa/Mallabo") > 1', 1, 13, "not a time zone"),
        ('dyn(study.Rows) == "a"', 1, 4, "switch the check of types off"),
        ('study.Modality in ["CT", 1]', 1, 19, "must be of one type"),
        ("kivuko.Study{}.Rows == 1", 1, 1, "can't make values"),
        ("(" * 200 + "true" + ")" * 200, 1, 1, "nested too deeply"),
        ("1" + "+1" * 200 + " == 2", 1, 1, "nested too deeply"),
        ("study.Modality" + ".trim()" * 40 + ' == "CT"', 1, 1, "nested too deeply"),
        ("study.PatientAge < 18", 1, 18, "in quotes it is text"),
        ('study.StudyDescription.upperAsci() == "A"', 1, 24, "there is no `upperAsci`; did you mean `upperAscii`?"),
        ('study.ImageType.contains("A")', 1, 25, '`"VALUE" in ATTRIBUTE`'),
        ('study.RequestAttributesSequence[0].StudyID == "1"', 1, 32, "the values of all items"),
        ("true" + " " * 10_000, 1, 1, "longer than"),
        ("study.Modality == '\ud800'", 1, 1, "lone surrogate"),
        ('study.Modality.matches("(")', 1, 23, "not a regular expression (RE2)"),
        # Made ready, this one alone would take many seconds.
        (f'study.Modality.matches("{"[a-z]{1,900}" * 50}")', 1, 23, "could take too long"),
    ],
)
def test_what_is_wrong_is_said_with_its_place(when: str, line: int, column: int, said: str) -> None:
    with pytest.raises(ConditionError) as raised:
        compiled(when)
    assert said in raised.value.message
    assert (raised.value.line, raised.value.column) == (line, column)


def test_a_condition_of_an_instance_may_not_name_the_study() -> None:
    with pytest.raises(ConditionError, match="sees that instance and its source only"):
        compiled('study.Modality == "CT"', "instance")


@pytest.mark.parametrize(
    ("when", "path", "said"),
    [
        ({"Modalty": "CT"}, ("Modalty",), "did you mean `Modality`?"),
        ({"all": [{"Modality": "CT"}, {"calendar": "offce"}]}, ("all", 1, "calendar"), "did you mean `office`?"),
        ({"all": []}, ("all",), "at least one"),
        ({"any": {"Modality": "CT"}}, ("any",), "takes a list"),
        ({"Rows": "many"}, ("Rows",), "must be a whole number"),
        ({"Modality": True}, ("Modality",), "put it in quotes"),
        ({"StudyID": 1.10}, ("StudyID",), "put it in quotes"),
        ({"Modality": []}, ("Modality",), "at least one value"),
        ({"Modality": [["CT"]]}, ("Modality",), "put it in quotes"),
        ({"PixelData": "x"}, ("PixelData",), "binary in DICOM"),
        ({"not": [1]}, ("not",), "a condition is"),
        ({}, (), "a condition is"),
    ],
)
def test_what_is_wrong_in_a_structure_is_said_with_its_path(when: Any, path: tuple[Any, ...], said: str) -> None:
    with pytest.raises(ConditionError) as raised:
        compiled(when)
    assert said in raised.value.message
    assert raised.value.path == path


def test_a_text_inside_a_structure_has_its_own_places() -> None:
    with pytest.raises(ConditionError) as raised:
        compiled({"any": [{"Modality": "CT"}, {"not": "study.Rows > 1 &&\n study.Rwos > 1"}]})
    assert (raised.value.path, raised.value.line, raised.value.column) == (("any", 1, "not"), 2, 8)


def test_a_text_inside_a_structure_cannot_break_out_of_it() -> None:
    with pytest.raises(ConditionError):
        compiled({"all": ["true) || (true", {"Modality": "CT"}]})


def test_what_is_read_is_known() -> None:
    condition = compiled('study.Modality in ["CT"] && study.ImageType.all(t, t != source.site) && calendars["office"]')
    assert condition.attributes == {"Modality", "ImageType"}
    assert condition.circumstances == {"source.site", "calendars.office"}


@pytest.mark.parametrize(
    ("when", "reason"),
    [
        ('study.ImageType[2] == "SECRET"', "asks for a value of a list that has fewer"),
        ("1 / study.Rows == 1", "divides by zero"),
        ("int(study.StudyID) == 1", "can't be converted"),
    ],
)
def test_a_failure_at_run_time_gives_a_reason_without_values(when: str, reason: str) -> None:
    with pytest.raises(ConditionFailed, match=reason) as raised:
        study(when, StudyID="SECRET", PatientID="[SECRET")
    assert "SECRET" not in str(raised.value)


def test_a_failure_that_does_not_matter_is_none() -> None:
    assert study('study.ImageType[2] == "AXIAL" || study.Modality == "CT"', Modality="CT")


def test_a_pattern_is_made_ready_once_and_not_for_each_value(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[str] = []
    compile_ = re2.compile

    def counted(find: str, options: Any) -> Any:
        made.append(find)
        return compile_(find, options)

    monkeypatch.setattr(re2, "compile", counted)
    pattern = "^[a-z]{1,300}x[a-z]{1,299}$"
    assert not study(f'study.ImageType.exists(one, one.matches("{pattern}"))', ImageType=["ab"] * 4000)
    assert made == [pattern]


texts = st.text(st.characters(codec="utf-8"), max_size=20)


@given(texts, texts)
def test_any_text_can_be_a_value_of_a_structured_condition(wanted: str, other: str) -> None:
    assert study({"StudyDescription": wanted}, StudyDescription=wanted)
    assert study({"StudyDescription": wanted}, StudyDescription=other) is (wanted == other)


scalars = st.one_of(texts, st.integers(), st.floats(), st.booleans(), st.none())
values = st.one_of(scalars, st.lists(scalars, max_size=3))
READS: Attributes = {"Modality": "", "ImageType": [], "Rows": 0, "SliceThickness": 0.0, "PatientAge": ""}


@given(st.dictionaries(st.sampled_from(sorted(READS)), values))
def test_whatever_a_header_holds_is_decided(attributes: dict[str, Any]) -> None:
    decided = study(
        'study.Modality == "CT" || study.Rows > 1 || study.SliceThickness > 1.0 || "A" in study.ImageType',
        **attributes,
    )
    assert decided in (True, False)


@given(values, st.sampled_from(sorted(dicom_attributes().items())))
def test_a_value_is_brought_to_its_type_or_refused(value: Any, attribute: tuple[str, AttributeType]) -> None:
    wanted = attribute[1]
    seen = coerce(value, wanted)
    if seen is None:
        return
    assert isinstance(seen, list) is wanted.many
    python = {"text": str, "integer": int, "decimal": float}[wanted.kind]
    assert all(type(one) is python for one in (seen if isinstance(seen, list) else [seen]))
    assert json.loads(json.dumps(seen, allow_nan=False)) == seen


@given(st.text(st.sampled_from('study.Modality="CT" &|()[]!<>ñ\n1.0'), max_size=40))
def test_any_text_is_compiled_or_refused_with_a_place_in_it(text: str) -> None:
    refused: ConditionError | None = None
    try:
        compiled(text)
    except ConditionError as error:
        refused = error
    if refused is not None:
        assert refused.message
        assert 1 <= refused.line <= text.count("\n") + 1
        assert 1 <= refused.column <= len(text) + 1
