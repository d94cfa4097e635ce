"""Items carry what PS3.4 table K.6-1 asks for, whatever their source said."""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.worklist import item, required, telling
from services.worklist.attributes import Attributes
from services.worklist.body import plain
from services.worklist.order import fold
from tests.unit.worklist.said import ZONE, Books, order, value

CODE = ({"CodeValue": ("C",), "CodingSchemeDesignator": ("L",), "CodeMeaning": ("Chest",)},)
TEXTS = st.sampled_from([None, (), ("",), ("HEAD",)])
CODES = st.sampled_from([None, (), CODE])


def shown(about: dict[str, Any], step: dict[str, Any]) -> dict[str, Any]:
    books = Books()
    books.take(order(0, placer="P1", about=about, steps={"S1": step}))
    [made] = books.items()
    return made


def said(**given: Any) -> dict[str, Any]:
    return {keyword: values for keyword, values in given.items() if values is not None}


@given(text=TEXTS, codes=CODES, of_step=TEXTS, step_codes=CODES, time=st.sampled_from([None, (), ("0915",)]))
@settings(max_examples=80, deadline=None)
def test_one_of_description_and_code_is_there_of_the_procedure_and_of_the_step(
    text: Any, codes: Any, of_step: Any, step_codes: Any, time: Any
) -> None:
    about = said(RequestedProcedureDescription=text, RequestedProcedureCodeSequence=codes)
    step = said(ScheduledProcedureStepDescription=of_step, ScheduledProtocolCodeSequence=step_codes)
    step |= said(Modality=("CT",), ScheduledProcedureStepStartDate=("20261121",), ScheduledProcedureStepStartTime=time)
    made = shown(about, step)
    assert value(made, "RequestedProcedureDescription")
    assert value(made, "ScheduledProcedureStepDescription")
    assert value(made, "ScheduledProcedureStepStartTime") == ("0915" if time else "000000")
    # What a source says stays as it says it.
    for keyword, values in {**about, **step}.items():
        if values and values != ("",):
            assert value(made, keyword) == plain(values[0])
    if codes and not of_step and not step_codes:
        assert value(made, "ScheduledProtocolCodeSequence") == plain(CODE[0])
    if not any(each and each != ("",) for each in (text, codes, of_step, step_codes)):
        assert value(made, "ScheduledProcedureStepDescription") == "CT"


@pytest.mark.parametrize(
    ("lacks", "words"),
    [
        ("Modality", "no modality"),
        ("ScheduledStationAETitle", "no station"),
        ("ScheduledProcedureStepStartDate", "no day"),
        ("PatientName", "no patient's name"),
    ],
)
def test_what_only_its_source_can_say_is_told_to_be_lacking(lacks: str, words: str) -> None:
    step: Attributes = {
        "Modality": ("CT",),
        "ScheduledStationAETitle": ("CT1",),
        "ScheduledProcedureStepStartDate": ("20261121",),
    }
    whole: Attributes = {"PatientName": ("DOE^JANE",), "ScheduledProcedureStepSequence": (step,)}
    assert required.lacking(whole) == []
    for empty in ((), ("",), ("^",)):
        without = {**step, lacks: empty} if lacks in step else step
        [sentence] = required.lacking({**whole, lacks: empty, "ScheduledProcedureStepSequence": (without,)})
        assert words in sentence


def test_the_class_of_a_patient_is_told_to_others() -> None:
    made = fold([order(0, placer="P1")])
    told = telling.placed(
        made, item.identity(made, "t"), {"PatientID": ("1",), "RouteOfAdmissions": ("E",)}, None, ZONE
    )
    assert told.patient_class == "E"
