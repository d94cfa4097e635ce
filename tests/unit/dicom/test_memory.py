"""What is read of a dataset is bounded, however long it is and whatever its lengths claim."""

import io
import struct
import zlib
from typing import Any

import pytest
from pydicom.uid import DeflatedExplicitVRLittleEndian, ExplicitVRLittleEndian

from libs.dicom import header, identity
from libs.dicom.header import UnreadableDatasetError
from tests.unit.dicom.encoded import UNDEFINED, Element, encoded

pytestmark = pytest.mark.unit

MIB = 1 << 20
SYNTAX = str(ExplicitVRLittleEndian)
UIDS = [
    Element(0x00080016, "UI", b"1.2\0"),
    Element(0x00080018, "UI", b"1.2.3\0"),
    Element(0x0020000D, "UI", b"1.2.4\0"),
    Element(0x0020000E, "UI", b"1.2.5\0"),
]
DOCUMENT = 0x00420011
WAVEFORMS = 0x54000100


class Sparse(io.RawIOBase):
    """A file of a head, zeros that nobody made, and a tail; counts what is read of it."""

    def __init__(self, head: bytes, zeros: int, tail: bytes, *, seekable: bool = True) -> None:
        super().__init__()
        self._parts = (head, zeros, tail)
        self._size = len(head) + zeros + len(tail)
        self._at = 0
        self._seekable = seekable
        self.bytes_read = 0
        self.longest_read = 0

    def seekable(self) -> bool:
        return self._seekable

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        assert self._seekable
        self._at = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._size}[whence]
        return self._at

    def read(self, size: int = -1) -> bytes:
        assert size >= 0
        head, zeros, tail = self._parts
        end = min(self._at + size, self._size)
        start, self._at = self._at, max(self._at, end)
        middle = max(0, min(end, len(head) + zeros) - max(start, len(head)))
        data = head[start:end] + bytes(middle)
        if end > len(head) + zeros:
            data += tail[max(0, start - len(head) - zeros) : end - len(head) - zeros]
        self.bytes_read += len(data)
        self.longest_read = max(self.longest_read, size)
        return data


def long_head(tag: int, vr: str, length: int) -> bytes:
    return struct.pack("<HH2sHL", tag >> 16, tag & 0xFFFF, vr.encode(), 0, length)


@pytest.fixture
def limit(monkeypatch: pytest.MonkeyPatch) -> int:
    """A limit that is reached fast."""
    monkeypatch.setattr(identity, "LONGEST_HEADER", MIB)
    monkeypatch.setattr(header, "LONGEST_HEADER", MIB)
    return MIB


def opened(source: Sparse) -> Any:
    return source


@pytest.mark.parametrize("seekable", [True, False])
def test_a_long_document_is_passed_over(seekable: bool) -> None:
    length = 300 * MIB if seekable else 8 * MIB
    after = encoded([Element(0x00420012, "LO", b"application/pdf ")], SYNTAX)
    source = Sparse(encoded(UIDS, SYNTAX) + long_head(DOCUMENT, "OB", length), length, after, seekable=seekable)
    found, document = header.read_whole(opened(source), SYNTAX)
    assert found.series_instance_uid == "1.2.5"
    assert document["00420011"] == {"vr": "OB", "keyword": "EncapsulatedDocument"}
    assert document["00420012"]["Value"] == ["application/pdf"]
    assert source.longest_read < MIB
    assert seekable == (source.bytes_read < MIB)


@pytest.mark.parametrize("read", [header.read, header.read_whole])
@pytest.mark.parametrize("seekable", [True, False])
def test_a_document_shorter_than_it_says_is_unreadable(read: Any, seekable: bool) -> None:
    source = Sparse(encoded(UIDS, SYNTAX) + long_head(DOCUMENT, "OB", 8 * MIB), 8 * MIB - 1, b"", seekable=seekable)
    with pytest.raises(UnreadableDatasetError, match=r"ends inside the value of \(0042,0011\)"):
        read(opened(source), SYNTAX)


def test_pixels_are_not_read() -> None:
    source = Sparse(encoded(UIDS, SYNTAX) + long_head(0x7FE00010, "OW", 4000 * MIB), 4000 * MIB, b"")
    header.read_whole(opened(source), SYNTAX)
    assert source.bytes_read < MIB


def test_a_sequence_that_is_too_long_to_be_held_is_passed_over_or_ends_the_header(limit: int) -> None:
    item = struct.pack("<HHL", 0xFFFE, 0xE000, limit)
    end = struct.pack("<HHL", 0xFFFE, 0xE0DD, 0)
    head = encoded(UIDS, SYNTAX)
    for length in (limit + 8, UNDEFINED):
        source = Sparse(head + long_head(WAVEFORMS, "SQ", length) + item, limit, end)
        found, document = header.read_whole(opened(source), SYNTAX)
        assert found.series_instance_uid == "1.2.5"
        assert "54000100" not in document
        assert source.bytes_read <= limit + (1 << 16)
    # Before the last attribute that events carry it can't be the end.
    source = Sparse(head + long_head(0x00209116, "SQ", UNDEFINED) + item, limit, end)
    with pytest.raises(UnreadableDatasetError, match="longer than 64 MiB"):
        header.read(opened(source), SYNTAX)


def test_a_deflated_dataset_is_inflated_no_further_than_a_header_goes(limit: int) -> None:
    deflate = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    head = encoded(UIDS, SYNTAX) + long_head(0x00420010, "UT", 2 * limit)
    data = deflate.compress(head) + b"".join(deflate.compress(bytes(limit)) for _ in range(2)) + deflate.flush()
    assert header.identity(data, DeflatedExplicitVRLittleEndian) is not None
    with pytest.raises(UnreadableDatasetError, match="ends inside"):
        header.read(io.BytesIO(data), DeflatedExplicitVRLittleEndian)


def test_sequences_may_be_nested_deeper_than_a_program_calls_itself() -> None:
    depth = 5000
    nested = b"".join(
        long_head(0x00081140, "SQ", UNDEFINED) + struct.pack("<HHL", 0xFFFE, 0xE000, UNDEFINED) for _ in range(depth)
    )
    ends = (struct.pack("<HHL", 0xFFFE, 0xE00D, 0) + struct.pack("<HHL", 0xFFFE, 0xE0DD, 0)) * depth
    data = encoded(UIDS[:2], SYNTAX) + nested + ends + encoded(UIDS[2:], SYNTAX)
    found, document = header.read_whole(io.BytesIO(data), SYNTAX)
    assert found.series_instance_uid == "1.2.5"
    deep = 0
    while document.get("00081140", {}).get("Value"):
        (document,) = document["00081140"]["Value"]
        deep += 1
    assert deep == 16
