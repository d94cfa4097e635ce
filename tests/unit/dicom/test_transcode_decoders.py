"""What other encoders write is read: every process of JPEG that dcmtk has, near-lossless JPEG-LS, OpenJPH's HTJ2K."""

import io
import subprocess
import zlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from pydicom import dcmread
from pydicom.encaps import encapsulate

from libs.dicom import syntax
from libs.dicom.part10 import decode, encode
from libs.dicom.transcode import transcode
from tests.support.pixels import files, peer_decoded, uncompressed_values
from tests.support.process import program
from tests.unit.dicom.test_transcode import image, part10, read, transcoded

pytestmark = pytest.mark.unit

CORPUS = Path(__file__).parents[2] / "corpus" / "htj2k"
HTJ2K = "1.2.840.10008.1.2.4.201"
#: What two decoders of the same cosines may differ by: they round differently (ISO/IEC 10918-2).
ROUNDING = 2


def encoded(path: Path, folder: Path, command: str, *options: str) -> Path:
    packed = folder / f"{path.stem}{''.join(options)}.dcm"
    subprocess.run([program(command, "dcmtk"), *options, str(path), str(packed)], check=True, capture_output=True)
    return packed


def plain(path: Path, folder: Path) -> Path:
    result = folder / f"{path.stem}-plain.dcm"
    with path.open("rb") as source, result.open("w+b") as written:
        transcode(source, written, syntax.EXPLICIT)
    return result


def furthest(ours: NDArray[np.generic], theirs: NDArray[np.generic]) -> int:
    return int(np.abs(ours.astype(np.int64) - theirs.astype(np.int64)).max())


@pytest.mark.parametrize(
    ("name", "command", "options"),
    [
        ("MR_small.dcm", "dcmcjpeg", ("+el", "+sv", "5")),
        ("MR_small.dcm", "dcmcjpeg", ("+e1",)),
        ("SC_rgb.dcm", "dcmcjpeg", ("+e1",)),
        ("6154", "dcmcjpls", ("+en", "+md", "3")),
        ("SC_rgb.dcm", "dcmcjpls", ("+il",)),
        ("SC_rgb.dcm", "dcmcjpls", ("+is",)),
        ("SC_rgb.dcm", "dcmcjpls", ("+in",)),
        ("SC_rgb.dcm", "dcmcrle", ()),
    ],
)
def test_reads_to_the_bit(name: str, command: str, options: tuple[str, ...], tmp_path: Path) -> None:
    packed = encoded(files()[name], tmp_path, command, *options)
    ours, theirs = uncompressed_values(plain(packed, tmp_path)), uncompressed_values(peer_decoded(packed, tmp_path))
    assert np.array_equal(ours, theirs)


@pytest.mark.parametrize("process", ["+eb", "+ee", "+es", "+ep"])
@pytest.mark.parametrize("name", ["vlut_04.dcm", "SC_rgb.dcm"])
def test_reads_lossy_jpeg_as_well_as_dcmtk(name: str, process: str, tmp_path: Path) -> None:
    packed = encoded(files()[name], tmp_path, "dcmcjpeg", process, "+cr", "+s4")
    result = plain(packed, tmp_path)
    ours, theirs = uncompressed_values(result), uncompressed_values(peer_decoded(packed, tmp_path))
    assert furthest(ours, theirs) <= ROUNDING
    header = dcmread(result)
    assert (header.LossyImageCompression, header.LossyImageCompressionMethod) == ("01", "ISO_10918_1")


def test_turns_chrominance_into_colours(tmp_path: Path) -> None:
    packed = encoded(files()["SC_rgb.dcm"], tmp_path, "dcmcjpeg", "+eb", "+cy", "+s4", "+q", "95")
    result = plain(packed, tmp_path)
    assert dcmread(result).PhotometricInterpretation == "RGB"
    assert furthest(uncompressed_values(result), uncompressed_values(files()["SC_rgb.dcm"])) < 20


@pytest.mark.parametrize(("name", "signed"), [("grey16", 0), ("lossy16", 0), ("signed16", 1)])
def test_reads_high_throughput_jpeg_2000(name: str, signed: int) -> None:
    y, x = np.mgrid[:64, :48]
    data = encapsulate([(CORPUS / f"{name}.j2c").read_bytes()])
    dataset = image(Rows=64, Columns=48, PixelRepresentation=signed, PixelData=data)
    after = read(transcoded(part10(dataset, HTJ2K), syntax.EXPLICIT))
    found = np.frombuffer(after.PixelData, "<i2" if signed else "<u2").reshape(64, 48)
    assert furthest(found, x * 37 - y * 51 if signed else x * 37 + y * 101) <= (name == "lossy16")
    assert after.get("LossyImageCompressionMethod") == ("ISO_15444_15" if name == "lossy16" else None)


def test_reads_colours_of_high_throughput_jpeg_2000() -> None:
    y, x = np.mgrid[:64, :48]
    dataset = image(
        Rows=64, Columns=48, SamplesPerPixel=3, PlanarConfiguration=0, PhotometricInterpretation="YBR_RCT",
        BitsAllocated=8, BitsStored=8, HighBit=7, PixelData=encapsulate([(CORPUS / "colour8.j2c").read_bytes()]),
    )  # fmt: skip
    after = read(transcoded(part10(dataset, HTJ2K), syntax.EXPLICIT))
    assert after.PhotometricInterpretation == "RGB"
    assert after.PixelData == np.stack([x * 5, y * 3, x + y], -1).astype(np.uint8).tobytes()


def test_reads_deflated_frames() -> None:
    deflate = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    data = deflate.compress(image().PixelData) + deflate.flush()
    # pydicom does not know it yet: written under another name, and renamed.
    file = io.BytesIO(part10(image(PixelData=encapsulate([data])), syntax.JPEG_LS))
    meta, _ = decode(file)
    renamed = encode(replace(meta, transfer_syntax_uid=syntax.DEFLATED_FRAMES)) + file.read()
    assert read(transcoded(renamed, syntax.EXPLICIT)).PixelData == image().PixelData


def test_cells_with_more_than_values_keep_it(tmp_path: Path) -> None:
    cells = np.arange(40 * 33, dtype="<u2") | 0x8000
    path = tmp_path / "overlaid.dcm"
    for target in sorted(syntax.LOSSLESS):
        dataset = image(BitsStored=12, HighBit=11, PixelData=cells.tobytes())
        path.write_bytes(transcoded(part10(dataset), target))
        assert peer_pixels(path, tmp_path) == cells.tobytes()


def peer_pixels(path: Path, folder: Path) -> bytes:
    found: bytes = dcmread(io.BytesIO(peer_decoded(path, folder).read_bytes())).PixelData
    return found
