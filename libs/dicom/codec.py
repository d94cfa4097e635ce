"""Frames decoded and encoded, by the codecs that pylibjpeg and pyjpegls bring (decision 24).

A decoded frame is an array of unsigned integers as wide as the cells of its samples (Bits Allocated), of shape rows,
columns, samples: what an uncompressed little endian dataset holds with Planar Configuration 0, two's complement
included.
"""

import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

import jpeg_ls
import numpy as np
from numpy.typing import NDArray
from openjpeg.utils import decode_pixel_data as decode_jpeg_2000
from openjpeg.utils import encode_buffer as encode_jpeg_2000
from rle.rle import decode_frame as decode_rle
from rle.rle import encode_frame as encode_rle

from libs.dicom import codestream, syntax
from libs.dicom.codestream import Coded
from libs.dicom.picture import Picture
from libs.dicom.untranscodable import NotTranscodableError

Frame = NDArray[Any]

_BYTE: Final = 8
_WORD: Final = 16
_BY_PIXEL: Final = 2
_MULTI_COMPONENT: Final = 1
#: Bits of a sample that a codec takes: ISO/IEC 14495-1 table C.1 has 2 to 16; the binding of OpenJPEG takes up to 24.
_JPEG_LS_BITS: Final = range(2, 17)
_JPEG_2000_BITS: Final = range(1, 25)
_LONGEST_RLE: Final = 15
#: The binding of OpenJPEG halves an image five times.
_SMALLEST_JPEG_2000: Final = 32
#: What a scan of sequential JPEG says, whatever it says: its decoder insists on it.
_SEQUENTIAL_SCAN: Final = b"\0\x3f\0"


class _NotInstalledError(NotTranscodableError):
    pass


def decode(transfer_syntax: str, data: bytes, picture: Picture) -> tuple[Frame, Coded | None]:
    """Decode one frame.

    Parameters
    ----------
    transfer_syntax
        One of `syntax.DECODED`.
    data
        The compressed frame.
    picture
        What the header says of its pixels.

    Returns
    -------
    tuple of Frame and Coded or None
        The frame, and what it said of itself.

    Raises
    ------
    NotTranscodableError
        It can't be decoded, or it is not what the header says it is.
    """
    if transfer_syntax == syntax.RLE:
        return _decoded_rle(data, picture), None
    if transfer_syntax == syntax.DEFLATED_FRAMES:
        return _inflated(data, picture), None
    coded = codestream.coded(data)
    _check(coded, data, picture)
    return _in_cells(_shaped(_samples(transfer_syntax, data, coded), picture), coded, picture), coded


def decode_again(transfer_syntax: str, data: bytes, picture: Picture) -> Frame | None:
    """Decode a frame with another decoder than `decode` does; None where there is none."""
    if transfer_syntax in syntax.LS:
        coded = codestream.coded(data)
        if coded.transformed:
            return None
        try:
            samples = _jpeg(data, coded)
        except _NotInstalledError:
            return None
        return _in_cells(_shaped(samples, picture), coded, picture)
    return None


def encode(transfer_syntax: str, frame: Frame, picture: Picture, ratio: float | None = None) -> bytes:
    """Encode one frame.

    Parameters
    ----------
    transfer_syntax
        One of `syntax.LOSSLESS`, or JPEG 2000 with a ratio.
    frame
        As `decode` gives it.
    picture
        What the header of the result says of its pixels.
    ratio
        How many times smaller the frame is to be.

    Raises
    ------
    NotTranscodableError
        The encoder does not take it.
    """
    try:
        if transfer_syntax == syntax.RLE:
            with _panics_as_errors():
                return bytes(
                    encode_rle(frame.tobytes(), picture.rows, picture.columns, picture.samples, picture.allocated, "<")
                )
        low = _low_bits(frame, picture)
        precision = picture.allocated if low is None else picture.stored
        samples = frame if low is None else low
        if transfer_syntax == syntax.JPEG_LS:
            return _encoded_jpeg_ls(samples, precision, picture)
        return _encoded_jpeg_2000(samples, precision, picture, ratio, whole=low is None)
    except (RuntimeError, ValueError) as error:
        raise NotTranscodableError("unsuited", f"the encoder does not take its pixels: {error}") from error


def unsuited(transfer_syntax: str, picture: Picture) -> str:  # noqa: PLR0911 (one reason each)
    """Say why pixels can't be had in a transfer syntax; empty if they can. PS3.5 sections 8.2.2 to 8.2.4."""
    if picture.allocated % _BYTE:
        return "its pixels have one bit each, which hardly any receiver reads in a compressed transfer syntax"
    if transfer_syntax == syntax.RLE:
        wide = picture.samples * picture.allocated // _BYTE > _LONGEST_RLE
        return "RLE holds at most 15 bytes for each pixel, and its pixels have more" if wide else ""
    if transfer_syntax == syntax.JPEG_LS:
        if picture.allocated > _WORD or picture.stored not in _JPEG_LS_BITS:
            return f"JPEG-LS holds 2 to 16 bits for each sample, and its samples have {picture.stored}"
        return ""
    if min(picture.rows, picture.columns) < _SMALLEST_JPEG_2000:
        return "JPEG 2000 is written for images of 32 x 32 pixels and more, and it is smaller"
    if picture.stored not in _JPEG_2000_BITS:
        return f"JPEG 2000 is written with up to 24 bits for each sample, and its samples have {picture.stored}"
    return ""


def _check(coded: Coded, data: bytes, picture: Picture) -> None:
    said = (picture.rows, picture.columns, picture.samples)
    if (coded.rows, coded.columns, coded.samples) != said:
        raise NotTranscodableError("damaged", "a compressed frame has another size than its header says")
    if coded.precision > picture.allocated:
        raise NotTranscodableError("damaged", "a compressed frame has more bits than its header says")
    if not codestream.whole(data):
        raise NotTranscodableError("damaged", "a compressed frame ends before its end is marked")


def _samples(transfer_syntax: str, data: bytes, coded: Coded) -> Frame:
    try:
        if transfer_syntax in syntax.J2K:
            return np.frombuffer(decode_jpeg_2000(data, version=2), _narrowest(coded))
        if transfer_syntax in syntax.LS:
            decoded, said = jpeg_ls.decode_buffer(data)
            samples = np.frombuffer(decoded, _narrowest(coded))
            if said["interleave_mode"] == 0 and coded.samples > 1:
                samples = samples.reshape(coded.samples, -1).T
            return samples
    except (RuntimeError, ValueError) as error:
        raise _undecodable(error) from error
    return _jpeg(data, coded)


def _jpeg(data: bytes, coded: Coded) -> Frame:
    # Under another licence than the rest, so that a deployment may have to do without (decision 24).
    try:
        from libjpeg.utils import decode_pixel_data  # noqa: PLC0415
    except ImportError as error:
        raise _NotInstalledError("unreadable", "no decoder for JPEG is installed (pylibjpeg-libjpeg)") from error
    if at := coded.misfit:
        data = data[:at] + _SEQUENTIAL_SCAN + data[at + len(_SEQUENTIAL_SCAN) :]
    try:
        return np.frombuffer(decode_pixel_data(data, version=2), _narrowest(coded))
    except (RuntimeError, ValueError) as error:
        raise _undecodable(error) from error


def _shaped(samples: Frame, picture: Picture) -> Frame:
    if samples.size != picture.rows * picture.columns * picture.samples:
        raise NotTranscodableError("damaged", "the decoder gives another number of pixels than the frame's header says")
    return samples.reshape(picture.rows, picture.columns, picture.samples)


def _undecodable(error: Exception) -> NotTranscodableError:
    return NotTranscodableError("damaged", f"the decoder gives up on a compressed frame: {error}")


@contextmanager
def _panics_as_errors() -> Iterator[None]:
    """Make an error of what Rust calls a panic: it comes past every `except Exception`, and is about the data."""
    try:
        yield
    except BaseException as error:
        if type(error).__name__ != "PanicException":
            raise
        raise ValueError("a run leads out of the frame") from error


def _decoded_rle(data: bytes, picture: Picture) -> Frame:
    try:
        with _panics_as_errors():
            decoded = decode_rle(data, picture.rows * picture.columns, picture.allocated, "<")
    except ValueError as error:
        raise _undecodable(error) from error
    if len(decoded) != picture.frame_bytes:
        raise NotTranscodableError("damaged", "a compressed frame does not hold the segments that its pixels need")
    by_plane = np.frombuffer(decoded, _cell(picture)).reshape(picture.samples, picture.rows, picture.columns)
    return np.ascontiguousarray(by_plane.transpose(1, 2, 0))


def _inflated(data: bytes, picture: Picture) -> Frame:
    inflate = zlib.decompressobj(-zlib.MAX_WBITS)
    try:
        pixels = inflate.decompress(data, picture.frame_bytes)
    except zlib.error as error:
        raise _undecodable(error) from error
    if len(pixels) < picture.frame_bytes:
        raise NotTranscodableError("damaged", "a compressed frame ends before all its pixels are there")
    return by_pixel(pixels, picture)


def by_pixel(pixels: bytes, picture: Picture) -> Frame:
    """Give uncompressed little endian pixels of a frame as `decode` gives a frame."""
    cells = np.frombuffer(pixels, _cell(picture))
    if picture.planes:
        by_plane = cells.reshape(picture.samples, picture.rows, picture.columns)
        return np.ascontiguousarray(by_plane.transpose(1, 2, 0))
    return cells.reshape(picture.rows, picture.columns, picture.samples)


def _cell(picture: Picture) -> np.dtype[Any]:
    return np.dtype(f"<u{picture.allocated // _BYTE}")


def _narrowest(coded: Coded) -> np.dtype[Any]:
    """Give the type that decoders give samples in."""
    width = 1 if coded.precision <= _BYTE else 2 if coded.precision <= _WORD else 4
    return np.dtype(f"<{'i' if coded.signed else 'u'}{width}")


def _in_cells(samples: Frame, coded: Coded, picture: Picture) -> Frame:
    """Put samples into cells as wide as the header says, with a sign where it says so."""
    cell = _cell(picture)
    if coded.signed:
        # Bits of the sign where the header wants a number without one: only the value's own are kept.
        cells = samples.astype(f"<i{cell.itemsize}", copy=False).view(cell)
        return cells if picture.signed else cells & cell.type((1 << picture.stored) - 1)
    cells = samples.astype(cell, copy=False)
    if picture.signed and coded.precision < picture.allocated and coded.precision == picture.stored:
        shift = picture.allocated - coded.precision
        return ((cells << shift).view(f"<i{cell.itemsize}") >> shift).view(cell)
    return np.ascontiguousarray(cells)


def _low_bits(frame: Frame, picture: Picture) -> Frame | None:
    """Give the values of the samples alone; None if their cells hold more than them, such as an overlay."""
    spare = picture.allocated - picture.stored
    if not spare:
        return frame
    if not picture.plain:
        return None
    cell = frame.dtype
    if picture.signed:
        shifted = ((frame << spare).view(f"<i{cell.itemsize}") >> spare).view(cell)
        return frame if np.array_equal(shifted, frame) else None
    return frame if not frame.max() >> picture.stored else None


def _encoded_jpeg_ls(samples: Frame, precision: int, picture: Picture) -> bytes:
    if picture.signed and precision < picture.allocated:
        # JPEG-LS knows no sign: what PS3.5 section 8.1.1 puts into the low bits goes in, and the reader adds the sign.
        samples = samples & samples.dtype.type((1 << precision) - 1)
    if precision <= _BYTE < picture.allocated:
        samples = samples.astype(np.uint8)
    interleaved = _BY_PIXEL if picture.samples > 1 else 0
    return bytes(
        jpeg_ls.encode_buffer(
            samples.tobytes(), picture.rows, picture.columns, picture.samples, precision, 0, interleaved
        )
    )


def _encoded_jpeg_2000(samples: Frame, precision: int, picture: Picture, ratio: float | None, *, whole: bool) -> bytes:
    width = 1 if precision <= _BYTE else 2 if precision <= _WORD else 4
    if precision > _JPEG_2000_BITS[-1]:
        raise NotTranscodableError("unsuited", "JPEG 2000 is written with up to 24 bits for each sample")
    if ratio is not None and whole and picture.stored != picture.allocated:
        raise NotTranscodableError(
            "unsuited", "bits of its pixels that are no part of their values, such as an overlay, would be lost"
        )
    narrow = samples.astype(f"<u{width}", copy=False)
    coloured = picture.photometric in ("YBR_RCT", "YBR_ICT")
    return bytes(
        encode_jpeg_2000(
            narrow.tobytes(),
            picture.columns,
            picture.rows,
            picture.samples,
            precision,
            picture.signed,
            photometric_interpretation=_MULTI_COMPONENT if coloured else 0,
            use_mct=coloured,
            compression_ratios=None if ratio is None else [ratio],
        )
    )
