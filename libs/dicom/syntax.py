"""Transfer syntaxes that images are given in, and those they are read from: PS3.5 annex A, PS3.6 annex A.

This module loads no codec: who only has to know the words needs nothing else.
"""

from collections.abc import Mapping
from typing import Final

from libs.dicom.identity import BIG_ENDIAN, DEFLATED, IMPLICIT
from libs.dicom.reencode import EXPLICIT

__all__ = [
    "BIG_ENDIAN",
    "DECODED",
    "DEFLATED",
    "DEFLATED_FRAMES",
    "EXPLICIT",
    "HIGH_THROUGHPUT",
    "IMPLICIT",
    "J2K",
    "JPEG",
    "JPEG_2000",
    "JPEG_2000_LOSSLESS",
    "JPEG_LOSSLESS",
    "JPEG_LOSSY",
    "JPEG_LS",
    "JPEG_LS_NEAR",
    "LOSSLESS",
    "LS",
    "NATIVE",
    "RLE",
    "TARGETS",
]

_JPEG_FAMILY: Final = "1.2.840.10008.1.2.4."
RLE: Final = "1.2.840.10008.1.2.5"
JPEG_LS: Final = _JPEG_FAMILY + "80"
JPEG_LS_NEAR: Final = _JPEG_FAMILY + "81"
JPEG_2000_LOSSLESS: Final = _JPEG_FAMILY + "90"
JPEG_2000: Final = _JPEG_FAMILY + "91"
#: Each frame deflated by itself, PS3.5 section A.4.14.
DEFLATED_FRAMES: Final = "1.2.840.10008.1.2.8.1"

#: What a transform may name, by the word that the network definition has for it.
TARGETS: Final[Mapping[str, str]] = {
    "explicit-le": EXPLICIT,
    "implicit-le": IMPLICIT,
    "rle": RLE,
    "jpeg-ls-lossless": JPEG_LS,
    "jpeg2000-lossless": JPEG_2000_LOSSLESS,
    "jpeg2000": JPEG_2000,
}

#: Pixels stand in the dataset as they are, without a codec.
NATIVE: Final = frozenset({EXPLICIT, IMPLICIT, BIG_ENDIAN, DEFLATED})
#: DCT in its sequential and progressive forms: always lossy.
JPEG_LOSSY: Final = frozenset({_JPEG_FAMILY + each for each in ("50", "51", "53", "55")})
JPEG_LOSSLESS: Final = frozenset({_JPEG_FAMILY + each for each in ("57", "70")})
JPEG: Final = JPEG_LOSSY | JPEG_LOSSLESS
LS: Final = frozenset({JPEG_LS, JPEG_LS_NEAR})
HIGH_THROUGHPUT: Final = frozenset({_JPEG_FAMILY + each for each in ("201", "202", "203")})
J2K: Final = frozenset({JPEG_2000_LOSSLESS, JPEG_2000}) | HIGH_THROUGHPUT
#: Pixels are encapsulated and there is a decoder for them.
DECODED: Final = JPEG | LS | J2K | {RLE, DEFLATED_FRAMES}
#: Targets that give back each pixel.
LOSSLESS: Final = frozenset({RLE, JPEG_LS, JPEG_2000_LOSSLESS})
