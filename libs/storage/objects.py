"""What an object store is, and which one a URL means."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import BinaryIO, ClassVar, Protocol
from urllib.parse import unquote, urlsplit

from libs.storage.bucket import Bucket

_KEY = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,254}(/[A-Za-z0-9_-][A-Za-z0-9._-]{0,254})*")
_MOST_CHARACTERS = 1024


class StoreUnavailableError(Exception):
    """The object store can't be used now. To be retried; nothing may be acknowledged meanwhile."""

    #: The text holds hosts, buckets and what to do, never content: it may be logged.
    safe_to_log: ClassVar[bool] = True


class StoreFullError(Exception):
    """There is no room in the object store. To be refused to whoever sends; nothing of the attempt remains."""

    safe_to_log: ClassVar[bool] = True


class ObjectMissingError(Exception):
    """No object has this key."""

    safe_to_log: ClassVar[bool] = True


@dataclass(frozen=True)
class ObjectStat:
    """What the store knows of an object.

    Attributes
    ----------
    size
        Length in bytes.
    modified
        When it was stored, UTC. An adopted file keeps the time of its last write.
    """

    size: int
    modified: datetime


class Upload(Protocol):
    """An object on its way in parts; for one thread at a time. Nothing is under its key before `finish` returns.

    Attributes
    ----------
    part
        Length of each part but the last, bytes.
    """

    part: int

    def put(self, number: int, data: bytes) -> None:
        """Store a part, the first is 1; in any order, and again if need be. Raises StoreFullError."""
        ...

    def finish(self) -> None:
        """Put the parts together: the object is on stable storage when this returns. Raises StoreFullError."""
        ...


class ObjectStore(Protocol):
    """Objects by key. Synchronous and safe to use from many threads; asyncio code calls it in a thread.

    Keys are segments of letters, digits, `.`, `_` and `-`, separated by `/`; none starts with a dot; a key is never
    the folder of another. Any other key is a `ValueError`. Every method may raise `StoreUnavailableError`.
    """

    def put(self, key: str, data: bytes | BinaryIO, *, if_absent: bool = False) -> bool:
        """Store an object whole or not at all; it is on stable storage when this returns.

        Parameters
        ----------
        key
            Where to.
        data
            The bytes, or a file that is read from its present position to its end, a part at a time.
        if_absent
            Leave an object that is there already as it is. Of several writers exactly one gets True; of two at the same
            moment with a large object both may, where a store in S3 looks for one before it puts parts together only:
            then the later one stays.

        Returns
        -------
        bool
            False if `if_absent` and the key was taken; what is there is on stable storage too.

        Raises
        ------
        StoreFullError
            No room.
        """
        ...

    def adopt(self, key: str, path: Path, *, if_absent: bool = False) -> bool:
        """Take over a file whose content is already synced: by rename on the same file system, else by copy.

        Parameters
        ----------
        key
            Where to.
        path
            The file. It is gone when this returns True, and untouched when it returns False or raises.
        if_absent
            As for `put`.

        Returns
        -------
        bool
            As for `put`.

        Raises
        ------
        StoreFullError
            No room.
        """
        ...

    def keep(self, files: Mapping[str, Path]) -> None:
        """Store files whose content is already synced, many at a time, and leave the files where they are.

        On one file system they are linked, and each folder is synced once for all of its objects; else they are copied.

        Parameters
        ----------
        files
            Key to file. An object that is there already stays as it is.

        Raises
        ------
        StoreFullError
            No room. As for any other error, some of the objects may be stored; it may be repeated.
        """
        ...

    def begin(self, key: str) -> Upload | None:
        """Begin an object that is stored while it is still growing; `discard` ends one that is not finished.

        Returns
        -------
        Upload | None
            None where that gains nothing: a whole file is taken over without a copy.

        Raises
        ------
        StoreFullError
            No room.
        """
        ...

    def discard(self, key: str) -> None:
        """Remove an object and whatever is on its way to its key, from any process; no error if there is none."""
        ...

    def open(self, key: str, offset: int = 0, length: int | None = None) -> BinaryIO:
        """Read an object or a range of it; a range past the end gives what there is.

        Raises
        ------
        ObjectMissingError
            No such object.
        """
        ...

    def stat(self, key: str) -> ObjectStat | None:
        """Say what the store knows of an object; None if there is none."""
        ...

    def delete(self, key: str) -> None:
        """Remove an object; no error if there is none."""
        ...

    def list(self, prefix: str) -> Iterator[str]:
        """Give the keys that start with `prefix`, in the order of their characters."""
        ...

    def check(self) -> None:
        """Raise `StoreUnavailableError` with what to do if the store can't take an object now."""
        ...

    def close(self) -> None:
        """Let go of files and connections."""
        ...


def require_key(key: str) -> str:
    """Give back a key that every store can take.

    Raises
    ------
    ValueError
        It isn't one. The text never repeats the key, as a wrong key may hold anything.
    """
    if len(key) > _MOST_CHARACTERS or _KEY.fullmatch(key) is None:
        raise ValueError(
            f"an object key of {len(key)} characters is not valid: use segments of letters, digits, '.', '_' and '-', "
            f"separated by '/', none starting with '.' or longer than 255, at most {_MOST_CHARACTERS} in all"
        )
    return key


def open_store(url: str, *, timeout: float | None = None) -> ObjectStore:
    """Open the object store that a URL names.

    Parameters
    ----------
    url
        `file:///FOLDER`, or `s3://KEY:SECRET@HOST:PORT/BUCKET[?region=us-east-1&secure=true]`.
    timeout
        Seconds that a store at the other end of a network may be silent; None for the store's own patience.

    Raises
    ------
    ValueError
        The URL is neither. The text never holds the URL, as it may hold a secret.
    """
    parts = urlsplit(url)
    if parts.scheme == "file" and parts.path.startswith("/") and parts.netloc in ("", "localhost"):
        from libs.storage.folder import FolderStore  # noqa: PLC0415 - it imports the errors above

        return FolderStore(Path(unquote(parts.path)))
    if parts.scheme == "s3":
        from libs.storage.s3 import S3Store  # noqa: PLC0415 - the embedded profile never loads the S3 client

        bucket = Bucket.from_url(url)
        return S3Store(bucket) if timeout is None else S3Store(bucket, timeout)
    raise ValueError(
        f"the object store's address starts with {parts.scheme or 'nothing'}://: "
        "set KIVUKO_OBJECTS_URL to file:///FOLDER or s3://KEY:SECRET@HOST:PORT/BUCKET"
    )
