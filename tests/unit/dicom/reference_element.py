"""Values of elements as text and numbers, PS3.5 section 6.2. Odd values are read as far as they go and never raise."""

import math
import struct
from collections.abc import Callable, Sequence
from typing import Final

from pydicom.charset import decode_bytes
from pydicom.datadict import dictionary_VM, dictionary_VR

from contracts.fact import AttributeValue

#: VRs that (0008,0005) Specific Character Set applies to, PS3.5 section 6.1.2.3.
_BY_CHARACTER_SET: Final = frozenset({"LO", "LT", "PN", "SH", "ST", "UC", "UT"})
_ONE_TEXT: Final = frozenset({"LT", "ST", "UT", "UR"})
_TEXT: Final = _BY_CHARACTER_SET | {"AE", "AS", "CS", "DA", "DS", "DT", "IS", "TM", "UI", "UR"}
_STRUCT: Final = {"US": "H", "SS": "h", "UL": "I", "SL": "i", "UV": "Q", "SV": "q", "FL": "f", "FD": "d"}
#: What resets the character set inside a value, PS3.5 section 6.1.2.5.3.
_DELIMITERS: Final = {0x0D, 0x0A, 0x09, 0x0C, 0x5C}
_PN_DELIMITERS: Final = _DELIMITERS | {0x5E, 0x3D}
#: Largest integer that every consumer of JSON reads exactly, RFC 8259 section 6.
_EXACT: Final = 2**53

Value = str | int | float
#: What an element's value is decoded with: names of Python codecs.
Encodings = Sequence[str]


def values(vr: str, value: bytes, encodings: Encodings, *, little_endian: bool) -> list[Value]:
    """Read a value. Binary VRs, and numbers that are none, give nothing.

    Parameters
    ----------
    vr
        Value representation, PS3.5 section 6.2.
    value
        Bytes of the value field.
    encodings
        Python codecs of (0008,0005), the first for what has no escape sequence.
    little_endian
        Byte order of binary numbers.
    """
    if vr in _STRUCT:
        return _unpacked(_STRUCT[vr], value, "<" if little_endian else ">")
    if vr == "AT":
        tags = _unpacked("H", value, "<" if little_endian else ">")
        return [f"{group:04X}{element:04X}" for group, element in zip(tags[::2], tags[1::2], strict=False)]
    if vr not in _TEXT:
        return _unknown(value.decode("latin-1")) if vr == "UN" else []
    texts = _texts(vr, value, encodings)
    if vr == "IS":
        return _numbers(texts, int)
    if vr == "DS":
        return _numbers(texts, float)
    return [*texts] if any(texts) else []


def _unknown(value: str) -> list[Value]:
    said = value.removesuffix("\0")
    plain = bool(said) and len(value) <= 1024 and all(" " <= each <= "~" for each in said)
    parts = [each.strip(" \0") for each in said.split("\\")] if plain else []
    return [*parts] if any(parts) else []


def attribute(tag: int, found: list[Value]) -> AttributeValue | None:
    """Give the value as an event carries it, or None if there is none.

    The dictionary's value multiplicity (PS3.6), not the value at hand, decides between one value and a list: a
    condition is type-checked before it sees a value. Several numbers where the dictionary allows one are no value.
    """
    if not found:
        return None
    if dictionary_VM(tag) != "1":
        return found  # type: ignore[return-value]  # all values of an element are of one type
    if len(found) == 1:
        return found[0]
    if all(isinstance(each, str) for each in found):
        return "\\".join(str(each) for each in found)
    return None


def known_vr(tag: int) -> str:
    """Look up the VR of an element that doesn't say it itself (implicit VR); `UN` for a private one."""
    try:
        return dictionary_VR(tag)
    except KeyError:
        return "UN"


def _texts(vr: str, value: bytes, encodings: Encodings) -> list[str]:
    if vr in _BY_CHARACTER_SET:
        text = _decoded(value, encodings, _PN_DELIMITERS if vr == "PN" else _DELIMITERS)
    else:
        text = value.decode("latin-1")
    if vr in _ONE_TEXT:
        return [text.rstrip(" \0")]
    return [each.strip(" \0") for each in text.split("\\")]


def _decoded(value: bytes, encodings: Encodings, delimiters: set[int]) -> str:
    try:
        return decode_bytes(value, encodings, delimiters)
    except (LookupError, UnicodeError, ValueError):
        # A name of a codec that Python does not have, or one that is no text codec.
        return value.decode("ascii", "replace")


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


def _unpacked(code: str, value: bytes, order: str) -> list[Value]:
    width = struct.calcsize(order + code)
    count = len(value) // width
    numbers = struct.unpack(f"{order}{count}{code}", value[: count * width])
    return list(numbers) if all(math.isfinite(each) for each in numbers) else []
