"""Part 10 files: preamble, file meta information, and where the dataset starts. PS3.10 section 7.1."""

import json
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO

from libs.dicom import uid

PREAMBLE = bytes(128) + b"DICM"
#: Names the owner of the private information (0002,0102); a UID of ours.
PRIVATE_CREATOR_UID = "2.25.96322487109536701942837741560228845019"
_LONG_VRS = frozenset({b"OB", b"OD", b"OF", b"OL", b"OV", b"OW", b"SQ", b"SV", b"UC", b"UN", b"UR", b"UT", b"UV"})
#: No file meta information is longer; what says so is damaged.
_LONGEST_META = 1 << 20
#: (0002,0000), UL, of 4 bytes; and where its value ends.
_GROUP_LENGTH = b"\x02\x00\x00\x00UL\x04\x00"
_GROUP_END = 144


class NotPart10Error(Exception):
    """The bytes are not a Part 10 file, or its file meta information is damaged."""


@dataclass(frozen=True)
class Meta:
    """File meta information that we write and need.

    Attributes
    ----------
    sop_class_uid, sop_instance_uid
        (0002,0002) and (0002,0003).
    transfer_syntax_uid
        (0002,0010), of the dataset that follows.
    private
        Our private information (0002,0102), a JSON object; empty if there is none of ours.
    """

    sop_class_uid: str
    sop_instance_uid: str
    transfer_syntax_uid: str
    private: dict[str, str]


def encode(meta: Meta) -> bytes:
    """Write preamble, prefix and file meta information: everything before the dataset."""
    elements = [
        _VERSION,
        _element(0x0002, b"UI", meta.sop_class_uid.encode("ascii", "replace")),
        _element(0x0003, b"UI", meta.sop_instance_uid.encode("ascii", "replace")),
        _element(0x0010, b"UI", meta.transfer_syntax_uid.encode("ascii", "replace")),
        _IMPLEMENTATION,
    ]
    if meta.private:
        elements.append(_CREATOR)
        elements.append(_element(0x0102, b"OB", _JSON(meta.private).encode()))
    body = b"".join(elements)
    return PREAMBLE + _element(0x0000, b"UL", struct.pack("<I", len(body))) + body


def dataset_offset(head: bytes) -> int:
    """Give where the dataset begins, from a file's first 144 bytes or more.

    Raises
    ------
    NotPart10Error
        There is no `DICM` prefix, or no group length after it: PS3.10 section 7.1 demands both.
    """
    if len(head) < _GROUP_END or head[128:132] != b"DICM" or head[132:140] != _GROUP_LENGTH:
        raise NotPart10Error("there is no DICM prefix with a group length after a preamble of 128 bytes")
    (length,) = struct.unpack_from("<I", head, 140)
    return _GROUP_END + int(length)


def decode(file: BinaryIO) -> tuple[Meta, int]:
    """Read the file meta information from the start of a file and leave the file at the dataset.

    Returns
    -------
    tuple of Meta and int
        The meta information, and the offset of the dataset in bytes.

    Raises
    ------
    NotPart10Error
        There is no `DICM` prefix, the meta information ends too early, or it names no transfer syntax.
    """
    if file.read(len(PREAMBLE))[128:] != b"DICM":
        raise NotPart10Error("there is no DICM prefix after a preamble of 128 bytes")
    values: dict[int, bytes] = {}
    offset = len(PREAMBLE)
    for element, value, end in _elements(file, offset):
        values[element] = value
        offset = end
    file.seek(offset)
    transfer_syntax = uid.decode(values.get(0x0010, b""))
    if not transfer_syntax:
        raise NotPart10Error("the file meta information names no transfer syntax (0002,0010)")
    meta = Meta(
        sop_class_uid=uid.decode(values.get(0x0002, b"")),
        sop_instance_uid=uid.decode(values.get(0x0003, b"")),
        transfer_syntax_uid=transfer_syntax,
        private=_private(values),
    )
    return meta, offset


def _element(element: int, vr: bytes, value: bytes) -> bytes:
    if len(value) % 2:
        value += b" " if vr == b"SH" or element == 0x0102 else b"\0"  # noqa: PLR2004 (the element that holds JSON)
    head = struct.pack("<HH", 0x0002, element) + vr
    length = struct.pack("<HI", 0, len(value)) if vr in _LONG_VRS else struct.pack("<H", len(value))
    return head + length + value


#: The same in every file.
_VERSION = _element(0x0001, b"OB", b"\0\1")
_IMPLEMENTATION = _element(0x0012, b"UI", uid.IMPLEMENTATION_CLASS_UID.encode()) + _element(
    0x0013, b"SH", uid.IMPLEMENTATION_VERSION_NAME.encode()
)
_CREATOR = _element(0x0100, b"UI", PRIVATE_CREATOR_UID.encode())
_JSON = json.JSONEncoder(sort_keys=True).encode


def _elements(file: BinaryIO, offset: int) -> Iterator[tuple[int, bytes, int]]:
    while True:
        head = file.read(8)
        # Some writers leave a wrong group length, so the group's number tells where it ends.
        if len(head) < 8 or head[:2] != b"\2\0":  # noqa: PLR2004 (tag, VR and length)
            return
        element, vr, length = struct.unpack("<2xH2sH", head)
        offset += 8
        if vr in _LONG_VRS:
            wide = file.read(4)
            if len(wide) < 4:  # noqa: PLR2004 (32-bit length)
                raise NotPart10Error("the file ends inside its file meta information")
            (length,) = struct.unpack("<I", wide)
            offset += 4
        if length > _LONGEST_META:
            raise NotPart10Error("the file meta information is damaged: an element claims more than 1 MiB")
        value = file.read(length)
        if len(value) < length:
            raise NotPart10Error("the file ends inside its file meta information")
        offset += length
        yield element, value, offset


def _private(values: dict[int, bytes]) -> dict[str, str]:
    if uid.decode(values.get(0x0100, b"")) != PRIVATE_CREATOR_UID:
        return {}
    try:
        found = json.loads(values.get(0x0102, b""))
    except ValueError as error:
        raise NotPart10Error("the private information (0002,0102) is damaged") from error
    if not isinstance(found, dict):
        raise NotPart10Error("the private information (0002,0102) is damaged")
    return {str(key): str(value) for key, value in found.items()}
