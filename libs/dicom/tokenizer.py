"""Elements out of the bytes of a dataset, PS3.5 section 7: where values begin and end, and nothing of what they mean.

Where the Standard is broken in ways that occur in the field, it is read as its writer meant it: an element of an
explicit dataset whose VR is none is taken for an implicit one, and a dataset whose first element says otherwise than
its transfer syntax is read as that element says. Lengths are believed: what they contradict is unreadable.
"""

from collections.abc import Callable, Container
from dataclasses import dataclass
from struct import Struct
from typing import Any, Final, NamedTuple, cast

from libs.dicom import dictionary

#: Pixel data and its kin (7FE0,xxxx), and whatever follows: where a header ends.
PIXELS: Final = 0x7FE00000
UNDEFINED: Final = 0xFFFFFFFF
_ITEM: Final = 0xFFFEE000
_ITEM_END: Final = 0xFFFEE00D
_SEQUENCE_END: Final = 0xFFFEE0DD
_HEAD: Final = 8
_LONG: Final = 4
#: PS3.5 section 7.1.2: VRs with a length of 16 and of 32 bits, as they stand in the bytes.
_SHORT_VRS: Final = {
    vr.encode(): vr
    for vr in (
        *("AE", "AS", "AT", "CS", "DA", "DS", "DT", "FD", "FL", "IS", "LO", "LT", "PN", "SH", "SL", "SS", "ST", "TM"),
        *("UI", "UL", "US"),
    )
}
_LONG_VRS: Final = {
    vr.encode(): vr for vr in ("OB", "OD", "OF", "OL", "OV", "OW", "SQ", "SV", "UC", "UN", "UR", "UT", "UV")
}
_NONE: Final[dict[bytes, str]] = {}
#: VRs of which most readers want no value, so that none is held.
_BULK: Final = frozenset({"OB", "OD", "OF", "OL", "OV", "OW"})

#: One element as it stands there: the VR that it says, or empty if it says none; and the value field, of a sequence all
#: its items without the sequence delimiter.
Raw = tuple[str, bytes]


class MalformedError(Exception):
    """The bytes contradict themselves. The text holds no values."""


@dataclass(frozen=True)
class Form:
    """How elements are encoded: PS3.5 section 7.1 and 7.3."""

    implicit: bool
    little_endian: bool


class Rest(NamedTuple):
    """Where reading has come to.

    Attributes
    ----------
    at
        Offset of the first element that was not taken; beyond the data's end where a value is being skipped.
    need
        Length that the data must have for the next step; 0 if the dataset ended here.
    tag
        Tag of the element at `at`, as far as it is known; -1 if it isn't.
    open
        The element at `at` has no length: `need` is only the least.
    """

    at: int
    need: int
    tag: int
    open: bool = False


class _Words(NamedTuple):
    """What unpacks the three words that a head is made of."""

    implicit: Callable[[bytes, int], tuple[int, int, int]]
    explicit: Callable[[bytes, int], tuple[int, int, bytes, int]]
    length: Callable[[bytes, int], tuple[int]]


def _words(order: str) -> _Words:
    return _Words(*(cast("Any", Struct(order + code).unpack_from) for code in ("HHL", "HH2sH", "L")))


_WORDS: Final = {True: _words("<"), False: _words(">")}


def form_of(data: bytes, said: Form) -> Form:
    """Tell how a dataset is encoded: as its transfer syntax says, unless its first element shows that it isn't."""
    if len(data) < 6 or _says_vr(data, 0) is not said.implicit:  # noqa: PLR2004 (tag and VR)
        return said
    return Form(implicit=not _says_vr(data, 0), little_endian=said.little_endian)


def scan(  # noqa: C901, PLR0912 (one loop on purpose: a call for each element costs more than the reading)
    data: bytes,
    at: int,
    found: dict[int, Raw],
    form: Form,
    *,
    wanted: Container[int] | None = None,
    stop: int = PIXELS,
    binary: bool = False,
) -> Rest:
    """Take the elements of one dataset, without those inside its sequences.

    Parameters
    ----------
    data
        Bytes that hold the dataset, or its beginning.
    at
        Offset of an element.
    found
        Gets the elements by tag. One that repeats replaces the one before it.
    form
        How they are encoded.
    wanted
        Tags to take; the others are skipped. All, if None.
    stop
        First tag that is not part of the dataset.
    binary
        Whether values of binary VRs (OB, OW and the like) are taken; else these elements are without.

    Raises
    ------
    MalformedError
        A sequence holds something that is no item.
    """
    words = _WORDS[form.little_endian]
    head = words.explicit
    short_vrs = _NONE if form.implicit else _SHORT_VRS
    valueless: Container[str] = () if binary else _BULK
    size = len(data)
    last = size - _HEAD
    tag = -1
    while at <= last:
        group, number, code, length = head(data, at)
        tag = group << 16 | number
        if tag >= stop:
            return Rest(at, 0, tag)
        vr = short_vrs.get(code)
        if vr is not None:
            end = at + _HEAD + length
            if wanted is None or tag in wanted:
                if end > size:
                    return Rest(at, end, tag)
                found[tag] = (vr, data[at + _HEAD : end])
            at = end
            continue
        value = at + _HEAD
        if form.implicit or not b"AA" <= code <= b"ZZ":
            vr = ""
            _, _, length = words.implicit(data, at)
        elif code in _LONG_VRS:
            if size - value < _LONG:
                return Rest(at, value + _LONG, tag)
            vr = _LONG_VRS[code]
            (length,) = words.length(data, value)
            value += _LONG
        else:
            # A VR of a later edition, or none at all: read as far as it goes.
            vr = code.decode("latin-1")
        if length == UNDEFINED:
            end = past_items(data, value, form)
            if end < 0:
                return Rest(at, size + 1, tag, open=True)
            if wanted is None or tag in wanted:
                found[tag] = (_undefined_vr(vr, tag), data[value : end - _HEAD])
            at = end
            continue
        end = value + length
        if wanted is None or tag in wanted:
            if vr in valueless:
                found[tag] = (vr, b"")
            elif end > size:
                return Rest(at, end, tag)
            else:
                found[tag] = (vr, data[value:end])
        at = end
    # Behind the end where a value that isn't held was passed over.
    return Rest(at, at, tag) if at > size else Rest(at, at + _HEAD, -1)


def items(value: bytes, form: Form, *, binary: bool = False) -> list[tuple[dict[int, Raw], Form]]:
    """Take the items of a sequence: the elements of each, and how they are encoded.

    Parameters
    ----------
    value
        The sequence's value field.
    form
        How the dataset is encoded that the sequence stands in.
    binary
        As for `scan`.

    Raises
    ------
    MalformedError
        The value is no list of items, or ends inside one.
    """
    words = _WORDS[form.little_endian]
    taken: list[tuple[dict[int, Raw], Form]] = []
    at = 0
    while at < len(value):
        tag, length = _delimiter(value, at, words)
        at += _HEAD
        if tag == _SEQUENCE_END:
            break
        own = _form_of_item(value[at : at + _HEAD], form)
        elements: dict[int, Raw] = {}
        # An item of undefined length is read where it stands: of thousands, each copy would take all the rest.
        item, start = (value, at) if length == UNDEFINED else (value[at : at + length], 0)
        rest = scan(item, start, elements, own, stop=_ITEM, binary=binary)
        if rest.need and rest.at != len(item):
            raise MalformedError("an item ends inside an element")
        taken.append((elements, own))
        at = rest.at + _HEAD if length == UNDEFINED else at + length
    return taken


def past_items(data: bytes, at: int, form: Form) -> int:  # noqa: C901 (its branches are the grammar's)
    """Give the offset after the sequence delimiter of what begins at `at`; negative if the data ends before."""
    words = _WORDS[form.little_endian]
    size = len(data)
    outer: list[Form] = []
    in_items = True
    while True:
        if size - at < _HEAD:
            return -1
        if in_items:
            tag, length = _delimiter(data, at, words)
            at += _HEAD
            if tag == _SEQUENCE_END:
                if not outer:
                    return at
                form = outer.pop()
                in_items = False
            elif length == UNDEFINED:
                if size - at < _HEAD:
                    return -1
                outer.append(form)
                form = _form_of_item(data[at : at + _HEAD], form)
                in_items = False
            else:
                at += length
            continue
        tag, length, value = _head(data, at, form, words)
        if value > size:
            return -1
        at = value
        if tag == _ITEM_END:
            form = outer.pop()
            in_items = True
        elif length == UNDEFINED:
            outer.append(form)
            in_items = True
        else:
            at += length


def _delimiter(data: bytes, at: int, words: _Words) -> tuple[int, int]:
    if len(data) - at < _HEAD:
        raise MalformedError("a sequence ends inside an item")
    group, number, length = words.implicit(data, at)
    tag: int = group << 16 | number
    if tag not in (_ITEM, _SEQUENCE_END):
        raise MalformedError("a sequence holds something that is no item")
    return tag, length


def _head(data: bytes, at: int, form: Form, words: _Words) -> tuple[int, int, int]:
    group, number, code, length = words.explicit(data, at)
    value = at + _HEAD
    if not form.implicit and code in _LONG_VRS:
        value += _LONG
        length = words.length(data, at + _HEAD)[0] if value <= len(data) else 0
    elif form.implicit or not b"AA" <= code <= b"ZZ":
        _, _, length = words.implicit(data, at)
    return group << 16 | number, length, value


def _form_of_item(item: bytes, outer: Form) -> Form:
    # PS3.5 section 6.2.2 note 2: what is in an element of VR UN is implicit, whatever stands around it.
    if outer.implicit or len(item) < 6 or _says_vr(item, 0):  # noqa: PLR2004 (tag and VR)
        return outer
    return Form(implicit=True, little_endian=outer.little_endian)


def _undefined_vr(vr: str, tag: int) -> str:
    if vr not in ("", "UN"):
        return vr
    known = dictionary.known_vr(tag) if not vr else "UN"
    return "SQ" if known == "UN" else known


def _says_vr(data: bytes, at: int) -> bool:
    # PS3.5 section 7.1.2: two upper case letters. As a length they would be a first element of 16 KiB and more.
    return 0x41 <= data[at + 4] <= 0x5A and 0x41 <= data[at + 5] <= 0x5A  # noqa: PLR2004 (A and Z)
