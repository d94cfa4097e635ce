"""A Part 10 file taken apart: what is before its pixel data, these by their place, and what is behind them.

Only the first and the last are held in memory, so that an image of any size is changed as a stream.
"""

import struct
from dataclasses import dataclass
from typing import Any, BinaryIO, Final, cast

from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset
from pydicom.filebase import DicomIO
from pydicom.filereader import read_dataset
from pydicom.filewriter import write_dataset

from libs.dicom import part10, tokenizer
from libs.dicom.identity import BIG_ENDIAN, DEFLATED, IMPLICIT, form_said
from libs.dicom.inflated import Inflated
from libs.dicom.tokenizer import Form
from services.egress.transforms.errors import UntransformableError
from services.egress.transforms.pixels import Span, span

EXPLICIT: Final = "1.2.840.10008.1.2.1"
#: Transfer syntaxes in which a pixel is where it is: PS3.5 annex A.
UNCOMPRESSED: Final = frozenset({EXPLICIT, IMPLICIT, BIG_ENDIAN})
_PIXELS: Final = 0x7FE00000
_HEAD: Final = 4096
_CHUNK: Final = 1 << 20
#: What a deflated dataset may become.
_MOST_INFLATED: Final = 4 << 30
_DAMAGED: Final = "its dataset is damaged: it can't be read to its end"


@dataclass
class Instance:
    """A file that was read.

    Attributes
    ----------
    file
        With the pixel data; the one that was given, or what it inflates to.
    transfer_syntax_uid
        Of the dataset as it is in `file`.
    form
        How it is encoded.
    header
        The elements before the pixel data.
    pixels
        Where these are in `file`.
    tail
        The elements behind them.
    """

    file: BinaryIO
    transfer_syntax_uid: str
    form: Form
    header: Dataset
    pixels: Span
    tail: Dataset


def read(file: BinaryIO, scratch: BinaryIO) -> Instance:
    """Read a file but for its pixel data.

    Parameters
    ----------
    file
        From its preamble on.
    scratch
        An empty file, for what a deflated dataset inflates to.

    Raises
    ------
    UntransformableError
        It is damaged, or its elements are not in order.
    """
    try:
        meta, offset = part10.decode(file)
    except part10.NotPart10Error as error:
        raise UntransformableError(f"it is no Part 10 file: {error}") from error
    syntax = meta.transfer_syntax_uid
    if syntax == DEFLATED:
        _inflate(file, scratch)
        file, offset, syntax = scratch, 0, EXPLICIT
    size = file.seek(0, 2)
    file.seek(offset)
    form = tokenizer.form_of(file.read(_HEAD), form_said(syntax))
    file.seek(offset)
    header = _elements(file, form, before=_PIXELS, size=size)
    if not header:
        raise UntransformableError(_DAMAGED)
    where = span(file, form, size)
    tail = Dataset() if _only_zeros(file) else _elements(file, form, before=None, size=size)
    if any(int(tag) < _PIXELS for tag in tail.keys()):  # noqa: SIM118 (a dataset iterates over elements)
        raise UntransformableError("its elements are not in the order of their tags (PS3.5 section 7.1)")
    return Instance(file, syntax, form, header, where, tail)


def write(instance: Instance, result: BinaryIO) -> Span:
    """Write an instance as a Part 10 file; give where its pixel data are in it."""
    header = instance.header
    meta = part10.Meta(
        str(header.get("SOPClassUID", "")),
        str(header.get("SOPInstanceUID", "")),
        instance.transfer_syntax_uid,
        # Where it came from is nobody's business any more.
        {},
    )
    result.write(part10.encode(meta))
    _write(header, instance.form, result)
    start = result.tell()
    instance.file.seek(instance.pixels.start)
    _copy(instance.file, result, instance.pixels.end - instance.pixels.start)
    moved = start - instance.pixels.start
    _write(instance.tail, instance.form, result)
    return instance.pixels.moved(moved)


def _inflate(file: BinaryIO, scratch: BinaryIO) -> None:
    inflated = Inflated(file, _MOST_INFLATED)
    try:
        while piece := inflated.read(_CHUNK):
            scratch.write(piece)
    except Exception as error:
        raise UntransformableError("its deflated dataset is damaged, or far too large") from error
    if not inflated.whole:
        raise UntransformableError("its deflated dataset is damaged, or far too large")


def _elements(file: BinaryIO, form: Form, *, before: int | None, size: int) -> Dataset:
    stop = None if before is None else lambda tag, _vr, _length: int(tag) >= before
    try:
        watched = _Watched(file)
        found = read_dataset(cast("Any", watched), form.implicit, form.little_endian, stop_when=stop)
    except (EOFError, OSError, ValueError, KeyError, TypeError, NotImplementedError, struct.error) as error:
        raise UntransformableError(_DAMAGED) from error
    if watched.short:
        raise UntransformableError(_DAMAGED)
    for tag in found.keys():  # noqa: SIM118 (a dataset iterates over elements)
        element: Any = found.get_item(tag)
        if isinstance(element, RawDataElement) and _cut_off(element, size):
            raise UntransformableError(_DAMAGED)
    return found


def _only_zeros(file: BinaryIO) -> bool:
    """Tell whether nothing is left but zeros, which some writers leave behind the dataset; the file stays in place."""
    start = file.tell()
    while (piece := file.read(_CHUNK)) and not piece.strip(b"\0"):
        pass
    file.seek(start)
    return not piece


def _cut_off(element: RawDataElement, size: int) -> bool:
    undefined = element.length == tokenizer.UNDEFINED
    return not undefined and (len(element.value or b"") < element.length or element.value_tell + element.length > size)


class _Watched:
    """A file of which it is noticed when something of what is read is not there."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.seek = file.seek
        self.tell = file.tell
        self.short = False

    def read(self, count: int = -1) -> bytes:
        data = self._file.read(count)
        self.short = self.short or 0 < len(data) < count
        return data


class _Output(DicomIO):
    """A file as pydicom writes to it."""

    def __init__(self, file: BinaryIO, form: Form) -> None:
        super().__init__(file)
        self.is_implicit_VR = form.implicit
        self.is_little_endian = form.little_endian


def _write(dataset: Dataset, form: Form, result: BinaryIO) -> None:
    if len(dataset):
        write_dataset(_Output(result, form), dataset)


def _copy(source: BinaryIO, result: BinaryIO, count: int) -> None:
    while count:
        piece = source.read(min(count, _CHUNK))
        if not piece:
            raise UntransformableError(_DAMAGED)
        result.write(piece)
        count -= len(piece)
