"""What stands before an element's value: tag, VR and length, PS3.5 section 7.1; and of items, section 7.5."""

import struct
from typing import Final

from libs.dicom import vr
from libs.dicom.tokenizer import UNDEFINED, Form, MalformedError

ITEM: Final = 0xFFFEE000
ITEM_END: Final = 0xFFFEE00D
SEQUENCE_END: Final = 0xFFFEE0DD
#: Group of these, which say no VR in any transfer syntax.
DELIMITERS: Final = 0xFFFE
_SHORT: Final = 8
_WIDE: Final = 4
_UNPACK: Final = {True: struct.Struct("<HH2sH").unpack_from, False: struct.Struct(">HH2sH").unpack_from}
_UNPACK_LENGTH: Final = {True: struct.Struct("<L").unpack_from, False: struct.Struct(">L").unpack_from}
_pack_implicit = struct.Struct("<HHL").pack
_pack_short = struct.Struct("<HH2sH").pack
_pack_long = struct.Struct("<HH2sHL").pack


def read(data: bytes, at: int, form: Form) -> tuple[int, bytes, int, int]:
    """Read the head at an offset, behind which there are 8 bytes at least.

    Returns
    -------
    tuple of int, bytes, int and int
        Tag, VR (empty if it says none), length, and the offset of the value.

    Raises
    ------
    MalformedError
        The data end inside the head, or an element of an explicit dataset has a garbled VR.
    """
    little = form.little_endian
    group, number, code, length = _UNPACK[little](data, at)
    tag = group << 16 | number
    value = at + _SHORT
    if form.implicit or group == DELIMITERS:
        return tag, b"", _UNPACK_LENGTH[little](data, at + _WIDE)[0], value
    if not is_vr(code):
        return tag, b"", _length_without_vr(code, length), value
    # PS3.5 section 7.1.2: a VR that is not listed has the long head, whose reserved field is zero.
    if code not in vr.SHORT and (code in vr.LONG or not length):
        if len(data) - value < _WIDE:
            raise MalformedError("the dataset ends inside an element")
        (length,) = _UNPACK_LENGTH[little](data, value)
        value += _WIDE
    return tag, code, length, value


def written(tag: int, code: bytes, length: int, *, implicit: bool) -> bytes:
    """Write the head of a value, little endian; the length is one more where the value is odd and gets padding."""
    if length != UNDEFINED:
        length += length % 2
    group, number = tag >> 16, tag & 0xFFFF
    if implicit:
        return _pack_implicit(group, number, length)
    if code not in vr.SHORT:
        return _pack_long(group, number, code, 0, length)
    if length > vr.LONGEST_SHORT:
        # PS3.5 section 6.2.2: what is too long for its VR's length field becomes UN.
        return _pack_long(group, number, b"UN", 0, length)
    return _pack_short(group, number, code, length)


def is_vr(code: bytes) -> bool:
    """Tell whether two bytes can be a VR of this edition or a later one: upper case letters, PS3.5 section 7.1.2."""
    return 0x41 <= code[0] <= 0x5A and 0x41 <= code[1] <= 0x5A  # noqa: PLR2004 (A and Z)


def _length_without_vr(low: bytes, high: int) -> int:
    """Give the length of an implicit element in an explicit dataset, if it is certain to be one.

    Such occur. Where a VR is garbled instead (`??`, spaces, zeros), the length would lead astray.
    """
    length = high << 16 | int.from_bytes(low, "little")
    printable = all(0x20 <= byte <= 0x7E for byte in low)  # noqa: PLR2004 (space and tilde)
    if length != UNDEFINED and (high or length % 2 or printable):
        raise MalformedError("an element of an explicit dataset says no VR")
    return length
