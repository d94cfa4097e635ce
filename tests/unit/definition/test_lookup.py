from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from contracts.routing import TRIGGERS, Trigger
from libs.definition.attributes import MOST_CHARACTERS, MOST_VALUES, private_key, type_of
from libs.definition.condition import Condition, ConditionError, ConditionFailed, compile_condition
from libs.definition.inputs import Inputs, bind
from libs.definition.language import is_in_network

INPUTS = Inputs(
    datetime(2026, 11, 20, 21, 30, tzinfo=UTC),
    study={
        "Modality": "CT",
        "RequestAttributesSequence.RequestedProcedureID": ["P1", "P2"],
        "RequestAttributesSequence.ScheduledProtocolCodeSequence.CodeMeaning": "CT HEAD",
        "(0029,xx10) SIEMENS CSA HEADER": "IMAGE NUM 4",
        "Tags.project": "tb",
    },
    source={"address": "10.2.0.7", "subject": "CN=ct1,O=Hospital"},
    order={"priority": "STAT", "location": "ER", "physician": "Nguema^Ana"},
    clock={"time": "22:30", "date": "20261120", "day": "fri"},
    destinations={"pacs": False},
)


def compiled(when: Any, trigger: Trigger = "study") -> Condition:
    return compile_condition(when, trigger=trigger, calendars=("office",), destinations=("pacs", "hub"))


@pytest.mark.parametrize(
    ("when", "expected"),
    [
        ('"P2" in study.RequestAttributesSequence.RequestedProcedureID', True),
        ('"P3" in study.RequestAttributesSequence.RequestedProcedureID', False),
        ('study.RequestAttributesSequence.ScheduledProtocolCodeSequence.CodeMeaning.exists(m, m == "CT HEAD")', True),
        ("has(study.RequestAttributesSequence.RequestedProcedureID)", True),
        ("has(study.RequestAttributesSequence.RequestedProcedureDescription)", False),
        ('study.private("SIEMENS CSA HEADER", "0029,10").startsWith("IMAGE")', True),
        ('study.private("SIEMENS CSA HEADER", "0029,11") == ""', True),
        ('study.private("GE", "0029,10") == ""', True),
        ('study.Tags["project"] == "tb" && study.Tags.project == "tb"', True),
        ('"project" in study.Tags && has(study.Tags.project)', True),
        ('"other" in study.Tags || has(study.Tags.other) || study.Tags["other"] != ""', False),
        ('source.address.inNetwork("10.2.0.0/24")', True),
        ('source.address.inNetwork("10.3.0.0/24")', False),
        ('source.subject.contains("O=Hospital")', True),
        ('order.location == "ER" && order.physician.startsWith("Nguema")', True),
        ('clock.time >= "20:00" || clock.time < "06:00"', True),
        ('clock.day in ["sat", "sun"]', False),
        ('destination["pacs"].healthy', False),
        ("destination.hub.healthy", True),
        ("calendars.office", False),
    ],
)
def test_what_is_more_than_a_keyword_is_looked_up(when: str, expected: bool) -> None:
    assert compiled(when).matches(INPUTS) is expected


def test_what_is_looked_up_is_known_by_keys() -> None:
    condition = compiled(
        'study.private("GE", "0029,ab") == "" && "x" in study.Tags && "a" in study.RequestAttributesSequence.StudyID '
        "&& destination.pacs.healthy && study.Rows > 1"
    )
    assert condition.attributes == {"(0029,xxAB) GE", "Tags.x", "RequestAttributesSequence.StudyID", "Rows"}
    assert condition.circumstances == {"destination.pacs"}


def test_conditions_that_share_inputs_see_the_same() -> None:
    one = compiled('study.private("SIEMENS CSA HEADER", "0029,10") != "" && study.Tags.project == "tb"')
    other = compiled('"P1" in study.RequestAttributesSequence.RequestedProcedureID && !destination.pacs.healthy')
    scope = replace(
        one.reads,
        attributes=one.attributes | other.attributes | {"Rows"},
        circumstances=one.circumstances | other.circumstances,
    )
    bound = bind(INPUTS, "study", scope)
    assert one.within(scope).holds(bound)
    assert other.within(scope).holds(bound)


@pytest.mark.parametrize(
    ("trigger", "when", "inputs"),
    [
        ("instance", 'instance.Modality == "CT"', {"instance": {"Modality": "CT"}}),
        ("series", 'series.Modality == "CT" && "a" in series.Sites', {"series": {"Modality": "CT", "Sites": ["a"]}}),
        ("amended", 'study.Modality == "CT"', {"study": {"Modality": "CT"}}),
        ("timer", 'study.Modality == "CT"', {"study": {"Modality": "CT"}}),
        ("order", 'order.modality == "CT"', {"order": {"modality": "CT"}}),
        ("procedure", 'procedure.station == "CT1"', {"procedure": {"station": "CT1"}}),
    ],
)
def test_each_trigger_sees_its_object(trigger: Trigger, when: str, inputs: dict[str, Any]) -> None:
    condition = compiled(when, trigger)
    assert condition.matches(replace(INPUTS, **inputs))
    assert not condition.matches(Inputs(INPUTS.now))
    others = [one for one in TRIGGERS if one not in (trigger, "study", "amended", "timer")]
    for other in others:
        if trigger != "order":  # an order is known to all
            with pytest.raises(ConditionError, match="use trigger"):
                compiled(when, other)


def test_an_address_is_in_its_network() -> None:
    assert is_in_network("::ffff:10.2.0.7", "10.2.0.0/24")
    assert is_in_network("2001:db8::1", "2001:db8::/32")
    assert not is_in_network("10.2.0.7", "2001:db8::/32")
    assert not is_in_network("", "10.2.0.0/24")


@pytest.mark.parametrize(
    "element", [("", "0029,10"), ("GE", "0028,10"), ("GE", "0029,1010"), ("GE\\X", "0029,10"), ("GE", "0007,10")]
)
def test_what_is_no_private_element_has_no_key(element: tuple[str, str]) -> None:
    assert private_key(*element) is None


def test_a_path_leads_through_sequences_to_an_attribute() -> None:
    assert type_of("RequestAttributesSequence.RequestedProcedureID", "study") is not None
    for wrong in ("Modality.Rows", "RequestAttributesSequence", "RequestAttributesSequence.PixelData", "Tags.x.y"):
        assert type_of(wrong, "study") is None
    assert type_of("Tags.x", "instance") is None
    assert type_of("Modality", "order") is None


#: Each would take hours or more memory than there is, if the evaluator did what it says.
HOSTILE = (
    'study.PatientComments.replace("", "' + "b" * 4_000 + '").replace("", "' + "b" * 4_000 + '") == "x"',
    'study.ImageType.map(a, study.PatientComments).join("").contains("x")',
    'study.PatientComments.split("").all(a, study.StudyID.split("").all(b, study.PatientComments.contains(a + b)))',
    'study.PatientComments.matches("((.{1,9}){1,9}){1,9}|((.{1,9}){1,9}){1,9}|((.{1,9}){1,9}){1,9}x")',
    "study.PatientComments.contains(" + "+".join(["study.PatientComments"] * 25) + ")",
)


@pytest.mark.parametrize("when", HOSTILE)
def test_what_could_take_too_much_is_refused(when: str) -> None:
    with pytest.raises(ConditionError, match=r"split it|smaller numbers"):
        compiled(when)


@pytest.mark.parametrize(
    "when",
    [
        'study.PatientComments.matches("(a+)+$")',
        'study.PatientComments.matches("(a|a?)+b")',
        'study.PatientComments.matches("(.{1,60}){1,16}x")',
        'study.PatientComments.contains("' + "a" * 4_000 + 'b")',
        'study.PatientComments.upperAscii().replace("A", "bb").contains("bc")',
        'study.PatientComments.split("").exists(a, a == "c")',
        "study.ImageType.all(a, study.ImageType.all(b, study.ImageType.all(c, a + b != c)))",
        'study.ImageType.exists(a, study.ImageType.exists(b, a + b == "x"))',
    ],
)
def test_the_largest_values_are_decided_or_stopped(when: str) -> None:
    """Nothing is asserted of time: a condition that went on would keep the suite from ending."""
    condition = compiled(when)
    inputs = replace(INPUTS, study={"PatientComments": "a" * MOST_CHARACTERS, "ImageType": ["abcd"] * MOST_VALUES})
    try:
        assert condition.matches(inputs) in (True, False)
    except ConditionFailed as failure:
        assert "too many values" in str(failure)  # noqa: PT017  # either is right


def test_what_is_too_long_counts_as_absent_and_is_said() -> None:
    condition = compiled("has(study.PatientComments) || has(study.ImageType)")
    for value in ("a" * 500_000, ["a" * 300] * 100):
        inputs = replace(INPUTS, study={"PatientComments": value, "ImageType": ["x"] * (MOST_VALUES + 1)})
        assert not condition.matches(inputs)
        assert set(bind(inputs, "study", condition.scope).unreadable) == {"PatientComments", "ImageType"}


def test_too_many_turns_are_stopped() -> None:
    condition = compiled("study.ImageType.all(a, study.ImageType.all(b, a == b))")
    with pytest.raises(ConditionFailed, match="too many values"):
        condition.matches(replace(INPUTS, study={"ImageType": ["x"] * MOST_VALUES}))


values = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=20), st.binary(max_size=3),
    st.lists(st.one_of(st.integers(), st.text(max_size=5), st.none(), st.floats()), max_size=4),
    st.dictionaries(st.text(max_size=3), st.text(max_size=3), max_size=2),
)  # fmt: skip
KEYS = ("Modality", "ImageType", "Rows", "Tags.x", "(0029,xx10) GE", "RequestAttributesSequence.StudyID")
TOTAL = compiled(
    'study.Modality.startsWith("C") || study.Rows > 1 || "a" in study.ImageType || study.Tags.x == "1" || '
    'study.private("GE", "0029,10").contains("1") || "x" in study.RequestAttributesSequence.StudyID || '
    'source.address.inNetwork("10.0.0.0/8") || order.priority == "STAT"'
)


@given(
    st.dictionaries(st.sampled_from(KEYS), values),
    st.dictionaries(st.sampled_from(("address", "site")), st.text(max_size=20)),
)
def test_whatever_is_sent_is_decided_and_always_the_same(attributes: dict[str, Any], source: dict[str, str]) -> None:
    inputs = replace(INPUTS, study=attributes, source=source, order={})
    assert TOTAL.matches(inputs) is TOTAL.matches(inputs)
