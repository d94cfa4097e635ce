"""From a spool entry to what the index and the event say of it, and the header document of a batch."""

import gzip
import io
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Final

from contracts.fact import Attributes
from contracts.instances import StoredInstance
from libs.dicom import header, part10
from services.ingest.arrival import Entry

#: The fastest: documents of one series repeat themselves, so they shrink to a tenth all the same.
_LEVEL = 1
#: Bytes that are read at once: a small file whole, of others mostly the header. Each call of the system hands the
#: interpreter to another thread and back.
_READ: Final = 64 << 10
#: What tells where the dataset begins.
_META: Final = 144


@dataclass(frozen=True)
class Prepared:
    """An entry that was read.

    Attributes
    ----------
    instance
        What index and event say of it, with all base attributes.
    document
        Its whole header as JSON: see `libs.dicom.header.read_text`.
    """

    instance: StoredInstance
    document: str


def prepare(entry: Entry) -> Prepared:
    """Read an entry's file. Raises OSError, NotPart10Error, UnreadableDatasetError."""
    arrival = entry.arrival
    with _opened(entry.path, entry.size) as file:
        file.seek(part10.dataset_offset(file.read(_META)))
        found, document = header.read_text(file, arrival.transfer_syntax_uid)
    instance = StoredInstance(
        sop_instance_uid=arrival.sop_instance_uid,
        sop_class_uid=arrival.sop_class_uid,
        series_instance_uid=entry.series_uid,
        transfer_syntax_uid=arrival.transfer_syntax_uid,
        content_hash=entry.content_hash,
        object_key=entry.object_key,
        size=entry.size,
        received_at=arrival.received_at,
        attributes=found.attributes,
    )
    return Prepared(instance, document)


def _opened(path: Path, size: int) -> BinaryIO:
    if size > _READ:
        return io.BufferedReader(io.FileIO(path), _READ)
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return io.BytesIO(os.read(descriptor, _READ))
    finally:
        os.close(descriptor)


def header_document(prepared: Iterable[Prepared]) -> bytes:
    """Give the header document of a batch: gzipped JSON, by SOP Instance UID; the same batch gives the same bytes."""
    documents = sorted((each.instance.sop_instance_uid, each.document) for each in prepared)
    # A UID holds nothing that JSON would have to escape.
    text = ", ".join(f'"{sop_uid}": {document}' for sop_uid, document in documents)
    return gzip.compress(f'{{"instances": {{{text}}}}}'.encode(), _LEVEL, mtime=0)


def shared_attributes(all_attributes: Sequence[Attributes]) -> Attributes:
    """Give the attributes that all of them have with the same value."""
    first, *others = all_attributes
    return {key: value for key, value in first.items() if all(other.get(key) == value for other in others)}


def without(instance: StoredInstance, shared: Attributes) -> StoredInstance:
    """Leave out the attributes that the whole batch shares."""
    own = {key: value for key, value in instance.attributes.items() if key not in shared}
    return instance.model_copy(update={"attributes": own})
