"""Attributes out of the bytes of a dataset and back, PS3.5 section 7. What a peer sends may be wrong or hostile."""

import struct
from base64 import b64decode, b64encode
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from typing import Final, cast

from libs.dicom import charset, dictionary, document, element, elementhead, tokenizer
from libs.dicom.charset import Encodings
from libs.dicom.tokenizer import Form, Raw
from libs.dicom.vr import KNOWN
from services.worklist import private
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
_SIZES: Final = {"AT": 4, "US or SS": 2, **{vr: struct.calcsize(code) for vr, code in _NUMBERS.items()}}
#: What is behind the pixel data, of which a step has none, is read as well.
_NO_STOP: Final = 1 << 32
_TAG: Final = struct.Struct("<HH")
_ITEM: Final = 0xFFFEE000
UTF_8: Final = "ISO_IR 192"


class UnreadableError(Exception):
    """The bytes are no dataset in the transfer syntax that was agreed on. The text holds no values."""

    safe_to_log = True


def decode(data: bytes, transfer_syntax: str) -> Attributes:
    """Read all attributes, sequences included.

    Texts are given as Unicode, numbers as they are written in decimal; (0008,0005) stays as it was said. Elements that
    the dictionary (PS3.6) doesn't name have keys as `private` makes them, and one item: its VR (`vr`), and `Value`, or
    `InlineBinary` in base 64. So have binary ones, after the DICOM JSON Model of PS3.18 annex F. Group lengths are left
    out: they are retired.

    Parameters
    ----------
    data
        The whole dataset.
    transfer_syntax
        One of `TRANSFER_SYNTAXES`.

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
        rest = tokenizer.scan(data, 0, found, form, stop=_NO_STOP, binary=True)
        if rest.need and rest.at != len(data):
            raise UnreadableError("the dataset ends inside an element")
        return _attributes(found, form, charset.DEFAULT, 0)
    except tokenizer.MalformedError as error:
        raise UnreadableError(str(error)) from error


def _attributes(found: dict[int, Raw], form: Form, parent: Encodings, depth: int) -> Attributes:
    if depth > _DEEPEST:
        raise UnreadableError(f"sequences stand in one another more than {_DEEPEST} deep")
    encodings = document.encodings_of(found, form, parent)
    creators = {
        tag: "".join(_texts("LO", value, encodings)[:1]) for tag, (_, value) in found.items() if private.is_creator(tag)
    }
    reserved = private.blocks(creators)
    said: dict[str, tuple[str | Attributes, ...]] = {}
    for tag in sorted(found):
        if not tag & 0xFFFF:
            continue
        vr, value = found[tag]
        keyword = _keyword(tag)
        if keyword:
            said[keyword] = _public(tag, vr, value, form, encodings, depth)
            continue
        key = private.key_of(tag, reserved)
        if private.name_of(key) is not None:
            said[key] = (f"{tag & 0xFF:02X}",)
        else:
            vr = "LO" if private.is_creator(tag) else vr if vr.encode() in KNOWN else "UN"
            said[key] = (_whole(vr, _values(vr, value, form, encodings, depth), value),)
    return said


def _keyword(tag: int) -> str:
    keyword = dictionary.keyword_of(tag)
    # Of a repeating group several elements have one keyword.
    return keyword if keyword and dictionary.tag_of(keyword) == tag else ""


def _public(
    tag: int, vr: str, value: bytes, form: Form, encodings: Encodings, depth: int
) -> tuple[str | Attributes, ...]:
    known = dictionary.known_vr(tag)
    vr = known if vr == "UN" or vr.encode() not in KNOWN else vr
    values = _values(vr, value, form, encodings, depth)
    if known == "SQ":
        return values or ()
    if vr == "SQ" or (values is None and value):
        return (_whole(vr.rpartition(" or ")[2], values, value),)
    return values or ()


def _whole(vr: str, values: tuple[str | Attributes, ...] | None, value: bytes) -> Attributes:
    """Give a value with its VR: `values`, if it can be read."""
    if values is not None:
        return {"vr": (vr,), "Value": values}
    return {"vr": (vr,), "InlineBinary": (b64encode(value).decode("ascii"),)}


def _values(vr: str, value: bytes, form: Form, encodings: Encodings, depth: int) -> tuple[str | Attributes, ...] | None:
    """Read a value; None if it is binary, or no value of its VR."""
    if vr == "SQ":
        items = tokenizer.items(value, form, binary=True)
        return tuple(_attributes(item, own, encodings, depth + 1) for item, own in items)
    if vr in _TEXTS:
        return _texts(vr, value, encodings)
    if vr in _SIZES:
        numbers = element.values(vr, value, encodings, little_endian=form.little_endian)
        whole = len(numbers) * _SIZES[vr] == len(value)
        return tuple(str(each) for each in numbers) if whole else None
    return None


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
        As `decode` gives them; what can't be written is left out.
    transfer_syntax
        One of `TRANSFER_SYNTAXES`.
    """
    whole = {**attributes, _CHARACTER_SET: (UTF_8,)} if _needs_unicode(attributes) else attributes
    return _dataset(whole, implicit=transfer_syntax == IMPLICIT)


def _needs_unicode(attributes: Attributes) -> bool:
    if _CHARACTER_SET in attributes:
        return True
    for key, values in attributes.items():
        # A private creator's name stands in its key.
        if not key.isascii():
            return True
        for value in values:
            if not value.isascii() if isinstance(value, str) else _needs_unicode(value):
                return True
    return False


def tags_of(attributes: Attributes) -> dict[str, int]:
    """Give the tags of attributes: of private ones those that `encode` gives them."""
    return {**_tags(frozenset(attributes)), **private.tags(attributes)}


def named(attributes: Attributes, tags: Iterable[int]) -> tuple[list[str], int]:
    """Give the keys of tags, with the creators of private ones; and how many tags nothing is known of."""
    keys = {tag: key for key, tag in tags_of(attributes).items()}
    found = [keys.get(tag) or _keyword(tag) for tag in tags]
    creators = (creator for key in found if (creator := private.creator_of(key)) is not None)
    return list(dict.fromkeys((*filter(None, found), *creators))), found.count("")


def _dataset(attributes: Attributes, *, implicit: bool) -> bytes:
    found = sorted((tag, key) for key, tag in tags_of(attributes).items())
    return b"".join(part for tag, key in found for part in _element(tag, key, attributes, implicit=implicit))


@lru_cache(maxsize=512)
def _tags(keywords: frozenset[str]) -> Mapping[str, int]:
    return dictionary.tags_of(keywords)


def _element(tag: int, key: str, attributes: Attributes, *, implicit: bool) -> Iterator[bytes]:
    creator = private.name_of(key)
    values = attributes.get(key, ()) if creator is None else (creator,)
    vr = "LO" if creator is not None else dictionary.known_vr(tag)
    if vr != "SQ" and values and not isinstance(values[0], str):
        vr, value = _of_whole(values[0], implicit=implicit)
    else:
        vr, value = _first(vr.split(" or "), values, implicit=implicit)
    if value is not None:
        yield elementhead.written(tag, vr.encode(), len(value), implicit=implicit)
        yield value


def _of_whole(whole: Attributes, *, implicit: bool) -> tuple[str, bytes | None]:
    vr = "".join(each for each in whole.get("vr", ()) if isinstance(each, str))
    binary = next(iter(whole.get("InlineBinary", ())), None)
    if isinstance(binary, str):
        value = b64decode(binary)
        return vr, value + bytes(len(value) % 2)
    return vr, _value(vr, whole.get("Value", ()), implicit=implicit)


def _first(vrs: Sequence[str], values: tuple[str | Attributes, ...], *, implicit: bool) -> tuple[str, bytes | None]:
    """Write values by the first of several VRs that has them."""
    for vr in vrs:
        value = _value(vr, values, implicit=implicit) if values or vr not in _TEXTS else b""
        if value is not None:
            return vr, value
    return vrs[0], b"" if not values else None


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
