"""A deflated dataset as the bytes that it was made of: PS3.5 section A.5."""

import io
import zlib
from typing import BinaryIO

from libs.dicom.header import UnreadableDatasetError

DATASET_ENDS_EARLY = "the dataset ends inside an element"
_CHUNK = 1 << 16


class Inflating(io.RawIOBase, BinaryIO):
    """Reads the inflated bytes of a deflated stream, forwards only, never holding more than is asked for.

    Reading raises UnreadableDatasetError if the stream is damaged, or ends before its end is marked.
    """

    def __init__(self, source: BinaryIO) -> None:
        self._source = source
        self._inflate = zlib.decompressobj(-zlib.MAX_WBITS)

    def readable(self) -> bool:
        """Tell that it can be read."""
        return True

    def read(self, size: int | None = -1, /) -> bytes:
        """Read up to `size` bytes, or what one piece of the stream gives; none at its end."""
        most = _CHUNK if size is None or size < 0 else size
        while most and not self._inflate.eof:
            data = self._inflate.unconsumed_tail or self._source.read(_CHUNK)
            try:
                # Without data it gives what it held back when as much as was asked for had come.
                inflated = self._inflate.decompress(data, most)
            except zlib.error as error:
                raise UnreadableDatasetError("the deflated dataset is damaged") from error
            if inflated:
                return inflated
            if not data and not self._inflate.eof:
                raise UnreadableDatasetError("the deflated dataset ends before its end is marked")
        return b""
