"""Photometric Interpretation before and after a codec, PS3.3 section C.7.6.3.1.2, and what goes with it."""

from typing import Final

import numpy as np

from libs.dicom import syntax
from libs.dicom.codec import Frame
from libs.dicom.codestream import Coded
from libs.dicom.picture import Picture

_RGB: Final = "RGB"
_YBR: Final = "YBR_FULL"
_HALF: Final = "YBR_FULL_422"
#: Colour transforms of JPEG 2000, which its decoder undoes.
_OF_JPEG_2000: Final = frozenset({"YBR_RCT", "YBR_ICT"})
_COLOURS: Final = 3
_FRACTION: Final = 16
_MIDDLE: Final = 128


def decoded(transfer_syntax: str, picture: Picture) -> str:
    """Give the Photometric Interpretation of the decoded pixels."""
    said = picture.photometric
    if picture.samples != _COLOURS:
        return said
    if transfer_syntax in syntax.JPEG_LOSSY:
        # Some kinds of images may be nothing but RGB when they are not compressed: PS3.3 section C.8.12.4.1.5.
        return _RGB
    if said in _OF_JPEG_2000:
        return _RGB
    # Only a codec or an uncompressed dataset shares chrominance; decoders give each pixel its own.
    return _YBR if said == _HALF else said


def turned(transfer_syntax: str, frame: Frame, coded: Coded | None, picture: Picture) -> Frame:
    """Turn decoded pixels into those that `decoded` names."""
    if picture.samples != _COLOURS or transfer_syntax not in syntax.JPEG_LOSSY or picture.allocated != 8:  # noqa: PLR2004
        return frame
    # The markers are by the encoder itself; the header may have been written by another program.
    colour = (coded.colour if coded else "") or (_RGB if picture.photometric == _RGB else "YBR")
    return frame if colour == _RGB else _rgb(frame)


def whole(pixels: Frame) -> Frame:
    """Give each pixel its own chrominance: of YBR_FULL_422, where two share it, make YBR_FULL.

    Parameters
    ----------
    pixels
        Of shape rows, pairs of columns, 4: two luminances, and blue and red chrominance.
    """
    rows, pairs, _ = pixels.shape
    full = np.empty((rows, pairs, 2, 3), pixels.dtype)
    full[..., 0] = pixels[..., :2]
    full[..., 1] = pixels[..., 2:3]
    full[..., 2] = pixels[..., 3:4]
    return full.reshape(rows, 2 * pairs, 3)


def encoded(target: str, photometric: str, *, lossy: bool) -> str:
    """Give the Photometric Interpretation that pixels have in a compressed transfer syntax."""
    if photometric == _RGB and target in syntax.J2K:
        return "YBR_ICT" if lossy else "YBR_RCT"
    return photometric


def _rgb(frame: Frame) -> Frame:
    """Turn YBR_FULL into RGB by the equations of PS3.3 section C.7.6.3.1.2, in fixed point."""
    y = (frame[..., 0].astype(np.int32) << _FRACTION) + (1 << (_FRACTION - 1))
    blue = frame[..., 1].astype(np.int32) - _MIDDLE
    red = frame[..., 2].astype(np.int32) - _MIDDLE
    turned = np.empty_like(frame)
    for index, value in enumerate(
        (
            y + red * _fixed(1.402),
            y - blue * _fixed(0.344136) - red * _fixed(0.714136),
            y + blue * _fixed(1.772),
        )
    ):
        turned[..., index] = np.clip(value >> _FRACTION, 0, 255)
    return turned


def _fixed(factor: float) -> int:
    return round(factor * (1 << _FRACTION))
