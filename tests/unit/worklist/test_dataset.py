"""Datasets as attributes, against pydicom; and bytes from peers that are wrong or hostile."""

import struct
from io import BytesIO

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom.dataset import Dataset
from pydicom.filebase import DicomBytesIO
from pydicom.filereader import read_dataset
from pydicom.filewriter import write_dataset

from services.worklist import dataset
from services.worklist.attributes import Attributes
from tests.unit.worklist.performed import created, ended

pytestmark = pytest.mark.unit
both = pytest.mark.parametrize("syntax", dataset.TRANSFER_SYNTAXES)


def written(said: Dataset, syntax: str) -> bytes:
    file = DicomBytesIO()
    file.is_little_endian, file.is_implicit_VR = True, syntax == dataset.IMPLICIT
    write_dataset(file, said)
    return bytes(file.getvalue())


@both
def test_what_pydicom_writes_is_read(syntax: str) -> None:
    said, inner = Dataset(), Dataset()
    said.SpecificCharacterSet = ["", "ISO 2022 IR 87"]
    said.PatientName = "Yamada^Tarou=山田^太郎"
    said.PatientID = "100 "
    said.Modality = "CT"
    said.ExposedArea = [1, 2]
    said.EntranceDoseInmGy = "1.50"
    said.TotalTimeOfFluoroscopy = 7
    said.PerformedProcedureStepEndDate = None
    said.add_new(0x00091001, "LO", "private")
    inner.StudyInstanceUID = "1.2.3"
    inner.RequestedProcedureDescription = "足"
    inner.ScheduledProtocolCodeSequence = []
    said.ScheduledStepAttributesSequence = [inner, Dataset()]
    assert dataset.decode(written(said, syntax), syntax) == {
        "SpecificCharacterSet": ("", "ISO 2022 IR 87"),
        "PatientName": ("Yamada^Tarou=山田^太郎",),
        "PatientID": ("100",),
        "Modality": ("CT",),
        "ExposedArea": ("1", "2"),
        "EntranceDoseInmGy": ("1.50",),
        "TotalTimeOfFluoroscopy": ("7",),
        "PerformedProcedureStepEndDate": (),
        "ScheduledStepAttributesSequence": (
            {
                "StudyInstanceUID": ("1.2.3",),
                "RequestedProcedureDescription": ("足",),
                "ScheduledProtocolCodeSequence": (),
            },
            {},
        ),
    }


@both
def test_pydicom_reads_what_is_written(syntax: str) -> None:
    said = {**created(), **ended(), "TotalTimeOfFluoroscopy": ("7",), "SelectorAttribute": ("00100010",)}
    found = read_dataset(BytesIO(dataset.encode(said, syntax)), syntax == dataset.IMPLICIT, True)
    assert found.SpecificCharacterSet == "ISO_IR 192"
    assert str(found.PatientName) == "Nguema^Jané"
    assert found.TotalTimeOfFluoroscopy == 7
    assert found.SelectorAttribute == 0x00100010
    assert found.PerformedSeriesSequence[0].ReferencedImageSequence[1].ReferencedSOPInstanceUID == "1.2.3.1.2"
    assert found.ScheduledStepAttributesSequence[0].ScheduledProtocolCodeSequence == []


texts = st.text(st.characters(codec="utf-8", exclude_characters="\\", exclude_categories=("Cc", "Cs")), max_size=20)
values = st.lists(texts.map(str.strip).filter(bool), max_size=2).map(tuple)
flat: st.SearchStrategy[Attributes] = st.dictionaries(
    st.sampled_from(["PatientName", "StudyID", "RequestedProcedureDescription", "AccessionNumber"]), values
)
nested = st.recursive(
    flat,
    lambda inner: st.builds(
        lambda own, items: {**own, "ScheduledStepAttributesSequence": tuple(items)}, flat, st.lists(inner, max_size=2)
    ),
    max_leaves=4,
)


@both
@settings(max_examples=40, deadline=None)
@given(said=nested)
def test_what_is_written_is_read_again(said: Attributes, syntax: str) -> None:
    found = dict(dataset.decode(dataset.encode(said, syntax), syntax))
    found.pop("SpecificCharacterSet", None)
    assert found == said


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_bytes_that_are_changed_are_read_or_refused(data: st.DataObject) -> None:
    syntax = data.draw(st.sampled_from(dataset.TRANSFER_SYNTAXES))
    whole = bytearray(dataset.encode({**created(), **ended()}, syntax))
    for _ in range(data.draw(st.integers(1, 4))):
        whole[data.draw(st.integers(0, len(whole) - 1))] = data.draw(st.integers(0, 255))
    cut = data.draw(st.integers(0, len(whole)))
    try:
        dataset.decode(bytes(whole[:cut]), syntax)
    except dataset.UnreadableError:
        return


@pytest.mark.parametrize("undefined", [False, True])
def test_a_dataset_that_is_deeper_than_any_is_refused(undefined: bool) -> None:
    data = b""
    for _ in range(3000):
        if undefined:
            data = b"\x40\0\x70\x02\xff\xff\xff\xff\xfe\xff\0\xe0\xff\xff\xff\xff" + data
            continue
        item = b"\xfe\xff\0\xe0" + struct.pack("<I", len(data)) + data
        data = b"\x40\0\x70\x02" + struct.pack("<I", len(item)) + item
    with pytest.raises(dataset.UnreadableError):
        dataset.decode(data, dataset.IMPLICIT)


def test_a_dataset_that_is_longer_than_any_is_refused() -> None:
    with pytest.raises(dataset.UnreadableError, match="more than"):
        dataset.decode(bytes(dataset.LONGEST + 1), dataset.IMPLICIT)
