"""Images into other transfer syntaxes, on one core, beside dcmtk's programs where they have the same conversion.

Ours are decoded again and compared as they always are; dcmtk's are not. dcmtk has one process for each file, as its
programs are run; with many frames in a file its start does not count.
"""

import resource
import subprocess
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import pydicom
from pydicom.pixels.utils import pixel_array
from rich.progress import Progress

from libs.dicom import syntax
from libs.dicom.transcode import transcode
from tests.bench.figure import Figure, beside, measured
from tests.support.pixels import files
from tests.support.process import program

_ROUNDS = 3
_AT_LEAST_S = 0.2


@dataclass(frozen=True)
class Load:
    """A kind of image: a file of the set, and how many frames of it one file has."""

    name: str
    file: str
    frames: int


@dataclass(frozen=True)
class Kind:
    """A conversion: from and to which transfer syntax, with which ratio, and dcmtk's program for the same."""

    name: str
    source: str
    target: str
    ratio: float | None = None
    peer: str | None = None


LOADS = (
    Load("CT 512x512", "693_UNCR.dcm", 1),
    Load("CT 512x512x20", "693_UNCR.dcm", 20),
    Load("CR 1955x1841", "RG1_J2KR.dcm", 1),
    Load("US 640x480 RGB", "US1_UNCI.dcm", 1),
)
KINDS = (
    Kind("to RLE", syntax.EXPLICIT, syntax.RLE, peer="dcmcrle"),
    Kind("to JPEG-LS", syntax.EXPLICIT, syntax.JPEG_LS, peer="dcmcjpls"),
    Kind("to JPEG 2000", syntax.EXPLICIT, syntax.JPEG_2000_LOSSLESS),
    Kind("to JPEG 2000, 10:1", syntax.EXPLICIT, syntax.JPEG_2000, 10),
    Kind("from RLE", syntax.RLE, syntax.EXPLICIT, peer="dcmdrle"),
    Kind("from JPEG-LS", syntax.JPEG_LS, syntax.EXPLICIT, peer="dcmdjpls"),
    Kind("from JPEG 2000", syntax.JPEG_2000_LOSSLESS, syntax.EXPLICIT),
    Kind("from JPEG lossless", "1.2.840.10008.1.2.4.70", syntax.EXPLICIT, peer="dcmdjpeg"),
)


def run(progress: Progress) -> list[Figure]:
    """Convert each kind of image in each way."""
    task = progress.add_task("codecs: conversions", total=len(LOADS) * len(KINDS))
    figures: list[Figure] = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for load in LOADS:
            plain = _made(load, folder)
            for kind in KINDS:
                figures += _figures(load, kind, _source(plain, kind, folder), folder)
                progress.advance(task)
    return figures


def _figures(load: Load, kind: Kind, source: Path, folder: Path) -> list[Figure]:
    ours, theirs = [], []
    result, other = folder / "result.dcm", folder / "other.dcm"
    for _ in range(_ROUNDS):
        ours.append(_pace(partial(_transcode, source, result, kind.target, kind.ratio), time.process_time))
        if kind.peer is not None:
            command = [program(kind.peer, "dcmtk"), str(source), str(other)]
            theirs.append(_pace(partial(subprocess.run, command, check=True), _children))
    name = f"{load.name} {kind.name}"
    unit = "1/s and core"
    figures = [measured(name, unit, ours) if kind.peer is None else beside(name, unit, ours, kind.peer, theirs)]
    if kind.target != syntax.EXPLICIT:
        smaller = [source.stat().st_size / result.stat().st_size]
        if kind.peer is None:
            figures.append(measured(f"{name}: smaller", "times", smaller))
        else:
            peer = [source.stat().st_size / other.stat().st_size]
            figures.append(beside(f"{name}: smaller", "times", smaller, kind.peer, peer))
    return figures


def _pace(work: Callable[[], object], clock: Callable[[], float]) -> float:
    """Give how often work is done in a second of processor time."""
    began = clock()
    done = 0
    while (spent := clock() - began) < _AT_LEAST_S or not done:
        work()
        done += 1
    return done / spent if spent else float(done)


def _children() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _transcode(source: Path, result: Path, target: str, ratio: float | None) -> None:
    with source.open("rb") as read, result.open("w+b") as written:
        transcode(read, written, target, ratio=ratio)


def _source(plain: Path, kind: Kind, folder: Path) -> Path:
    if kind.source == syntax.EXPLICIT:
        return plain
    packed = folder / f"{plain.stem}-{kind.source}.dcm"
    if kind.source in syntax.JPEG_LOSSLESS:
        subprocess.run([program("dcmcjpeg", "dcmtk"), str(plain), str(packed)], check=True)
    else:
        _transcode(plain, packed, kind.source, None)
    return packed


def _made(load: Load, folder: Path) -> Path:
    path = folder / f"{load.name.replace(' ', '-')}.dcm"
    _transcode(files()[load.file], path, syntax.EXPLICIT, None)
    if load.frames > 1:
        dataset = pydicom.dcmread(path)
        # Not the same frame each time: shifted, as the next slice is a little different.
        first = pixel_array(dataset, raw=True)
        dataset.PixelData = b"".join(np.roll(first, 3 * each, axis=0).tobytes() for each in range(load.frames))
        dataset.NumberOfFrames = load.frames
        dataset.save_as(path)
    return path
