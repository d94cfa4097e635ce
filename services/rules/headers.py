"""Attributes that events don't carry, from the header documents that ingest keeps."""

import gzip
import json
from collections.abc import Collection, Iterable

from contracts.fact import Attributes
from libs.dicom.excerpt import pick
from libs.storage.objects import ObjectStore
from services.rules.plan import Known


class HeadersDamagedError(Exception):
    """A header document can't be read. The text holds no values."""


def fetch(objects: ObjectStore, instances: Iterable[Known], keywords: Collection[str]) -> dict[int, Attributes]:
    """Read attributes of instances from the header documents of their batches.

    Returns
    -------
    dict[int, Attributes]
        By the instances' row.

    Raises
    ------
    HeadersDamagedError
        A document is not what ingest wrote.
    ObjectMissingError, StoreUnavailableError
        From the object store.
    """
    by_key: dict[str, list[Known]] = {}
    for one in instances:
        by_key.setdefault(one.headers_key, []).append(one)
    found = {}
    for key, batch in by_key.items():
        with objects.open(key) as file:
            data = file.read()
        try:
            documents = json.loads(gzip.decompress(data))["instances"]
            for one in batch:
                found[one.id] = pick(documents[one.item.sop_instance_uid], keywords)
        except (OSError, EOFError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise HeadersDamagedError(f"a header document can't be read ({type(error).__name__})") from None
    return found
