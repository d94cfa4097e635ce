"""An instance as it is kept, byte for byte: a Part 10 file, read and checked."""

import os
from collections.abc import Generator
from hashlib import sha256
from typing import BinaryIO, Final

from libs.dicom import part10
from libs.storage.objects import ObjectMissingError, StoreUnavailableError
from services.egress.parcel import DamagedError, Parcel, Readable

_HEAD: Final = 4096
_PIECE: Final = 1 << 20


def original(parcel: Parcel, objects: Readable) -> Generator[bytes]:
    """Read a Part 10 object a piece at a time, the first one short.

    What is raised instead of the end says that all pieces together are not what was taken in.

    Raises
    ------
    DamagedError
        The object is missing, is no Part 10 file, has another length, or, unless it is fresh, its dataset another hash.
    StoreUnavailableError
        The object store can't be read now.
    """
    try:
        file = objects.open(parcel.object_key)
    except ObjectMissingError as error:
        raise DamagedError("The instance is missing in the object store; restore it, then try again.") from error
    with file:
        head = _read(file, _HEAD)
        try:
            offset = part10.dataset_offset(head)
        except part10.NotPart10Error as error:
            raise DamagedError("The instance in the object store is no Part 10 file any more; restore it.") from error
        digest, length = sha256(head[offset:]), len(head)
        yield head
        while data := _read(file, _PIECE):
            if not parcel.fresh:
                digest.update(data)
            length += len(data)
            yield data
    if length != parcel.size:
        raise DamagedError("The instance in the object store has another length than when it was taken in; restore it.")
    if not parcel.fresh and digest.hexdigest() != parcel.content_hash:
        raise DamagedError("The instance in the object store is not what was taken in (its hash differs); restore it.")


def _read(file: BinaryIO, count: int) -> bytes:
    try:
        return file.read(count)
    except OSError as error:
        # Of the store, not of what is written to.
        said = os.strerror(error.errno).lower() if error.errno else type(error).__name__
        raise StoreUnavailableError(f"the object store can't be read ({said}): see to its disk") from error
