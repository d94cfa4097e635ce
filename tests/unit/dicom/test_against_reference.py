"""The own reading of headers says what pydicom's says, where the bytes are a dataset by the Standard."""

import io
import json
import logging
import warnings
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import assume, event, example, given, settings
from hypothesis import strategies as st
from pydicom.charset import convert_encodings, encode_string
from pydicom.errors import BytesLengthException

from libs.dicom import charset, dictionary, element, header
from tests.support.dicomset import RealFile, dataset_bytes, real_files
from tests.unit.dicom import reference_element, reference_header
from tests.unit.dicom.encoded import PLAIN, Element, encoded

pytestmark = pytest.mark.unit

UNREADABLE = "unreadable"
#: What the reference refuses although the values can be read: a character set that breaks a look-up of codecs.
STRICTER = (
    "(ValueError)",
    "(BytesLengthException)",
    "(TypeError)",
    "(NotImplementedError)",
    "(AttributeError)",
    "(LookupError)",
)

TAGS = st.one_of(
    st.sampled_from(
        [
            *(0x00080005, 0x00080008, 0x00080016, 0x00080018, 0x00080060, 0x00080090, 0x00081030, 0x00100010),
            *(0x00180050, 0x0020000D, 0x0020000E, 0x00200013, 0x00280010, 0x00280106, 0x00280103, 0x60000010),
        ]
    ),
    # A sequence has items, and pydicom takes whatever stands in one for them.
    st.integers(0x00080000, 0x7FDFFFFF).filter(lambda tag: dictionary.known_vr(tag) != "SQ"),
)
VRS = st.sampled_from(
    "AE AS AT CS DA DS DT FD FL IS LO LT PN SH SL SS ST TM UI UL US OB OW UN UT UC UR UV SV".split()  # noqa: SIM905
)
VALUES = st.one_of(
    st.binary(max_size=24),
    st.sampled_from(
        [b"1.2.840.10008", b"ISO_IR 100", b"\\ISO 2022 IR 87", b"12\\13", b"1.5 ", b"A^B", b"\0\0", b"20260101"]
    ),
)
FLAT = st.lists(st.builds(Element, TAGS, VRS, VALUES), min_size=1, max_size=12)
CHARACTER_SETS = [
    *(
        [],
        ["ISO_IR 100"],
        ["ISO_IR 192"],
        ["GB18030"],
        ["ISO_IR 13"],
        ["", "ISO 2022 IR 87"],
        ["ISO_IR 192", "ISO_IR 6"],
    ),
    *(["ISO 2022 IR 13", "ISO 2022 IR 87", "ISO 2022 IR 159"], ["", "ISO 2022 IR 149"], ["", "ISO 2022 IR 58"]),
    *(["ISO IR 100"], ["ISO-2022-IR-87"], ["ISO IR 9"], ["utf8"], ["hex"], ["no such codec"], ["", "GBK"]),
]


@pytest.fixture(autouse=True, scope="module")
def _silent_reference() -> Iterator[None]:
    # pydicom says each odd value to the log and as a warning.
    logger = logging.getLogger("pydicom")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        logger.disabled = True
        yield
        logger.disabled = False


def ordered(elements: list[Element]) -> list[Element]:
    return sorted({each.tag: each for each in elements}.values(), key=lambda each: each.tag)


#: A character set that the reference can't look up makes it refuse the sequence around it.
SOUND = st.one_of(
    st.builds(Element, TAGS.filter(lambda tag: tag != 0x00080005), VRS, VALUES),
    st.builds(
        Element,
        st.just(0x00080005),
        st.just("CS"),
        st.sampled_from([b"ISO_IR 100", b"ISO_IR 192", b"\\ISO 2022 IR 87", b"ISO IR 9", b""]),
    ),
)


def trees(inner: Any) -> Any:
    items = inner.map(ordered)
    standard = st.builds(
        Element,
        st.sampled_from([0x00081140, 0x00400275, 0x00880200]),
        st.just("SQ"),
        st.lists(items, max_size=3),
        st.booleans(),
    )
    # Private ones have an item: without, pydicom takes one of implicit VR and undefined length for a value.
    private = st.builds(
        Element, st.just(0x00091010), st.just("SQ"), st.lists(items, min_size=1, max_size=2), st.booleans()
    )
    sequences = st.one_of(standard, private)
    return st.lists(st.one_of(SOUND, sequences), max_size=6)


TREES = st.recursive(st.lists(SOUND, min_size=1, max_size=12), trees, max_leaves=8)


def ours(data: bytes, syntax: str) -> Any:
    try:
        found, document = header.read_whole(io.BytesIO(data), syntax)
    except header.UnreadableDatasetError:
        return UNREADABLE
    again, text = header.read_text(io.BytesIO(data), syntax)
    assert again == found
    assert text == json.dumps(document, sort_keys=True, separators=(",", ":"))
    return vars(found), document


def reference(data: bytes, syntax: str) -> tuple[Any, str]:
    try:
        found, document = reference_header.read_whole(io.BytesIO(data), syntax)
    except reference_header.UnreadableDatasetError as error:
        return UNREADABLE, str(error)
    except BytesLengthException:
        # What it raised in use, too: a number of an odd length that pydicom wants to know of.
        return UNREADABLE, STRICTER[0]
    return (vars(found), document), ""


@pytest.mark.parametrize("file", real_files(), ids=lambda file: file.path.name)
def test_real_files_read_the_same(file: RealFile) -> None:
    data = dataset_bytes(file.path)
    assert ours(data, file.transfer_syntax) == reference(data, file.transfer_syntax)[0]
    assert ours(data, file.transfer_syntax) != UNREADABLE
    whole, _ = header.read_whole(io.BytesIO(data), file.transfer_syntax)
    assert header.read(io.BytesIO(data), file.transfer_syntax) == whole
    said = header.identity(data[: 1 << 16], file.transfer_syntax)
    assert said == header.Identity(file.sop_class, file.sop_uid, file.study_uid, file.series_uid)


@given(TREES, st.sampled_from(PLAIN))
def test_sequences_of_any_depth_read_the_same(elements: list[Element], syntax: str) -> None:
    data = encoded(ordered(elements), syntax)
    said, why = reference(data, syntax)
    if why == STRICTER[0]:
        event("the reference is stricter")
        return
    assert ours(data, syntax) == said


@given(FLAT, st.sampled_from(PLAIN), st.integers(0), st.binary(max_size=3), st.integers(0, 12))
def test_damaged_and_unordered_elements_read_the_same(
    elements: list[Element], syntax: str, at: int, damage: bytes, cut: int
) -> None:
    data = encoded(elements, syntax)
    at %= len(data)
    data = data[:at] + damage + data[at + len(damage) :]
    data = data[: max(1, len(data) - cut)]
    said, why = reference(data, syntax)
    if said == UNREADABLE and why.endswith(STRICTER):
        event("the reference is stricter")
        return
    if why.endswith("(error)"):
        # The head of an element is cut off. It matters in the header only, and pixel data are not read so far.
        event("cut off")
        assert ours(data, syntax) in (UNREADABLE, ours(data + bytes(4), syntax))
        return
    assert ours(data, syntax) == said


@pytest.mark.parametrize("kept", range(8, 12))
def test_an_element_whose_head_is_cut_off_is_unreadable(kept: int) -> None:
    data = encoded([Element(0x00080060, "CS", b"CT"), Element(0x00420011, "OB", b"")], PLAIN[0])
    assert ours(data[: 10 + kept], PLAIN[0]) == UNREADABLE
    assert ours(data, PLAIN[0]) != UNREADABLE


@given(st.sampled_from(real_files()), st.integers(0), st.binary(min_size=1, max_size=2))
@settings(max_examples=60)
def test_damaged_real_files_are_read_or_refused(file: RealFile, at: int, damage: bytes) -> None:
    data = dataset_bytes(file.path)[: 1 << 15]
    at %= min(len(data), 1 << 13)
    data = data[:at] + damage + data[at + len(damage) :]
    said = ours(data, file.transfer_syntax)
    event("unreadable" if said == UNREADABLE else "read")
    if said != UNREADABLE:
        assert vars(header.read(io.BytesIO(data), file.transfer_syntax)) == said[0]


@given(
    st.sampled_from(["CS", "DS", "IS", "US", "SS", "FL", "FD", "PN", "LO", "UI", "AT", "UT", "OB", "SV", "UR", "XX"]),
    st.binary(max_size=40),
    st.sampled_from(CHARACTER_SETS),
    st.booleans(),
)
@example("PN", b"\x1b$B;3ED\x1b(B^\x1b$BB@O:", ["", "ISO 2022 IR 87"], True)
@example("LO", b"\x1b-F\xe4\\\xe4", ["ISO_IR 6", "ISO 2022 IR 126"], True)
def test_values_read_the_same(vr: str, value: bytes, terms: list[str], little: bool) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        codecs = convert_encodings(terms)
        said = reference_element.values(vr, value, codecs, little_endian=little)
    assert list(charset.encodings(tuple(terms or [""]))) == codecs
    assert element.values(vr, value, tuple(codecs), little_endian=little) == said


@given(st.text(max_size=20), st.sampled_from(CHARACTER_SETS))
def test_text_with_escapes_reads_the_same(text: str, terms: list[str]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        codecs = convert_encodings(terms)
        try:
            value = encode_string(text, codecs)
        except (UnicodeError, LookupError, ValueError):
            assume(False)
        said = reference_element.values("PN", value, codecs, little_endian=True)
    assert element.values("PN", value, tuple(codecs), little_endian=True) == said
