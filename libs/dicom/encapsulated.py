"""Encapsulated pixel data, PS3.5 section A.4: fragments, which of them make a frame, and offset tables.

All heads of fragments are looked at first, in a file of any size: what is truncated or contradicts itself shows before
anything is decoded. Then frames are read one by one.
"""

import os
import struct
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import BinaryIO, Final

from libs.dicom import codestream
from libs.dicom.untranscodable import NotTranscodableError

_ITEM: Final = b"\xfe\xff\x00\xe0"
_DELIMITER: Final = b"\xfe\xff\xdd\xe0"
_HEAD: Final = 8
_TAIL: Final = 18
#: A compressed frame may be a little larger than its pixels, never this much.
_EXPANSION: Final = 2
_HEADERS: Final = 1 << 20
_UNDEFINED: Final = 0xFFFFFFFF
#: Beyond, a basic offset table of 32 bits does not reach: PS3.3 section C.7.6.3.1.8.
REACH: Final = 0xFFFFFFFF
EXTENDED_OFFSETS: Final = 0x7FE00001
EXTENDED_LENGTHS: Final = 0x7FE00002
#: Encapsulated Pixel Data Value Total Length.
TOTAL_LENGTH: Final = 0x7FE00003


@dataclass(frozen=True)
class Fragments:
    """Where the fragments of encapsulated pixel data are.

    Attributes
    ----------
    table
        Basic offset table: offsets of frames from the first fragment's item; empty if there is none.
    places, lengths
        Offset in the file and length in bytes of each fragment, the table's item not counted.
    end
        Offset in the file behind the pixel data.
    """

    table: Sequence[int]
    places: Sequence[int]
    lengths: Sequence[int]
    end: int

    @property
    def size(self) -> int:
        """Bytes of all fragments."""
        return sum(self.lengths)


def fragments(file: BinaryIO) -> Fragments:
    """Find the fragments of pixel data whose first item the file is positioned at.

    Raises
    ------
    NotTranscodableError
        The pixel data are no sequence of items, or end too early.
    """
    at = file.tell()
    size = file.seek(0, os.SEEK_END)
    table: Sequence[int] = ()
    places, lengths = array("Q"), array("Q")
    first = True
    while True:
        file.seek(at)
        head = file.read(_HEAD)
        at += _HEAD
        if head[:4] == _DELIMITER and not first:
            break
        if not head and not first:
            # Some writers leave out the delimiter at the end of a file; whether all frames are there is seen later.
            at = size
            break
        length = int.from_bytes(head[4:], "little")
        if len(head) < _HEAD or (head[:4] == _ITEM and at + length > size):
            raise NotTranscodableError("damaged", "the file ends inside its pixel data")
        if head[:4] != _ITEM or length == _UNDEFINED:
            raise NotTranscodableError("damaged", "its pixel data are no sequence of fragments")
        if first:
            table = _table(file.read(length))
        else:
            places.append(at)
            lengths.append(length)
        at += length
        first = False
    return Fragments(table, places, lengths, at)


def frames(file: BinaryIO, found: Fragments, count: int, longest: int, *, alone: bool) -> Iterator[bytes]:
    """Give the compressed frames, one after the other.

    Parameters
    ----------
    file, found
        The file, and what `fragments` found in it.
    count
        Frames that the header announces.
    longest
        Bytes of a decoded frame.
    alone
        Whether a frame is always one fragment, as in RLE (PS3.5 section A.4.2).

    Raises
    ------
    NotTranscodableError
        There are not as many frames as announced, or one is out of all proportion.
    """
    ends = _ends(file, found, count, alone=alone)
    most = longest * _EXPANSION + _HEADERS
    start = 0
    for end in ends:
        if sum(found.lengths[start:end]) > most:
            raise NotTranscodableError("damaged", "a compressed frame is far longer than its pixels would be")
        parts = []
        for index in range(start, end):
            file.seek(found.places[index])
            part = file.read(found.lengths[index])
            if len(part) < found.lengths[index]:
                raise NotTranscodableError("damaged", "the file ends inside its pixel data")
            parts.append(part)
        start = end
        yield parts[0] if len(parts) == 1 else b"".join(parts)


def _table(value: bytes) -> Sequence[int]:
    return struct.unpack(f"<{len(value) // 4}I", value[: len(value) // 4 * 4])


def _ends(file: BinaryIO, found: Fragments, count: int, *, alone: bool) -> Sequence[int]:
    """Give, frame by frame, the number of the first fragment that is not part of it."""
    have = len(found.places)
    if have < count:
        raise _wrong(count, have)
    if have == count:
        return range(1, count + 1)
    if alone:
        raise _wrong(count, have)
    by_table = _by_table(found, count)
    if by_table is not None:
        return by_table
    # A table that is not there, or not right, is no loss: the frames say themselves where they end.
    by_marker = _by_marker(file, found)
    if len(by_marker) != count:
        raise _wrong(count, len(by_marker))
    return by_marker


def _by_table(found: Fragments, count: int) -> Sequence[int] | None:
    if len(found.table) != count or found.table[0] != 0:
        return None
    number = {place - found.places[0]: index for index, place in enumerate(found.places)}
    starts = [number.get(offset) for offset in found.table]
    if None in starts or any(a >= b for a, b in pairwise(found.table)):
        return None
    return [start for start in starts[1:] if start is not None] + [len(found.places)]


def _by_marker(file: BinaryIO, found: Fragments) -> Sequence[int]:
    ends = []
    for index, (place, length) in enumerate(zip(found.places, found.lengths, strict=True), 1):
        file.seek(place + max(length - _TAIL, 0))
        ended = codestream.ends(file.read(min(length, _TAIL)))
        if ended and index < len(found.places):
            file.seek(found.places[index])
            ended = codestream.begins(file.read(12))
        if ended or index == len(found.places):
            ends.append(index)
    return ends


def _wrong(announced: int, there: int) -> NotTranscodableError:
    return NotTranscodableError(
        "damaged",
        f"its header announces {announced} frames, and its pixel data hold {there}: nothing was left out here",
    )


class Writer:
    """Writes frames as fragments, one each, and then the offset table before them.

    Parameters
    ----------
    file
        Positioned where the pixel data elements are to begin; can seek.
    count
        Frames that will come.
    most
        Bytes that all frames together may have: whether a basic offset table can reach them.
    """

    def __init__(self, file: BinaryIO, count: int, most: int) -> None:
        self._file = file
        self._extended = most + (2 * _HEAD) * (count + 1) > REACH
        self._offsets, self._lengths = array("Q"), array("Q")
        self._at = 0
        if self._extended:
            # PS3.3 section C.7.6.3.1.8: the basic offset table is then empty.
            for tag in (EXTENDED_OFFSETS, EXTENDED_LENGTHS):
                head = struct.pack("<HH2sHI", tag >> 16, tag & 0xFFFF, b"OV", 0, 8 * count)
                file.write(head + bytes(8 * count))
        reserved = 0 if self._extended else 4 * count
        file.write(struct.pack("<HH2sHI", 0x7FE0, 0x0010, b"OB", 0, _UNDEFINED) + _ITEM + struct.pack("<I", reserved))
        self._table = file.tell()
        file.write(bytes(reserved))
        self._count = count

    def write(self, frame: bytes) -> None:
        """Write a frame; of odd length it is padded."""
        pad = b"\0" if len(frame) % 2 else b""
        self._offsets.append(self._at)
        self._lengths.append(len(frame) + len(pad))
        self._file.write(_ITEM + struct.pack("<I", len(frame) + len(pad)))
        self._file.write(frame)
        self._file.write(pad)
        self._at += _HEAD + len(frame) + len(pad)

    def close(self) -> int:
        """Write the delimiter and the offset table; give the bytes that all frames have. The file is at its end."""
        if len(self._offsets) != self._count:
            raise ValueError("not as many frames were written as announced")
        self._file.write(_DELIMITER + bytes(4))
        end = self._file.tell()
        if self._extended:
            heads = 12
            lengths = self._table - _HEAD - heads - 8 * self._count
            self._file.seek(lengths)
            self._file.write(_little(self._lengths, "Q"))
            self._file.seek(lengths - heads - 8 * self._count)
            self._file.write(_little(self._offsets, "Q"))
        else:
            self._file.seek(self._table)
            self._file.write(_little(self._offsets, "I"))
        self._file.seek(end)
        return sum(self._lengths)


def _little(numbers: Sequence[int], code: str) -> bytes:
    return struct.pack(f"<{len(numbers)}{code}", *numbers)
