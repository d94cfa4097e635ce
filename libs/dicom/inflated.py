"""The deflated transfer syntax, PS3.5 section A.5: its bytes inflated, never more of them than asked for."""

import zlib
from typing import Protocol

_CHUNK = 1 << 14


class Deflated(Protocol):
    """What deflated bytes are read from."""

    def read(self, length: int, /) -> bytes:
        """Give that many bytes; fewer at the end only."""
        ...


class Inflated:
    """Reads what a deflated dataset holds.

    Parameters
    ----------
    deflated
        Positioned at the first deflated byte (RFC 1951).
    longest
        Bytes after which it ends, so that a few deflated ones can't fill the memory.
    """

    def __init__(self, deflated: Deflated, longest: int) -> None:
        self._deflated = deflated
        self._left = longest
        self._inflate = zlib.decompressobj(-zlib.MAX_WBITS)

    @property
    def whole(self) -> bool:
        """Whether the end that the stream marks was reached."""
        return self._inflate.eof

    def read(self, length: int, /) -> bytes:
        """Give the next bytes, fewer only at the end. Raises zlib.error for what was not deflated."""
        parts: list[bytes] = []
        wanted = min(length, self._left)
        while wanted and not self._inflate.eof:
            chunk = self._inflate.unconsumed_tail or self._deflated.read(_CHUNK)
            part = self._inflate.decompress(chunk, wanted)
            if not chunk and not part:
                break
            parts.append(part)
            wanted -= len(part)
            self._left -= len(part)
        return b"".join(parts)
