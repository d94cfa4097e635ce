"""Attributes out of the bytes of a dataset and back, PS3.5 section 7. What a peer sends may be wrong or hostile."""

import struct
from collections.abc import Iterator, Mapping
from functools import lru_cache
from typing import Final, cast

from libs.dicom import charset, dictionary, document, element, tokenizer
from libs.dicom.charset import Encodings
from libs.dicom.tokenizer import Form, Raw
from services.worklist.attributes import Attributes

IMPLICIT: Final = "1.2.840.10008.1.2"
EXPLICIT: Final = "1.2.840.10008.1.2.1"
#: Transfer syntaxes that are read and written; the first is every peer's, PS3.5 section 10.1.
TRANSFER_SYNTAXES: Final = (IMPLICIT, EXPLICIT)
#: Sequences within sequences; the deepest that PS3.4 table F.7.2-1 names are four.
_DEEPEST: Final = 12
#: Bytes of the longest dataset that is read: a step of 20,000 instances has a fifth of it.
LONGEST: Final = 16 << 20
_TEXTS: Final = frozenset(
    {"AE", "AS", "CS", "DA", "DS", "DT", "IS", "LO", "LT", "PN", "SH", "ST", "TM", "UC", "UI", "UR", "UT"}
)
_NUMBERS: Final = {"US": "<H", "SS": "<h", "UL": "<I", "SL": "<i", "FL": "<f", "FD": "<d", "UV": "<Q", "SV": "<q"}
_BY_CHARACTER_SET: Final = frozenset({"LO", "LT", "PN", "SH", "ST", "UC", "UT"})
_ONE_TEXT: Final = frozenset({"LT", "ST", "UT", "UR"})
_DELIMITERS: Final = frozenset({0x0D, 0x0A, 0x09, 0x0C, 0x5C})
_PN_DELIMITERS: Final = _DELIMITERS | {0x5E, 0x3D}
_CHARACTER_SET: Final = "SpecificCharacterSet"
_LONG_LENGTH: Final = frozenset({"SQ", "UC", "UR", "UT", "UV", "SV"})
_LONGEST_SHORT: Final = 0xFFFE
_TAG: Final = struct.Struct("<HH")
_ITEM: Final = 0xFFFEE000
UTF_8: Final = "ISO_IR 192"


class UnreadableError(Exception):
    """The bytes are no dataset in the transfer syntax that was agreed on. The text holds no values."""

    safe_to_log = True


def decode(data: bytes, transfer_syntax: str) -> Attributes:
    """Read all attributes that the dictionary (PS3.6) names, sequences included; private and binary ones are left out.

    Parameters
    ----------
    data
        The whole dataset.
    transfer_syntax
        One of `TRANSFER_SYNTAXES`.

    Texts are given as Unicode, numbers as they are written in decimal; (0008,0005) stays as it was said.

    Raises
    ------
    UnreadableError
        It contradicts itself, is too long, or has sequences beyond a depth that no dataset of the Standard has.
    """
    if len(data) > LONGEST:
        raise UnreadableError(f"the dataset has more than {LONGEST} bytes")
    form = tokenizer.form_of(data, Form(implicit=transfer_syntax == IMPLICIT, little_endian=True))
    found: dict[int, Raw] = {}
    try:
        rest = tokenizer.scan(data, 0, found, form)
        if rest.need and rest.at != len(data):
            raise UnreadableError("the dataset ends inside an element")
        return _attributes(found, form, charset.DEFAULT, 0)
    except tokenizer.MalformedError as error:
        raise UnreadableError(str(error)) from error


def _attributes(found: dict[int, Raw], form: Form, parent: Encodings, depth: int) -> Attributes:
    if depth > _DEEPEST:
        raise UnreadableError(f"sequences stand in one another more than {_DEEPEST} deep")
    encodings = document.encodings_of(found, form, parent)
    said: dict[str, tuple[str | Attributes, ...]] = {}
    for tag in sorted(found):
        keyword = dictionary.keyword_of(tag)
        if not keyword:
            continue
        vr, value = found[tag]
        vr = dictionary.known_vr(tag) if vr in ("", "UN") else vr
        if vr == "SQ":
            items = tokenizer.items(value, form)
            said[keyword] = tuple(_attributes(item, own, encodings, depth + 1) for item, own in items)
        elif vr in _TEXTS:
            said[keyword] = _texts(vr, value, encodings)
        elif vr in _NUMBERS or vr == "AT" or " or " in vr:
            numbers = element.values(vr, value, encodings, little_endian=form.little_endian)
            said[keyword] = tuple(str(each) for each in numbers)
    return said


def _texts(vr: str, value: bytes, encodings: Encodings) -> tuple[str, ...]:
    if vr in _BY_CHARACTER_SET:
        text = charset.decode(value, encodings, _PN_DELIMITERS if vr == "PN" else _DELIMITERS)
    else:
        text = value.decode("latin-1")
    parts = [text.rstrip(element.PADDING)] if vr in _ONE_TEXT else [p.strip(element.PADDING) for p in text.split("\\")]
    # NUL ends nothing in DICOM but the padding of a UID, and PostgreSQL stores none.
    parts = [part.replace("\0", "") for part in parts]
    return tuple(parts) if any(parts) else ()


def encode(attributes: Attributes, transfer_syntax: str) -> bytes:
    """Write a dataset in Unicode (ISO_IR 192), in order of tags, items and sequences with their length.

    Parameters
    ----------
    attributes
        By keyword of the dictionary; what it doesn't name, and what can't be written, is left out.
    transfer_syntax
        One of `TRANSFER_SYNTAXES`.
    """
    whole = {**attributes, _CHARACTER_SET: (UTF_8,)} if _needs_unicode(attributes) else attributes
    return _dataset(whole, implicit=transfer_syntax == IMPLICIT)


def _needs_unicode(attributes: Attributes) -> bool:
    if _CHARACTER_SET in attributes:
        return True
    for values in attributes.values():
        for value in values:
            if not value.isascii() if isinstance(value, str) else _needs_unicode(value):
                return True
    return False


def _dataset(attributes: Attributes, *, implicit: bool) -> bytes:
    tags = _tags(frozenset(attributes))
    return b"".join(
        part
        for tag, keyword in sorted((tag, keyword) for keyword, tag in tags.items())
        for part in _element(tag, attributes[keyword], implicit=implicit)
    )


@lru_cache(maxsize=512)
def _tags(keywords: frozenset[str]) -> Mapping[str, int]:
    return dictionary.tags_of(keywords)


def _element(tag: int, values: tuple[str | Attributes, ...], *, implicit: bool) -> Iterator[bytes]:
    vr = dictionary.known_vr(tag).split(" or ")[0]
    value = _value(vr, values, implicit=implicit)
    if value is None or (len(value) > _LONGEST_SHORT and not implicit and vr not in _LONG_LENGTH):
        return
    yield _TAG.pack(tag >> 16, tag & 0xFFFF)
    if implicit:
        yield struct.pack("<I", len(value))
    elif vr in _LONG_LENGTH:
        yield struct.pack("<2sHI", vr.encode(), 0, len(value))
    else:
        yield struct.pack("<2sH", vr.encode(), len(value))
    yield value


def _value(vr: str, values: tuple[str | Attributes, ...], *, implicit: bool) -> bytes | None:
    if vr == "SQ":
        items = [_dataset(item, implicit=implicit) for item in values if not isinstance(item, str)]
        return b"".join(_TAG.pack(_ITEM >> 16, _ITEM & 0xFFFF) + struct.pack("<I", len(each)) + each for each in items)
    texts = cast("tuple[str, ...]", tuple(value for value in values if isinstance(value, str)))
    if vr in _TEXTS:
        raw = "\\".join(texts).encode("utf-8" if vr in _BY_CHARACTER_SET else "latin-1", "replace")
        return raw + (b"\0" if vr == "UI" else b" ") * (len(raw) % 2)
    try:
        if vr == "AT":
            return b"".join(_TAG.pack(int(text[:4], 16), int(text[4:], 16)) for text in texts)
        if vr in _NUMBERS:
            kind = float if vr in ("FL", "FD") else int
            return b"".join(struct.pack(_NUMBERS[vr], kind(text)) for text in texts)
    except (ValueError, struct.error, OverflowError):
        return None
    return None
