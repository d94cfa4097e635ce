"""Pixels of real files, and what decoders that nobody here wrote read out of a file: dcmtk and GDCM."""

import os
import subprocess
import warnings
from functools import cache
from pathlib import Path
from typing import Any

import pydicom.data
from numpy.typing import NDArray
from pydicom import dcmread
from pydicom.data.data_manager import external_data_sources
from pydicom.pixels.utils import pixel_array

from libs.dicom import part10, syntax
from libs.dicom.part10 import NotPart10Error
from tests.support.process import program

#: What decodes a transfer syntax: program, its Debian package, and its options.
_PEERS = {
    **dict.fromkeys(syntax.JPEG, ("dcmdjpeg", "dcmtk", "+cn")),
    **dict.fromkeys(syntax.LS, ("dcmdjpls", "dcmtk")),
    syntax.RLE: ("dcmdrle", "dcmtk"),
    **dict.fromkeys((syntax.JPEG_2000_LOSSLESS, syntax.JPEG_2000), ("gdcmconv", "libgdcm-tools", "--raw")),
}
#: As others of the set, and they take long: more frames, and the same pixels once more.
_LEFT_OUT = {
    "color3d_jpeg_baseline.dcm",
    "RG1_J2KI.dcm",
    "RG1_UNCI.dcm",
    "RG1_UNCR.dcm",
    "RG3_UNCI.dcm",
    "RG3_UNCR.dcm",
    "RG3_J2KI.dcm",
}
#: Of these folders many files have the same few pixels; the first ones stand for all.
_MANY = "dicomdirtests"
_OF_MANY = 4


@cache
def files() -> dict[str, Path]:
    """Find the Part 10 files of pydicom and pydicom-data that have pixel data, by name."""
    folders = [Path(pydicom.data.__file__).parent, Path(external_data_sources()["pydicom-data"].data_path)]
    found: dict[str, Path] = {}
    many = 0
    for path in sorted(Path(folder, name) for top in folders for folder, _, names in os.walk(top) for name in names):
        with path.open("rb") as file:
            try:
                part10.decode(file)
            except NotPart10Error:
                continue
        many += _MANY in path.parts
        if path.name not in _LEFT_OUT and (_MANY not in path.parts or many <= _OF_MANY) and _has_pixels(path):
            found.setdefault(path.name, path)
    return found


def _has_pixels(path: Path) -> bool:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        header = dcmread(path, defer_size=1024)
        return "PixelData" in header


def transfer_syntax(path: Path) -> str:
    """Give the transfer syntax of a file."""
    with path.open("rb") as file:
        return part10.decode(file)[0].transfer_syntax_uid


def peer_decoded(path: Path, folder: Path) -> Path:
    """Have a peer decode a compressed file; give the uncompressed one. Raises CalledProcessError if it gives up."""
    name, package, *options = _PEERS[transfer_syntax(path)]
    decoded = folder / f"{path.name}.{name}"
    command = [program(name, package), *options, str(path), str(decoded)]
    subprocess.run(command, check=True, capture_output=True, text=True, timeout=120)
    return decoded


def uncompressed_values(path: Path) -> NDArray[Any]:
    """Read the cells of an uncompressed file, colours as they are, with pydicom; frames, rows, columns, samples."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        cells = pixel_array(dcmread(path), raw=True)
    return cells.astype(cells.dtype.newbyteorder("=")).view(f"u{cells.dtype.itemsize}")


def value_bits(path: Path) -> int:
    """Give a mask of the bits of a cell that are its value, as far as they are the low ones."""
    header = dcmread(path, stop_before_pixels=True)
    stored = int(header.BitsStored) if header.HighBit == header.BitsStored - 1 else int(header.BitsAllocated)
    return (1 << stored) - 1
