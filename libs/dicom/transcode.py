"""Images from one transfer syntax to another, frame by frame: PS3.5 section 8.2 and annex A.4.

What is lossless is decoded again and compared before the caller has it. What was lossy stays marked so.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import BinaryIO, Final, Literal

EXPLICIT: Final = "1.2.840.10008.1.2.1"
IMPLICIT: Final = "1.2.840.10008.1.2"
RLE: Final = "1.2.840.10008.1.2.5"
JPEG_LS: Final = "1.2.840.10008.1.2.4.80"
JPEG_2000_LOSSLESS: Final = "1.2.840.10008.1.2.4.90"
JPEG_2000: Final = "1.2.840.10008.1.2.4.91"

#: What a transform may name, by the word that the network definition has for it.
TARGETS: Final[Mapping[str, str]] = {
    "explicit-le": EXPLICIT,
    "implicit-le": IMPLICIT,
    "rle": RLE,
    "jpeg-ls-lossless": JPEG_LS,
    "jpeg2000-lossless": JPEG_2000_LOSSLESS,
    "jpeg2000": JPEG_2000,
}

#: Why an instance can't be had in another transfer syntax: its bytes contradict themselves; no decoder reads it; the
#: other transfer syntax cannot hold it; it is larger than what is allowed; what was encoded is not what was there.
Why = Literal["damaged", "unreadable", "unsuited", "too-large", "different"]


class NotTranscodableError(Exception):
    """An instance can't be given in another transfer syntax. The text says why, in plain words, without values."""

    safe_to_log = True

    def __init__(self, why: Why, text: str) -> None:
        super().__init__(text)
        self.why = why


@dataclass(frozen=True)
class Bounds:
    """How large an image may be, looked at before memory is taken.

    Attributes
    ----------
    frame
        Bytes of one decoded frame.
    image
        Bytes of all decoded frames together.
    header
        Bytes of everything else.
    """

    frame: int = 1 << 30
    image: int = 1 << 38
    header: int = 1 << 26


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
    source: BinaryIO, result: BinaryIO, target: str, *, ratio: float | None = None, bounds: Bounds = Bounds()
) -> Transcoded:
    """Write a Part 10 file once more, in another transfer syntax.

    Memory is that of a few frames, however many there are. The same file and target give the same bytes.

    Parameters
    ----------
    source
        The file, positioned at its preamble; it must be able to seek. It is only read.
    result
        An empty file, opened to be written and read, that can seek too. What it holds after an error is to be thrown
        away. It is not synced.
    target
        UID of a transfer syntax, one of `TARGETS`.
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
    raise NotImplementedError


def lossy_uid(sop_instance_uid: str, ratio: float) -> str:
    """Give the SOP Instance UID that an image has after lossy compression; always the same one for the same image."""
    raise NotImplementedError
