"""The image in a Part 10 file: its header in Explicit VR Little Endian, and its frames, decoded one after the other.

PS3.5 section 8 and annex A.4. A frame is read when it is asked for, and what does not fit the header is an error.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from io import BytesIO
from itertools import chain
from typing import BinaryIO, Final

import numpy as np

from libs.dicom import codec, codestream, colour, encapsulated, icon, lossy, syntax, tokenizer
from libs.dicom.codec import Frame
from libs.dicom.explicit import FORM, PIXEL_DATA, Chunks, Element, Elements, Head
from libs.dicom.identity import IMPLICIT
from libs.dicom.picture import ALLOCATED, Bounds, Picture, picture
from libs.dicom.reencode import EXPLICIT, reencoded
from libs.dicom.tokenizer import UNDEFINED, Form
from libs.dicom.untranscodable import NotTranscodableError

#: MAC Parameters and Digital Signatures, which hold for the bytes that were signed (PS3.15 section C.1), and padding.
LEFT_OUT: Final = frozenset({0x4FFE0001, 0xFFFAFFFA, 0xFFFCFFFC})
#: Pixel Data Provider URL, of an image whose pixels are elsewhere.
_PROVIDER: Final = 0x00287FE0
_FULL: Final = "YBR_FULL"


@dataclass(frozen=True)
class Image:
    """Pixels on their way.

    Attributes
    ----------
    header
        Elements before the pixel data.
    picture
        How the pixels stand, decoded.
    frames
        The frames, decoded; given once.
    rest
        Gives the elements behind the pixel data, when all frames were taken.
    lost
        Defined term and ratio of a compression that lost something and that the header does not tell of; else None.
    packed
        How many times smaller the pixels were than they are decoded.
    """

    header: list[Element]
    picture: Picture
    frames: Iterator[Frame]
    rest: Callable[[], list[Element]]
    lost: tuple[str, float] | None = None
    packed: float = 1.0


def form_of(dataset: BinaryIO) -> Form:
    """Tell how a dataset is encoded that should be in Explicit VR Little Endian: some are not."""
    start = dataset.tell()
    form = tokenizer.form_of(dataset.read(8), FORM)
    dataset.seek(start)
    return form


def image(dataset: BinaryIO, transfer_syntax: str, bounds: Bounds) -> Image | None:
    """Read the image of a dataset; None if it has no pixel data.

    Parameters
    ----------
    dataset
        Positioned at the dataset's first byte, able to seek.
    transfer_syntax
        One of `syntax.NATIVE` or `syntax.DECODED`.
    bounds
        What it may take.

    Raises
    ------
    NotTranscodableError
        It can't be read; also while frames are taken.
    NotReencodableError
        The same, of a dataset that is not explicit.
    """
    native = transfer_syntax in syntax.NATIVE
    form = FORM if native else form_of(dataset)
    elements = _elements(dataset, transfer_syntax, bounds) if native else Elements(dataset, bounds.header, form)
    header = _made_explicit(elements.take(), form, bounds)
    head = elements.head()
    if head is None:
        if {each.tag for each in header} & {_PROVIDER, ALLOCATED} == {ALLOCATED}:
            raise NotTranscodableError("damaged", "its header describes an image, and there are no pixels")
        return None
    if head.tag != PIXEL_DATA:
        raise NotTranscodableError("unsuited", "its pixels are floating point numbers, which no codec here takes")
    if native:
        return _native(elements, header, head, bounds)
    dataset.seek(-elements.ahead, 1)
    header = [icon.uncompressed(each, transfer_syntax, bounds) for each in header]
    return _compressed(dataset, transfer_syntax, header, head, form, bounds)


def _elements(dataset: BinaryIO, transfer_syntax: str, bounds: Bounds) -> Elements:
    """Give the elements, in Explicit VR Little Endian, of a dataset whose pixels are not compressed."""
    kept = IMPLICIT if transfer_syntax == EXPLICIT and form_of(dataset).implicit else transfer_syntax
    return Elements(dataset if kept == EXPLICIT else Chunks(reencoded(dataset, kept, EXPLICIT)), bounds.header)


def _native(elements: Elements, header: list[Element], head: Head, bounds: Bounds) -> Image:
    read = picture(header, bounds)
    if head.length == UNDEFINED:
        raise NotTranscodableError("damaged", "its pixel data are compressed, against its transfer syntax")
    # Some say that chrominance is shared, and it is not.
    read = replace(read, photometric=_FULL) if read.half and head.length >= read.frame_bytes * read.frames else read
    if read.half and (read.columns % 2 or read.planes or read.samples != 3 or read.allocated < 8):  # noqa: PLR2004
        raise NotTranscodableError("damaged", "its pixels can't share chrominance as its header says they do")
    size = read.frame_bytes * 2 // 3 if read.half else read.frame_bytes
    spare = head.length - size * read.frames
    if spare < 0:
        raise NotTranscodableError("damaged", "it holds fewer pixels than its header says")
    if spare >= size:
        raise NotTranscodableError(
            "damaged", "it holds more frames than its header says: Number of Frames (0028,0008) is missing or wrong"
        )
    return Image(
        header,
        replace(read, photometric=_FULL) if read.half else read,
        (_from_native(_all_of(elements, size), read) for _ in range(read.frames)),
        lambda: _behind(elements, spare, FORM, bounds),
    )


def _compressed(
    dataset: BinaryIO, transfer_syntax: str, header: list[Element], head: Head, form: Form, bounds: Bounds
) -> Image:
    read = picture(header, bounds)
    if head.length != UNDEFINED:
        raise NotTranscodableError("damaged", "its pixel data are not compressed, against its transfer syntax")
    if read.allocated == 1:
        raise NotTranscodableError("unreadable", "compressed pixels of one bit each have no decoder here")
    found = encapsulated.fragments(dataset)
    alone = transfer_syntax in (syntax.RLE, syntax.DEFLATED_FRAMES)
    compressed = encapsulated.frames(dataset, found, read.frames, read.frame_bytes, alone=alone)
    first = next(compressed)
    lost = transfer_syntax in syntax.JPEG_LOSSY or (not alone and codestream.coded(first).lossy)
    marked = lossy.is_marked({each.tag: each for each in header})
    packed = read.frame_bytes * read.frames / max(found.size, 1)

    def rest() -> list[Element]:
        dataset.seek(found.end)
        return _behind(Elements(dataset, bounds.header, form), 0, form, bounds)

    return Image(
        header,
        replace(read, photometric=colour.decoded(transfer_syntax, read), planes=False),
        _decoded(chain([first], compressed), transfer_syntax, read, lossless=not (lost or marked)),
        rest,
        (lossy.method(transfer_syntax), packed) if lost and not marked else None,
        packed,
    )


def _decoded(frames: Iterator[bytes], transfer_syntax: str, read: Picture, *, lossless: bool) -> Iterator[Frame]:
    for data in frames:
        frame, coded = codec.decode(transfer_syntax, data, read)
        if lossless and coded is not None and coded.lossy:
            raise NotTranscodableError("damaged", "some of its frames are lossy, and its header does not say so")
        again = codec.decode_again(transfer_syntax, data, read)
        if again is not None and not np.array_equal(frame, again):
            raise NotTranscodableError("different", "two decoders read different pixels out of a frame that came")
        yield colour.turned(transfer_syntax, frame, coded, read)


def _from_native(pixels: bytes, read: Picture) -> Frame:
    if not read.half:
        return codec.by_pixel(pixels, read)
    cells = np.frombuffer(pixels, f"<u{read.allocated // 8}")
    return colour.whole(cells.reshape(read.rows, read.columns // 2, 4))


def _all_of(elements: Elements, size: int) -> bytes:
    pixels = elements.read(size)
    if len(pixels) < size:
        raise NotTranscodableError("damaged", "the file ends inside its pixel data")
    return pixels


def _made_explicit(elements: Iterator[Element], form: Form, bounds: Bounds) -> list[Element]:
    """Give elements in Explicit VR Little Endian: those around compressed pixels that their writer left implicit."""
    if not form.implicit:
        return list(elements)
    implicit = b"".join(each.raw for each in elements)
    if not implicit:
        return []
    return list(Elements(Chunks(reencoded(BytesIO(implicit), IMPLICIT, EXPLICIT)), bounds.header).take())


def _behind(elements: Elements, spare: int, form: Form, bounds: Bounds) -> list[Element]:
    elements.read(spare)
    behind = [each for each in _made_explicit(elements.take(), form, bounds) if each.tag not in LEFT_OUT]
    if elements.head() is not None:
        raise NotTranscodableError("damaged", "it has pixel data more than once")
    return behind
