import io

import pytest
from pydicom.dataset import Dataset
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import write_dataset

from libs.dicom.excerpt import pick
from libs.dicom.header import read_whole
from tests.support.synthetic import EXPLICIT_LITTLE_ENDIAN, IMPLICIT_LITTLE_ENDIAN

PROCEDURE = "RequestAttributesSequence.RequestedProcedureID"
MEANING = "RequestAttributesSequence.ScheduledProtocolCodeSequence.CodeMeaning"
TEXT, NUMBER = "(0029,xx10) SIEMENS CSA HEADER", "(0029,xx11) SIEMENS CSA HEADER"


def document(*, implicit: bool) -> dict[str, object]:
    dataset = Dataset()
    dataset.SOPClassUID, dataset.SOPInstanceUID = "1.2", "1.3"
    dataset.StudyInstanceUID, dataset.SeriesInstanceUID = "1.4", "1.5"
    dataset.Modality = "CT"
    code = Dataset()
    code.CodeMeaning = "HEAD"
    first, second = Dataset(), Dataset()
    first.RequestedProcedureID, second.RequestedProcedureID = "P1", "P2"
    first.ScheduledProtocolCodeSequence = [code]
    dataset.RequestAttributesSequence = [first, second]
    dataset.private_block(0x29, "OTHER", create=True).add_new(0x10, "LO", "not this one")
    block = dataset.private_block(0x29, "SIEMENS CSA HEADER", create=True)
    block.add_new(0x10, "LO", "IMAGE NUM 4")
    block.add_new(0x11, "US", 5)
    file = DicomBytesIO()
    file.is_little_endian, file.is_implicit_VR = True, implicit
    write_dataset(file, dataset)
    syntax = IMPLICIT_LITTLE_ENDIAN if implicit else EXPLICIT_LITTLE_ENDIAN
    return read_whole(io.BytesIO(file.getvalue()), syntax)[1]


@pytest.mark.parametrize("implicit", [False, True])
def test_what_is_inside_sequences_and_private_blocks_is_picked(implicit: bool) -> None:
    picked = pick(document(implicit=implicit), {"Modality", PROCEDURE, MEANING, TEXT, "RequestAttributesSequence"})
    assert picked == {"Modality": "CT", PROCEDURE: ["P1", "P2"], MEANING: ["HEAD"], TEXT: "IMAGE NUM 4"}


def test_a_private_number_is_known_only_where_the_image_says_what_it_is() -> None:
    assert pick(document(implicit=False), {NUMBER}) == {NUMBER: 5}
    assert pick(document(implicit=True), {NUMBER}) == {}


@pytest.mark.parametrize(
    "wanted", ["(0029,xx12) SIEMENS CSA HEADER", "(0029,xx10) NOBODY", "Modality.CodeMeaning", "RequestA.B", "(bad"]
)
def test_what_is_not_there_is_not_picked(wanted: str) -> None:
    assert pick(document(implicit=False), {wanted}) == {}


@pytest.mark.parametrize("damaged", [{"00400275": {"keyword": "RequestAttributesSequence", "vr": "SQ", "Value": [3]}}])
def test_what_is_no_item_is_left_out(damaged: dict[str, object]) -> None:
    assert pick(damaged, {PROCEDURE}) == {}
