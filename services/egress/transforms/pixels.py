"""The bytes of pixel data: where they are in a file, and areas of them made black."""

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import BinaryIO, Final, Literal

from pydicom.dataset import Dataset

from contracts.definition import Blank
from libs.dicom.tokenizer import Form
from services.egress.transforms.errors import UntransformableError

_GROUP: Final = 0x7FE0
_PIXEL_DATA: Final = (0x0008, 0x0009, 0x0010)
#: Group length, offset tables and pixel data: PS3.6.
_KNOWN: Final = frozenset({0x0000, 0x0001, 0x0002, 0x0003, *_PIXEL_DATA})
_ITEM: Final = 0xFFFEE000
_END: Final = 0xFFFEE0DD
_UNDEFINED: Final = 0xFFFFFFFF
_LONG_VRS: Final = frozenset({b"OB", b"OD", b"OF", b"OL", b"OV", b"OW", b"UN", b"UT"})
_FULL: Final = "YBR_FULL"
_HALF: Final = "YBR_FULL_422"
_DAMAGED: Final = "its pixel data are damaged: they end too early, or hold what is no fragment"


@dataclass(frozen=True)
class Span:
    """Where the elements of group 7FE0 are, and the value of the pixel data itself; offsets in the file.

    Attributes
    ----------
    start, end
        Of all of them.
    value, length
        Of the pixel data; -1 if they are encapsulated or there are none.
    items
        Where the first item of encapsulated ones is; else -1.
    strange
        Whether there are elements among them that the Standard does not know.
    """

    start: int
    end: int
    value: int = -1
    length: int = -1
    items: int = -1
    strange: bool = False

    def moved(self, by: int) -> "Span":
        """Give the same further on in a file."""
        return Span(
            self.start + by,
            self.end + by,
            self.value if self.value < 0 else self.value + by,
            self.length,
            self.items if self.items < 0 else self.items + by,
            self.strange,
        )


def span(file: BinaryIO, form: Form, size: int) -> Span:
    """Find the elements of the pixel data from where a file stands; leave it behind them. Nothing is read but heads."""
    start = at = file.tell()
    value = length = items = -1
    found: set[int] = set()
    while (head := _head(file, form)) is not None:
        group, element, count = head
        if group != _GROUP:
            break
        if element in _PIXEL_DATA and found.intersection(_PIXEL_DATA):
            raise UntransformableError("it has pixel data more than once")
        found.add(element)
        if count == _UNDEFINED:
            items = file.tell()
            _skip_fragments(file, _order(form), size)
        else:
            if element in _PIXEL_DATA:
                value, length = file.tell(), count
            file.seek(count, 1)
        at = file.tell()
        if at > size:
            raise UntransformableError(_DAMAGED)
    file.seek(at)
    return Span(start, at, value, length, items, strange=not found <= _KNOWN)


def _order(form: Form) -> str:
    return "<" if form.little_endian else ">"


def _head(file: BinaryIO, form: Form) -> tuple[int, int, int] | None:
    """Read group, element and length of what comes next; none at the end, and at zeros behind it."""
    head = file.read(8)
    if len(head) < 8:  # noqa: PLR2004 (tag, VR and length)
        if head.strip(b"\0"):
            raise UntransformableError(_DAMAGED)
        return None
    order = _order(form)
    group, element = struct.unpack_from(order + "HH", head)
    if form.implicit:
        (count,) = struct.unpack_from(order + "L", head, 4)
    elif head[4:6] in _LONG_VRS and group == _GROUP:
        (count,) = struct.unpack(order + "L", _take(file, 4))
    else:
        (count,) = struct.unpack_from(order + "H", head, 6)
    return group, element, count


def _skip_fragments(file: BinaryIO, order: str, size: int) -> None:
    while True:
        group, element, count = struct.unpack(order + "HHL", _take(file, 8))
        tag = group << 16 | element
        if tag == _END:
            return
        if tag != _ITEM or file.tell() + count > size:
            raise UntransformableError(_DAMAGED)
        file.seek(count, 1)


def _take(file: BinaryIO, count: int) -> bytes:
    data = file.read(count)
    if len(data) < count:
        raise UntransformableError(_DAMAGED)
    return data


def fitting(blanks: Sequence[Blank], dataset: Dataset) -> Blank | None:
    """Give the first rule that is for the device and size of an image."""
    said = {
        "manufacturer": _word(dataset, "Manufacturer"),
        "model": _word(dataset, "ManufacturerModelName"),
        "modality": _word(dataset, "Modality"),
    }
    sizes = {"columns": dataset.get("Columns"), "rows": dataset.get("Rows")}
    for blank in blanks:
        words = all(
            getattr(blank, name) is None or getattr(blank, name).strip().lower() == word for name, word in said.items()
        )
        if words and all(getattr(blank, name) in (None, number) for name, number in sizes.items()):
            return blank
    return None


def _word(dataset: Dataset, keyword: str) -> str:
    return str(dataset.get(keyword) or "").strip().lower()


@dataclass(frozen=True)
class _Plane:
    """Rows of bytes of one kind: offset in the frame, bytes from row to row, bytes a pixel, and what is black."""

    at: int
    stride: int
    pixel: int
    black: bytes


def blank(
    file: BinaryIO,
    where: Span,
    dataset: Dataset,
    areas: Sequence[tuple[int, int, int, int]],
    *,
    little_endian: bool = True,
) -> None:
    """Make areas of uncompressed pixel data black, in every frame, in place.

    Parameters
    ----------
    file
        Opened to be read and written.
    where
        Of its pixel data.
    dataset
        Describes them: PS3.3 section C.7.6.3.
    areas
        Left, top, width and height, in pixels; what is outside the image is left out.

    Raises
    ------
    UntransformableError
        The image is described in a way in which its pixels can't be found.
    """
    rows, columns = int(dataset.get("Rows") or 0), int(dataset.get("Columns") or 0)
    frames = int(dataset.get("NumberOfFrames") or 1)
    kind = str(dataset.get("PhotometricInterpretation") or "")
    # Some say that chrominance is shared, and it is not.
    subsampled = kind == _HALF and where.length < 3 * rows * columns * frames
    planes, frame = _planes(dataset, kind if subsampled or kind != _HALF else _FULL, rows, columns, little_endian)
    if where.value < 0 or frame <= 0 or frames < 1 or frame * frames > where.length:
        raise UntransformableError("its pixel data are not as long as its rows, columns and frames say")
    spare = where.length - frame * frames
    if spare >= frame:
        raise UntransformableError("it holds more frames than its header says, and nobody knows what they show")
    file.seek(where.value + frame * frames)
    file.write(bytes(spare))
    for number in range(frames):
        for left, top, width, height in areas:
            right, bottom = min(left + width, columns), min(top + height, rows)
            begin = left
            if subsampled:
                begin, right = left - left % 2, right + right % 2
            for plane in planes:
                line = plane.black * ((right - begin) * plane.pixel // len(plane.black))
                for row in range(top, bottom):
                    offset = number * frame + plane.at + row * plane.stride + begin * plane.pixel
                    file.seek(where.value + offset)
                    file.write(line)


def _planes(
    dataset: Dataset,
    kind: str,
    rows: int,
    columns: int,
    little_endian: bool,
) -> tuple[list[_Plane], int]:
    bits, samples = int(dataset.get("BitsAllocated") or 0), int(dataset.get("SamplesPerPixel") or 1)
    if bits % 8 or not bits or not rows or not columns:
        raise UntransformableError(f"areas of an image of {bits} bits a pixel can't be blanked")
    size = bits // 8
    if kind == _HALF:
        # PS3.3 section C.7.6.3.1.2: two pixels are Y1 Y2 CB CR.
        if size != 1 or columns % 2:
            raise UntransformableError("its colours are subsampled in a way in which areas can't be blanked")
        return [_Plane(0, columns * 2, 2, b"\0\0\x80\x80")], rows * columns * 2
    black = _black(dataset, kind, size, samples, "little" if little_endian else "big")
    if samples > 1 and dataset.get("PlanarConfiguration") == 1:
        plane = rows * columns * size
        return [_Plane(plane * n, columns * size, size, black[n]) for n in range(samples)], plane * samples
    pixel = size * samples
    return [_Plane(0, columns * pixel, pixel, b"".join(black))], rows * columns * pixel


def _black(dataset: Dataset, kind: str, size: int, samples: int, order: Literal["little", "big"]) -> list[bytes]:
    if kind == "MONOCHROME1":
        # The highest value is black.
        stored = int(dataset.get("BitsStored") or size * 8)
        high = (1 << (stored - 1 if dataset.get("PixelRepresentation") == 1 else stored)) - 1
        return [high.to_bytes(size, order)]
    if kind == _FULL and size == 1 and samples == 3:  # noqa: PLR2004 (Y, CB and CR)
        return [b"\0", b"\x80", b"\x80"]
    return [bytes(size)] * samples
