"""One instance on its way, and its dataset: read, and checked against the hash under which it was taken in."""

import hashlib
from dataclasses import dataclass
from io import BytesIO
from typing import BinaryIO, Protocol

from libs.dicom import part10
from libs.storage.objects import ObjectMissingError


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
    sop_class_uid, sop_instance_uid, transfer_syntax_uid
        As in the C-STORE request and its presentation context.
    content_hash
        SHA-256 of the dataset's bytes, 64 hexadecimal digits.
    object_key
        Key of the Part 10 object.
    size
        Length of the Part 10 object in bytes.
    """

    item: int
    sop_class_uid: str
    sop_instance_uid: str
    transfer_syntax_uid: str
    content_hash: str
    object_key: str
    size: int


def dataset(parcel: Parcel, objects: Readable) -> bytes:
    """Read the bytes of the dataset, without preamble and file meta information.

    Raises
    ------
    DamagedError
        The object is missing, is no Part 10 file, has another transfer syntax, or its content has another hash.
    StoreUnavailableError
        The object store can't be read now.
    """
    try:
        with objects.open(parcel.object_key) as file:
            content = file.read()
    except ObjectMissingError as error:
        raise DamagedError("The instance is missing in the object store; restore it, then try again.") from error
    try:
        meta, offset = part10.decode(BytesIO(content))
    except part10.NotPart10Error as error:
        raise DamagedError("The instance in the object store is no Part 10 file any more; restore it.") from error
    body = content[offset:]
    if hashlib.sha256(body).hexdigest() != parcel.content_hash:
        raise DamagedError("The instance in the object store is not what was taken in (its hash differs); restore it.")
    if meta.transfer_syntax_uid != parcel.transfer_syntax_uid:
        raise DamagedError("The instance in the object store says another transfer syntax than when it was taken in.")
    return body
