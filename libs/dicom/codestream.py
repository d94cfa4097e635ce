"""What a compressed frame says of itself, before anything of it is decoded.

JPEG: ISO/IEC 10918-1 annex B. JPEG-LS: ISO/IEC 14495-1 annex C. JPEG 2000: ISO/IEC 15444-1 annex A.
"""

import struct
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Final

from libs.dicom.untranscodable import NotTranscodableError

_SOI: Final = b"\xff\xd8"
_SOC: Final = b"\xff\x4f\xff\x51"
_END: Final = b"\xff\xd9"
_SOF_LS: Final = 0xF7
#: Start of frame, without those of the same range that are tables: DHT, JPG, DAC.
_SOF: Final = frozenset({*range(0xC0, 0xD0), _SOF_LS}) - {0xC4, 0xC8, 0xCC}
_SOS: Final = 0xDA
_ALONE: Final = frozenset({0x01, *range(0xD0, 0xD8)})
_JFIF: Final = 0xE0
_COLOUR_TRANSFORM: Final = 0xE8
_ADOBE: Final = 0xEE
_TRANSFORM: Final = 11
_SEQUENTIAL: Final = frozenset({0xC0, 0xC1})
_ONE_SCAN: Final = b"\0\x3f\0"
_COD: Final = 0x52
_SOT: Final = 0x90
_IRREVERSIBLE: Final = 0
_SIGNED: Final = 0x80
_RGB_COMPONENTS: Final = frozenset({b"RGB", b"rgb"})
_LONGEST_PADDING: Final = 16


@dataclass(frozen=True)
class Coded:
    """A frame's own header.

    Attributes
    ----------
    rows, columns, samples
        Size in pixels, and components.
    precision
        Bits of a sample.
    signed
        Whether samples are signed; only JPEG 2000 can say so.
    lossy
        Whether this way of coding loses something: a DCT is not looked for here, but JPEG-LS with an allowed error, and
        the irreversible wavelet of JPEG 2000.
    colour
        `RGB` or `YBR`, where a marker of JPEG says it; else empty.
    transformed
        Whether JPEG-LS samples went through a colour transform that is not in the standard (HP1 to HP3).
    misfit
        Offset of the parameters of a sequential scan, which have but one value (ISO/IEC 10918-1 table B.3), if they
        have another; else 0.
    """

    rows: int
    columns: int
    samples: int
    precision: int
    signed: bool = False
    lossy: bool = False
    colour: str = ""
    transformed: bool = False
    misfit: int = 0


def coded(data: bytes) -> Coded:
    """Read the header of a JPEG, JPEG-LS or JPEG 2000 frame.

    Raises
    ------
    NotTranscodableError
        It is none, or is damaged, or ends too early.
    """
    try:
        if data.startswith(_SOI):
            return _jpeg(data)
        # A JP2 file, which PS3.5 section A.4.4 does not allow, has the codestream inside.
        start = data.find(_SOC, 0, 1 << 12)
        if start >= 0:
            return _jpeg_2000(data, start)
    except (struct.error, IndexError) as error:
        raise NotTranscodableError("damaged", "a compressed frame ends inside its own header") from error
    raise NotTranscodableError("damaged", "a compressed frame does not begin as its transfer syntax says it does")


def begins(data: bytes) -> bool:
    """Tell whether bytes are the beginning of a frame."""
    return data.startswith((_SOI, _SOC, b"\0\0\0\x0cjP  "))


def ends(tail: bytes) -> bool:
    """Tell whether bytes are the last ones of a frame: its end marker, and padding."""
    stripped = tail.rstrip(b"\0")
    return stripped.endswith(_END) or stripped.rstrip(b"\xff\0 ").endswith(_END)


def whole(data: bytes) -> bool:
    """Tell whether a frame has its end marker: a decoder would give grey for what is missing, and say nothing."""
    return ends(data[-_LONGEST_PADDING:]) or ends(data.rstrip(b"\0")[-_LONGEST_PADDING:])


def _jpeg(data: bytes) -> Coded:
    found: Coded | None = None
    colour, transformed, frame = "", False, 0
    for marker, at, body in _segments(data):
        if marker in _SOF:
            precision, rows, columns, samples = struct.unpack_from(">BHHB", body)
            found, frame = Coded(rows, columns, samples, precision), marker
            colour = "RGB" if body[6::3][:samples] in _RGB_COMPONENTS else colour
        elif marker == _ADOBE and body.startswith(b"Adobe") and len(body) > _TRANSFORM:
            colour = "YBR" if body[_TRANSFORM] else "RGB"
        elif marker == _JFIF and body.startswith(b"JFIF"):
            colour = colour or "YBR"
        elif marker == _COLOUR_TRANSFORM and body.startswith(b"mrfx"):
            transformed = body[4] != 0
        elif marker == _SOS and found is not None:
            scan = 1 + 2 * body[0]
            return replace(
                found,
                lossy=frame == _SOF_LS and body[scan] > 0,
                colour=colour,
                transformed=transformed,
                misfit=at + scan if frame in _SEQUENTIAL and body[scan : scan + 3] != _ONE_SCAN else 0,
            )
    raise NotTranscodableError("damaged", "a compressed frame does not say how large it is")


def _segments(data: bytes) -> Iterator[tuple[int, int, bytes]]:
    """Give marker, offset and content of the segments before the first scan, and of the scan's own header."""
    at, marker = 2, 0
    while marker != _SOS:
        if data[at] != 0xFF:  # noqa: PLR2004 (what every marker begins with)
            raise NotTranscodableError("damaged", "the header of a compressed frame is garbled")
        marker = data[at + 1]
        if marker == 0xFF:  # noqa: PLR2004 (a fill byte)
            at += 1
        elif marker in _ALONE:
            at += 2
        else:
            (length,) = struct.unpack_from(">H", data, at + 2)
            yield marker, at + 4, data[at + 4 : at + 2 + length]
            at += 2 + length


def _jpeg_2000(data: bytes, start: int) -> Coded:
    right, bottom, left, top = struct.unpack_from(">8xIIII", data, start)
    (samples,) = struct.unpack_from(">H", data, start + 40)
    components = data[start + 42 : start + 42 + 3 * samples]
    kinds = set(components[::3])
    if len(kinds) != 1 or len(components) < 3 * samples:
        raise NotTranscodableError("unreadable", "the components of a compressed frame differ in their bits")
    if set(components[1::3]) | set(components[2::3]) != {1}:
        raise NotTranscodableError("unreadable", "the components of a compressed frame differ in their size")
    kind = kinds.pop()
    return Coded(
        rows=bottom - top,
        columns=right - left,
        samples=samples,
        precision=(kind & ~_SIGNED) + 1,
        signed=bool(kind & _SIGNED),
        lossy=_irreversible(data, start + 2),
    )


def _irreversible(data: bytes, at: int) -> bool:
    """Tell by the coding style (COD), which stands before the first tile, whether the wavelet loses something."""
    while (marker := data[at + 1]) != _SOT:
        if data[at] != 0xFF:  # noqa: PLR2004 (what every marker begins with)
            break
        if marker == _COD:
            return data[at + 13] == _IRREVERSIBLE
        at += 2 + int(struct.unpack_from(">H", data, at + 2)[0])
    raise NotTranscodableError("damaged", "a compressed frame does not say how it is coded")
