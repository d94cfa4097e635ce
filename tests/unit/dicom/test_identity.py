"""The identity out of a dataset's first bytes is what the whole header says, or it isn't there yet."""

import io
import zlib

import pytest
from hypothesis import event, given
from hypothesis import strategies as st
from pydicom.uid import DeflatedExplicitVRLittleEndian, ExplicitVRLittleEndian

from libs.dicom import header
from libs.dicom.header import Identity, UnreadableDatasetError
from tests.unit.dicom.encoded import PLAIN, SYNTAXES, Element, encoded

pytestmark = pytest.mark.unit

IDENTITY = Identity("1.2.840.10008.5.1.4.1.1.2", "1.2.3", "1.2.4", "1.2.5")
SERIES = Element(0x0020000E, "UI", b"1.2.5\0")
PIXELS = Element(0x7FE00010, "OW", bytes(64))


def elements(*more: Element) -> list[Element]:
    own = [
        Element(0x00080005, "CS", b"ISO_IR 100"),
        Element(0x00080016, "UI", b"1.2.840.10008.5.1.4.1.1.2\0"),
        Element(0x00080018, "UI", b"1.2.3\0"),
        Element(0x00081140, "SQ", [[Element(0x00081155, "UI", b"9.9\0"), SERIES]], undefined=True),
        Element(0x00081150, "SQ", [[Element(0x0020000D, "UI", b"9.8\0")], []]),
        Element(0x00091010, "UN", [[Element(0x00090010, "LO", b"x ")]], undefined=True),
        Element(0x0020000D, "UI", b"1.2.4\0"),
        SERIES,
        Element(0x00280010, "US", b"\0\2"),
        PIXELS,
    ]
    return sorted([*own, *more], key=lambda each: each.tag)


def bytes_of(syntax: str, *more: Element) -> bytes:
    data = encoded(elements(*more), syntax)
    if syntax != DeflatedExplicitVRLittleEndian:
        return data
    deflate = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    return deflate.compress(data) + deflate.flush()


@pytest.mark.parametrize("syntax", SYNTAXES)
def test_it_is_there_as_soon_as_the_element_after_it_begins_and_never_other(syntax: str) -> None:
    data = bytes_of(syntax)
    said = [header.identity(memoryview(data)[:length], syntax) for length in range(len(data) + 1)]
    first = said.index(IDENTITY)
    assert said[:first] == [None] * first
    assert said[first:] == [IDENTITY] * (len(said) - first)
    if syntax != DeflatedExplicitVRLittleEndian:
        assert first < len(data) - len(PIXELS.value)


@pytest.mark.parametrize("syntax", PLAIN)
@pytest.mark.parametrize("absent", [0x00080016, 0x00080018, 0x0020000D, 0x0020000E])
def test_an_absent_identifier_is_for_the_whole_header_to_say(syntax: str, absent: int) -> None:
    data = encoded([each for each in elements() if each.tag != absent], syntax)
    assert header.identity(data, syntax) is None
    found = header.read(io.BytesIO(data), syntax)
    said = [found.sop_class_uid, found.sop_instance_uid, found.study_instance_uid, found.series_instance_uid]
    assert said.count("") == 1


@pytest.mark.parametrize("syntax", PLAIN)
def test_an_identifier_out_of_order_is_found_by_the_whole_header(syntax: str) -> None:
    own = elements()
    data = encoded([*(each for each in own if each is not SERIES and each is not PIXELS), SERIES, PIXELS], syntax)
    assert header.identity(data, syntax) is None
    assert header.read(io.BytesIO(data), syntax).series_instance_uid == "1.2.5"


@pytest.mark.parametrize("syntax", PLAIN)
def test_what_stood_in_its_place_counts_when_it_comes_again(syntax: str) -> None:
    data = encoded([*elements()[:-1], Element(0x0020000D, "UI", b"6.6.6\0"), PIXELS], syntax)
    assert header.identity(data, syntax) == IDENTITY
    assert header.read(io.BytesIO(data), syntax).study_instance_uid == IDENTITY.study_instance_uid


@given(st.sampled_from(PLAIN), st.integers(0), st.binary(min_size=1, max_size=3))
def test_damaged_or_not_it_is_what_the_whole_header_says(syntax: str, at: int, damage: bytes) -> None:
    data = bytes_of(syntax)
    at %= len(data)
    data = data[:at] + damage + data[at + len(damage) :]
    try:
        said = header.identity(data, syntax)
        found = header.read(io.BytesIO(data), syntax)
    except UnreadableDatasetError:
        event("unreadable")
        return
    event("not there" if said is None else "there")
    if said is not None:
        assert said == Identity(*(getattr(found, name) for name in Identity.__dataclass_fields__))


@given(st.binary(max_size=200), st.sampled_from(SYNTAXES))
def test_any_bytes_have_an_identity_or_none_or_are_unreadable(data: bytes, syntax: str) -> None:
    try:
        said = header.identity(data, syntax)
    except UnreadableDatasetError as error:
        assert len(str(error)) < 120  # noqa: PT017 (what is said of it is the point)
        return
    assert said is None or isinstance(said, Identity)


def test_identifiers_of_another_vr_read_as_in_the_whole_header() -> None:
    data = encoded(
        [
            Element(0x00080016, "UN", b"1.2.840.10008.5.1.4.1.1.2\0"),
            Element(0x00080018, "LO", b" 1.2.3 "),
            Element(0x0020000D, "OB", b"1.2.4\0"),
            Element(0x0020000E, "UI", b"1.2\\5\0"),
            PIXELS,
        ],
        ExplicitVRLittleEndian,
    )
    said = header.identity(data, ExplicitVRLittleEndian)
    assert said == Identity("1.2.840.10008.5.1.4.1.1.2", "1.2.3", "", "1.2\\5")
    assert header.read(io.BytesIO(data), ExplicitVRLittleEndian).series_instance_uid == "1.2\\5"


def test_pixel_data_first_is_unreadable() -> None:
    with pytest.raises(UnreadableDatasetError, match="no element"):
        header.identity(encoded([PIXELS], ExplicitVRLittleEndian), ExplicitVRLittleEndian)


def test_what_is_not_deflated_is_unreadable() -> None:
    with pytest.raises(UnreadableDatasetError, match="deflated"):
        header.identity(b"\xff" * 100, DeflatedExplicitVRLittleEndian)
