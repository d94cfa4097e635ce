"""How pixels stand in a dataset: the attributes of the Image Pixel Module, PS3.3 section C.7.6.3."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from libs.dicom.explicit import Element
from libs.dicom.untranscodable import NotTranscodableError

SAMPLES: Final = 0x00280002
PHOTOMETRIC: Final = 0x00280004
PLANAR: Final = 0x00280006
FRAMES: Final = 0x00280008
ROWS: Final = 0x00280010
COLUMNS: Final = 0x00280011
ALLOCATED: Final = 0x00280100
STORED: Final = 0x00280101
HIGH: Final = 0x00280102
SIGNED: Final = 0x00280103
_NAMES: Final = {ROWS: "Rows (0028,0010)", COLUMNS: "Columns (0028,0011)", ALLOCATED: "Bits Allocated (0028,0100)"}
_HALF: Final = "YBR_FULL_422"
_SUBSAMPLED: Final = frozenset({"YBR_PARTIAL_422", "YBR_PARTIAL_420"})
_WIDTHS: Final = frozenset({1, 8, 16, 32, 64})
_LONGEST_NUMBER: Final = 12


@dataclass(frozen=True)
class Bounds:
    """How large an image may be, looked at before memory is taken.

    Attributes
    ----------
    frame
        Bytes of one decoded frame; working on it takes several times as much.
    image
        Bytes of all decoded frames together.
    header
        Bytes of everything else.
    """

    frame: int = 1 << 28
    image: int = 1 << 38
    header: int = 1 << 26


@dataclass(frozen=True)
class Picture:
    """An image's size, and what its samples are.

    Attributes
    ----------
    rows, columns, samples, frames
        Size in pixels, samples of a pixel, frames.
    allocated, stored, high
        Bits of a sample's cell, of its value, and the highest one of these.
    signed
        Whether values are in two's complement.
    planes
        Whether the samples of a kind stand together (Planar Configuration 1).
    photometric
        Photometric Interpretation.
    """

    rows: int
    columns: int
    samples: int
    frames: int
    allocated: int
    stored: int
    high: int
    signed: bool
    planes: bool
    photometric: str

    @property
    def half(self) -> bool:
        """Whether uncompressed pixels share their chrominance in twos, PS3.3 section C.7.6.3.1.2."""
        return self.photometric == _HALF

    @property
    def frame_bytes(self) -> int:
        """Bytes of a frame whose pixels have all their samples; of one bit each, the bytes that they fill."""
        return (self.rows * self.columns * self.samples * self.allocated + 7) // 8

    @property
    def plain(self) -> bool:
        """Whether the value fills the low bits of its cell: nothing stands below it."""
        return self.high == self.stored - 1


def picture(elements: Iterable[Element], bounds: Bounds) -> Picture:
    """Read how the pixels stand in a dataset, and whether they are within the bounds.

    Raises
    ------
    NotTranscodableError
        Something is missing, contradicts itself, or is out of bounds.
    """
    found = {each.tag: each.value for each in elements if each.tag >> 16 == PHOTOMETRIC >> 16}
    photometric = found.get(PHOTOMETRIC, b"").decode("latin-1").strip("\0 ")
    if not photometric:
        raise NotTranscodableError("damaged", "its header has no Photometric Interpretation (0028,0004)")
    if photometric in _SUBSAMPLED:
        raise NotTranscodableError("unreadable", f"pixels of the kind {photometric} have no decoder here")
    allocated = _number(found, ALLOCATED)
    stored = _number(found, STORED, allocated)
    read = Picture(
        rows=_number(found, ROWS),
        columns=_number(found, COLUMNS),
        samples=_number(found, SAMPLES, 1),
        frames=_frames(found.get(FRAMES, b"")),
        allocated=allocated,
        stored=stored,
        high=_number(found, HIGH, stored - 1),
        signed=_number(found, SIGNED, 0) == 1,
        planes=_number(found, PLANAR, 0) == 1,
        photometric=photometric,
    )
    _check(read, bounds)
    return read


def _check(read: Picture, bounds: Bounds) -> None:
    if not read.rows or not read.columns:
        raise NotTranscodableError("damaged", "its header says that it has no rows or no columns")
    if read.allocated not in _WIDTHS:
        raise NotTranscodableError("unreadable", f"its pixels have {read.allocated} bits each, which no decoder reads")
    if not 1 <= read.stored <= read.allocated or not read.stored - 1 <= read.high < read.allocated:
        raise NotTranscodableError("damaged", "Bits Allocated, Bits Stored and High Bit contradict each other")
    if read.samples not in (1, 3):
        raise NotTranscodableError("unreadable", f"its pixels have {read.samples} samples each: only 1 and 3 are read")
    if read.frame_bytes > bounds.frame:
        raise NotTranscodableError("too-large", "one of its frames is larger than what is allowed")
    if read.frame_bytes * read.frames > bounds.image:
        raise NotTranscodableError("too-large", "its frames together are larger than what is allowed")


def _number(found: dict[int, bytes], tag: int, otherwise: int | None = None) -> int:
    value = found.get(tag, b"")[:2]
    if len(value) == 2:  # noqa: PLR2004 (an unsigned short)
        return int.from_bytes(value, "little")
    if otherwise is None:
        raise NotTranscodableError("damaged", f"its header has no {_NAMES[tag]}")
    return otherwise


def _frames(value: bytes) -> int:
    text = value.strip(b"\0 ")
    if not text:
        return 1
    if len(text) > _LONGEST_NUMBER or not text.isdigit():
        raise NotTranscodableError("damaged", "its Number of Frames (0028,0008) is no number")
    # Some writers say 0 where there is no more than one.
    return int(text) or 1
