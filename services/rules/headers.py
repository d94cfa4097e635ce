"""Attributes that events don't carry, from the header documents that ingest keeps."""

import gzip
import json
import re
from collections.abc import Collection, Iterable, Sequence
from typing import Any, Final

from contracts.fact import Attributes
from libs.storage.objects import ObjectStore
from services.rules.plan import Known

#: How conditions name a private element: `(0029,xx10) SIEMENS CSA HEADER`.
_PRIVATE: Final = re.compile(r"^\(([0-9A-F]{4}),xx([0-9A-F]{2})\) (.+)$")


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


def pick(document: dict[str, Any], keys: Collection[str]) -> Attributes:
    """Pick attributes from one instance's header, written after the DICOM JSON Model (PS3.18 annex F).

    Parameters
    ----------
    document
        The header.
    keys
        Keywords; paths of them into sequences, which give the values of all items; private elements. As
        `libs.definition.attributes.type_of` reads them.
    """
    picked: Attributes = {}
    keywords = {key for key in keys if key[0] != "(" and "." not in key}
    for entry in document.values():
        keyword, values = entry.get("keyword"), entry.get("Value")
        if keyword in keywords and values:
            picked[keyword] = values[0] if len(values) == 1 else values
    for key in set(keys) - keywords:
        values = _private(document, key) if key[0] == "(" else _inside(document, key.split("."))
        if values:
            picked[key] = values
    return picked


def _inside(document: dict[str, Any], path: Sequence[str]) -> list[Any]:
    """Give the values at the end of a path, of all items of the sequences on it."""
    values = next((entry.get("Value") for entry in document.values() if entry.get("keyword") == path[0]), None) or []
    if len(path) == 1:
        return list(values)
    return [value for item in values if isinstance(item, dict) for value in _inside(item, path[1:])]


def _private(document: dict[str, Any], key: str) -> list[Any]:
    """Give the values of a private element; its creator has reserved the block, PS3.5 section 7.8.1."""
    found = _PRIVATE.match(key)
    if found is None:
        return []
    group, element, creator = found.groups()
    values: list[Any] = []
    for tag, entry in document.items():
        # The creator of block bb stands in (gggg,00bb), its elements in (gggg,bbee).
        if (
            tag[:4] == group
            and tag[4:6] == "00"
            and [str(one).strip() for one in entry.get("Value") or ()] == [creator]
        ):
            values += document.get(f"{group}{tag[6:]}{element}", {}).get("Value") or []
    return values
