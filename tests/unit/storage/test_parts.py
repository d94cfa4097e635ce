"""How files are cut into parts, and which keys there are."""

import io
import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from libs.storage.multipart import PART, part_length, read_part
from libs.storage.objects import require_key

pytestmark = pytest.mark.unit


class _Pieces(io.RawIOBase):
    """A stream that gives less than it is asked for."""

    def __init__(self, pieces: list[bytes]) -> None:
        self._pieces = [piece for piece in pieces if piece]

    def read(self, size: int = -1) -> bytes:
        if not self._pieces:
            return b""
        piece = self._pieces.pop(0)
        if len(piece) > size:
            self._pieces.insert(0, piece[size:])
        return piece[:size]


@given(st.lists(st.binary(max_size=20), max_size=12), st.integers(1, 30))
def test_parts_are_full_but_for_the_last(pieces: list[bytes], length: int) -> None:
    source = _Pieces(pieces)
    parts = list(iter(lambda: read_part(source, length), b""))  # type: ignore[arg-type] # reads are all that is needed
    assert b"".join(parts) == b"".join(pieces)
    assert all(len(part) == length for part in parts[:-1])


class _Sized(io.RawIOBase):
    """A file of a length that nobody stores for a test."""

    def __init__(self, size: int, at: int) -> None:
        self._size, self._at = size, at

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._at = offset + (self._size if whence == io.SEEK_END else 0)
        return self._at


@given(st.integers(0, 2**42), st.floats(0, 1))
def test_no_file_needs_more_parts_than_s3_allows(size: int, share: float) -> None:
    at = int(size * share)
    file = _Sized(size, at)
    length = part_length(file)  # type: ignore[arg-type] # its position is all that is needed
    assert file.tell() == at
    assert length >= PART
    assert (size - at) <= length * 10_000
    assert length == PART or size - at > PART * 9_999


SEGMENT = st.builds(
    "".join,
    st.tuples(
        st.sampled_from(string.ascii_letters + string.digits + "_-"),
        st.text(string.ascii_letters + string.digits + "._-", max_size=60),
    ),
)


@given(st.lists(SEGMENT, min_size=1, max_size=12))
def test_keys_of_plain_segments_are_taken(segments: list[str]) -> None:
    key = "/".join(segments)
    assert require_key(key) == key


@given(st.lists(st.sampled_from(["a", "..", ".", "", ".tmp", "b.c", "\0", "\n", "ü", "a b", "~"]), max_size=5))
def test_a_key_never_leaves_the_folder(segments: list[str]) -> None:
    key = "/".join(segments)
    if segments and set(segments) <= {"a", "b.c"}:
        assert require_key(key) == key
    else:
        with pytest.raises(ValueError, match="not valid"):
            require_key(key)
