"""Datasets as attributes, against pydicom; and bytes from peers that are wrong or hostile."""

import struct
from base64 import b64encode
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


def binary(vr: str, value: bytes) -> tuple[Attributes]:
    return ({"vr": (vr,), "InlineBinary": (b64encode(value).decode(),)},)


def private_dataset() -> Dataset:
    """Give a dataset with all that has no text, or no keyword."""
    said, within = Dataset(), Dataset()
    said.SpecificCharacterSet = "ISO_IR 100"
    said.PatientID = "100"
    said.EncapsulatedDocument = b"\1\2\3\0"
    said.add_new(0x00090010, "LO", "ACME")
    said.add_new(0x00090011, "LO", "OTHER")
    said.add_new(0x00091001, "LO", "schön")
    said.add_new(0x00091002, "OB", b"\0\xff")
    said.add_new(0x00091003, "US", [1, 65535])
    said.add_new(0x00091102, "UN", b"\1\2\3\4")
    said.add_new(0x00111001, "SH", "no creator")
    within.add_new(0x00090020, "LO", "ACME")
    within.add_new(0x00092001, "FD", 1.5)
    said.add_new(0x00091104, "SQ", [within])
    said.add_new(0x60000010, "US", 512)
    said.SmallestValidPixelValue = None
    said.add_new(0x00280104, "SS", -5)
    said.add_new(0x00281201, "OW", b"\1\0\2\0")
    return said


@both
def test_what_has_no_keyword_or_is_binary_is_kept_with_its_vr(syntax: str) -> None:
    found = dict(dataset.decode(written(private_dataset(), syntax), syntax))
    explicit = syntax == dataset.EXPLICIT

    def kept(vr: str, value: bytes, *values: str | Attributes) -> tuple[Attributes]:
        return ({"vr": (vr,), "Value": values},) if explicit else binary("UN", value)

    within = {
        '(0009,00xx,"ACME")': ("20",),
        '(0009,xx01,"ACME")': kept("FD", struct.pack("<d", 1.5), "1.5"),
    }
    (nested,) = found.pop('(0009,xx04,"OTHER")')
    assert not isinstance(nested, str)
    # In implicit VR nobody knows a private sequence from bytes.
    assert nested == {"vr": ("SQ",), "Value": (within,)} if explicit else nested["vr"] == ("UN",)
    assert found == {
        "SpecificCharacterSet": ("ISO_IR 100",),
        "PatientID": ("100",),
        "EncapsulatedDocument": binary("OB", b"\1\2\3\0"),
        '(0009,00xx,"ACME")': ("10",),
        '(0009,00xx,"OTHER")': ("11",),
        '(0009,xx01,"ACME")': kept("LO", "schön ".encode("latin-1"), "schön"),
        '(0009,xx02,"ACME")': binary("OB" if explicit else "UN", b"\0\xff"),
        '(0009,xx03,"ACME")': kept("US", b"\1\0\xff\xff", "1", "65535"),
        '(0009,xx02,"OTHER")': binary("UN", b"\1\2\3\4"),
        "(0011,1001)": kept("SH", b"no creator", "no creator"),
        "(6000,0010)": kept("US", b"\0\2", "512"),
        "SmallestValidPixelValue": ("-5" if explicit else "65531",),
        "RedPaletteColorLookupTableData": binary("OW", b"\1\0\2\0"),
    }


@both
def test_what_has_no_keyword_or_is_binary_is_written_as_it_came(syntax: str) -> None:
    said = private_dataset()
    found = read_dataset(
        BytesIO(dataset.encode(dataset.decode(written(said, syntax), syntax), syntax)),
        syntax == dataset.IMPLICIT,
        True,
    )
    found.decode()
    assert found.pop("SpecificCharacterSet").value == "ISO_IR 192"
    del said.SpecificCharacterSet
    for each in said:
        got = found[each.tag]
        if syntax == dataset.EXPLICIT:
            assert (got.VR, got.value) == (each.VR, each.value)
        elif each.VR in ("OB", "UN", "OW"):
            assert bytes(got.value) == each.value
    assert [each.tag for each in found] == [each.tag for each in said]


def test_what_two_requests_say_of_a_private_element_comes_together() -> None:
    first = dataset.decode(written(owned(("ACME", 0x10), ("OTHER", 0x11)), dataset.EXPLICIT), dataset.EXPLICIT)
    second = dataset.decode(written(owned(("THIRD", 0x10), ("ACME", 0x11)), dataset.EXPLICIT), dataset.EXPLICIT)
    found = read_dataset(BytesIO(dataset.encode({**first, **second}, dataset.EXPLICIT)), False, True)
    said = {name: found.private_block(9, name)[1].value for name in ("ACME", "OTHER", "THIRD")}
    assert said == {"ACME": "ACME at 11", "OTHER": "OTHER at 11", "THIRD": "THIRD at 10"}


def owned(*creators: tuple[str, int]) -> Dataset:
    said = Dataset()
    for name, block in creators:
        said.add_new(0x00090000 | block, "LO", name)
        said.add_new(0x00090001 | block << 8, "LO", f"{name or 'nobody'} at {block:02X}")
    return said


def test_a_second_block_of_one_creator_stays_where_it_is() -> None:
    said = owned(("ACME", 0x10), ("ACME", 0x20), ("", 0x31))
    data = written(said, dataset.EXPLICIT)
    assert dataset.encode(dataset.decode(data, dataset.EXPLICIT), dataset.EXPLICIT) == data


@given(
    st.dictionaries(st.sampled_from(["A", "B", "C", 'D"xx', "E\n"]), st.integers(0x10, 0xFF), max_size=4),
    st.dictionaries(st.sampled_from(["A", "B", "F"]), st.integers(0x10, 0xFF), max_size=3),
)
@settings(max_examples=60, deadline=None)
def test_no_private_element_is_lost_or_given_to_another_creator(one: dict[str, int], two: dict[str, int]) -> None:
    merged: Attributes = {}
    expected: dict[str, str] = {}
    for creators in (one, two):
        blocks = {block: name for name, block in creators.items()}
        said = owned(*((name, block) for block, name in blocks.items()))
        merged = {**merged, **dataset.decode(written(said, dataset.EXPLICIT), dataset.EXPLICIT)}
        expected |= {name: f"{name} at {block:02X}" for block, name in blocks.items()}
    found = read_dataset(BytesIO(dataset.encode(merged, dataset.EXPLICIT)), False, True)
    creators_at = {each.tag.element: str(each.value) for each in found if each.tag.element < 0x100}
    values = {creators_at[each.tag.element >> 8]: each.value for each in found if each.tag.element > 0x100}
    assert values == expected


def test_attributes_are_asked_for_by_the_tags_that_they_are_given_with() -> None:
    said = dataset.decode(written(private_dataset(), dataset.EXPLICIT), dataset.EXPLICIT)
    keys, unknown = dataset.named(said, [0x00100020, 0x00091101, 0x00091102, 0x00100010, 0x00091001])
    assert keys == [
        "PatientID",
        '(0009,xx02,"OTHER")',
        "PatientName",
        '(0009,xx01,"ACME")',
        '(0009,00xx,"OTHER")',
        '(0009,00xx,"ACME")',
    ]
    assert unknown == 1


def test_numbers_that_are_none_are_kept_as_bytes() -> None:
    odd = struct.pack("<HH2sH", 0x0028, 0x0010, b"US", 4) + b"\1\0\2\0" + struct.pack("<HH2sH", 0x28, 0x11, b"US", 3)
    assert dataset.decode(odd + b"\1\2\3", dataset.EXPLICIT) == {
        "Rows": ("1", "2"),
        "Columns": binary("US", b"\1\2\3"),
    }
    nan = struct.pack("<HH2sHd", 0x0018, 0x9073, b"FD", 8, float("nan"))
    assert dataset.decode(nan, dataset.EXPLICIT) == {"AcquisitionDuration": binary("FD", nan[8:])}
    assert dataset.encode(dataset.decode(nan, dataset.EXPLICIT), dataset.EXPLICIT) == nan


def test_a_text_that_is_too_long_for_its_vr_is_written_all_the_same() -> None:
    long = {"CommentsOnThePerformedProcedureStep": ("x" * 70_000,)}
    assert dataset.decode(dataset.encode(long, dataset.EXPLICIT), dataset.EXPLICIT) == long


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
