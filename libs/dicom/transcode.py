"""Images from one transfer syntax to another, frame by frame: PS3.5 section 8.2 and annex A.4.

What is lossless is decoded again and compared before the caller has it. What was lossy stays marked so.
"""

import shutil
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from io import BytesIO
from itertools import chain
from typing import BinaryIO, Final

import numpy as np
from pydicom.uid import UID

from libs.dicom import codec, codestream, colour, encapsulated, icon, lossy, part10, syntax, tokenizer
from libs.dicom.codec import Frame
from libs.dicom.explicit import FORM, PIXEL_DATA, Chunks, Element, Elements, Head, edited, element
from libs.dicom.identity import IMPLICIT
from libs.dicom.lossy import lossy_uid
from libs.dicom.part10 import Meta, NotPart10Error
from libs.dicom.picture import ALLOCATED, PHOTOMETRIC, PLANAR, Bounds, Picture, picture
from libs.dicom.reencode import EXPLICIT, NotReencodableError, reencoded
from libs.dicom.syntax import TARGETS
from libs.dicom.tokenizer import UNDEFINED, Form
from libs.dicom.untranscodable import NotTranscodableError

__all__ = ["TARGETS", "Bounds", "NotTranscodableError", "Transcoded", "lossy_uid", "transcode"]

#: MAC Parameters and Digital Signatures, which hold for the bytes that were signed (PS3.15 section C.1), and padding.
_LEFT_OUT: Final = frozenset({0x4FFE0001, 0xFFFAFFFA, 0xFFFCFFFC})
_TABLES: Final = (encapsulated.EXTENDED_OFFSETS, encapsulated.EXTENDED_LENGTHS, encapsulated.TOTAL_LENGTH)
#: Pixel Data Provider URL, of an image whose pixels are elsewhere.
_PROVIDER: Final = 0x00287FE0
_COLOURS: Final = 3
_LONGEST_NATIVE: Final = 0xFFFFFFFE
_WORST: Final = 2


@dataclass(frozen=True)
class Transcoded:
    """What became of an instance.

    Attributes
    ----------
    transfer_syntax_uid
        That of the result. An object without pixel data has nothing to compress: asked for a compressed transfer
        syntax, it comes in Explicit VR Little Endian.
    sop_instance_uid
        A new one if the pixels are not those that came (PS3.3 section C.7.6.1.1.5), see `lossy_uid`.
    frames
        How many were encoded or decoded; none if pixels were passed on as they were.
    lossy
        Whether something was lost here.
    """

    transfer_syntax_uid: str
    sop_instance_uid: str
    frames: int
    lossy: bool


def transcode(
    source: BinaryIO, result: BinaryIO, target: str, *, ratio: float | None = None, bounds: Bounds | None = None
) -> Transcoded:
    """Write a Part 10 file once more, in another transfer syntax.

    Memory is that of a few frames, however many there are. The same file and target give the same bytes.

    Parameters
    ----------
    source
        The file, positioned at its beginning; it must be able to seek. It is only read.
    result
        An empty file, opened to be written and read, that can seek too. What it holds after an error is to be thrown
        away. It is not synced.
    target
        UID of a transfer syntax, one of those in `TARGETS`.
    ratio
        How many times smaller a lossy result is to be, more than 1: for `JPEG_2000`, which needs it, and for no other.

    Raises
    ------
    ValueError
        `target` is none of these, or `ratio` does not belong to it.
    NotTranscodableError
        The instance can't be had in this transfer syntax, or the result, decoded again, is not the image that came.
    OSError
        A file can't be read or written: another try may succeed.
    """
    if target not in TARGETS.values():
        raise ValueError(f"{target} is no transfer syntax that is written here")
    if (ratio is not None) != (target == syntax.JPEG_2000) or (ratio is not None and ratio <= 1):
        raise ValueError("a ratio of more than 1 belongs to JPEG 2000, and to no other transfer syntax")
    try:
        meta, offset = part10.decode(source)
        return _Transcoding(source, result, meta, offset, bounds or Bounds()).to(target, ratio)
    except (NotPart10Error, NotReencodableError) as error:
        raise NotTranscodableError("damaged", str(error)) from error


@dataclass(frozen=True)
class _Image:
    """Pixels on their way: how they stand, decoded, and what comes behind them."""

    picture: Picture
    frames: Iterator[Frame]
    rest: Callable[[], list[Element]]
    #: Defined term and ratio, where the pixels lost something and the header does not say so.
    unmarked: tuple[str, float] | None = None


class _Transcoding:
    def __init__(self, source: BinaryIO, result: BinaryIO, meta: Meta, offset: int, bounds: Bounds) -> None:
        self._source = source
        self._result = result
        self._meta = meta
        self._offset = offset
        self._bounds = bounds
        self._syntax = meta.transfer_syntax_uid

    def to(self, target: str, ratio: float | None) -> Transcoded:
        native = self._syntax in syntax.NATIVE
        if not native and self._syntax not in syntax.DECODED:
            raise NotTranscodableError(
                "unreadable", f"its pixels are in {UID(self._syntax).name}, for which there is no decoder here"
            )
        if ratio is None and (self._syntax == target or (native and target in syntax.NATIVE)):
            return self._passed_on(target)
        form = FORM if native else self._form()
        elements = self._elements() if native else Elements(self._source, self._bounds.header, form)
        header = _made_explicit(elements.take(), form, self._bounds)
        head = elements.head()
        if head is None:
            if {each.tag for each in header} & {_PROVIDER, ALLOCATED} == {ALLOCATED}:
                raise NotTranscodableError("damaged", "its header describes an image, and there are no pixels")
            return self._without_pixels(target)
        if head.tag != PIXEL_DATA:
            raise NotTranscodableError("unsuited", "its pixels are floating point numbers, which no codec here takes")
        if native:
            image = self._native_image(elements, header, head)
        else:
            header = [icon.uncompressed(each, self._syntax, self._bounds) for each in header]
            image = self._decoded_image(elements, header, head, form)
        if target in syntax.NATIVE:
            return self._uncompressed(header, image, target)
        return self._compressed(header, image, target, ratio)

    def _elements(self) -> Elements:
        """Give the elements, in Explicit VR Little Endian, of a dataset whose pixels are not compressed."""
        kept = self._syntax
        if kept == EXPLICIT and self._form().implicit:
            kept = IMPLICIT
        source = self._source if kept == EXPLICIT else Chunks(reencoded(self._source, kept, EXPLICIT))
        return Elements(source, self._bounds.header)

    def _form(self) -> Form:
        """Tell how a dataset is encoded that should be in Explicit VR Little Endian: some are not."""
        start = self._source.tell()
        form = tokenizer.form_of(self._source.read(8), FORM)
        self._source.seek(start)
        return form

    def _passed_on(self, target: str) -> Transcoded:
        self._begin(target)
        if self._syntax == target:
            shutil.copyfileobj(self._source, self._result)
        else:
            self._result.writelines(reencoded(self._source, self._syntax, target))
        return Transcoded(target, self._meta.sop_instance_uid, 0, lossy=False)

    def _without_pixels(self, target: str) -> Transcoded:
        given = target if target in syntax.NATIVE else EXPLICIT
        self._source.seek(self._offset)
        encoded = EXPLICIT if self._syntax not in syntax.NATIVE else self._syntax
        self._begin(given)
        if encoded == given:
            shutil.copyfileobj(self._source, self._result)
        else:
            self._result.writelines(reencoded(self._source, encoded, given))
        return Transcoded(given, self._meta.sop_instance_uid, 0, lossy=False)

    def _native_image(self, elements: Elements, header: list[Element], head: Head) -> _Image:
        read = picture(header, self._bounds)
        if head.length == UNDEFINED:
            raise NotTranscodableError("damaged", "its pixel data are compressed, against its transfer syntax")
        read = replace(read, photometric="YBR_FULL") if read.half and head.length >= _whole(read) else read
        size = read.frame_bytes * 2 // 3 if read.half else read.frame_bytes
        spare = head.length - size * read.frames
        if spare < 0:
            raise NotTranscodableError("damaged", "it holds fewer pixels than its header says")
        if spare >= size:
            raise NotTranscodableError(
                "damaged", "it holds more frames than its header says: Number of Frames (0028,0008) is missing or wrong"
            )
        return _Image(
            replace(read, photometric="YBR_FULL") if read.half else read,
            (_from_native(_all_of(elements, size), read) for _ in range(read.frames)),
            lambda: _behind(elements, spare, FORM, self._bounds),
        )

    def _decoded_image(self, elements: Elements, header: list[Element], head: Head, form: Form) -> _Image:
        read = picture(header, self._bounds)
        if head.length != UNDEFINED:
            raise NotTranscodableError("damaged", "its pixel data are not compressed, against its transfer syntax")
        if read.allocated == 1:
            raise NotTranscodableError("unreadable", "compressed pixels of one bit each have no decoder here")
        self._source.seek(-elements.ahead, 1)
        found = encapsulated.fragments(self._source)
        alone = self._syntax in (syntax.RLE, syntax.DEFLATED_FRAMES)
        compressed = encapsulated.frames(self._source, found, read.frames, read.frame_bytes, alone=alone)
        first = next(compressed)
        coded = None if alone else codestream.coded(first)
        turned = replace(read, photometric=colour.decoded(self._syntax, read), planes=False)
        lost = self._syntax in syntax.JPEG_LOSSY or (coded is not None and coded.lossy)
        marked = lossy.is_marked({each.tag: each for each in header})
        return _Image(
            turned,
            self._decoded(first, compressed, read, lossless=not (lost or marked)),
            lambda: self._behind_fragments(found.end, form),
            (lossy.method(self._syntax), read.frame_bytes * read.frames / found.size) if lost and not marked else None,
        )

    def _decoded(self, first: bytes, others: Iterator[bytes], read: Picture, *, lossless: bool) -> Iterator[Frame]:
        for data in chain([first], others):
            frame, coded = codec.decode(self._syntax, data, read)
            if lossless and coded is not None and coded.lossy:
                raise NotTranscodableError("damaged", "some of its frames are lossy, and its header does not say so")
            again = codec.decode_again(self._syntax, data, read)
            if again is not None and not np.array_equal(frame, again):
                raise NotTranscodableError("different", "two decoders read different pixels out of a frame that came")
            yield colour.turned(self._syntax, frame, coded, read)

    def _behind_fragments(self, end: int, form: Form) -> list[Element]:
        self._source.seek(end)
        return _behind(Elements(self._source, self._bounds.header, form), 0, form, self._bounds)

    def _uncompressed(self, header: list[Element], image: _Image, target: str) -> Transcoded:
        read = image.picture
        length = read.frame_bytes * read.frames
        if length > _LONGEST_NATIVE:
            raise NotTranscodableError("unsuited", "its pixels take more than 4 GiB, which only compressed ones may")
        dataset = self._native_dataset(header, image, length)
        self._begin(target)
        if target == IMPLICIT:
            dataset = reencoded(Chunks(dataset), EXPLICIT, IMPLICIT)
        self._result.writelines(dataset)
        return Transcoded(target, self._meta.sop_instance_uid, read.frames, lossy=False)

    def _native_dataset(self, header: list[Element], image: _Image, length: int) -> Iterator[bytes]:
        # The first frame may show what the header must say.
        first = next(image.frames)
        for _, raw in edited(header, _edits(header, image)):
            yield raw
        vr = b"OB" if image.picture.allocated <= 8 else b"OW"  # noqa: PLR2004 (PS3.5 section A.2)
        yield element(PIXEL_DATA, vr, b"")[:8] + (length + length % 2).to_bytes(4, "little")
        for frame in chain([first], image.frames):
            yield frame.tobytes()
        yield bytes(length % 2)
        for each in image.rest():
            yield each.raw

    def _compressed(self, header: list[Element], image: _Image, target: str, ratio: float | None) -> Transcoded:
        found = {each.tag: each for each in header}
        read = image.picture
        if reason := codec.unsuited(target, read) or (ratio and _no_loss(read)):
            raise NotTranscodableError("unsuited", reason)
        read = replace(
            read, photometric=colour.encoded(target, read.photometric, lossy=ratio is not None), planes=False
        )
        uid = self._meta.sop_instance_uid
        edits = _edits(header, replace(image, picture=read))
        if ratio is not None:
            uid = lossy_uid(uid, ratio)
            edits |= lossy.derivation(found, target, ratio, uid)
        self._begin(target, uid)
        place = self._write(edited(header, edits))
        writer = encapsulated.Writer(self._result, read.frames, _WORST * read.frame_bytes * read.frames)
        for frame in image.frames:
            data = codec.encode(target, frame, read, ratio)
            _prove(target, data, frame, read, lossless=ratio is None)
            writer.write(data)
        size = writer.close()
        self._write((each.tag, each.raw) for each in image.rest())
        if ratio is not None:
            self._result.seek(place - lossy.ROOM)
            self._result.write(f"{read.frame_bytes * read.frames / size:.4g}".ljust(lossy.ROOM).encode())
        return Transcoded(target, uid, read.frames, lossy=ratio is not None)

    def _begin(self, target: str, uid: str = "") -> None:
        self._result.write(
            part10.encode(
                replace(self._meta, transfer_syntax_uid=target, sop_instance_uid=uid or self._meta.sop_instance_uid)
            )
        )

    def _write(self, elements: Iterable[tuple[int, bytes]]) -> int:
        """Write elements; give where the ratio of a lossy compression ends, if it is among them."""
        place = 0
        for tag, raw in elements:
            self._result.write(raw)
            if tag == lossy.RATIO:
                place = self._result.tell()
        return place


def _edits(header: list[Element], image: _Image) -> dict[int, bytes | None]:
    """Give what an image's header must say, as its pixels stand now."""
    read = image.picture
    edits: dict[int, bytes | None] = dict.fromkeys((*_LEFT_OUT, *_TABLES))
    edits[PHOTOMETRIC] = element(PHOTOMETRIC, b"CS", read.photometric.encode("latin-1"))
    planes = int(read.planes).to_bytes(2, "little")
    edits[PLANAR] = element(PLANAR, b"US", planes) if read.samples == _COLOURS else None
    if image.unmarked is not None:
        how, ratio = image.unmarked
        edits |= lossy.marks({each.tag: each for each in header}, how, f"{ratio:.4g}")
    return edits


def _prove(target: str, data: bytes, frame: Frame, read: Picture, *, lossless: bool) -> None:
    """Decode what was encoded, by another decoder where there is one, and compare."""
    again = codec.decode_again(target, data, read)
    if again is None:
        again, _ = codec.decode(target, data, read)
    if lossless and not np.array_equal(again, frame):
        raise NotTranscodableError("different", "a frame that was encoded and decoded again is not the one that came")


def _no_loss(read: Picture) -> str:
    if read.photometric == "PALETTE COLOR":
        return "its pixels are numbers of colours in a table, which can't be approximated"
    return "" if read.plain else "its values do not stand in the low bits of their cells"


def _whole(read: Picture) -> int:
    return read.frame_bytes * read.frames


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
    behind = [each for each in _made_explicit(elements.take(), form, bounds) if each.tag not in _LEFT_OUT]
    if elements.head() is not None:
        raise NotTranscodableError("damaged", "it has pixel data more than once")
    return behind
