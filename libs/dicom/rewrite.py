"""Elements of a stored dataset replaced, and nothing else of it touched: PS3.5 section 7, PS3.3 section C.12.1.

What is to change is found by reading no further than the pixel data. It comes as a list of edits, places in the bytes
and what stands there afterwards; every byte that no edit names is the sender's own. So an object of any size is
rewritten as a stream.
"""

import struct
import warnings
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import BinaryIO, Final, Protocol

from pydicom.charset import convert_encodings, decode_bytes, encode_string
from pydicom.datadict import dictionary_VR
from pydicom.uid import DeflatedExplicitVRLittleEndian, ExplicitVRBigEndian, ImplicitVRLittleEndian

from libs.dicom.header import UnreadableDatasetError
from libs.dicom.inflated import Inflated

#: Original Attributes Sequence, and what an item of it holds: PS3.3 table C.12-1.
ORIGINAL_ATTRIBUTES: Final = 0x04000561
_MODIFIED: Final = 0x04000550
_MODIFIED_AT: Final = 0x04000562
_SYSTEM: Final = 0x04000563
_SOURCE: Final = 0x04000564
_REASON: Final = 0x04000565
_CHARACTER_SET: Final = 0x00080005
_PIXELS: Final = 0x7FE00000
_ITEM: Final = 0xFFFEE000
_ITEM_END: Final = 0xFFFEE00D
_SEQUENCE_END: Final = 0xFFFEE0DD
_UNDEFINED: Final = 0xFFFFFFFF
_LONG_VRS: Final = frozenset(
    {b"OB", b"OD", b"OF", b"OL", b"OV", b"OW", b"SQ", b"SV", b"UC", b"UN", b"UR", b"UT", b"UV"},
)
#: No identifier is longer; what is, is damaged.
_LONGEST_VALUE: Final = 1 << 15
_DEEPEST: Final = 64
_CHUNK: Final = 1 << 20
_NO_LIMIT: Final = 1 << 62
_ENDS_EARLY: Final = "the dataset ends inside an element"


class NotRewritableError(Exception):
    """A value can't be put into this dataset. The text says why, without values."""

    safe_to_log = True


@dataclass(frozen=True)
class Note:
    """What the Original Attributes Sequence says of a change.

    Attributes
    ----------
    at
        When it was made, UTC.
    system
        Modifying System (0400,0563).
    source
        Source of Previous Values (0400,0564).
    reason
        Reason for the Attribute Modification (0400,0565): `CORRECT` or `COERCE`.
    """

    at: datetime
    system: str
    source: str
    reason: str


@dataclass(frozen=True)
class Edit:
    """`length` bytes at the offset `at` of the dataset become `new`. Of a deflated dataset: of its inflated bytes."""

    at: int
    length: int
    new: bytes


@dataclass(frozen=True)
class Rewriting:
    """What is to be done to a dataset.

    Attributes
    ----------
    edits
        In the order of their places; none overlaps another.
    changed
        Tags whose value is not the same already.
    header_end
        Where the first element of the pixel data begins, or where the dataset ends; offset before any edit.
    """

    edits: tuple[Edit, ...]
    changed: tuple[int, ...]
    header_end: int


@dataclass(frozen=True)
class _Form:
    implicit: bool
    order: str


@dataclass(frozen=True)
class _Element:
    tag: int
    vr: bytes
    at: int
    #: Offset of the value field; of the 32 bit length field it is 4 more than that one's.
    value_at: int
    length: int


class _Source(Protocol):
    def read(self, length: int, /) -> bytes: ...


class _Reader:
    """Reads on, counts, and skips without holding what it skips."""

    def __init__(self, source: _Source) -> None:
        self._source = source
        self.at = 0

    def take(self, count: int) -> bytes:
        data = self.some(count)
        if len(data) < count:
            raise UnreadableDatasetError(_ENDS_EARLY)
        return data

    def some(self, count: int) -> bytes:
        parts = []
        try:
            while count and (part := self._source.read(count)):
                parts.append(part)
                count -= len(part)
        except zlib.error as error:
            raise UnreadableDatasetError("the deflated dataset is damaged") from error
        data = b"".join(parts)
        self.at += len(data)
        return data

    def skip(self, count: int) -> None:
        while count:
            count -= len(self.take(min(count, _CHUNK)))


def plan(dataset: BinaryIO, transfer_syntax: str, values: Mapping[int, str], note: Note) -> Rewriting:
    """Find what has to change so that elements have other values.

    Parameters
    ----------
    dataset
        Positioned at the dataset's first byte; read no further than the pixel data.
    transfer_syntax
        UID of the dataset's transfer syntax.
    values
        New values by tag, all below (0400,0561) and of VRs with a 16 bit length; an empty text makes an empty element.
    note
        What an item of (0400,0561) says of it; none is added if every element has its new value already.

    Raises
    ------
    UnreadableDatasetError
        The bytes are no dataset.
    NotRewritableError
        The dataset's character set has not all characters of a value, or the dataset breaks PS3.5 in a way that does
        not let elements be replaced one by one.
    """
    reader = _Reader(Inflated(dataset, _NO_LIMIT) if transfer_syntax == DeflatedExplicitVRLittleEndian else dataset)
    found = _Found(frozenset(values))
    form, header_end = found.read(reader, transfer_syntax)
    encodings = _encodings(found.values.get(_CHARACTER_SET, b""))
    edits: list[Edit] = []
    before: dict[int, tuple[bytes, bytes]] = {}
    for tag, text in sorted(values.items()):
        vr = dictionary_VR(tag).encode()
        new = _padded(vr, _encoded(tag, text, encodings))
        old = found.elements.get(tag)
        if old is not None and _same(vr, found.values[tag], new):
            continue
        before[tag] = (vr, found.values.get(tag, b""))
        at = found.place(tag, header_end) if old is None else old.at
        edits.append(Edit(at, 0 if old is None else old.value_at + old.length - old.at, _element(form, tag, vr, new)))
    if before:
        edits += found.noted(form, before, note, header_end)
        edits += found.group_lengths(form, edits)
    # Several at one place are insertions, and stand in the order of their tags already; `sorted` keeps it.
    return Rewriting(tuple(sorted(edits, key=lambda edit: edit.at)), tuple(before), header_end)


def stream(dataset: BinaryIO, transfer_syntax: str, edits: Sequence[Edit]) -> Iterator[bytes]:
    """Give the rewritten dataset piece by piece, in its own transfer syntax, deflated again if it was.

    Raises
    ------
    UnreadableDatasetError
        A deflated dataset is damaged.
    """
    if transfer_syntax != DeflatedExplicitVRLittleEndian:
        yield from edited(dataset, edits)
        return
    if not edits:
        while chunk := dataset.read(_CHUNK):
            yield chunk
        return
    deflate = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    size = 0
    source = Inflated(dataset, _NO_LIMIT)
    for piece in edited(source, edits):
        if packed := deflate.compress(piece):
            size += len(packed)
            yield packed
    if not source.whole:
        raise UnreadableDatasetError("the deflated dataset ends before its end is marked")
    last = deflate.flush()
    # PS3.5 section A.5: a stream of odd length gets one byte of padding.
    yield last + b"\0" * ((size + len(last)) % 2)


def head(dataset: BinaryIO, transfer_syntax: str, rewriting: Rewriting) -> Iterator[bytes]:
    """Give the rewritten dataset up to its pixel data, never deflated: to be looked at before anything is kept."""
    source = Inflated(dataset, _NO_LIMIT) if transfer_syntax == DeflatedExplicitVRLittleEndian else dataset
    yield from edited(source, rewriting.edits, end=rewriting.header_end)


def edited(source: _Source, edits: Sequence[Edit], *, end: int | None = None) -> Iterator[bytes]:
    """Give the bytes of a source with edits, up to an offset in the source or to its end."""
    reader = _Reader(source)
    for edit in edits:
        while reader.at < edit.at:
            yield reader.take(min(_CHUNK, edit.at - reader.at))
        reader.skip(edit.length)
        yield edit.new
    while chunk := reader.some(_CHUNK if end is None else min(_CHUNK, end - reader.at)):
        yield chunk


class _Found:
    """What there is in a dataset of what matters for a change."""

    def __init__(self, wanted: frozenset[int]) -> None:
        self._wanted = wanted | {_CHARACTER_SET}
        self.elements: dict[int, _Element] = {}
        self.values: dict[int, bytes] = {}
        self._places: dict[int, int] = {}
        self._lengths: dict[int, tuple[int, int]] = {}
        self._originals: tuple[_Element, int] | None = None

    def read(self, reader: _Reader, transfer_syntax: str) -> tuple[_Form, int]:
        """Read up to the pixel data; give the form, and where that begins."""
        order = ">" if transfer_syntax == ExplicitVRBigEndian else "<"
        form = _Form(transfer_syntax == ImplicitVRLittleEndian, order)
        last = -1
        first = True
        while start := reader.some(8):
            if first:
                # As the first element says, whatever was negotiated: such datasets occur, and are read like that.
                form, first = _Form(not _says_vr(start), order), False
            element = _begin(reader, start, form)
            if element.tag >= _PIXELS:
                return form, element.at
            for tag in self._missing(last, element.tag):
                self._places.setdefault(tag, element.at)
            if element.tag <= last and element.tag in {*self._wanted, ORIGINAL_ATTRIBUTES}:
                raise NotRewritableError("the dataset's elements are out of order or repeated (PS3.5 section 7.1)")
            last = max(last, element.tag)
            self._take(reader, element, form)
        if first:
            raise UnreadableDatasetError("the dataset holds no element")
        return form, reader.at

    def place(self, tag: int, end: int) -> int:
        """Tell where an element belongs that isn't there: before the first with a greater tag."""
        return self._places.get(tag, end)

    def noted(self, form: _Form, before: Mapping[int, tuple[bytes, bytes]], note: Note, end: int) -> Iterator[Edit]:
        """Add an item to (0400,0561), or the sequence with one item."""
        if self._originals is None:
            item = _item(form, before, note)
            yield Edit(
                self.place(ORIGINAL_ATTRIBUTES, end), 0, _head(form, ORIGINAL_ATTRIBUTES, b"SQ", len(item)) + item
            )
            return
        element, after = self._originals
        # PS3.5 section 6.2.2: what is in an element of VR UN is implicit little endian.
        item = _item(_Form(True, "<") if element.vr == b"UN" else form, before, note)
        if element.length == _UNDEFINED:
            yield Edit(after - 8, 0, item)
        else:
            yield Edit(element.value_at - 4, 4, struct.pack(form.order + "L", element.length + len(item)))
            yield Edit(after, 0, item)

    def group_lengths(self, form: _Form, edits: Sequence[Edit]) -> Iterator[Edit]:
        """Mend the group lengths (gggg,0000), retired and still written, of the groups that change their length."""
        grown: dict[int, int] = {}
        for edit in edits:
            group = self._group_at(edit, form)
            grown[group] = grown.get(group, 0) + len(edit.new) - edit.length
        for group, growth in grown.items():
            if group in self._lengths and growth:
                at, length = self._lengths[group]
                yield Edit(at, 4, struct.pack(form.order + "L", length + growth))

    def _group_at(self, edit: Edit, form: _Form) -> int:
        originals = self._originals
        if originals is not None and edit.at > originals[0].at:
            return ORIGINAL_ATTRIBUTES >> 16
        return int(struct.unpack_from(form.order + "H", edit.new)[0])

    def _missing(self, last: int, tag: int) -> Iterator[int]:
        return (each for each in {*self._wanted, ORIGINAL_ATTRIBUTES} if last < each < tag)

    def _take(self, reader: _Reader, element: _Element, form: _Form) -> None:
        if element.length == _UNDEFINED:
            if element.tag in self._wanted:
                raise NotRewritableError("an identifier of the dataset is a sequence")
            _skip_items(reader, _within(element, form), 0)
        elif element.tag in self._wanted:
            if element.length > _LONGEST_VALUE:
                raise NotRewritableError("an identifier of the dataset is longer than any can be")
            self.elements[element.tag] = element
            self.values[element.tag] = reader.take(element.length)
        elif not element.tag & 0xFFFF and element.length == 4:  # noqa: PLR2004 (an unsigned long)
            self._lengths[element.tag >> 16] = (
                element.value_at, struct.unpack(form.order + "L", reader.take(4))[0]
            )  # fmt: skip
        else:
            reader.skip(element.length)
        if element.tag == ORIGINAL_ATTRIBUTES:
            self._originals = (element, reader.at)


def _begin(reader: _Reader, start: bytes, form: _Form) -> _Element:
    at = reader.at - len(start)
    if len(start) < 8:  # noqa: PLR2004 (tag and length)
        raise UnreadableDatasetError(_ENDS_EARLY)
    group, number = struct.unpack_from(form.order + "HH", start)
    vr = start[4:6]
    if form.implicit or group == _ITEM >> 16 or not _says_vr(start):
        (length,) = struct.unpack_from(form.order + "L", start, 4)
        vr = b""
    elif vr in _LONG_VRS:
        (length,) = struct.unpack(form.order + "L", reader.take(4))
    else:
        (length,) = struct.unpack_from(form.order + "H", start, 6)
    return _Element(group << 16 | number, vr, at, reader.at, length)


def _says_vr(start: bytes) -> bool:
    # PS3.5 section 7.1.2: two upper case letters. As a length they would be a first element of 16 KiB and more.
    return len(start) >= 6 and all(0x41 <= byte <= 0x5A for byte in start[4:6])  # noqa: PLR2004 (A and Z)


def _within(element: _Element, form: _Form) -> _Form:
    return _Form(True, "<") if element.vr == b"UN" else form


def _skip_items(reader: _Reader, form: _Form, depth: int) -> None:
    """Read past the items of a sequence of undefined length, or the fragments of encapsulated data."""
    if depth > _DEEPEST:
        raise UnreadableDatasetError("the dataset's sequences are nested too deeply")
    while True:
        start = reader.take(8)
        group, number, length = struct.unpack(form.order + "HHL", start)
        tag = group << 16 | number
        if tag == _SEQUENCE_END:
            return
        if tag != _ITEM:
            raise UnreadableDatasetError("a sequence holds something that is no item")
        if length != _UNDEFINED:
            reader.skip(length)
            continue
        while (element := _begin(reader, reader.take(8), form)).tag != _ITEM_END:
            if element.length == _UNDEFINED:
                _skip_items(reader, _within(element, form), depth + 1)
            else:
                reader.skip(element.length)


def _item(form: _Form, before: Mapping[int, tuple[bytes, bytes]], note: Note) -> bytes:
    old = b"".join(_element(form, tag, vr, value) for tag, (vr, value) in sorted(before.items()))
    modified = _delimited(form, old)
    said = (
        (_MODIFIED_AT, b"DT", f"{note.at:%Y%m%d%H%M%S.%f}+0000"),
        (_SYSTEM, b"LO", note.system),
        (_SOURCE, b"LO", note.source),
        (_REASON, b"CS", note.reason),
    )
    content = _head(form, _MODIFIED, b"SQ", len(modified)) + modified
    content += b"".join(_element(form, tag, vr, _padded(vr, text.encode("ascii", "replace"))) for tag, vr, text in said)
    return _delimited(form, content)


def _delimited(form: _Form, content: bytes) -> bytes:
    return struct.pack(form.order + "HHL", _ITEM >> 16, _ITEM & 0xFFFF, len(content)) + content


def _element(form: _Form, tag: int, vr: bytes, value: bytes) -> bytes:
    return _head(form, tag, vr, len(value)) + value


def _head(form: _Form, tag: int, vr: bytes, length: int) -> bytes:
    begin = struct.pack(form.order + "HH", tag >> 16, tag & 0xFFFF)
    if form.implicit:
        return begin + struct.pack(form.order + "L", length)
    if vr in _LONG_VRS:
        return begin + vr + struct.pack(form.order + "HL", 0, length)
    return begin + vr + struct.pack(form.order + "H", length)


def _padded(vr: bytes, value: bytes) -> bytes:
    return value + (b"\0" if vr == b"UI" else b" ") * (len(value) % 2)


def _same(vr: bytes, old: bytes, new: bytes) -> bool:
    return old == new or old.rstrip(b"\0 ") == new.rstrip(b"\0 ") or (vr == b"UI" and old.strip() == new.rstrip(b"\0"))


def _encodings(named: bytes) -> list[str]:
    names = [name.strip() for name in named.decode("ascii", "replace").strip(" \0").split("\\")]
    if names == [""]:
        return []
    try:
        with warnings.catch_warnings():
            # A warning may quote a value.
            warnings.simplefilter("ignore")
            return convert_encodings(names)
    except (LookupError, ValueError, TypeError):
        return []


def _encoded(tag: int, text: str, encodings: Sequence[str]) -> bytes:
    if text.isascii():
        return text.encode()
    if encodings and dictionary_VR(tag) in {"LO", "PN", "SH"}:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            # Every part between delimiters begins in the first character set, PS3.5 section 6.1.2.5.3.
            value = b"=".join(
                b"^".join(encode_string(part, encodings) for part in group.split("^")) for group in text.split("=")
            )
            if decode_bytes(value, encodings, {0x5E, 0x3D}) == text:
                return value
    raise NotRewritableError(
        f"the dataset's character set (0008,0005) has not all characters of the new value of "
        f"({tag >> 16:04X},{tag & 0xFFFF:04X}): write it in the characters that the dataset can hold"
    )
