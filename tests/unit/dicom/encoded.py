"""Datasets byte by byte, PS3.5 section 7.1 and 7.5: also ones that no library would write."""

import struct
from collections.abc import Sequence
from dataclasses import dataclass

from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
)

SYNTAXES = [
    str(syntax)
    for syntax in (
        ExplicitVRLittleEndian,
        ImplicitVRLittleEndian,
        ExplicitVRBigEndian,
        DeflatedExplicitVRLittleEndian,
    )
]
#: Those that are not deflated.
PLAIN = SYNTAXES[:3]
LONG_VRS = ("OB", "OD", "OF", "OL", "OV", "OW", "SQ", "SV", "UC", "UN", "UR", "UT", "UV")
UNDEFINED = 0xFFFFFFFF


@dataclass(frozen=True)
class Element:
    """A value of bytes, or the items of a sequence; those of undefined length end by delimiters."""

    tag: int
    vr: str
    value: "bytes | Sequence[Sequence[Element]]"
    undefined: bool = False


def encoded(elements: Sequence[Element], syntax: str) -> bytes:
    """Encode elements in the order in which they come; not deflated."""
    return b"".join(_element(each, syntax) for each in elements)


def _element(element: Element, syntax: str) -> bytes:
    order = ">" if syntax == ExplicitVRBigEndian else "<"
    if isinstance(element.value, bytes):
        value, length = element.value, len(element.value)
    else:
        value = b"".join(_item(item, element.undefined, order, syntax) for item in element.value)
        value += _head(0xFFFEE0DD, 0, order) if element.undefined else b""
        length = UNDEFINED if element.undefined else len(value)
    if syntax == ImplicitVRLittleEndian:
        return _head(element.tag, length, order) + value
    start = struct.pack(f"{order}HH2s", element.tag >> 16, element.tag & 0xFFFF, element.vr.encode())
    if element.vr in LONG_VRS:
        return start + struct.pack(f"{order}HL", 0, length) + value
    return start + struct.pack(f"{order}H", length & 0xFFFF) + value


def _item(item: Sequence[Element], undefined: bool, order: str, syntax: str) -> bytes:
    value = encoded(item, syntax)
    if undefined:
        return _head(0xFFFEE000, UNDEFINED, order) + value + _head(0xFFFEE00D, 0, order)
    return _head(0xFFFEE000, len(value), order) + value


def _head(tag: int, length: int, order: str) -> bytes:
    return struct.pack(f"{order}HHL", tag >> 16, tag & 0xFFFF, length)
