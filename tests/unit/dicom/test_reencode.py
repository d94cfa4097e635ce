"""A dataset in another transfer syntax says the same, byte for byte; damaged bytes are refused."""

import io
import struct
import tracemalloc
import zlib
from collections.abc import Sequence
from dataclasses import replace
from typing import BinaryIO, cast
from unittest.mock import patch

import pytest
from hypothesis import event, example, given, settings
from hypothesis import strategies as st
from pydicom import Dataset
from pydicom.datadict import dictionary_VR
from pydicom.filebase import DicomBytesIO
from pydicom.filereader import read_dataset
from pydicom.filewriter import correct_ambiguous_vr, write_dataset

from libs.dicom import reencoding
from libs.dicom.reencode import NotReencodableError, can_reencode, reencoded
from tests.unit.dicom.encoded import UNDEFINED, Element, encoded
from tests.unit.dicom.test_memory import MIB, Sparse

pytestmark = pytest.mark.unit

IMPLICIT, EXPLICIT, BIG, DEFLATED = (
    "1.2.840.10008.1.2",
    "1.2.840.10008.1.2.1",
    "1.2.840.10008.1.2.2",
    "1.2.840.10008.1.2.1.99",
)
WORDS = {
    **dict.fromkeys(("US", "SS", "OW", "AT"), 2),
    **dict.fromkeys(("UL", "SL", "FL", "OF", "OL"), 4),
    **dict.fromkeys(("FD", "OD", "SV", "UV", "OV"), 8),
}
TEXTS = frozenset("AE AS CS DA DS DT IS LO LT PN SH ST TM UC UR UT".split())  # noqa: SIM905 (as the Standard lists them)
VRS = "AE AS AT CS DA DS DT FD FL IS LO LT PN SH SL SS ST TM UI UL US OB OD OF OL OV OW UN UT UC UR UV SV".split()  # noqa: SIM905

numbers = st.integers(0x0001, 0xFFFF)
tags = st.builds(lambda group, number: group << 16 | number, st.integers(0x0008, 0xFFF0), numbers)
#: Elements whose VR the dictionary says without a condition, or doesn't say: what must be written for them.
LISTED = {
    tag: dictionary_VR(tag)
    for tag in (
        *(0x00080005, 0x00080008, 0x00080016, 0x00080018, 0x00080060, 0x00081030, 0x00100010, 0x00101010, 0x00181063),
        *(0x00080001, 0x00186028, 0x0018602C, 0x0020000D, 0x00280009, 0x00280010, 0x00409225, 0x00420010, 0x00420011),
        *(0x7FE00001, 0x7FE00008, 0x7FE00009, 0x00281201, 0x00660016, 0x0040A160, 0x00080119, 0x00080120),
    )
} | {0x00090010: "LO", 0x0009_00FF: "LO", 0x00091001: "UN", 0x7FE10010: "LO", 0x7FE11010: "UN", 0x00080003: "UN"}
SEQUENCES = (0x00081140, 0x0040A730, 0x52009230, 0x00880200)


def value_of(vr: str, data: bytes) -> bytes:
    """Cut bytes to whole words of a VR."""
    return data[: len(data) - len(data) % WORDS.get(vr, 1)]


plain_values = st.binary(max_size=40) | st.sampled_from([b"ISO_IR 100", b"1.2.3", bytes(70), b"DA\0\0DA\0\0"])
short_elements = st.builds(
    lambda tag, vr, data: Element(tag, vr, value_of(vr, data)), tags, st.sampled_from(VRS), plain_values
)
listed_elements = st.builds(
    lambda listed, data: Element(listed[0], listed[1], value_of(listed[1], data)),
    st.sampled_from(sorted(LISTED.items())),
    plain_values,
)
group_lengths = st.builds(
    lambda group, length: Element(group << 16, "UL", struct.pack("<L", length)),
    st.integers(8, 0xFFF0),
    st.integers(0, 99),
)


def nested(leaves: st.SearchStrategy[Element], sequences: st.SearchStrategy[int]) -> st.SearchStrategy[list[Element]]:
    """Make datasets of elements and of sequences, each with lengths or delimiters."""

    def around(inner: st.SearchStrategy[Element]) -> st.SearchStrategy[Element]:
        return st.one_of(
            st.builds(
                lambda tag, items: Element(tag, "SQ", items),
                sequences,
                # An empty item keeps its length, and has a test of its own.
                st.lists(st.lists(inner, min_size=1, max_size=3), max_size=3),
            ),
            st.builds(
                lambda tag, items: Element(tag, "SQ", items, undefined=True),
                sequences,
                st.lists(st.lists(inner, max_size=3), max_size=3),
            ),
        )

    return st.lists(
        st.recursive(leaves | group_lengths, lambda inner: around(inner) | inner, max_leaves=12), min_size=1
    )


any_datasets = nested(short_elements, tags)
listed_datasets = nested(listed_elements, st.sampled_from(SEQUENCES))
chunks = st.sampled_from([1, 7, 24, 61, 1 << 18])


def expected(elements: Sequence[Element]) -> list[Element]:
    """Give what must be written for elements: no group lengths, delimiters, even lengths."""
    written = []
    for each in elements:
        if not each.tag & 0xFFFF:
            continue
        if isinstance(each.value, bytes):
            pad = b" " if each.vr in TEXTS else b"\0"
            written.append(replace(each, value=each.value + pad * (len(each.value) % 2)))
        else:
            items = [expected(item) for item in each.value]
            written.append(Element(each.tag, each.vr, items, undefined=each.undefined or bool(items)))
    return written


def big(elements: Sequence[Element]) -> list[Element]:
    """Give elements with their words in big endian order."""
    return [
        replace(each, value=reversed_words(each.value, WORDS.get(each.vr, 1)))
        if isinstance(each.value, bytes)
        else replace(each, value=[big(item) for item in each.value])
        for each in elements
    ]


def reversed_words(value: bytes, word: int) -> bytes:
    """Turn every word round."""
    return b"".join(value[at : at + word][::-1] for at in range(0, len(value), word))


def deflated(data: bytes) -> bytes:
    """Deflate a dataset."""
    deflate = zlib.compressobj(wbits=-15)
    packed = deflate.compress(data) + deflate.flush()
    return packed + b"\0" * (len(packed) % 2)


def given_as(elements: Sequence[Element], source: str) -> bytes:
    """Encode elements in any of the four transfer syntaxes."""
    if source == DEFLATED:
        return deflated(encoded(elements, EXPLICIT))
    return encoded(big(elements) if source == BIG else elements, source)


def result(data: bytes | BinaryIO, source: str, target: str, chunk: int = 1 << 18) -> bytes:
    """Re-encode bytes, reading as many at once."""
    file = io.BytesIO(data) if isinstance(data, bytes) else data
    with patch.object(reencoding, "CHUNK", chunk):
        return b"".join(reencoded(file, source, target))


@pytest.mark.parametrize("source", [EXPLICIT, DEFLATED, BIG])
@given(elements=any_datasets, chunk=chunks)
@example(elements=[Element(0x00080008, "CS", b"A")], chunk=1)
def test_what_says_its_vr_becomes_implicit(source: str, elements: list[Element], chunk: int) -> None:
    assert result(given_as(elements, source), source, IMPLICIT, chunk) == encoded(expected(elements), IMPLICIT)


@given(elements=any_datasets, chunk=chunks)
def test_big_endian_becomes_little(elements: list[Element], chunk: int) -> None:
    assert result(given_as(elements, BIG), BIG, EXPLICIT, chunk) == encoded(expected(elements), EXPLICIT)


@given(elements=any_datasets, chunk=chunks)
def test_a_deflated_dataset_is_inflated_and_no_more(elements: list[Element], chunk: int) -> None:
    assert result(given_as(elements, DEFLATED), DEFLATED, EXPLICIT, chunk) == encoded(elements, EXPLICIT)


@given(elements=listed_datasets, chunk=chunks)
def test_what_does_not_say_its_vr_gets_the_dictionarys(elements: list[Element], chunk: int) -> None:
    assert result(encoded(elements, IMPLICIT), IMPLICIT, EXPLICIT, chunk) == encoded(expected(elements), EXPLICIT)


@given(listed_datasets)
def test_there_and_back_is_the_same(elements: list[Element]) -> None:
    there = result(encoded([*FIRST, *elements], EXPLICIT), EXPLICIT, IMPLICIT)
    assert result(there, IMPLICIT, EXPLICIT) == encoded(expected([*FIRST, *elements]), EXPLICIT)


class Dribble(io.BytesIO):
    """Gives fewer bytes than it is asked for."""

    def __init__(self, data: bytes, most: int) -> None:
        super().__init__(data)
        self._most = most

    def read(self, size: int | None = -1, /) -> bytes:
        """Give no more than that many."""
        assert size is not None
        return super().read(min(size, self._most))


@pytest.mark.parametrize("source", [EXPLICIT, DEFLATED, BIG])
@settings(max_examples=40)
@given(elements=any_datasets, most=st.integers(1, 30))
def test_a_source_may_give_less_than_it_is_asked_for(source: str, elements: list[Element], most: int) -> None:
    data = given_as(elements, source)
    assert result(Dribble(data, most), source, IMPLICIT) == result(data, source, IMPLICIT)


def head(tag: int, vr: str, length: int) -> bytes:
    """Make a long explicit head, or an implicit one if there is no VR."""
    start = struct.pack("<HH", tag >> 16, tag & 0xFFFF)
    return start + (struct.pack("<2sHL", vr.encode(), 0, length) if vr else struct.pack("<L", length))


FIRST = [Element(0x00080016, "UI", b"1.2\0")]
LAST = [Element(0x00204000, "LT", b"last")]
PRIVATE = 0x00191001
ITEM, ITEM_END, SEQUENCE_END = 0xFFFEE000, 0xFFFEE00D, 0xFFFEE0DD
PRIVATE_ITEM = [Element(0x00191002, "UN", b"AB"), Element(0x00081140, "SQ", [[Element(0x00080018, "UI", b"1.2")]])]


@given(any_datasets, st.booleans(), chunks)
def test_what_is_in_an_unknown_element_is_implicit_already(item: list[Element], sized: bool, chunk: int) -> None:
    # A first element whose length looks like a VR is not what these are about; see below.
    inside = encoded([Element(0x00191000 + 0x02, "UN", b"first")], IMPLICIT) + encoded(item, IMPLICIT)
    items = head(ITEM, "", len(inside) if sized else UNDEFINED) + inside
    items += (b"" if sized else head(ITEM_END, "", 0)) + head(SEQUENCE_END, "", 0)
    explicit = encoded(FIRST, EXPLICIT) + head(PRIVATE, "UN", UNDEFINED) + items + encoded(LAST, EXPLICIT)
    implicit = encoded(FIRST, IMPLICIT) + head(PRIVATE, "", UNDEFINED) + items + encoded(LAST, IMPLICIT)
    there = result(explicit, EXPLICIT, IMPLICIT, chunk)
    back = result(there, IMPLICIT, EXPLICIT, chunk)
    if sized and not len(inside) % 2:
        assert there == implicit
        assert back == explicit
    else:
        assert result(implicit, IMPLICIT, EXPLICIT, chunk) == back
        assert there.startswith(encoded(FIRST, IMPLICIT) + head(PRIVATE, "", UNDEFINED))
        assert there.endswith(head(SEQUENCE_END, "", 0) + encoded(LAST, IMPLICIT))


def test_a_private_sequence_becomes_unknown_and_stays_a_sequence() -> None:
    private = expected([Element(PRIVATE, "SQ", [PRIVATE_ITEM])])
    there = result(encoded([*FIRST, Element(PRIVATE, "SQ", [PRIVATE_ITEM]), *LAST], EXPLICIT), EXPLICIT, IMPLICIT)
    assert there == encoded(expected([*FIRST, *private, *LAST]), IMPLICIT)
    back = result(there, IMPLICIT, EXPLICIT)
    unknown = head(PRIVATE, "UN", UNDEFINED) + encoded(private, IMPLICIT)[8:]
    assert back == encoded(FIRST, EXPLICIT) + unknown + encoded(LAST, EXPLICIT)
    assert result(back, EXPLICIT, IMPLICIT) == there
    (item,) = parsed(back, EXPLICIT)[PRIVATE].value
    assert item.ReferencedImageSequence[0].SOPInstanceUID == "1.2"


def test_an_unknown_element_whose_items_are_explicit_against_the_standard_is_read_as_that() -> None:
    inside = encoded([Element(0x00080018, "UI", b"1.2\0"), Element(0x00191002, "OB", b"AB")], EXPLICIT)
    items = head(ITEM, "", len(inside)) + inside + head(SEQUENCE_END, "", 0)
    data = encoded(FIRST, EXPLICIT) + head(PRIVATE, "UN", UNDEFINED) + items
    item = [Element(0x00080018, "UI", b"1.2\0"), Element(0x00191002, "OB", b"AB")]
    want = encoded([*FIRST, Element(PRIVATE, "SQ", [item], undefined=True)], IMPLICIT)
    assert result(data, EXPLICIT, IMPLICIT) == want


def test_items_and_elements_without_vr_in_an_explicit_dataset_are_implicit() -> None:
    item = [Element(0x00080018, "UI", b"1.2\0"), Element(0x00080060, "CS", b"CT")]
    inside = encoded(item, IMPLICIT)
    items = head(ITEM, "", len(inside)) + inside
    data = encoded(FIRST, EXPLICIT) + head(0x00081140, "SQ", len(items)) + items + encoded(LAST, IMPLICIT)
    want = encoded([*FIRST, Element(0x00081140, "SQ", [item], undefined=True), *LAST], IMPLICIT)
    assert result(data, EXPLICIT, IMPLICIT) == want


@pytest.mark.parametrize(("said", "target"), [(EXPLICIT, IMPLICIT), (IMPLICIT, EXPLICIT), (DEFLATED, EXPLICIT)])
def test_a_dataset_that_is_not_what_it_says_is_read_as_it_is(said: str, target: str) -> None:
    # What stands there is the target's syntax already: nothing is touched, a wrong group length neither.
    data = encoded([*FIRST, Element(0x00080000, "UL", b"\1\2\3\4"), *LAST], target)
    assert result(deflated(data) if said == DEFLATED else data, said, target) == data


def test_a_deflated_dataset_that_is_implicit_against_the_standard_is_read_as_it_is() -> None:
    data = deflated(encoded([*FIRST, *LAST], IMPLICIT))
    assert result(data, DEFLATED, EXPLICIT) == encoded([*FIRST, *LAST], EXPLICIT)
    assert result(data, DEFLATED, IMPLICIT) == encoded([*FIRST, *LAST], IMPLICIT)


def test_empty_sequences_and_items_keep_their_length_of_zero() -> None:
    for source, target in ((EXPLICIT, IMPLICIT), (IMPLICIT, EXPLICIT)):
        empty = Element(0x00081140, "SQ", [])
        assert result(encoded([*FIRST, empty], source), source, target) == encoded([*FIRST, empty], target)
        one = result(encoded([*FIRST, Element(0x00081140, "SQ", [[]])], source), source, target)
        sequence = encoded([Element(0x00081140, "SQ", [], undefined=True)], target)[:-8]
        assert one == encoded(FIRST, target) + sequence + head(ITEM, "", 0) + head(SEQUENCE_END, "", 0)


@pytest.mark.parametrize("length", [65533, 65534, 65535, 65536, 70001])
def test_a_value_too_long_for_its_vr_becomes_unknown(length: int) -> None:
    value = bytes(index % 251 + 1 for index in range(length))
    even = length + length % 2
    data = encoded([*FIRST, Element(0x00204000, "LT", value), *FIRST], IMPLICIT)
    vr = "LT" if even <= 65534 else "UN"
    back = result(data, IMPLICIT, EXPLICIT)
    want = encoded(FIRST, EXPLICIT)
    want += encoded([Element(0x00204000, vr, value + b" " * (length % 2))], EXPLICIT) + encoded(FIRST, EXPLICIT)
    assert back == want
    assert result(back, EXPLICIT, IMPLICIT) == encoded(
        expected([*FIRST, Element(0x00204000, "LT", value), *FIRST]), IMPLICIT
    )


def test_a_vr_of_a_later_edition_has_a_long_head() -> None:
    later = head(0x00091001, "ZZ", 6) + b"abcdef"
    assert result(encoded(FIRST, EXPLICIT) + later, EXPLICIT, IMPLICIT) == (
        encoded([*FIRST, Element(0x00091001, "UN", b"abcdef")], IMPLICIT)
    )
    # As some wrote it: with a short one, which its length shows.
    short = struct.pack("<HH2sH", 0x0009, 0x1001, b"ZZ", 6) + b"abcdef"
    assert result(encoded(FIRST, EXPLICIT) + short, EXPLICIT, IMPLICIT) == (
        encoded([*FIRST, Element(0x00091001, "UN", b"abcdef")], IMPLICIT)
    )


# Ambiguous VRs -------------------------------------------------------------------------------------------------------

SIGNED = (0x00280106, 0x00280107, 0x00280120, 0x00281101, 0x00283002)


def lut(entries: int) -> Dataset:
    """Make an item with a lookup table."""
    item = Dataset()
    item.LUTDescriptor = [entries, 0, 16]
    item.LUTData = [7] if entries == 1 else bytes(2 * entries)
    return item


@st.composite
def images(draw: st.DrawFn) -> Dataset:
    """Make images whose VRs depend on each other, in the dataset and in its items."""
    image = Dataset()
    image.SOPInstanceUID = "1.2.3"
    signed = draw(st.booleans())
    vr = "SS" if signed else "US"
    image.BitsAllocated = draw(st.sampled_from([8, 16]))
    image.PixelRepresentation = int(signed)
    for tag in draw(st.sets(st.sampled_from([*SIGNED, 0x00189810]))):
        several = tag in (0x00281101, 0x00283002)
        image.add_new(tag, vr, [3, draw(st.integers(0, 99)), 16] if several else draw(st.integers(0, 99)))
    if draw(st.booleans()):
        image.ModalityLUTSequence = [lut(draw(st.sampled_from([1, 4]))) for _ in range(draw(st.integers(0, 2)))]
    if draw(st.booleans()):
        item = Dataset()
        item.add_new(0x00221452, vr, 5)
        image.PixelValueMappingToCodedConceptSequence = [item]
    if draw(st.booleans()):
        icon = Dataset()
        icon.PixelRepresentation = draw(st.sampled_from([0, 1]))
        icon.add_new(0x00280106, "SS" if icon.PixelRepresentation else "US", 2)
        icon.BitsAllocated = 8
        icon.add_new(0x7FE00010, "OW", b"icon")
        image.IconImageSequence = [icon]
    image.add_new(0x60003000, "OW", b"overlay!")
    image.add_new(0x7FE00010, "OW", b"pixels")
    return image


def all_vrs(dataset: Dataset) -> list[tuple[int, str, object]]:
    """List tags, VRs and values, in items too."""
    return [
        found
        for element in dataset
        for found in (
            [(0, "item", None), *(inner for item in element.value for inner in all_vrs(item))]
            if element.VR == "SQ"
            else [(int(element.tag), str(element.VR), element.value)]
        )
    ]


def written(dataset: Dataset, syntax: str) -> bytes:
    """Write a dataset by pydicom."""
    file = DicomBytesIO()
    file.is_little_endian, file.is_implicit_VR = syntax != BIG, syntax == IMPLICIT
    write_dataset(file, dataset)
    return bytes(file.getvalue())


def parsed(data: bytes, syntax: str) -> Dataset:
    """Read a dataset by pydicom."""
    return read_dataset(io.BytesIO(data), is_implicit_VR=syntax == IMPLICIT, is_little_endian=syntax != BIG)


@given(images(), chunks)
def test_vrs_that_depend_on_others_are_what_they_were(image: Dataset, chunk: int) -> None:
    implicit = written(image, IMPLICIT)
    explicit = result(implicit, IMPLICIT, EXPLICIT, chunk)
    assert all_vrs(parsed(explicit, EXPLICIT)) == all_vrs(image)
    # What pydicom decides, once it has read all of it.
    theirs = correct_ambiguous_vr(parsed(implicit, IMPLICIT), is_little_endian=True)
    assert [found[1] for found in all_vrs(parsed(explicit, EXPLICIT))] == [found[1] for found in all_vrs(theirs)]
    assert result(explicit, EXPLICIT, IMPLICIT, chunk) == result(written(image, EXPLICIT), EXPLICIT, IMPLICIT, chunk)


def test_without_pixel_representation_numbers_are_unsigned() -> None:
    for elements in (
        [Element(0x00189810, "US", b"\1\2"), Element(0x00280106, "US", b"\3\4")],
        [Element(0x00189810, "US", b"\1\2")],
        [Element(0x00280106, "US", b"\3\4")],
    ):
        assert result(encoded(elements, IMPLICIT), IMPLICIT, EXPLICIT) == encoded(elements, EXPLICIT)


def test_other_ambiguous_vrs_are_words() -> None:
    elements = [
        Element(tag, "OW", b"abcd")
        for tag in (0x00143050, 0x00281200, 0x00283006, 0x50003000, 0x5000200C, 0x54000110, 0x5400100A, 0x54001010)
    ]
    assert result(encoded(elements, IMPLICIT), IMPLICIT, EXPLICIT) == encoded(elements, EXPLICIT)


def test_what_waits_for_pixel_representation_has_a_limit() -> None:
    data = encoded([Element(0x00189810, "US", b"\1\2")], IMPLICIT) + head(0x00191001, "", 300 * MIB)
    source = Sparse(data, 300 * MIB, encoded(LAST, IMPLICIT))
    with pytest.raises(NotReencodableError, match="Pixel Representation"):
        result(cast("BinaryIO", source), IMPLICIT, EXPLICIT)
    assert source.bytes_read < 5 * MIB


# What is refused -----------------------------------------------------------------------------------------------------

SHORT = encoded(FIRST, EXPLICIT)
ITEMS = head(ITEM, "", 8) + encoded([Element(0x00080060, "CS", b"")], EXPLICIT)


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"", "no element"),
        (b"\x08\0\x16", "ends inside an element"),
        (SHORT[:-1], "ends inside an element"),
        (SHORT + head(0x00420011, "OB", 8)[:9], "ends inside an element"),
        (SHORT + head(0x00420011, "OB", 8)[:11], "ends inside an element"),
        (SHORT + head(0x00420011, "OB", 0xFFFFFFF0) + bytes(99), "ends inside an element"),
        (SHORT + head(0x00081140, "SQ", UNDEFINED), "ends inside a sequence"),
        (SHORT + head(0x00081140, "SQ", UNDEFINED) + ITEMS, "ends inside a sequence"),
        (SHORT + head(0x00081140, "SQ", 8) + ITEMS[:8], "longer than what it stands in"),
        (SHORT + head(0x00081140, "SQ", 17) + ITEMS + b"\0", "no item|contradicts|ends inside"),
        (SHORT + head(0x00081140, "SQ", 16) + head(ITEM, "", UNDEFINED) + ITEMS[8:], "without its delimiter"),
        (SHORT + head(0x00081140, "SQ", 24) + head(SEQUENCE_END, "", 0) + ITEMS, "contradicts a length"),
        (SHORT + head(0x00081140, "SQ", UNDEFINED) + encoded(FIRST, EXPLICIT), "no item"),
        (SHORT + head(0x00081140, "SQ", 16) + head(ITEM, "", 8) + head(ITEM_END, "", 0)[:7] + SHORT, "."),
        (SHORT + head(ITEM_END, "", 0), "nothing is open"),
        (SHORT + head(SEQUENCE_END, "", 0), "nothing is open"),
        (SHORT + head(ITEM, "", 0), "nothing is open"),
        (SHORT + encoded([Element(0x00080000, "OB", bytes(10))], EXPLICIT), "group length"),
        (
            SHORT + head(0x7FE00010, "OB", UNDEFINED) + head(ITEM, "", 0) + head(SEQUENCE_END, "", 0),
            "7FE0,0010.*compressed",
        ),
        (
            SHORT + head(0x7FE00010, "UN", UNDEFINED) + head(ITEM, "", 0) + head(SEQUENCE_END, "", 0),
            "7FE0,0010.*compressed",
        ),
        (SHORT + head(0x00420010, "UT", UNDEFINED) + head(SEQUENCE_END, "", 0), "no length"),
    ],
)
def test_what_contradicts_itself_is_refused(data: bytes, why: str) -> None:
    with pytest.raises(NotReencodableError, match=why):
        result(data, EXPLICIT, IMPLICIT)


def test_compressed_pixels_are_refused_in_implicit_too() -> None:
    fragments = head(ITEM, "", 0) + head(ITEM, "", 4) + b"\xff\xd8\xff\xd9" + head(SEQUENCE_END, "", 0)
    with pytest.raises(NotReencodableError, match="compressed"):
        result(encoded(FIRST, IMPLICIT) + head(0x7FE00010, "", UNDEFINED) + fragments, IMPLICIT, EXPLICIT)


@pytest.mark.parametrize(
    ("elements", "why"),
    [
        ([Element(0x00280010, "US", b"abc")], "does not fit its VR"),
        ([Element(0x00280010, "ZZ", b"abcd")], "does not fit its VR"),
        ([Element(0x00280100, "US", b"\0\x20"), Element(0x7FE00010, "OW", bytes(8))], "wider than 16 bits"),
        ([Element(0x54001004, "US", b"\0\x20"), Element(0x54001010, "OW", bytes(8))], "wider than 16 bits"),
    ],
)
def test_what_has_no_certain_byte_order_is_refused(elements: list[Element], why: str) -> None:
    for target in (IMPLICIT, EXPLICIT):
        with pytest.raises(NotReencodableError, match=why):
            result(encoded([*FIRST, *elements], BIG), BIG, target)


def test_a_big_endian_dataset_without_vrs_is_refused() -> None:
    data = struct.pack(">HHL", 0x0008, 0x0060, 2) + b"CT"
    with pytest.raises(NotReencodableError, match="says no VR"):
        result(encoded(FIRST, BIG) + data, BIG, IMPLICIT)


@pytest.mark.parametrize("target", [IMPLICIT, EXPLICIT])
def test_a_deflated_dataset_that_is_damaged_is_refused(target: str) -> None:
    elements = [*FIRST, Element(0x00420011, "OB", bytes(range(256)) * 40)]
    data = deflated(encoded(elements, EXPLICIT))
    for cut in (1, 20, len(data) - 6):
        with pytest.raises(NotReencodableError):
            result(data[:cut], DEFLATED, target)
    with pytest.raises(NotReencodableError, match="not deflated"):
        result(b"\xff" * 99, DEFLATED, target)


def test_nesting_is_bounded() -> None:
    def deep(levels: int, vr: str) -> bytes:
        opens = (head(0x00081140, vr, UNDEFINED) + head(ITEM, "", UNDEFINED)) * levels
        return opens + (head(ITEM_END, "", 0) + head(SEQUENCE_END, "", 0)) * levels

    assert result(deep(64, "SQ"), EXPLICIT, IMPLICIT) == deep(64, "")
    assert result(deep(64, ""), IMPLICIT, EXPLICIT) == deep(64, "SQ")
    for source, target, vr in ((EXPLICIT, IMPLICIT, "SQ"), (IMPLICIT, EXPLICIT, "")):
        with pytest.raises(NotReencodableError, match="64 levels"):
            result(deep(65, vr), source, target)


def test_zeros_that_nothing_counts_are_left_out() -> None:
    for zeros in (1, 7):
        assert result(SHORT + bytes(zeros), EXPLICIT, IMPLICIT) == encoded(FIRST, IMPLICIT)
    # So many may be what a damaged length leads to.
    with pytest.raises(NotReencodableError, match="group 0000"):
        result(SHORT + bytes(8), EXPLICIT, IMPLICIT)


@pytest.mark.parametrize("code", [b"??", b"  ", b"\0\0", b"lo", b"un"])
@pytest.mark.parametrize("length", [0, 4])
def test_a_garbled_vr_does_not_lead_astray(code: bytes, length: int) -> None:
    element = struct.pack("<HH2sH", 0x0009, 0x1001, code, length) + b"abcd"[:length]
    pixels = encoded([Element(0x7FE00010, "OW", bytes(1 << 20))], EXPLICIT)
    if (code, length) == (b"\0\0", 0):
        # Empty in either way.
        want = encoded([*FIRST, Element(0x00091001, "UN", b"")], IMPLICIT)
        assert result(SHORT + element + pixels, EXPLICIT, IMPLICIT).startswith(want)
        return
    with pytest.raises(NotReencodableError, match="says no VR"):
        result(SHORT + element + pixels, EXPLICIT, IMPLICIT)


def outcome(data: bytes, source: str, target: str, chunk: int = 1 << 18) -> bytes | None:
    """Give what comes of it; None if it is refused."""
    try:
        return result(data, source, target, chunk)
    except NotReencodableError:
        return None


@pytest.mark.parametrize("source", [EXPLICIT, IMPLICIT, BIG, DEFLATED])
@given(listed_datasets, st.data(), chunks)
def test_damage_is_refused_or_passed_on_however_it_is_read(
    source: str, elements: list[Element], data: st.DataObject, chunk: int
) -> None:
    damaged = bytearray(given_as(elements, source))
    for _ in range(data.draw(st.integers(1, 4))):
        damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.integers(0, 255))
    del damaged[data.draw(st.integers(0, len(damaged))) :]
    for target in sorted({EXPLICIT, IMPLICIT} - {source}):
        whole = outcome(bytes(damaged), source, target)
        event("refused" if whole is None else "passed on")
        assert outcome(bytes(damaged), source, target, chunk) == whole


def test_texts_of_errors_hold_no_values() -> None:
    secret = Element(0x00100010, "PN", b"DOE^JANE")
    with pytest.raises(NotReencodableError) as caught:
        result(encoded([*FIRST, secret], EXPLICIT)[:-1], EXPLICIT, IMPLICIT)
    assert "DOE" not in str(caught.value)
    assert caught.value.safe_to_log


# Size ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("source", "target"), [(EXPLICIT, IMPLICIT), (IMPLICIT, EXPLICIT), (BIG, IMPLICIT)])
def test_memory_stays_flat(source: str, target: str) -> None:
    length = 200 * MIB
    elements = [*FIRST, Element(0x00280100, "US", b"\x10\0")]
    pixels = encoded([Element(0x7FE00010, "OW", b"")], source)[:-4]
    pixels += struct.pack(">L" if source == BIG else "<L", length)
    after = [Element(0xFFFCFFFC, "OB", b"end!")]
    file = Sparse(given_as(elements, source) + pixels, length, given_as(after, source))
    size = 0
    longest = 0
    tracemalloc.start()
    try:
        for chunk in reencoded(cast("BinaryIO", file), source, target):
            size += len(chunk)
            longest = max(longest, len(chunk))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    want = encoded([*elements, Element(0x7FE00010, "OW", b""), *after], target)
    assert size == len(want) + length
    assert chunk.endswith(encoded(after, target))
    assert longest <= 2 * reencoding.CHUNK
    assert peak < 3 * MIB


def test_memory_stays_flat_with_many_elements() -> None:
    item = encoded([Element(0x00080018, "UI", b"1.2.3.4\0"), Element(0x00204000, "LT", bytes(900))], EXPLICIT)
    part = (head(ITEM, "", len(item)) + item) * 200
    count = 60

    class Repeated(io.RawIOBase):
        left = [part] * count

        def read(self, size: int = -1, /) -> bytes:
            assert size > 0
            return self.left.pop() if self.left else b""

    file = Repeated()
    file.left = [*file.left, SHORT + head(0x52009230, "SQ", len(part) * count)]
    tracemalloc.start()
    try:
        size = sum(map(len, reencoded(cast("BinaryIO", file), EXPLICIT, IMPLICIT)))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert size == len(SHORT) + 8 + count * 200 * (len(item) + 8 + 8) + 8
    assert peak < 4 * MIB


def test_which_syntaxes_can_be_re_encoded() -> None:
    can = {(source, target) for source in (EXPLICIT, DEFLATED, BIG, IMPLICIT) for target in (EXPLICIT, IMPLICIT)}
    can -= {(EXPLICIT, EXPLICIT), (IMPLICIT, IMPLICIT)}
    jpeg = "1.2.840.10008.1.2.4.50"
    syntaxes = (EXPLICIT, DEFLATED, BIG, IMPLICIT, jpeg)
    assert {(a, b) for a in syntaxes for b in syntaxes if can_reencode(a, b)} == can
    with pytest.raises(ValueError, match="cannot be re-encoded"):
        reencoded(io.BytesIO(SHORT), jpeg, IMPLICIT)
