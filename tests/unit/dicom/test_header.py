import io
import zlib
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from pydicom.dataset import Dataset
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import write_dataset
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
)

from libs.dicom import element, header
from libs.dicom.header import UnreadableDatasetError
from tests.support.dicomset import RealFile, dataset_bytes, real_files

pytestmark = pytest.mark.unit

SYNTAXES = [ExplicitVRLittleEndian, ImplicitVRLittleEndian, ExplicitVRBigEndian, DeflatedExplicitVRLittleEndian]


def encoded(syntax: str, **values: Any) -> bytes:
    dataset = Dataset()
    for keyword, value in values.items():
        setattr(dataset, keyword, value)
    buffer = DicomBytesIO()
    buffer.is_little_endian = syntax != ExplicitVRBigEndian
    buffer.is_implicit_VR = syntax == ImplicitVRLittleEndian
    write_dataset(buffer, dataset)
    data = bytes(buffer.getvalue())
    if syntax == DeflatedExplicitVRLittleEndian:
        deflate = zlib.compressobj(wbits=-zlib.MAX_WBITS)
        return deflate.compress(data) + deflate.flush()
    return data


@pytest.mark.parametrize("syntax", SYNTAXES)
def test_types_follow_the_dictionary_in_every_transfer_syntax(syntax: str) -> None:
    data = encoded(
        syntax,
        ImageType="ORIGINAL",
        Modality="CT",
        Rows=512,
        InstanceNumber="7",
        SliceThickness="1.25",
        SoftwareVersions=["a", "b"],
        PatientName="",
        StudyDescription="Kopf ",
    )
    found = header.read(io.BytesIO(data), syntax).attributes
    assert found == {
        "ImageType": ["ORIGINAL"],
        "Modality": "CT",
        "Rows": 512,
        "InstanceNumber": 7,
        "SliceThickness": 1.25,
        "SoftwareVersions": ["a", "b"],
        "StudyDescription": "Kopf",
    }


@pytest.mark.parametrize("file", real_files(), ids=lambda file: file.path.name)
def test_real_files_say_who_they_are(file: RealFile) -> None:
    found, document = header.read_whole(io.BytesIO(dataset_bytes(file.path)), file.transfer_syntax)
    assert (found.sop_instance_uid, found.study_instance_uid) == (file.sop_uid, file.study_uid)
    assert (found.series_instance_uid, found.sop_class_uid) == (file.series_uid, file.sop_class)
    assert found.attributes.get("Modality", "") == file.modality
    assert document["0020000D"]["Value"] == [file.study_uid]
    assert "7FE00010" not in document


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("chrGreek.dcm", "Διονυσιος"),
        ("chrRuss.dcm", "Люкceмбypг"),  # noqa: RUF001 (as it stands there: Cyrillic and Latin mixed)
        ("chrArab.dcm", "قباني^لنزار"),
        ("chrH31.dcm", "Yamada^Tarou=山田^太郎=やまだ^たろう"),
        ("chrX1.dcm", "Wang^XiaoDong=王^小東="),
        ("chrX2.dcm", "Wang^XiaoDong=王^小东="),
    ],
)
def test_names_are_read_by_their_character_set(name: str, text: str) -> None:
    (file,) = [each for each in real_files() if each.path.name == name]
    found = header.read(io.BytesIO(dataset_bytes(file.path)), file.transfer_syntax)
    assert found.attributes["PatientName"] == text


@given(st.binary(max_size=400), st.sampled_from(SYNTAXES))
@example(b"\x08\x00\x05\x00CS\x04\x00nope", ExplicitVRLittleEndian)
def test_any_bytes_are_a_header_or_unreadable(data: bytes, syntax: str) -> None:
    said = ""
    try:
        header.read_whole(io.BytesIO(data), syntax)
    except UnreadableDatasetError as error:
        said = str(error)
    assert len(said) < 120


@given(st.integers(min_value=1), st.binary(min_size=1, max_size=3), st.sampled_from(SYNTAXES[:3]))
def test_damaged_headers_never_raise_anything_else(at: int, damage: bytes, syntax: str) -> None:
    data = encoded(syntax, Modality="CT", PatientName="A^B", Rows=5, SliceThickness="1", StudyInstanceUID="1.2.3")
    at %= len(data)
    try:
        header.read_whole(io.BytesIO(data[:at] + damage + data[at + len(damage) :]), syntax)
    except UnreadableDatasetError:
        return


@given(
    st.sampled_from(["CS", "DS", "IS", "US", "FD", "PN", "LO", "UI", "AT", "UT", "OB", "SV"]),
    st.binary(max_size=60),
    st.sampled_from([["iso8859"], ["utf8"], ["iso2022_jp_2", "iso2022_kr"], ["no such codec"]]),
    st.booleans(),
)
def test_values_never_raise(vr: str, value: bytes, encodings: list[str], little: bool) -> None:
    found = element.values(vr, value, encodings, little_endian=little)
    assert len({type(each) for each in found}) <= 1


@pytest.mark.parametrize(
    ("vr", "value"),
    [("IS", b"12x"), ("DS", b"NaN"), ("IS", b"9" * 30), ("FD", b"\xff" * 8), ("CS", b"  "), ("OB", b"x")],
)
def test_odd_values_are_left_out(vr: str, value: bytes) -> None:
    assert element.values(vr, value, ["iso8859"], little_endian=True) == []


def test_a_dataset_that_ends_inside_a_value_is_unreadable() -> None:
    data = encoded(ExplicitVRLittleEndian, Modality="CT", StudyDescription="a long description")
    with pytest.raises(UnreadableDatasetError, match="ends inside"):
        header.read(io.BytesIO(data[:-4]), ExplicitVRLittleEndian)
