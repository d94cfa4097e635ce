"""Values of elements as text and numbers, PS3.5 section 6.2. Odd values are read as far as they go and never raise."""

import math
import re
from collections.abc import Callable
from struct import Struct
from typing import Final

from contracts.fact import AttributeValue
from libs.dicom import charset, dictionary
from libs.dicom.charset import Encodings

#: VRs that (0008,0005) Specific Character Set applies to, PS3.5 section 6.1.2.3.
_BY_CHARACTER_SET: Final = frozenset({"LO", "LT", "PN", "SH", "ST", "UC", "UT"})
_ONE_TEXT: Final = frozenset({"LT", "ST", "UT", "UR"})
_TEXT: Final = _BY_CHARACTER_SET | {"AE", "AS", "CS", "DA", "DS", "DT", "IS", "TM", "UI", "UR"}
_CODES: Final = {"US": "H", "SS": "h", "UL": "I", "SL": "i", "UV": "Q", "SV": "q", "FL": "f", "FD": "d"}
_ONE_NUMBER: Final = {
    (vr, little): Struct(order + code) for vr, code in _CODES.items() for little, order in ((True, "<"), (False, ">"))
}
PADDING: Final = " \0"
#: What resets the character set inside a value, PS3.5 section 6.1.2.5.3.
_DELIMITERS: Final = frozenset({0x0D, 0x0A, 0x09, 0x0C, 0x5C})
_PN_DELIMITERS: Final = _DELIMITERS | {0x5E, 0x3D}
_LONGEST_UNKNOWN: Final = 1024
_PLAIN: Final = re.compile(rb"[ -~]+\0?")
#: Largest integer that every consumer of JSON reads exactly, RFC 8259 section 6.
_EXACT: Final = 2**53

Value = str | int | float


def values(vr: str, value: bytes, encodings: Encodings, *, little_endian: bool) -> list[Value]:
    """Read a value. Binary VRs, and numbers that are none, give nothing.

    Parameters
    ----------
    vr
        Value representation, PS3.5 section 6.2; of one such as `US or SS` the first counts: which one depends on Pixel
        Representation, and no base attribute among them is negative.
    value
        Bytes of the value field.
    encodings
        Python codecs of (0008,0005), the first for what has no escape sequence.
    little_endian
        Byte order of binary numbers.
    """
    if vr in _TEXT:
        return _of_text(vr, _texts(vr, value, encodings))
    if vr in _CODES:
        return _unpacked(vr, value, little_endian=little_endian)
    if vr == "AT":
        tags = _unpacked("US", value, little_endian=little_endian)
        return [f"{group:04X}{element:04X}" for group, element in zip(tags[::2], tags[1::2], strict=False)]
    if vr == "UN":
        return _unknown(value)
    if " or " in vr:
        return values(vr.split(" or ", 1)[0], value, encodings, little_endian=little_endian)
    return []


def said(tag: int, vr: str, value: bytes, encodings: Encodings, *, little_endian: bool) -> list[Value]:
    """Read the value of an element that may not say its VR, by the dictionary's then; as `values`."""
    if not value:
        return []
    return values(dictionary.known_vr(tag) if vr in ("", "UN") else vr, value, encodings, little_endian=little_endian)


def attribute(tag: int, found: list[Value]) -> AttributeValue | None:
    """Give the value as an event carries it, or None if there is none.

    The dictionary's value multiplicity (PS3.6), not the value at hand, decides between one value and a list: a
    condition is type-checked before it sees a value. Several numbers where the dictionary allows one are no value.
    """
    if not found:
        return None
    if not dictionary.is_single(tag):
        return found  # type: ignore[return-value]  # all values of an element are of one type
    if len(found) == 1:
        return found[0]
    if all(isinstance(each, str) for each in found):
        return "\\".join(str(each) for each in found)
    return None


def _unknown(value: bytes) -> list[Value]:
    """Read what says no VR and isn't listed, as most private elements in implicit VR: only plain text can be told."""
    if len(value) > _LONGEST_UNKNOWN or not _PLAIN.fullmatch(value):
        return []
    texts = [each.strip(PADDING) for each in value.decode("ascii").split("\\")]
    return [*texts] if any(texts) else []


def _of_text(vr: str, texts: list[str]) -> list[Value]:
    if vr == "IS":
        return _numbers(texts, int)
    if vr == "DS":
        return _numbers(texts, float)
    return [*texts] if any(texts) else []


def _texts(vr: str, value: bytes, encodings: Encodings) -> list[str]:
    if vr in _BY_CHARACTER_SET:
        text = charset.decode(value, encodings, _PN_DELIMITERS if vr == "PN" else _DELIMITERS)
    else:
        text = value.decode("latin-1")
    if vr in _ONE_TEXT:
        return [text.rstrip(PADDING)]
    if "\\" not in text:
        return [text.strip(PADDING)]
    return [each.strip(PADDING) for each in text.split("\\")]


def _numbers(texts: list[str], kind: Callable[[str], int | float]) -> list[Value]:
    numbers: list[Value] = []
    for text in texts:
        try:
            number = kind(text)
        except (ValueError, OverflowError):
            return []
        if not math.isfinite(number) or (kind is int and abs(number) > _EXACT):
            return []
        numbers.append(number)
    return numbers


def _unpacked(vr: str, value: bytes, *, little_endian: bool) -> list[Value]:
    one = _ONE_NUMBER[vr, little_endian]
    if len(value) == one.size:
        numbers = one.unpack(value)
    else:
        count = len(value) // one.size
        many = Struct(f"{one.format[0]}{count}{one.format[1]}")
        numbers = many.unpack(value[: count * one.size])
    return list(numbers) if all(math.isfinite(each) for each in numbers) else []
