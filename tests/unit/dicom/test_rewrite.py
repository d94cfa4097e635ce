"""Elements are replaced as asked, the change is noted, and no other byte is touched."""

import io
import tracemalloc
import warnings
import zlib
from datetime import UTC, datetime
from typing import Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydicom import Dataset, dcmread
from pydicom.datadict import keyword_for_tag, tag_for_keyword
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import write_dataset
from pydicom.sequence import Sequence

from libs.dicom import rewrite
from libs.dicom.header import UnreadableDatasetError
from libs.dicom.rewrite import Note, NotRewritableError
from tests.support.dicomset import RealFile, dataset_bytes, real_files

IMPLICIT, EXPLICIT, BIG, DEFLATED = (
    "1.2.840.10008.1.2",
    "1.2.840.10008.1.2.1",
    "1.2.840.10008.1.2.2",
    "1.2.840.10008.1.2.1.99",
)
NOTE = Note(datetime(2026, 3, 1, 4, 5, 6, 789, tzinfo=UTC), "KIVUKO", "CT1", "CORRECT")
PIXELS = bytes(range(256)) * 16


def tags(**values: str) -> dict[int, str]:
    """Give values by tag."""
    return {int(tag_for_keyword(keyword) or 0): value for keyword, value in values.items()}


def written(dataset: Dataset, syntax: str) -> bytes:
    """Write a dataset."""
    file = DicomBytesIO()
    file.is_little_endian, file.is_implicit_VR = syntax != BIG, syntax == IMPLICIT
    write_dataset(file, dataset)
    data = bytes(file.getvalue())
    if syntax != DEFLATED:
        return data
    deflate = zlib.compressobj(wbits=-15)
    packed = deflate.compress(data) + deflate.flush()
    return packed + b"\0" * (len(packed) % 2)


def parsed(data: bytes, syntax: str) -> Dataset:
    """Read a dataset with pydicom, every value of it."""
    part10 = Dataset()
    part10.file_meta = None  # type: ignore[assignment]
    if syntax == DEFLATED:
        data = zlib.decompress(data, -15)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = dcmread(_headless(data, syntax), force=True)
        return Dataset({element.tag: element for element in found})


def _headless(data: bytes, syntax: str) -> io.BytesIO:
    said = {DEFLATED: EXPLICIT}.get(syntax, syntax).encode()
    said += b"\0" * (len(said) % 2)
    meta = b"\2\0\x10\0UI" + len(said).to_bytes(2, "little") + said
    return io.BytesIO(bytes(128) + b"DICM" + b"\2\0\0\0UL\4\0" + len(meta).to_bytes(4, "little") + meta + data)


def rewritten(data: bytes, syntax: str, values: dict[int, str]) -> tuple[bytes, rewrite.Rewriting]:
    """Rewrite bytes."""
    found = rewrite.plan(io.BytesIO(data), syntax, values, NOTE)
    return b"".join(rewrite.stream(io.BytesIO(data), syntax, found.edits)), found


def plain(**values: Any) -> Dataset:
    """Make a dataset with a nested sequence and pixels."""
    inner, item = Dataset(), Dataset()
    inner.PatientID = "inner"
    item.ReferencedSOPInstanceUID = "1.2.3"
    item.PurposeOfReferenceCodeSequence = Sequence([inner])
    dataset = Dataset()
    dataset.SOPInstanceUID = "1.2.3.4"
    dataset.ReferencedImageSequence = Sequence([item, item])
    dataset.PatientName = "Doe^Jane"
    dataset.PatientID = "P1"
    dataset.StudyInstanceUID = "1.2.5"
    dataset.Rows = 3
    for keyword, value in values.items():
        setattr(dataset, keyword, value)
    dataset.add_new(0x7FE00010, "OW", PIXELS)
    return dataset


def undefined(dataset: Dataset) -> Dataset:
    """Let every sequence and item be of undefined length."""
    for element in dataset:
        if element.VR == "SQ":
            element.is_undefined_length = True
            for item in element.value:
                item.is_undefined_length_sequence_item = True
                undefined(item)
    return dataset


texts = st.text("ABCDEFGHIJ^ ", max_size=20).map(lambda text: text.strip(" "))
uids = st.from_regex(r"[1-9]{1,5}(\.[1-9]{1,5}){1,4}", fullmatch=True)
corrections = st.fixed_dictionaries(
    {},
    optional={
        "SOPInstanceUID": uids,
        "StudyInstanceUID": uids,
        "SeriesInstanceUID": uids,
        "PatientID": texts,
        "PatientName": texts,
        "AccessionNumber": texts.map(lambda text: text[:16].strip()),
        "IssuerOfPatientID": texts,
        "PatientBirthDate": st.sampled_from(["19700101", ""]),
    },
)
datasets = st.fixed_dictionaries(
    {},
    optional={
        "PatientBirthDate": st.just("19600101"),
        "AccessionNumber": texts.map(lambda text: text[:16].strip()),
        "SpecificCharacterSet": st.sampled_from(["ISO_IR 100", "ISO_IR 192"]),
        "PatientComments": texts,
    },
)


@given(datasets, corrections, st.sampled_from([IMPLICIT, EXPLICIT, BIG, DEFLATED]), st.booleans(), st.integers(0, 2))
def test_what_is_asked_for_changes_and_nothing_else(
    attributes: dict[str, str], wanted: dict[str, str], syntax: str, delimited: bool, originals: int
) -> None:
    before = plain(**attributes)
    if originals:
        past = Dataset()
        past.ReasonForTheAttributeModification = "COERCE"
        before.OriginalAttributesSequence = Sequence([past] * originals)
    data = written(undefined(before) if delimited else before, syntax)
    new, found = rewritten(data, syntax, tags(**wanted))
    after = parsed(new, syntax)
    changed = {keyword_for_tag(tag) for tag in found.changed}
    assert changed == {key for key, value in wanted.items() if str(before.get(key, "")) != value or key not in before}
    sequence = after.get("OriginalAttributesSequence", [])
    assert len(sequence) == originals + bool(changed)
    if changed:
        noted = sequence[-1]
        assert noted.ReasonForTheAttributeModification == "CORRECT"
        assert (noted.ModifyingSystem, noted.SourceOfPreviousValues) == ("KIVUKO", "CT1")
        assert noted.AttributeModificationDateTime == "20260301040506.000789+0000"
        (old,) = noted.ModifiedAttributesSequence
        assert {element.keyword for element in old} == changed
        for keyword in changed:
            assert str(old[keyword].value or "") == str(before.get(keyword, "") or "")
            assert str(after[keyword].value or "") == wanted[keyword]
    for element in before:
        if element.keyword not in (*changed, "OriginalAttributesSequence"):
            assert after[element.tag].value == element.value
    assert {element.tag for element in after} == {element.tag for element in before} | set(found.changed) | (
        {rewrite.ORIGINAL_ATTRIBUTES} if changed else set()
    )


@given(datasets, corrections, st.sampled_from([IMPLICIT, EXPLICIT, BIG]), st.integers(1, 64))
def test_edits_touch_no_other_byte_however_the_source_is_read(
    attributes: dict[str, str], wanted: dict[str, str], syntax: str, most: int
) -> None:
    data = written(undefined(plain(**attributes)), syntax)
    found = rewrite.plan(Dribbling(data, most), syntax, tags(**wanted), NOTE)
    assert found.header_end == data.index(PIXELS) - (8 if syntax == IMPLICIT else 12)
    expected, at = b"", 0
    for edit in found.edits:
        expected += data[at : edit.at] + edit.new
        at = edit.at + edit.length
    new = b"".join(rewrite.stream(Dribbling(data, most), syntax, found.edits))
    assert new == expected + data[at:]
    head = b"".join(rewrite.head(Dribbling(data, most), syntax, found))
    assert new.startswith(head)
    assert len(new) - len(head) == len(data) - found.header_end


class Dribbling(io.BytesIO):
    """Gives a few bytes at a time, as a socket may."""

    def __init__(self, data: bytes, most: int) -> None:
        super().__init__(data)
        self._most = most

    def read(self, size: int | None = -1, /) -> bytes:
        """Read a little."""
        return super().read(min(self._most, size if size is not None and size >= 0 else self._most))


@pytest.mark.parametrize("file", real_files(), ids=lambda file: file.path.name)
def test_real_files(file: RealFile) -> None:
    data, syntax = dataset_bytes(file.path), str(file.transfer_syntax)
    new, found = rewritten(data, syntax, tags(StudyInstanceUID="2.25.1", PatientID="CORRECTED", AccessionNumber="X"))
    kind = syntax if syntax in (IMPLICIT, BIG, DEFLATED) else EXPLICIT
    before, after = parsed(data, kind), parsed(new, kind)
    assert (after.StudyInstanceUID, after.PatientID, after.AccessionNumber) == ("2.25.1", "CORRECTED", "X")
    original = after.OriginalAttributesSequence[-1].ModifiedAttributesSequence[0]
    assert original.StudyInstanceUID == file.study_uid
    assert original.PatientID == before.get("PatientID", "")
    for tag in {element.tag for element in before} - set(found.changed):
        if tag != rewrite.ORIGINAL_ATTRIBUTES and tag & 0xFFFF:
            assert after.get_item(tag) == before.get_item(tag)
    again, nothing = rewritten(new, syntax, tags(StudyInstanceUID="2.25.1", PatientID="CORRECTED", AccessionNumber="X"))
    assert (again, nothing.edits) == (new, ())


@pytest.mark.parametrize("syntax", [IMPLICIT, EXPLICIT, BIG])
def test_group_lengths_are_mended(syntax: str) -> None:
    dataset = plain(PatientBirthDate="19700101")
    order: Literal["big", "little"] = "big" if syntax == BIG else "little"
    data = written(dataset, syntax)
    body = written(Dataset({element.tag: element for element in dataset if element.tag.group == 0x10}), syntax)
    head = (0x10).to_bytes(2, order) + b"\0\0" + (b"" if syntax == IMPLICIT else b"UL")
    head += (4).to_bytes(4 if syntax == IMPLICIT else 2, order)
    data = data.replace(body, head + len(body).to_bytes(4, order) + body)
    new, _ = rewritten(data, syntax, tags(PatientName="Doe^Jane^Maria", IssuerOfPatientID="LUBA", PatientID="P1"))
    after = parsed(new, syntax)
    group = written(Dataset({each.tag: each for each in after if each.tag.group == 0x10 and each.tag.element}), syntax)
    assert after[0x00100000].value == len(group)


def test_values_are_written_in_the_dataset_s_characters() -> None:
    data = written(plain(SpecificCharacterSet="ISO_IR 100"), EXPLICIT)
    new, _ = rewritten(data, EXPLICIT, tags(PatientName="Müller^Zoë"))
    assert parsed(new, EXPLICIT).PatientName == "Müller^Zoë"
    multi = written(plain(SpecificCharacterSet=["", "ISO 2022 IR 87"]), EXPLICIT)
    new, _ = rewritten(multi, EXPLICIT, tags(PatientName="Yamada^Tarou=山田^太郎"))
    assert parsed(new, EXPLICIT).PatientName == "Yamada^Tarou=山田^太郎"
    for refusing in (data, written(plain(), EXPLICIT)):
        with pytest.raises(NotRewritableError, match="character set"):
            rewritten(refusing, EXPLICIT, tags(PatientName="山田^太郎"))


def test_an_original_attributes_sequence_of_unknown_vr_gets_an_implicit_item() -> None:
    past = Dataset()
    past.ReasonForTheAttributeModification = "COERCE"
    body = b"\xfe\xff\x00\xe0" + (inside := written(past, IMPLICIT)).__len__().to_bytes(4, "little") + inside
    element = b"\x00\x04\x61\x05UN\0\0" + len(body).to_bytes(4, "little") + body
    data = written(plain(), EXPLICIT)
    at = data.index(PIXELS) - 12
    new, _ = rewritten(data[:at] + element + data[at:], EXPLICIT, tags(PatientID="P2"))
    first, second = parsed(new, EXPLICIT).OriginalAttributesSequence
    assert first.ReasonForTheAttributeModification == "COERCE"
    assert second.ModifiedAttributesSequence[0].PatientID == "P1"


def test_what_can_not_be_rewritten_is_said() -> None:
    data = written(plain(), EXPLICIT)
    for end in (1, 7, 13, data.index(b"Doe")):
        with pytest.raises(UnreadableDatasetError):
            rewritten(data[:end], EXPLICIT, tags(PatientID="P2"))
    for damaged in (b"", b"\xff\xff"):
        with pytest.raises(UnreadableDatasetError):
            rewritten(damaged, DEFLATED, tags(PatientID="P2"))
    twice = written(Dataset({each.tag: each for each in plain() if each.keyword == "PatientID"}), EXPLICIT) * 2
    with pytest.raises(NotRewritableError, match="repeated"):
        rewritten(twice, EXPLICIT, tags(PatientID="P2"))
    packed = written(plain(), DEFLATED)
    plan = rewrite.plan(io.BytesIO(packed), DEFLATED, tags(PatientID="P2"), NOTE)
    with pytest.raises(UnreadableDatasetError, match="deflated"):
        b"".join(rewrite.stream(io.BytesIO(packed[:-20]), DEFLATED, plan.edits))


class Endless(io.RawIOBase):
    """A dataset with pixels of any length, made as it is read."""

    def __init__(self, head: bytes, length: int) -> None:
        self._head = head
        self._left = length

    def readable(self) -> bool:
        """Tell that it can be read."""
        return True

    def read(self, size: int | None = -1, /) -> bytes:
        """Read the head, then zeros."""
        wanted = self._left if size is None or size < 0 else size
        if self._head:
            data, self._head = self._head[:wanted], self._head[wanted:]
            return data
        data = bytes(min(wanted, self._left))
        self._left -= len(data)
        return data


@pytest.mark.parametrize("syntax", [EXPLICIT, DEFLATED])
def test_an_object_of_any_size_takes_little_memory(syntax: str) -> None:
    length = 64 << 20
    dataset = plain()
    del dataset[0x7FE00010]
    head = written(dataset, EXPLICIT) + b"\xe0\x7f\x10\x00OW\0\0" + length.to_bytes(4, "little")
    source = io.BytesIO()
    if syntax == DEFLATED:
        deflate = zlib.compressobj(level=1, wbits=-15)
        endless = Endless(head, length)
        while piece := endless.read(1 << 20):
            source.write(deflate.compress(piece))
        source.write(deflate.flush())
        source.seek(0)

    def opened() -> Any:
        return Endless(head, length) if syntax == EXPLICIT else io.BytesIO(source.getvalue())

    found = rewrite.plan(opened(), syntax, tags(PatientID="P2"), NOTE)
    again = opened()
    tracemalloc.start()
    size = sum(len(piece) for piece in rewrite.stream(again, syntax, found.edits))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 8 << 20
    grown = sum(len(edit.new) - edit.length for edit in found.edits)
    assert size == len(head) + length + grown or syntax == DEFLATED
