"""Elements read in one uncompressed encoding and written in another, PS3.5 section 7; see `reencode`."""

import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final, Literal

from libs.dicom import elementhead, vr
from libs.dicom.identity import Source
from libs.dicom.tokenizer import UNDEFINED, Form

CHUNK: Final = 1 << 18
#: Of an element: the least that it has, and what the longest one has, with what is looked at behind it.
HEAD: Final = 8
AHEAD: Final = 24
#: What is held back until Pixel Representation is known; the groups before it are far shorter.
_LONGEST_HELD: Final = 1 << 22
_DEEPEST: Final = 64
_NO_LIMIT: Final = 1 << 62
_PIXEL_REPRESENTATION: Final = 0x00280103
_LUT_DESCRIPTOR: Final = 0x00283002
_PIXEL_DATA: Final = 0x7FE00010
#: Samples that can be wider than a word of VR OW, and where their width stands.
_WIDTH_OF: Final = {_PIXEL_DATA: 0x00280100, 0x54001010: 0x54001004}
_WIDEST: Final = 16
#: Length of an unsigned short.
_NUMBER: Final = 2
_REMEMBERED: Final = frozenset({_PIXEL_REPRESENTATION, _LUT_DESCRIPTOR, *_WIDTH_OF.values()})
_EXPLICIT_FORM: Final = Form(implicit=False, little_endian=True)
_UNKNOWN: Final = Form(implicit=True, little_endian=True)
_ITEM_OPENS: Final = elementhead.written(elementhead.ITEM, b"", UNDEFINED, implicit=True)
_ITEM_CLOSES: Final = elementhead.written(elementhead.ITEM_END, b"", 0, implicit=True)
_SEQUENCE_CLOSES: Final = elementhead.written(elementhead.SEQUENCE_END, b"", 0, implicit=True)
_unpack_plain = struct.Struct("<HH2sH").unpack_from
_pack_plain = struct.Struct("<HHL").pack


class NotReencodableError(Exception):
    """The dataset is damaged, or can't be said in the other transfer syntax. The text says why, without values."""

    safe_to_log = True


class Stream:
    """A source whose deflated bytes may be damaged."""

    def __init__(self, source: Source) -> None:
        self._source = source

    def read(self, length: int) -> bytes:
        """Give that many bytes; fewer at the end, or if the source does so."""
        try:
            return self._source.read(length)
        except zlib.error as error:
            raise NotReencodableError("the dataset is not deflated, as its transfer syntax says it is") from error


@dataclass(slots=True)
class _Open:
    """A dataset, an item or a sequence whose end has not come yet.

    Attributes
    ----------
    end
        Offset that nothing in it goes beyond.
    sized
        It ends there; otherwise at its delimiter, before.
    form
        How what is in it is read.
    implicit
        How what is in it is written.
    sequence
        It holds items, not elements.
    doubtful
        Its items are implicit by PS3.5 section 6.2.2 note 2; some writers leave them explicit.
    said
        Numbers in it that tell the VR of other elements, by tag.
    """

    end: int
    sized: bool
    form: Form
    implicit: bool
    sequence: bool = False
    doubtful: bool = False
    said: dict[int, int] = field(default_factory=dict)
    #: Its elements only change their heads, as nearly all do.
    plain: bool = field(init=False)

    def __post_init__(self) -> None:
        self.plain = self.implicit and not self.sequence and self.form == _EXPLICIT_FORM


class Reencoding:
    """A dataset on its way: elements are read in a window of it, values beyond the window are passed on.

    Parameters
    ----------
    source, first
        What is still to be read, and the first bytes, which were read already.
    form
        How the dataset is encoded.
    implicit
        Whether it is to be implicit, or explicit; little endian in any case.
    """

    def __init__(self, source: Stream, first: bytes, form: Form, *, implicit: bool) -> None:
        self._source = source
        self._data = first
        #: Offset of the window in the dataset, and of the next element in the window.
        self._base = 0
        self._at = 0
        self._open = [_Open(end=_NO_LIMIT, sized=False, form=form, implicit=implicit)]
        self._out: list[bytes] = []
        #: Of the value that is being passed on: bytes to come, bytes of a word to be swapped, padding.
        self._left = 0
        self._word = 1
        self._pad = b""
        #: Heads in `_out` that say US and may have to say SS.
        self._undecided: list[int] = []
        self._root_tag = 0

    def chunks(self) -> Iterator[bytes]:
        """Give the dataset in pieces of about `CHUNK` bytes. Raises NotReencodableError."""
        more = True
        while more:
            more = self._fill()
            self._take(more=more)
            if written := self._written():
                yield written
            while self._left:
                self._pass_on()
                if written := self._written():
                    yield written
        if len(self._open) > 1:
            raise NotReencodableError("the dataset ends inside a sequence")
        # A value of odd length that was padded, and its length not, is followed by a zero that nothing counts.
        if self._data[self._at :].strip(b"\0"):
            raise NotReencodableError("the dataset ends inside an element")
        self._decide()
        if written := self._written():
            yield written

    def _fill(self) -> bool:
        more = self._source.read(CHUNK)
        self._base += self._at
        self._data = self._data[self._at :] + more
        self._at = 0
        return bool(more)

    def _written(self) -> bytes:
        if self._undecided:
            if sum(map(len, self._out)) > _LONGEST_HELD:
                raise NotReencodableError(
                    "an element's VR depends on Pixel Representation (0028,0103), which does not come within 4 MiB"
                )
            return b""
        written = b"".join(self._out)
        self._out.clear()
        return written

    def _take(self, *, more: bool) -> None:
        """Take what stands whole in the window, and the beginning of the value that doesn't."""
        at = self._at
        last = len(self._data) - (AHEAD if more else HEAD)
        while not self._left:
            top = self._open[-1]
            end = top.end - self._base
            if top.plain:
                at = self._take_plain(at, last, end)
            if at >= end:
                if not top.sized:
                    raise NotReencodableError("a sequence or an item ends without its delimiter")
                self._close()
            elif at > last:
                break
            else:
                at = self._item(at, top) if top.sequence else self._element(at, top)
        self._at = at

    def _take_plain(self, at: int, last: int, end: int) -> int:
        """Take elements that only change their heads, up to one that needs more thought."""
        data, out, short = self._data, self._out, vr.SHORT
        unpack, pack = _unpack_plain, _pack_plain
        end = min(end, len(data))
        while at <= last:
            group, number, code, length = unpack(data, at)
            value = at + HEAD
            stop = value + length
            if code not in short or stop > end or length & 1 or not number or not group:
                break
            out += (pack(group, number, length), data[value:stop])
            at = stop
        return at

    def _element(self, at: int, top: _Open) -> int:
        tag, code, length, value = elementhead.read(self._data, at, top.form)
        if tag >> 16 == elementhead.DELIMITERS:
            return self._item_end(tag, value, top)
        if not code and not top.form.little_endian:
            raise NotReencodableError("an element of a big endian dataset says no VR")
        self._come_to(tag)
        if length == UNDEFINED:
            return self._sequence(tag, code, value, top)
        stop = value + length
        if self._base + stop > top.end:
            raise NotReencodableError("an element is longer than what it stands in")
        if not tag & 0xFFFF:
            if length > HEAD:
                raise NotReencodableError("a group length is no number")
            return stop
        if tag in _REMEMBERED and length >= _NUMBER:
            order: Literal["little", "big"] = "little" if top.form.little_endian else "big"
            top.said[tag] = int.from_bytes(self._data[value : value + _NUMBER], order)
        # Written implicit as it was read implicit: nothing depends on its VR.
        if not code and not top.implicit:
            code = self._implied(tag, length, top)
        if code != b"SQ" or not length:
            self._out.append(elementhead.written(tag, code, length, implicit=top.implicit))
            return self._value(tag, code, value, length, top)
        self._out.append(elementhead.written(tag, code, UNDEFINED, implicit=top.implicit))
        self._push(_Open(self._base + stop, sized=True, form=top.form, implicit=top.implicit, sequence=True))
        return value

    def _come_to(self, tag: int) -> None:
        """Note how far the dataset itself is read: behind its place, Pixel Representation is absent."""
        if not tag >> 16:
            # Where a damaged length led into the middle of pixels, which are zeros often.
            raise NotReencodableError("the dataset holds an element of group 0000, which is for commands")
        if len(self._open) == 1:
            self._root_tag = tag
            if self._undecided and tag > _PIXEL_REPRESENTATION:
                self._decide()

    def _decide(self) -> None:
        if self._open[0].said.get(_PIXEL_REPRESENTATION):
            for index in self._undecided:
                head = self._out[index]
                self._out[index] = head[:4] + b"SS" + head[6:]
        self._undecided.clear()

    def _implied(self, tag: int, length: int, top: _Open) -> bytes:
        """Give the VR of an element that was read without one, PS3.5 section A.1 and PS3.6."""
        code = vr.implied(tag)
        return self._one_of(code, length, top) if b" " in code else code

    def _one_of(self, codes: bytes, length: int, top: _Open) -> bytes:
        if codes == b"US or SS":
            known = (each.said.get(_PIXEL_REPRESENTATION) for each in reversed(self._open))
            sign = next((each for each in known if each is not None), None)
            if sign is None and self._root_tag < _PIXEL_REPRESENTATION and length <= vr.LONGEST_SHORT:
                self._undecided.append(len(self._out))
            return b"SS" if sign else b"US"
        if codes == b"US or OW" and length == _NUMBER and top.said.get(_LUT_DESCRIPTOR) == 1:
            # PS3.3 section C.11.1.1.1.
            return b"US"
        return b"OW"

    def _sequence(self, tag: int, code: bytes, value: int, top: _Open) -> int:
        """Begin what has no length."""
        if code not in (b"", b"SQ", b"UN") or tag == _PIXEL_DATA:
            raise NotReencodableError(
                f"the value of ({tag >> 16:04X},{tag & 0xFFFF:04X}) has no length: it is compressed, or damaged"
            )
        known = code == b"SQ" or (not code and vr.implied(tag) == b"SQ")
        self._out.append(elementhead.written(tag, b"SQ" if known else b"UN", UNDEFINED, implicit=top.implicit))
        unknown = code != b"SQ" and not top.form.implicit
        self._push(
            _Open(
                top.end,
                sized=False,
                form=_UNKNOWN if unknown else top.form,
                # PS3.5 section 6.2.2 note 2: what is in an element of VR UN is implicit.
                implicit=top.implicit or not known,
                sequence=True,
                doubtful=unknown,
            )
        )
        return value

    def _item(self, at: int, top: _Open) -> int:
        tag, _, length, value = elementhead.read(self._data, at, top.form)
        if tag == elementhead.SEQUENCE_END:
            self._end_early(value, top)
            return value
        if tag != elementhead.ITEM:
            raise NotReencodableError("a sequence holds something that is no item")
        sized = length != UNDEFINED
        if sized and self._base + value + length > top.end:
            raise NotReencodableError("an item is longer than what it stands in")
        form = self._form_of_item(value, length, top)
        if not length or (sized and top.form.implicit and form.implicit and top.implicit and not length % 2):
            # It is written as it was read: not looked into.
            self._out.append(elementhead.written(tag, b"", length, implicit=True))
            return self._value(tag, b"UN", value, length, top)
        self._out.append(_ITEM_OPENS)
        self._open.append(_Open(self._base + value + length if sized else top.end, sized, form, top.implicit))
        return value

    def _form_of_item(self, value: int, length: int, top: _Open) -> Form:
        code = self._data[value + 4 : value + 6]
        if length < HEAD or len(code) < 2:  # noqa: PLR2004 (a VR)
            return top.form
        explicit = (top.doubtful and code in vr.KNOWN) if top.form.implicit else elementhead.is_vr(code)
        return Form(implicit=not explicit, little_endian=top.form.little_endian)

    def _item_end(self, tag: int, value: int, top: _Open) -> int:
        if tag != elementhead.ITEM_END or len(self._open) == 1:
            raise NotReencodableError("a delimiter stands where nothing is open")
        self._end_early(value, top)
        return value

    def _end_early(self, value: int, top: _Open) -> None:
        if self._base + value > top.end or (top.sized and self._base + value != top.end):
            raise NotReencodableError("a delimiter contradicts a length")
        self._close()

    def _push(self, sequence: _Open) -> None:
        # The root, and a sequence and an item for each level.
        if len(self._open) >= 2 * _DEEPEST:
            raise NotReencodableError(f"the dataset's sequences are nested more than {_DEEPEST} levels deep")
        self._open.append(sequence)

    def _close(self) -> None:
        self._out.append(_SEQUENCE_CLOSES if self._open.pop().sequence else _ITEM_CLOSES)

    def _value(self, tag: int, code: bytes, value: int, length: int, top: _Open) -> int:
        word = 1 if top.form.little_endian else self._swap_of(tag, code, length, top)
        data = self._data
        stop = min(value + length, len(data))
        stop -= (stop - value) % word
        self._out.append(vr.swapped(data[value:stop], word))
        pad = vr.padding(code or vr.implied(tag)) if length % 2 else b""
        self._left = value + length - stop
        if not self._left:
            self._out.append(pad)
        self._word, self._pad = word, pad
        return stop

    def _swap_of(self, tag: int, code: bytes, length: int, top: _Open) -> int:
        word = vr.WORD.get(code)
        if word is None or length % word:
            raise NotReencodableError("a value of a big endian dataset does not fit its VR")
        if code == b"OW" and top.said.get(_WIDTH_OF.get(tag, 0), 0) > _WIDEST:
            # PS3.5 section 6.2 swaps words of 16 bits; much software swaps the whole sample.
            raise NotReencodableError(
                "its samples are wider than 16 bits and in big endian words of VR OW: their byte order is not certain"
            )
        return word

    def _pass_on(self) -> None:
        """Pass on the next part of a value that goes beyond the window."""
        rest = self._data[self._at :]
        more = self._source.read(min(CHUNK, self._left - len(rest)))
        if not more:
            raise NotReencodableError("the dataset ends inside an element")
        data = rest + more if rest else more
        usable = len(data) - len(data) % self._word
        self._out.append(vr.swapped(data[:usable], self._word))
        self._left -= usable
        if not self._left:
            self._out.append(self._pad)
        self._base += self._at + usable
        self._data, self._at = data[usable:], 0
