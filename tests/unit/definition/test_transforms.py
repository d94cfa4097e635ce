"""What is wrong with transforms is said when a definition is applied, with its place."""

import time
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from libs.definition.address import AddressError, address
from libs.definition.fitting import SETTABLE, misfit, values_of
from libs.definition.pattern import substitute
from libs.definition.reading import read
from libs.definition.validation import check

pytestmark = pytest.mark.unit

HEAD = "kivuko: 1\nname: N\nsites:\n  a: {name: A}\ntransforms:\n  t: "


def problems(transform: str) -> list[tuple[int, int, str, str]]:
    found = check(read(HEAD + transform + "\n", "d.yaml"))
    if not isinstance(found, list):
        return []
    return [(each.line, each.column, each.path, f"{each.message} ({each.hint})") for each in found]


@pytest.mark.parametrize(
    "transform",
    [
        "{set: {IssuerOfPatientID: BATA}, prefix: {PatientID: 'BATA-'}}",
        "{transfer-syntax: jpeg2000-lossless}",
        "{transfer-syntax: jpeg2000, ratio: 8}",
        "{hash: PatientID, project: p}",
        "{uids: remap, project: p, secret: other}",
        "{remove: ['*.OperatorsName', '(0029,10,SIEMENS CSA HEADER)']}",
        "{set: {'RequestAttributesSequence[0].AccessionNumber': A1, '(0031,01,OURS):LO': x}}",
        "{map: {Modality: {values: {MG: MG}, otherwise: refuse}}}",
        "{copy: {OtherPatientIDs: PatientID}, regex: {StudyDescription: {find: '(a+)+$', replace: '\\1'}}}",
        "{blank: [{manufacturer: ACME, areas: [[0, 0, 10, 10]]}, {areas: []}]}",
        "{deidentify: {profile: basic, options: [retain-uids, retain-dates], project: p, keep-words: [obus]}}",
    ],
)
def test_what_can_be_done_is_taken(transform: str) -> None:
    assert problems(transform) == []


@pytest.mark.parametrize(
    ("transform", "at", "words"),
    [
        ("{set: {PatientId: X}}", "PatientId", "did you mean PatientID"),
        ("{set: {StudyDate: yesterday}}", "yesterday", "a value of DA is a date such as 20261120"),
        ("{set: {AccessionNumber: '12345678901234567'}}", "'1234567", "at most 16 characters"),
        ("{set: {PatientID: 'a\\b'}}", "'a", "one value only"),
        ("{set: {Rows: '5'}}", "Rows", "says what the instance is"),
        ("{set: {StudyInstanceUID: '1.2'}}", "StudyInst", "uids: remap"),
        ("{set: {PixelData: x}}", "PixelData", "no part of the header"),
        ("{set: {RequestAttributesSequence: x}}", "RequestAttr", "holds no text or number"),
        ("{set: {'(0029,10,NOBODY)': x}}", "'(0029", "write such as (0029,10,NOBODY):LO"),
        ("{set: {'(0028,10,X)': x}}", "'(0028", "is even"),
        ("{set: {'PatientID.PatientName': x}}", "'PatientID", "no sequence"),
        ("{prefix: {Rows: x}}", "Rows", "says what the instance is"),
        (
            "{prefix: {InstanceNumber: x, PixelSpacing: y, WindowCenter: '1', ImageIndex: x}}",
            "ImageIndex",
            "holds no text",
        ),
        ("{remove: [PatientName, Nam]}", "Nam]", "Nam is not a DICOM keyword"),
        ("{regex: {StudyDescription: {find: '(', replace: x}}}", "'('", "this is not a regular expression"),
        ("{regex: {StudyDescription: {find: 'a', replace: '\\2'}}}", "'\\2'", "names a group"),
        ("{hash: [PatientID]}", "{hash", "needs a project"),
        ("{deidentify: {profile: basic}}", "{deid", "needs a project"),
        ("{deidentify: {profile: basic, project: p, options: [clean-pixels]}}", "clean-pix", "is not one of"),
        (
            "{deidentify: {profile: basic, project: p, options: [shift-dates, retain-dates]}}",
            "{profile",
            "exclude each other",
        ),
        ("{transfer-syntax: jpeg2000}", "{transfer", "belong together"),
        ("{transfer-syntax: rle, ratio: 5}", "{transfer", "belong together"),
        ("{transfer-syntax: jpeg9}", "jpeg9", "is not one of"),
        ("{blank: [{areas: [[0, 0, 0, 5]]}]}", "{areas", "is no area"),
        ("{sett: {PatientID: X}}", "sett", "did you mean set"),
    ],
)
def test_a_mistake_is_said_with_its_place(transform: str, at: str, words: str) -> None:
    [found] = problems(transform)
    assert (found[0], found[1]) == (6, len("  t: ") + 1 + transform.index(at)), found
    assert words in found[3]


def test_no_regular_expression_is_hostile() -> None:
    began = time.process_time()
    assert substitute("(a+)+$", "", "a" * 10_000 + "b") == "a" * 10_000 + "b"
    assert substitute("(.*)(.*)(.*)(.*)[^b]$", r"\1", "b" * 10_000) == "b" * 10_000
    assert time.process_time() - began < 30
    assert any(
        "not a regular expression" in each[3]
        for each in problems("{regex: {StudyID: {find: '((a{1000}){1000}){99}', replace: ''}}}")
    )


@given(st.text(max_size=60))
def test_an_address_is_read_or_refused(text: str) -> None:
    try:
        found = address(text)
    except AddressError:
        return
    assert found.steps
    assert found.text == text


@settings(max_examples=200)
@given(st.sampled_from(sorted(SETTABLE)), st.text(max_size=30))
def test_whether_a_value_fits_is_always_known(vr: str, text: str) -> None:
    why: Any = misfit(vr, values_of(vr, text))
    assert why is None or (why.startswith("a value of ") and (len(text) < 8 or text not in why))
