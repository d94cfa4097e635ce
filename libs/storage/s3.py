"""Objects in a bucket of any S3-compatible store."""

import io
import itertools
import os
import uuid
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, BinaryIO, Final, Self, cast
from xml.etree.ElementTree import ParseError

import certifi
from minio import Minio
from minio.error import MinioException, S3Error
from urllib3 import BaseHTTPResponse, PoolManager, Retry, Timeout
from urllib3.exceptions import HTTPError, MaxRetryError, ReadTimeoutError, SSLError

from libs.storage.bucket import Bucket
from libs.storage.multipart import PART, PartsUpload, abort_all, part_length, put_parts, put_whole, read_part
from libs.storage.objects import (
    ObjectMissingError,
    ObjectStat,
    StoreFullError,
    StoreUnavailableError,
    require_key,
)

_CONNECT_TIMEOUT: Final = 5.0
_READ_TIMEOUT: Final = 60.0
_CONNECTIONS = 32
#: More at a time bring nothing but processor time.
_AT_ONCE = 8
#: Tells, after a repeated conditional PUT, our own first attempt from another writer's object.
_WRITER = "x-amz-meta-kivuko-writer"
_MISSING = ("NoSuchKey", "NoSuchObject", "ResourceNotFound")
_FULL = ("InsufficientStorage", "XMinioStorageFull", "QuotaExceeded", "XMinioAdminBucketQuotaExceeded")
_REFUSED = ("AccessDenied", "SignatureDoesNotMatch", "InvalidAccessKeyId", "InvalidTokenId", "AuthFailure")


class _Again(Retry):
    """Repeats what failed, but for a server that was silent too long: it would be again, and hold the caller up."""

    def increment(
        self,
        method: str | None = None,
        url: str | None = None,
        response: BaseHTTPResponse | None = None,
        error: Exception | None = None,
        *rest: Any,
        **named: Any,
    ) -> Self:
        if isinstance(error, ReadTimeoutError):
            raise error
        return super().increment(method, url, response, error, *rest, **named)


#: GET, HEAD, PUT and DELETE only, which may be repeated; the caller retries the rest.
_RETRY: Final = _Again(
    total=3, redirect=False, backoff_factor=0.2, status_forcelist=(500, 502, 503, 504), raise_on_status=False
)


class _TakenError(Exception):
    """There is an object under the key of a conditional PUT."""


class _PastEndError(Exception):
    """A range starts past the end of the object."""


class S3Store:
    """An object store in a bucket.

    Certificates are verified against `SSL_CERT_FILE`, or else the authorities that come with certifi. A process that
    forks gets connections of its own in the child.

    Parameters
    ----------
    bucket
        Where the bucket is.
    timeout
        Seconds that the server may be silent.
    """

    def __init__(self, bucket: Bucket, timeout: float = _READ_TIMEOUT) -> None:
        self._bucket = bucket
        self._timeout = Timeout(connect=min(_CONNECT_TIMEOUT, timeout), read=timeout)
        self._connect()

    def __repr__(self) -> str:
        return f"S3Store({self._bucket.host}/{self._bucket.name})"

    def put(self, key: str, data: bytes | BinaryIO, *, if_absent: bool = False) -> bool:
        """Store an object: see `ObjectStore.put`."""
        require_key(key)
        writer = uuid.uuid4().hex
        metadata = {_WRITER: writer} if if_absent else {}
        condition = {"If-None-Match": "*"} if if_absent else {}
        length = PART if isinstance(data, bytes) else part_length(data)
        first = data if isinstance(data, bytes) else read_part(data, length)
        try:
            if isinstance(data, bytes) or len(first) < length:
                with self.classified():
                    put_whole(self._client(), self._bucket.name, key, first, metadata | condition)
                return True
            # Before gigabytes are sent in vain; the condition at the end is what decides.
            if if_absent and self.stat(key) is not None:
                return False
            parts = itertools.chain([first], iter(lambda: read_part(data, length), b""))
            with self.classified():
                put_parts(self._client(), self._bucket.name, key, parts, metadata=metadata, condition=condition)
            # Some stores look whether the key is free before they put parts together, and not once more while they do:
            # of two at the same moment both are let through, and the later one is what stays.
            return not if_absent or self._written_by(key, writer)
        except _TakenError:
            return self._written_by(key, writer)

    def adopt(self, key: str, path: Path, *, if_absent: bool = False) -> bool:
        """Take over a synced file: see `ObjectStore.adopt`."""
        with path.open("rb") as data:
            placed = self.put(key, data, if_absent=if_absent)
        if placed:
            path.unlink(missing_ok=True)
        return placed

    def keep(self, files: Mapping[str, Path]) -> None:
        """Copy synced files: see `ObjectStore.keep`."""
        if len(files) == 1:
            for key, path in files.items():
                self._copy(key, path)
            return
        with ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="kivuko-s3") as together:
            for copied in [together.submit(self._copy, key, path) for key, path in files.items()]:
                copied.result()

    def _copy(self, key: str, path: Path) -> None:
        with path.open("rb") as data:
            self.put(key, data, if_absent=True)

    def begin(self, key: str) -> "_Upload":
        """Begin an upload in parts: see `ObjectStore.begin`."""
        require_key(key)
        with self.classified():
            return _Upload(self, PartsUpload(self._client(), self._bucket.name, key, {}))

    def discard(self, key: str) -> None:
        """Remove an object and the parts of uploads to its key: see `ObjectStore.discard`."""
        require_key(key)
        with self.classified():
            abort_all(self._client(), self._bucket.name, key)
        self.delete(key)

    def open(self, key: str, offset: int = 0, length: int | None = None) -> BinaryIO:
        """Read an object: see `ObjectStore.open`."""
        require_key(key)
        headers: dict[str, str | list[str] | tuple[str]] = {}
        if length == 0:
            if self.stat(key) is None:
                raise ObjectMissingError(f"there is no object {key}")
            return io.BytesIO()
        if offset or length is not None:
            headers["Range"] = f"bytes={offset}-{'' if length is None else offset + length - 1}"
        try:
            with self.classified():
                response = self._client().get_object(self._bucket.name, key, request_headers=headers)
        except _PastEndError:
            return io.BytesIO()
        return cast("BinaryIO", io.BufferedReader(_Body(response, self._bucket.host), 256 * 1024))

    def stat(self, key: str) -> ObjectStat | None:
        """Say what is known of an object: see `ObjectStore.stat`."""
        require_key(key)
        try:
            with self.classified():
                found = self._client().stat_object(self._bucket.name, key)
        except ObjectMissingError:
            # The answer to HEAD has no body: a missing bucket looks the same, and must not pass for a missing object.
            self.check()
            return None
        return ObjectStat(found.size or 0, found.last_modified or datetime.fromtimestamp(0, UTC))

    def delete(self, key: str) -> None:
        """Remove an object: see `ObjectStore.delete`."""
        require_key(key)
        try:
            with self.classified():
                self._client().remove_object(self._bucket.name, key)
        except ObjectMissingError:
            return

    def list(self, prefix: str) -> Iterator[str]:
        """Give the keys that start with a prefix: see `ObjectStore.list`."""
        folder = prefix.rpartition("/")[0]
        if folder:
            require_key(folder)
        with self.classified():
            for found in self._client().list_objects(self._bucket.name, prefix, recursive=True):
                yield found.object_name

    def check(self) -> None:
        """Look whether the bucket is there: see `ObjectStore.check`."""
        with self.classified():
            there = self._client().bucket_exists(self._bucket.name)
        if not there:
            raise StoreUnavailableError(
                f"there is no bucket {self._bucket.name} at {self._bucket.host}: "
                "make it, or correct the bucket in KIVUKO_OBJECTS_URL"
            )

    def create_bucket(self) -> None:
        """Make the bucket if it isn't there; a store never does so by itself."""
        with self.classified():
            if not self._client().bucket_exists(self._bucket.name):
                self._client().make_bucket(self._bucket.name, location=self._bucket.region)

    def close(self) -> None:
        """Close the connections."""
        self._pool.clear()

    def _connect(self) -> None:
        self._pool = PoolManager(
            num_pools=2,
            maxsize=_CONNECTIONS,
            timeout=self._timeout,
            retries=_RETRY,
            cert_reqs="CERT_REQUIRED",
            ca_certs=os.environ.get("SSL_CERT_FILE") or certifi.where(),
        )
        self._minio = Minio(
            self._bucket.host,
            access_key=self._bucket.key,
            secret_key=self._bucket.secret,
            secure=self._bucket.secure,
            # Given, so that it is never asked for.
            region=self._bucket.region,
            http_client=self._pool,
        )
        self._pid = os.getpid()

    def _client(self) -> Minio:
        # After a fork both processes would read each other's answers from the same connections.
        if self._pid != os.getpid():
            self._connect()
        return self._minio

    def _written_by(self, key: str, writer: str) -> bool:
        with self.classified():
            found = self._client().stat_object(self._bucket.name, key)
        return found.metadata is not None and found.metadata.get(_WRITER) == writer

    @contextmanager
    def classified(self) -> Iterator[None]:
        """Raise what the client raises as what it means here."""
        host = self._bucket.host
        try:
            yield
        except S3Error as error:
            raise self._meaning(error.code or "") from error
        except (MinioException, ParseError) as error:
            # Its text repeats what the server sent.
            raise StoreUnavailableError(f"the object store at {host} fails ({type(error).__name__})") from None
        except HTTPError as error:
            reason = error.reason if isinstance(error, MaxRetryError) and error.reason is not None else error
            advice = "is it running, and is the address in KIVUKO_OBJECTS_URL right?"
            if isinstance(reason, SSLError):
                advice = "set SSL_CERT_FILE to its authority, or add ?secure=false for a store without TLS"
            raise StoreUnavailableError(
                f"no connection to the object store at {host} ({type(reason).__name__}): {advice}"
            ) from None

    def _meaning(self, code: str) -> Exception:
        host, bucket = self._bucket.host, self._bucket.name
        if code == "PreconditionFailed":
            return _TakenError()
        if code == "InvalidRange":
            return _PastEndError()
        if code in _MISSING:
            return ObjectMissingError(f"there is no such object in {bucket} at {host}")
        if code in _FULL:
            return StoreFullError(f"no room in {bucket} at {host} ({code}): make it larger or remove what may go")
        if code in _REFUSED:
            return StoreUnavailableError(
                f"the object store at {host} refuses access to {bucket} ({code}): "
                "check the key, the secret and the policy of the bucket"
            )
        return StoreUnavailableError(f"the object store at {host} fails ({code}), bucket {bucket}: see its own log")


class _Upload:
    """An object on its way in parts: see `Upload`."""

    part = PART

    def __init__(self, store: S3Store, parts: PartsUpload) -> None:
        self._store = store
        self._parts = parts

    def put(self, number: int, data: bytes) -> None:
        """Store a part."""
        with self._store.classified():
            self._parts.put(number, data)

    def finish(self) -> None:
        """Put the parts together."""
        with self._store.classified():
            self._parts.finish({})


class _Body(io.RawIOBase):
    """The content of an object on its way here."""

    def __init__(self, response: BaseHTTPResponse, host: str) -> None:
        self._response = response
        self._host = host

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: bytearray | memoryview) -> int:  # type: ignore[override] # narrower than Buffer
        try:
            data = self._response.read(len(buffer))
        except HTTPError as error:
            raise StoreUnavailableError(
                f"the object store at {self._host} broke off while an object was read ({type(error).__name__})"
            ) from None
        buffer[: len(data)] = data
        return len(data)

    def close(self) -> None:
        self._response.close()
        self._response.release_conn()
        super().close()
