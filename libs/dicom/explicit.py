"""Elements of a dataset in Explicit VR Little Endian, one after the other, out of a source that is read once.

PS3.5 section 7.1.2. Only the dataset itself is looked at: a sequence is one element with all that is in it.
"""

from collections.abc import Iterable, Iterator, Mapping
from typing import Final, NamedTuple

from libs.dicom import elementhead, tokenizer, vr
from libs.dicom.identity import Source
from libs.dicom.tokenizer import UNDEFINED, Form, MalformedError
from libs.dicom.untranscodable import NotTranscodableError

FORM: Final = Form(implicit=False, little_endian=True)
PIXEL_DATA: Final = 0x7FE00010
FLOAT_PIXELS: Final = frozenset({0x7FE00008, 0x7FE00009})
#: Elements whose values are not held.
STREAMED: Final = FLOAT_PIXELS | {PIXEL_DATA}
_CHUNK: Final = 1 << 16
_AHEAD: Final = 12
_HEAD: Final = 8
_ENDS_EARLY: Final = "the file ends inside an element"
_TOO_LONG: Final = "its header is longer than what is allowed"


class Element(NamedTuple):
    """One element.

    Attributes
    ----------
    tag
        As group and element number in 32 bits.
    vr
        Two letters, or empty if it says none.
    value
        Value field; of a sequence without a length its items, and the delimiter.
    raw
        All its bytes, head and value.
    """

    tag: int
    vr: bytes
    value: bytes
    raw: bytes


class Head(NamedTuple):
    """The beginning of an element whose value is streamed: tag, VR, and length, `UNDEFINED` if encapsulated."""

    tag: int
    vr: bytes
    length: int


class Chunks:
    """A source made of pieces."""

    def __init__(self, pieces: Iterator[bytes]) -> None:
        self._pieces = pieces
        self._rest = b""

    def read(self, length: int, /) -> bytes:
        """Give that many bytes, fewer at the end only."""
        parts = [self._rest]
        held = len(self._rest)
        while held < length and (piece := next(self._pieces, b"")):
            parts.append(piece)
            held += len(piece)
        data = b"".join(parts)
        self._rest = data[length:]
        return data[:length]


class Elements:
    """Reads elements.

    Parameters
    ----------
    source
        Positioned at the first element.
    longest
        Bytes that all elements together may have, without those whose values are streamed.
    form
        How they are encoded: explicit, but for datasets that are not what their transfer syntax says.
    """

    def __init__(self, source: Source, longest: int, form: Form = FORM) -> None:
        self._source = source
        self._form = form
        self._left = longest
        self._data = b""
        self._at = 0

    @property
    def ahead(self) -> int:
        """How many bytes of the source were read beyond what was taken."""
        return len(self._data) - self._at

    def take(self) -> Iterator[Element]:
        """Give elements up to one that is streamed, or the end.

        Raises
        ------
        NotTranscodableError
            The dataset is damaged, or longer than allowed.
        """
        while self._has(_AHEAD) or self.ahead >= _HEAD:
            try:
                tag, code, length, value = elementhead.read(self._data, self._at, self._form)
                if tag in STREAMED or (not tag and self._only_zeros()):
                    return
                before = value - self._at
                size = before + (length if length != UNDEFINED else self._of_items(before))
            except MalformedError as error:
                raise NotTranscodableError("damaged", f"its header cannot be parsed: {error}") from error
            self._left -= size
            if self._left < 0:
                raise NotTranscodableError("too-large", _TOO_LONG)
            if not self._has(size):
                raise NotTranscodableError("damaged", _ENDS_EARLY)
            start, self._at = self._at, self._at + size
            yield Element(tag, code, self._data[start + before : self._at], self._data[start : self._at])
        if not self._only_zeros():
            raise NotTranscodableError("damaged", _ENDS_EARLY)

    def head(self) -> Head | None:
        """Take the head of an element whose value is streamed; None at the end."""
        if self._only_zeros():
            return None
        tag, code, length, value = elementhead.read(self._data, self._at, self._form)
        self._at = value
        return Head(tag, code, length)

    def read(self, length: int, /) -> bytes:
        """Give the next bytes of the source, fewer at the end only."""
        taken = self._data[self._at : self._at + length]
        self._at += len(taken)
        if len(taken) == length:
            return taken
        more = self._source.read(length - len(taken))
        return taken + more if taken else more

    def _of_items(self, before: int) -> int:
        """Give how long the value is, with its delimiter, of a sequence that says no length."""
        while (end := tokenizer.past_items(self._data, self._at + before, self._form)) < 0:
            if self.ahead > self._left:
                raise NotTranscodableError("too-large", _TOO_LONG)
            if not self._more(self.ahead):
                raise NotTranscodableError("damaged", _ENDS_EARLY)
        return end - self._at - before

    def _has(self, length: int) -> bool:
        """Read on until so many bytes stand in the window; tells whether they do."""
        while self.ahead < length:
            if not self._more(length - self.ahead):
                return False
        return True

    def _more(self, length: int) -> bool:
        more = self._source.read(max(_CHUNK, length))
        self._data = self._data[self._at :] + more
        self._at = 0
        return bool(more)

    def _only_zeros(self) -> bool:
        """Tell whether nothing is left but zeros, which some writers leave behind the dataset."""
        return not self._data[self._at :].strip(b"\0")


def element(tag: int, code: bytes, value: bytes) -> bytes:
    """Write an element; a value of odd length is padded as its VR wants it."""
    head = elementhead.written(tag, code, len(value), implicit=False)
    if len(value) % 2:
        value += vr.padding(code)
    return head + value


def edited(elements: Iterable[Element], edits: Mapping[int, bytes | None]) -> Iterator[tuple[int, bytes]]:
    """Give tags and bytes of elements, some of them replaced, put in at their place, or (None) left out.

    Group lengths (gggg,0000), retired, are left out: they would no longer be right.
    """
    to_come = sorted((tag for tag, raw in edits.items() if raw is not None), reverse=True)
    for each in elements:
        while to_come and to_come[-1] <= each.tag:
            tag = to_come.pop()
            yield tag, edits[tag] or b""
        if each.tag & 0xFFFF and each.tag not in edits:
            # One that says no VR, as some do in an explicit dataset, says what it is by the dictionary (PS3.6).
            yield each.tag, each.raw if each.vr else element(each.tag, vr.implied(each.tag)[:2], each.value)
    while to_come:
        tag = to_come.pop()
        yield tag, edits[tag] or b""
