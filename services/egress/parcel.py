"""One instance on its way, and its dataset: read, and checked against the hash under which it was taken in."""

import hashlib
import io
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, BinaryIO, Protocol

from contracts.definition import Transform
from libs.dicom import part10
from libs.storage.objects import ObjectMissingError

#: An object up to this length is checked before its first byte leaves.
WHOLE = 4 << 20
_PIECE = 1 << 20
_HEAD = 4096
#: From a release that did not note it.
_UNKNOWN = datetime(1970, 1, 1, tzinfo=UTC)


class Readable(Protocol):
    """Where instances are read from: an object store, or whatever else gives Part 10 files by key."""

    def open(self, key: str) -> BinaryIO:
        """Read one from its beginning. Raises ObjectMissingError, and StoreUnavailableError if it can't now."""
        ...


class DamagedError(Exception):
    """What we hold is missing, or is not what was taken in. The text is a sentence without values from the dataset."""


@dataclass(frozen=True)
class Parcel:
    """One instance to send.

    Attributes
    ----------
    item
        Identifier of the delivery's item.
    delivery_id
        Of which delivery it is.
    rank
        Its place in the queue: number of the lane, and its number in it.
    sop_class_uid, sop_instance_uid, transfer_syntax_uid
        As in the C-STORE request and its presentation context.
    content_hash
        SHA-256 of the dataset's bytes, 64 hexadecimal digits.
    object_key
        Key of the Part 10 object.
    size
        Length of the Part 10 object in bytes.
    fresh
        Whether it was taken in so lately that its hash need not be computed again: nothing but its length is checked.
    transform
        Name of the rule's, which is still to be done; empty for none.
    said
        What it said when it was decided; or why that can't be done; none: what the definition in force says counts.
    made
        Whether it is on record that something was made of it before.
    arrived_at
        When it was taken in, UTC.
    study_instance_uid
        Where a transform has changed it: the new one.
    """

    item: int
    delivery_id: str
    rank: tuple[int, int]
    sop_class_uid: str
    sop_instance_uid: str
    transfer_syntax_uid: str
    content_hash: str
    object_key: str
    size: int
    fresh: bool = False
    transform: str = ""
    said: Transform | str | None = None
    made: bool = False
    arrived_at: datetime = _UNKNOWN
    study_instance_uid: str = ""

    @property
    def pair(self) -> tuple[str, str]:
        """SOP class and transfer syntax: what a presentation context has to be accepted for."""
        return self.sop_class_uid, self.transfer_syntax_uid


def dataset(parcel: Parcel, objects: Readable) -> Iterator[bytes | memoryview]:
    """Read the bytes of the dataset, without preamble and file meta information, a piece at a time.

    What is raised instead of the end says that all pieces together are not the dataset.

    Raises
    ------
    DamagedError
        The object is missing, is no Part 10 file, or its content has another hash. Of an object up to `WHOLE` bytes
        before the first piece.
    StoreUnavailableError
        The object store can't be read now.
    """
    try:
        file = objects.open(parcel.object_key)
    except ObjectMissingError as error:
        raise DamagedError("The instance is missing in the object store; restore it, then try again.") from error
    with file:
        whole = parcel.size <= WHOLE
        head = file.read() if whole else file.read(_HEAD)
        try:
            offset = part10.dataset_offset(head)
        except part10.NotPart10Error as error:
            raise DamagedError("The instance in the object store is no Part 10 file any more; restore it.") from error
        if whole:
            body = memoryview(head)[offset:]
            if parcel.fresh:
                _check_length(parcel, len(head))
            else:
                _check(parcel, hashlib.sha256(body).hexdigest())
            yield body
            return
        yield from _pieces(parcel, file, head[offset:])


def _pieces(parcel: Parcel, file: BinaryIO, first: bytes) -> Iterator[bytes]:
    digest = hashlib.sha256(first)
    piece = first
    while piece:
        yield piece
        piece = file.read(_PIECE)
        digest.update(piece)
    _check(parcel, digest.hexdigest())


class Joined(io.RawIOBase):
    """The pieces of a dataset as a file, for what reads files."""

    def __init__(self, pieces: Iterator[bytes | memoryview]) -> None:
        self._pieces = pieces
        self._left = memoryview(b"")

    def readable(self) -> bool:
        """Say that it is read."""
        return True

    def readinto(self, buffer: Any, /) -> int:
        """Read what is there of the next piece; 0 at the end."""
        while not self._left:
            piece = next(self._pieces, None)
            if piece is None:
                return 0
            self._left = memoryview(piece)
        count = min(len(buffer), len(self._left))
        buffer[:count] = self._left[:count]
        self._left = self._left[count:]
        return count


def _check_length(parcel: Parcel, found: int) -> None:
    if found != parcel.size:
        raise DamagedError("The instance in the object store has another length than when it was taken in; restore it.")


def _check(parcel: Parcel, found: str) -> None:
    if found != parcel.content_hash:
        raise DamagedError("The instance in the object store is not what was taken in (its hash differs); restore it.")
