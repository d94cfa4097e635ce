"""Worklist items as datasets: only what was asked for, in the character set that the modality shows. Pure.

PS3.4 section K.4.1.1.3.2, PS3.5 sections 6.1, 6.2 and 7. There is no item that can't be written: what does not fit is
put in other letters, and said to be.
"""

import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from operator import itemgetter
from typing import Final, TypeAlias

from libs.dicom import charset, dictionary
from libs.dicom.charset import Encodings
from services.worklist.attributes import Attributes
from services.worklist.identifier import CHARACTER_SET, IMPLICIT, Key
from services.worklist.query import Level, Query
from services.worklist.transliteration import fitted

#: The character set follows from the text: Latin-1 if it does, else UTF-8.
AUTOMATIC: Final = "auto"
#: The default repertoire alone, which Specific Character Set says by having no value.
ASCII: Final = "ASCII"
_TIMEZONE: Final = 0x0008_0201
_LONG: Final = frozenset({"OB", "OD", "OF", "OL", "OV", "OW", "SQ", "SV", "UC", "UN", "UR", "UT", "UV"})
_BY_CHARACTER_SET: Final = frozenset({"LO", "LT", "PN", "SH", "ST", "UC", "UT"})
_NARRATIVE: Final = frozenset({"LT", "ST", "UT"})
_PLAIN_TEXT: Final = frozenset({"AE", "AS", "CS", "DA", "DS", "DT", "IS", "TM", "UI", "UR"})
_NUMBERS: Final = {"US": "H", "SS": "h", "UL": "I", "SL": "i", "UV": "Q", "SV": "q", "FL": "f", "FD": "d"}
_TEXT: Final = _BY_CHARACTER_SET | _PLAIN_TEXT
_TAG: Final = struct.Struct("<HH")
_SHORT_LENGTH: Final = struct.Struct("<H").pack
_LONG_LENGTH: Final = struct.Struct("<I").pack
_ITEM: Final = _TAG.pack(0xFFFE, 0xE000)
_LONGEST_SHORT: Final = 0xFFFE
#: What no text but a narrative one may hold, PS3.5 section 6.1.3.
_CONTROLS: Final = dict.fromkeys(range(0x20))
_IN_NARRATIVE: Final = {each: None for each in range(0x20) if chr(each) not in "\t\n\f\r"}


@dataclass(frozen=True)
class Answer:
    """One item as a dataset.

    Attributes
    ----------
    dataset
        Its bytes.
    replaced
        Keywords of attributes in which characters were changed so as to fit.
    """

    dataset: bytes
    replaced: frozenset[str]


_Values: TypeAlias = "tuple[str | list[_Element], ...]"
#: Tag, VR, values: texts, or of a sequence the elements of each item.
_Element: TypeAlias = tuple[int, str, _Values]


def answer(query: Query, item: Attributes, syntax: str, terms: Sequence[str]) -> Answer:
    """Write what a query asks for of an item.

    Parameters
    ----------
    syntax
        Transfer syntax: implicit or explicit VR, little endian.
    terms
        What the modality shows: values of Specific Character Set, or `auto`, or `ASCII` alone.
    """
    found = _of_keys(query.keys, item, query.level)
    if tuple(terms) == (AUTOMATIC,):
        terms = ("ISO_IR 100" if _is_latin(found) else "ISO_IR 192",)
    said = () if tuple(terms) == (ASCII,) else tuple(terms)
    writer = _Writer(syntax == IMPLICIT, charset.encodings(said or ("ISO_IR 6",)))
    written = writer.dataset([(CHARACTER_SET, "CS", said), *found])
    return Answer(written, frozenset(writer.replaced))


def _of_keys(keys: Iterable[Key], item: Attributes, level: Level | None) -> list[_Element]:
    """Take what the keys ask for; of sequences the matching items only, PS3.4 section C.2.2.2.6."""
    found: list[_Element] = []
    for key in keys:
        values = item.get(key.keyword, ())
        if key.items is None:
            # PS3.4 section K.4.1.1.3.2: never without a value.
            if values or key.tag != _TIMEZONE:
                found.append((key.tag, key.vr, tuple(each for each in values if isinstance(each, str))))
            continue
        asked = () if level is None else level.within(key.keyword)
        kept = [
            each
            for each in values
            if not isinstance(each, str) and (not asked or any(inner.matches(each) for inner in asked))
        ]
        within = next((each for each in key.items if each), None)
        if within is None:
            found.append((key.tag, "SQ", tuple(_whole(each) for each in kept)))
        else:
            inner = asked[0] if asked else None
            found.append((key.tag, "SQ", tuple(_of_keys(within, each, inner) for each in kept)))
    return found


def _whole(item: Attributes) -> list[_Element]:
    """Take all of an item, as a sequence key without keys of its own asks for it."""
    found: list[_Element] = []
    for keyword, values in item.items():
        tag = dictionary.tag_of(keyword)
        if tag is None or tag == CHARACTER_SET:
            continue
        vr = dictionary.known_vr(tag).partition(" or ")[0]
        if vr == "SQ":
            found.append((tag, vr, tuple(_whole(each) for each in values if not isinstance(each, str))))
        else:
            found.append((tag, vr, tuple(each for each in values if isinstance(each, str))))
    return found


def _is_latin(found: Iterable[_Element]) -> bool:
    """Tell whether Latin-1 has all of it."""
    for _, vr, values in found:
        for value in values:
            if not isinstance(value, str):
                if not _is_latin(value):
                    return False
            elif vr in _BY_CHARACTER_SET and not value.isascii() and max(value) > "\xff":
                return False
    return True


def _fits(text: str, encodings: Encodings) -> bool:
    try:
        charset.encode(text, encodings)
    except UnicodeEncodeError:
        return False
    return True


class _Writer:
    """Writes elements, and remembers what did not fit."""

    def __init__(self, implicit: bool, encodings: Encodings) -> None:
        self._implicit = implicit
        self._encodings = encodings
        self.replaced: set[str] = set()

    def dataset(self, elements: Iterable[_Element]) -> bytes:
        """Write elements in the order of their tags."""
        return b"".join(self._element(*each) for each in sorted(elements, key=itemgetter(0)))

    def _element(self, tag: int, vr: str, values: _Values) -> bytes:
        if vr == "SQ":
            value = b"".join(
                _ITEM + _LONG_LENGTH(len(item)) + item
                for item in (self.dataset(each) for each in values if not isinstance(each, str))
            )
        else:
            value = self._value(tag, vr, values) if values else b""
            if len(value) % 2:
                value += b"\0" if vr in ("UI", "UN") else b" "
        if self._implicit or vr in _LONG:
            return _head(tag, vr, self._implicit) + _LONG_LENGTH(len(value)) + value
        if len(value) > _LONGEST_SHORT:
            # PS3.5 section 6.2.2: what is too long for its VR goes as UN.
            return _head(tag, "UN", False) + _LONG_LENGTH(len(value)) + value
        return _head(tag, vr, False) + _SHORT_LENGTH(len(value)) + value

    def _value(self, tag: int, vr: str, values: _Values) -> bytes:
        if len(values) == 1 and vr in _TEXT:
            only = values[0]
            if isinstance(only, str) and only.isascii() and only.isprintable():
                # As nearly all are.
                return only.encode("ascii")
        texts = [each for each in values if isinstance(each, str)]
        if vr in _NUMBERS:
            return b"".join(_number(vr, each) for each in texts)
        if vr in _BY_CHARACTER_SET:
            allowed = _IN_NARRATIVE if vr in _NARRATIVE else _CONTROLS
            written = [self._text(tag, vr, each.translate(allowed)) for each in texts]
        elif vr in _PLAIN_TEXT:
            written = [each.translate(_CONTROLS).encode("ascii", "replace") for each in texts]
        else:
            # Binary ones are not in orders.
            written = []
        return b"\\".join(written)

    def _text(self, tag: int, vr: str, text: str) -> bytes:
        if text.isascii():
            return text.encode("ascii")
        if vr != "PN":
            return self._piece(tag, text)
        groups = text.split("=")
        whole = [all(_fits(part, self._encodings) for part in group.split("^")) for group in groups]
        if any(fits for fits, group in zip(whole, groups, strict=True) if group) and not all(whole):
            # A name that is there in letters that fit needs no others.
            self._changed(tag)
            groups = [group if fits else "" for fits, group in zip(whole, groups, strict=True)]
        # Delimiters stand in the first character set, PS3.5 section 6.1.2.5.3: each part is written by itself.
        parts = [b"^".join(self._piece(tag, part) for part in group.split("^")) for group in groups]
        return b"=".join(parts).rstrip(b"=")

    def _piece(self, tag: int, text: str) -> bytes:
        try:
            return charset.encode(text, self._encodings)
        except UnicodeEncodeError:
            self._changed(tag)
        fits = partial(_fits, encodings=self._encodings)
        return charset.encode("".join(each if fits(each) else fitted(each, fits) for each in text), self._encodings)

    def _changed(self, tag: int) -> None:
        self.replaced.add(dictionary.keyword_of(tag))


@lru_cache(maxsize=4096)
def _head(tag: int, vr: str, implicit: bool) -> bytes:
    """Give what stands before an element's length."""
    said = b"" if implicit else vr.encode("ascii") + (b"\0\0" if vr in _LONG else b"")
    return _TAG.pack(tag >> 16, tag & 0xFFFF) + said


def _number(vr: str, text: str) -> bytes:
    kind = float if vr in ("FL", "FD") else int
    try:
        return struct.pack("<" + _NUMBERS[vr], kind(text))
    except (ValueError, struct.error, OverflowError):
        # What is no such number is no value; the one who wrote it was told.
        return b""
