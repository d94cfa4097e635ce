"""What programs write into compressed frames beside the pixels: comments, EXIF with names and places, XMP.

No element of the dataset says that it is there. It is overwritten where it stands, so that nothing changes its place.
JPEG and JPEG-LS: ISO/IEC 10918-1 annex B; JPEG 2000: ISO/IEC 15444-1 annexes A and I.
"""

import re
import struct
from collections.abc import Iterator
from typing import BinaryIO, Final

from libs.dicom import codestream, encapsulated
from libs.dicom.untranscodable import NotTranscodableError
from services.egress.transforms.errors import UntransformableError

_SOI: Final = b"\xff\xd8"
_SOC: Final = b"\xff\x4f"
_JP2: Final = b"\0\0\0\x0cjP  "
_END: Final = 0xD9
_SCAN: Final = 0xDA
_COMMENT: Final = 0xFE
_APPLICATION: Final = range(0xE0, 0xF0)
#: How the segments of applications begin that decoders need, and how much of them: JFIF without what is behind its
#: size in small, ICC profiles, and which colours the samples are.
_NEEDED: Final = {0xE0: (b"JFIF\0", 14), 0xE2: (b"ICC_PROFILE\0", 1 << 16), 0xE8: (b"mrfx", 5), 0xEE: (b"Adobe", 12)}
#: Markers without a segment: restarts, and the start of an image.
_ALONE: Final = frozenset({0x01, *range(0xD0, 0xD9)})
#: In coded data a marker's second byte has its high bit set, and is no restart.
_MARKER: Final = re.compile(rb"\xff[\xc0-\xcf\xd8-\xfe]")
_J2K_COMMENT: Final = 0x64
_TILE: Final = 0x90
_TILE_DATA: Final = 0x93
#: Of a comment: which character set it has.
_REGISTRATION: Final = 2
_CODESTREAM_BOX: Final = b"jp2c"
_BOXES: Final = frozenset({b"jP  ", b"ftyp", b"rreq", b"jp2h", _CODESTREAM_BOX})


def empty(file: BinaryIO, items: int) -> None:
    """Overwrite them in every frame of encapsulated pixel data, in place.

    Parameters
    ----------
    file
        Opened to be read and written.
    items
        Where the first item of the pixel data is.

    Raises
    ------
    UntransformableError
        A frame can't be looked through.
    """
    file.seek(items)
    try:
        found = encapsulated.fragments(file)
    except NotTranscodableError as error:
        raise UntransformableError(str(error)) from error
    for frame in _frames(file, found):
        data = b"".join(_at(file, place, length) for place, length in frame)
        for start, end in remarks(data):
            _overwrite(file, frame, start, end)


def remarks(data: bytes) -> list[tuple[int, int]]:
    """Give where they are in a frame, each with its end. Raises UntransformableError."""
    try:
        if data.startswith(_SOI):
            return list(_of_jpeg(data))
        if data.startswith(_SOC):
            return list(_of_jpeg_2000(data, 0))
        return list(_of_boxes(data)) if data.startswith(_JP2) else []
    except (IndexError, struct.error) as error:
        raise _unclear() from error


def _frames(file: BinaryIO, found: encapsulated.Fragments) -> Iterator[list[tuple[int, int]]]:
    """Give place and length of the fragments of each frame, or of what begins like one."""
    frame: list[tuple[int, int]] = []
    for place, length in zip(found.places, found.lengths, strict=True):
        if frame and codestream.begins(_at(file, place, min(length, len(_JP2)))):
            yield frame
            frame = []
        frame.append((place, length))
    if frame:
        yield frame


def _at(file: BinaryIO, place: int, length: int) -> bytes:
    file.seek(place)
    return file.read(length)


def _overwrite(file: BinaryIO, frame: list[tuple[int, int]], start: int, end: int) -> None:
    at = 0
    for place, length in frame:
        first, last = max(start, at), min(end, at + length)
        if first < last:
            file.seek(place + first - at)
            file.write(bytes(last - first))
        at += length


def _of_jpeg(data: bytes) -> Iterator[tuple[int, int]]:
    at = len(_SOI)
    while True:
        if data[at] != 0xFF:  # noqa: PLR2004 (what every marker begins with)
            raise _unclear()
        marker = data[at + 1]
        if marker == _END:
            break
        if marker in _ALONE or marker == 0xFF:  # noqa: PLR2004 (a fill byte)
            at += 1 if marker == 0xFF else 2  # noqa: PLR2004
            continue
        start, end = _segment(data, at)
        if marker == _COMMENT or marker in _APPLICATION:
            yield min(start + _needed(marker, data, start), end), end
        at = end
        if marker == _SCAN:
            following = _MARKER.search(data, end)
            if following is None:
                # It is cut off: a decoder tells that.
                return
            at = following.start()
    yield at + 2, len(data)


def _needed(marker: int, data: bytes, start: int) -> int:
    """Give how many bytes of a segment stay."""
    beginning, length = _NEEDED.get(marker, (b"", 0))
    return length if data.startswith(beginning, start) else 0


def _segment(data: bytes, at: int) -> tuple[int, int]:
    (length,) = struct.unpack_from(">H", data, at + 2)
    end = at + 2 + length
    if length < 2 or end > len(data):  # noqa: PLR2004 (the length counts itself)
        raise _unclear()
    return at + 4, end


def _of_jpeg_2000(data: bytes, start: int) -> Iterator[tuple[int, int]]:
    at = start + len(_SOC)
    while data[at + 1] != _TILE:
        yield from _comment(data, at)
        _, at = _segment(data, at)
    while data[at : at + 2] == bytes((0xFF, _TILE)):
        (length,) = struct.unpack_from(">I", data, at + 6)
        within = _segment(data, at)[1]
        while data[within + 1] != _TILE_DATA:
            yield from _comment(data, within)
            _, within = _segment(data, within)
        if not length:
            # The last one, up to the end of the codestream.
            at = data.rindex(b"\xff\xd9") if b"\xff\xd9" in data[within:] else len(data)
            break
        if length < within - at:
            raise _unclear()
        at += length
    yield min(at + 2, len(data)), len(data)


def _comment(data: bytes, at: int) -> Iterator[tuple[int, int]]:
    if data[at] != 0xFF:  # noqa: PLR2004 (what every marker begins with)
        raise _unclear()
    if data[at + 1] == _J2K_COMMENT:
        start, end = _segment(data, at)
        yield min(start + _REGISTRATION, end), end


def _of_boxes(data: bytes) -> Iterator[tuple[int, int]]:
    at = 0
    while at + 8 <= len(data):
        length, kind = struct.unpack_from(">I4s", data, at)
        head = 8
        if length == 1:
            (length,) = struct.unpack_from(">Q", data, at + 8)
            head = 16
        end = len(data) if not length else at + length
        if end > len(data) or end < at + head:
            raise _unclear()
        if kind == _CODESTREAM_BOX:
            yield from _of_jpeg_2000(data[:end], at + head)
        elif kind not in _BOXES:
            yield at + head, end
        at = end
    yield at, len(data)


def _unclear() -> UntransformableError:
    return UntransformableError(
        "a compressed frame can't be looked through for what programs write beside the pixels (it may be damaged)"
    )
