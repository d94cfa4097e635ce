"""Images from one transfer syntax to another, frame by frame: PS3.5 section 8.2 and annex A.4.

What is lossless is decoded again and compared before the caller has it. What was lossy stays marked so.
"""

import shutil
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import chain
from math import isfinite
from typing import BinaryIO, Final

import numpy as np
from pydicom.uid import UID

from libs.dicom import codec, colour, encapsulated, lossy, part10, syntax
from libs.dicom.codec import Frame
from libs.dicom.explicit import PIXEL_DATA, Chunks, Element, edited, element
from libs.dicom.identity import IMPLICIT
from libs.dicom.image import LEFT_OUT, Image, form_of, image
from libs.dicom.lossy import lossy_uid
from libs.dicom.part10 import Meta, NotPart10Error
from libs.dicom.picture import PHOTOMETRIC, PLANAR, Bounds, Picture
from libs.dicom.reencode import EXPLICIT, NotReencodableError, reencoded
from libs.dicom.syntax import TARGETS
from libs.dicom.untranscodable import NotTranscodableError

__all__ = ["TARGETS", "Bounds", "NotTranscodableError", "Transcoded", "lossy_uid", "transcode"]

_TABLES: Final = (encapsulated.EXTENDED_OFFSETS, encapsulated.EXTENDED_LENGTHS, encapsulated.TOTAL_LENGTH)
_SOP_INSTANCE: Final = 0x00080018
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
    if (ratio is not None) != (target == syntax.JPEG_2000) or (
        ratio is not None and not (ratio > 1 and isfinite(ratio))
    ):
        raise ValueError("a ratio of more than 1 belongs to JPEG 2000, and to no other transfer syntax")
    try:
        meta, offset = part10.decode(source)
        return _Transcoding(source, result, meta, offset).to(target, ratio, bounds or Bounds())
    except (NotPart10Error, NotReencodableError) as error:
        raise NotTranscodableError("damaged", str(error)) from error


class _Transcoding:
    def __init__(self, source: BinaryIO, result: BinaryIO, meta: Meta, offset: int) -> None:
        self._source = source
        self._result = result
        self._meta = meta
        self._offset = offset
        self._syntax = meta.transfer_syntax_uid

    def to(self, target: str, ratio: float | None, bounds: Bounds) -> Transcoded:
        native = self._syntax in syntax.NATIVE
        if not native and self._syntax not in syntax.DECODED:
            raise NotTranscodableError(
                "unreadable", f"its pixels are in {UID(self._syntax).name}, for which there is no decoder here"
            )
        if ratio is None and (self._syntax == target or (native and target in syntax.NATIVE)):
            return self._passed_on(target, self._syntax)
        read = image(self._source, self._syntax, bounds)
        if read is None:
            self._source.seek(self._offset)
            encoded = self._syntax
            if encoded not in syntax.NATIVE - {EXPLICIT}:
                encoded = IMPLICIT if form_of(self._source).implicit else EXPLICIT
            return self._passed_on(target if target in syntax.NATIVE else EXPLICIT, encoded)
        if self._syntax == target and ratio is not None and read.packed >= ratio and read.lost is None:
            # Small enough as it is: each further compression would lose more.
            self._source.seek(self._offset)
            return self._passed_on(target, target)
        if target in syntax.NATIVE:
            return self._uncompressed(read, target)
        return self._compressed(read, target, ratio)

    def _passed_on(self, target: str, encoded: str) -> Transcoded:
        """Write the dataset as it is, but for how its elements are encoded."""
        self._begin(target)
        if encoded == target:
            shutil.copyfileobj(self._source, self._result)
        else:
            self._result.writelines(reencoded(self._source, encoded, target))
        return Transcoded(target, self._meta.sop_instance_uid, 0, lossy=False)

    def _uncompressed(self, read: Image, target: str) -> Transcoded:
        picture = read.picture
        if picture.frame_bytes * picture.frames > _LONGEST_NATIVE:
            raise NotTranscodableError("unsuited", "its pixels take more than 4 GiB, which only compressed ones may")
        # Before anything is written, so that most of what can't be decoded shows early.
        frames = chain([next(read.frames)], read.frames)
        dataset = _native_dataset(read, frames)
        self._begin(target)
        self._result.writelines(dataset if target == EXPLICIT else reencoded(Chunks(dataset), EXPLICIT, target))
        return Transcoded(target, self._meta.sop_instance_uid, picture.frames, lossy=False)

    def _compressed(self, read: Image, target: str, ratio: float | None) -> Transcoded:
        picture = read.picture
        if reason := codec.unsuited(target, picture) or (ratio and _no_loss(picture)):
            raise NotTranscodableError("unsuited", reason)
        if picture.samples == _COLOURS:
            kind = colour.encoded(target, picture.photometric, lossy=ratio is not None)
            picture = replace(picture, photometric=kind)
        picture = replace(picture, planes=False)
        edits = _edits(read, picture)
        uid = self._meta.sop_instance_uid
        if ratio is not None:
            found = _after(read.header, edits)
            if _SOP_INSTANCE in found:
                uid = found[_SOP_INSTANCE].value.decode("latin-1").strip("\0 ")
            uid = lossy_uid(uid, ratio)
            edits |= lossy.derivation(found, target, ratio, uid)
        self._begin(target, uid)
        place = self._write(edited(read.header, edits))
        writer = encapsulated.Writer(self._result, picture.frames, _WORST * picture.frame_bytes * picture.frames)
        for frame in read.frames:
            data = codec.encode(target, frame, picture, ratio)
            _prove(target, data, frame, picture, lossless=ratio is None)
            writer.write(data)
        size = writer.close()
        self._write(edited(read.rest(), {}))
        if ratio is not None:
            self._result.seek(place - lossy.ROOM)
            self._result.write(f"{picture.frame_bytes * picture.frames / size:.4g}".ljust(lossy.ROOM).encode())
        return Transcoded(target, uid, picture.frames, lossy=ratio is not None)

    def _begin(self, target: str, uid: str = "") -> None:
        uid = uid or self._meta.sop_instance_uid
        self._result.write(part10.encode(replace(self._meta, transfer_syntax_uid=target, sop_instance_uid=uid)))

    def _write(self, elements: Iterable[tuple[int, bytes]]) -> int:
        """Write elements; give where the ratio of a lossy compression ends, if it is among them."""
        place = 0
        for tag, raw in elements:
            self._result.write(raw)
            if tag == lossy.RATIO:
                place = self._result.tell()
        return place


def _native_dataset(read: Image, frames: Iterator[Frame]) -> Iterator[bytes]:
    picture = read.picture
    length = picture.frame_bytes * picture.frames
    for _, raw in edited(read.header, _edits(read, picture)):
        yield raw
    vr = b"OB" if picture.allocated <= 8 else b"OW"  # noqa: PLR2004 (PS3.5 section A.2)
    yield element(PIXEL_DATA, vr, b"")[:8] + (length + length % 2).to_bytes(4, "little")
    for frame in frames:
        yield frame.tobytes()
    yield bytes(length % 2)
    for _, raw in edited(read.rest(), {}):
        yield raw


def _edits(read: Image, picture: Picture) -> dict[int, bytes | None]:
    """Give what an image's header must say, as its pixels stand now."""
    edits: dict[int, bytes | None] = dict.fromkeys((*LEFT_OUT, *_TABLES))
    edits[PHOTOMETRIC] = element(PHOTOMETRIC, b"CS", picture.photometric.encode("latin-1"))
    planes = int(picture.planes).to_bytes(2, "little")
    edits[PLANAR] = element(PLANAR, b"US", planes) if picture.samples == _COLOURS else None
    if read.lost is not None:
        how, ratio = read.lost
        edits |= lossy.marks({each.tag: each for each in read.header}, how, f"{ratio:.4g}")
    return edits


def _after(header: Iterable[Element], edits: dict[int, bytes | None]) -> dict[int, Element]:
    """Give the elements by tag as they are after edits, all of which have short heads."""
    changed = {tag: Element(tag, raw[4:6], raw[8:], raw) for tag, raw in edits.items() if raw is not None}
    return {each.tag: each for each in header} | changed


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
