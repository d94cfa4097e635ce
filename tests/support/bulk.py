"""Objects of many gigabytes, made while they are sent: they are never there as a whole, in no memory and no file."""

import hashlib
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Literal

from tests.support.dicomset import dataset_bytes
from tests.support.requestor import Association
from tests.support.synthetic import EXPLICIT_LITTLE_ENDIAN, make_ct, new_uid

_MULTI_FRAME_GRAYSCALE_WORD = "1.2.840.10008.5.1.4.1.1.7.3"
_JPEG_2000_LOSSLESS = "1.2.840.10008.1.2.4.90"
#: One frame of 4096 x 4096 pixels of 16 bit.
_ROWS = 4096
_FRAME = _ROWS * _ROWS * 2
_CHUNK = 1 << 20
_NATIVE_LIMIT = 0xFFFFFFFE


@dataclass(frozen=True)
class Bulk:
    """A multi-frame image of about `size` bytes.

    Attributes
    ----------
    form
        native: Pixel Data of a known length, below 4 GiB. encapsulated: one fragment a frame (PS3.5 annex A.4), whose
        bytes are no code stream, as nobody is to look into them.
    """

    form: Literal["native", "encapsulated"]
    size: int
    study_uid: str
    sop_uid: str

    @property
    def syntax(self) -> str:
        """Transfer Syntax UID."""
        return EXPLICIT_LITTLE_ENDIAN if self.form == "native" else _JPEG_2000_LOSSLESS

    def fragments(self) -> Iterator[bytes]:
        """Give the dataset in pieces of at most 1 MiB."""
        frames = -(-self.size // _FRAME)
        yield self._head(frames)
        if self.form == "native":
            length = frames * _FRAME
            if length > _NATIVE_LIMIT:
                raise ValueError("Pixel Data of a known length is below 4 GiB")
            yield struct.pack("<HH2sHI", 0x7FE0, 0x0010, b"OW", 0, length)
        else:
            yield struct.pack("<HH2sHI", 0x7FE0, 0x0010, b"OB", 0, 0xFFFFFFFF) + struct.pack("<HHI", 0xFFFE, 0xE000, 0)
        for frame in range(frames):
            if self.form == "encapsulated":
                yield struct.pack("<HHI", 0xFFFE, 0xE000, _FRAME)
            # Every frame differs, so that one in another's place is found.
            piece = (struct.pack("<I", frame) * (_CHUNK // 4)) if frame % 2 else bytes(range(256)) * (_CHUNK // 256)
            for _ in range(_FRAME // _CHUNK):
                yield piece
        if self.form == "encapsulated":
            yield struct.pack("<HHI", 0xFFFE, 0xE0DD, 0)

    def send(self, port: int) -> tuple[int, str, int]:
        """Send it over an association of its own; gives status, SHA-256 of the dataset and its length."""
        digest, length = hashlib.sha256(), 0

        def counted() -> Iterator[bytes]:
            nonlocal length
            for fragment in self.fragments():
                digest.update(fragment)
                length += len(fragment)
                yield fragment

        # The last sync and, with ack=object-store, the end of the upload come before the response.
        association = Association(port, sop_class=_MULTI_FRAME_GRAYSCALE_WORD, syntax=self.syntax, timeout=600)
        status = association.stream(_MULTI_FRAME_GRAYSCALE_WORD, self.sop_uid, counted())
        association.release()
        return status, digest.hexdigest(), length

    def _head(self, frames: int) -> bytes:
        with TemporaryDirectory() as folder:
            path = make_ct(
                Path(folder),
                study_uid=self.study_uid,
                sop_uid=self.sop_uid,
                sop_class=_MULTI_FRAME_GRAYSCALE_WORD,
                rows=1,
                cols=1,
                Rows=_ROWS,
                Columns=_ROWS,
                Modality="OT",
                NumberOfFrames=str(frames),
            )
            data = dataset_bytes(path)
        return data[: data.rindex(struct.pack("<HH", 0x7FE0, 0x0010))]


def bulk(form: Literal["native", "encapsulated"], size: int) -> Bulk:
    """Make one with UIDs of its own."""
    return Bulk(form, size, new_uid(), new_uid())
