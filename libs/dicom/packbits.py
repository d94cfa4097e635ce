"""RLE frames taken apart, PS3.5 annex G: a second reader, which shares nothing with the codec that wrote them."""

import struct
from typing import Final

from libs.dicom.untranscodable import NotTranscodableError

_HEADER: Final = 64
_MOST: Final = 15
_NOTHING: Final = 128


def planes(frame: bytes, count: int, length: int) -> bytes:
    """Give the byte planes of a frame, one after the other, the most significant byte of a sample first.

    Parameters
    ----------
    frame
        A compressed frame.
    count
        Planes: samples of a pixel times bytes of a sample.
    length
        Bytes of a plane: pixels of the frame.

    Raises
    ------
    NotTranscodableError
        The frame is damaged.
    """
    if len(frame) < _HEADER or struct.unpack_from("<I", frame)[0] != count or not 1 <= count <= _MOST:
        raise NotTranscodableError("damaged", "a compressed frame does not hold the segments that its pixels need")
    starts = [*struct.unpack_from(f"<{count}I", frame, 4), len(frame)]
    if starts[0] < _HEADER or any(a > b for a, b in zip(starts, starts[1:], strict=False)):
        raise NotTranscodableError("damaged", "the segments of a compressed frame overlap")
    return b"".join(_plane(frame, *each, length) for each in zip(starts, starts[1:], strict=False))


def _plane(frame: bytes, at: int, end: int, length: int) -> bytes:
    parts: list[bytes] = []
    left = length
    while left > 0 and at + 1 < end:
        count = frame[at]
        if count < _NOTHING:
            parts.append(frame[at + 1 : at + 2 + count])
            left -= count + 1
            at += count + 2
        elif count > _NOTHING:
            parts.append(frame[at + 1 : at + 2] * (257 - count))
            left -= 257 - count
            at += 2
        else:
            at += 1
    plane = b"".join(parts)
    if at > end or len(plane) < length:
        raise NotTranscodableError("damaged", "a compressed frame ends before all its pixels are there")
    # Some writers let the last run go beyond the frame.
    return plane[:length]
