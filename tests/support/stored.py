"""A network that only stores, and what its index and object store hold of an instance."""

import hashlib
import json
import sqlite3
from contextlib import closing
from io import BytesIO
from pathlib import Path

from libs.dicom import part10
from libs.storage.objects import open_store

#: One site; anyone on loopback who calls as STORESCU may store, on as many associations as there may be.
NETWORK = json.dumps(
    {
        "kivuko": 1,
        "name": "Storing",
        "sites": {"luba": {"name": "Luba"}},
        "nodes": {"STORESCU": {"site": "luba", "host": "127.0.0.1", "may": ["store"], "associations": 64}},
    }
)
_CHUNK = 1 << 20
#: Preamble and file meta information are much shorter.
_HEAD = 1 << 16


def database(home: Path, service: str) -> sqlite3.Connection:
    """Open a service's database of the embedded profile for reading."""
    return sqlite3.connect(f"file:{home / 'db' / service}.db?mode=ro", uri=True, timeout=30)


def indexed(home: Path, sop_uid: str) -> tuple[str, str] | None:
    """Give content hash and object key of an instance that is indexed; None if it is not."""
    with closing(database(home, "ingest")) as index:
        found: tuple[str, str] | None = index.execute(
            "SELECT content_hash, object_key FROM instances WHERE sop_uid = ?", (sop_uid,)
        ).fetchone()
    return found


def kept(url: str, key: str) -> tuple[str, int]:
    """Give SHA-256 and length of the dataset in an object. Raises ObjectMissingError."""
    with closing(open_store(url)) as store:
        with store.open(key, 0, _HEAD) as file:
            _, offset = part10.decode(BytesIO(file.read()))
        digest, length = hashlib.sha256(), 0
        with store.open(key, offset) as file:
            while chunk := file.read(_CHUNK):
                digest.update(chunk)
                length += len(chunk)
    return digest.hexdigest(), length
