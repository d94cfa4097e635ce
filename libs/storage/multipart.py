"""Uploads to S3, whole or in parts, with conditions.

The client's public methods let no conditional headers through, hence its inner ones here. Errors are the client's own.
"""

import os
from collections.abc import Iterable
from typing import BinaryIO
from xml.etree import ElementTree as ET

from minio import Minio
from minio.error import MinioException, S3Error
from urllib3.exceptions import HTTPError

from libs.telemetry import log

#: Length of a part of a multipart upload, and the most memory that one upload takes, bytes.
PART = 8 * 1024 * 1024
#: S3 allows no more parts; a file of known length gets larger parts where it needs them.
_MOST_PARTS = 10_000

_LOG = log.get(__name__)


def part_length(data: BinaryIO) -> int:
    """Give the length of the parts in which the rest of a file can be uploaded."""
    if not data.seekable():
        return PART
    here = data.tell()
    left = data.seek(0, os.SEEK_END) - here
    data.seek(here)
    return max(PART, -(-left // _MOST_PARTS))


def read_part(data: BinaryIO, length: int) -> bytes:
    """Read `length` bytes; fewer only at the end."""
    read = data.read(length)
    while len(read) < length and (more := data.read(length - len(read))):
        read += more
    return read


def put_whole(client: Minio, bucket: str, key: str, data: bytes, headers: dict[str, str]) -> None:
    """Store an object in one request."""
    client._put_object(bucket, key, data, {"Content-Type": "application/octet-stream", **headers})  # noqa: SLF001


class PartsUpload:
    """An upload in parts that the caller gives one by one.

    Parameters
    ----------
    client, bucket, key
        Where to.
    metadata
        Headers that become part of the object.
    """

    def __init__(self, client: Minio, bucket: str, key: str, metadata: dict[str, str]) -> None:
        self._client = client
        self._bucket = bucket
        self._key = key
        self._etags: dict[int, str] = {}
        self._id = client._create_multipart_upload(bucket, key, dict(metadata))  # noqa: SLF001

    def put(self, number: int, data: bytes) -> None:
        """Store a part, numbered from 1; all but the last at least 5 MiB."""
        self._etags[number] = self._client._upload_part(self._bucket, self._key, data, None, self._id, number)  # noqa: SLF001

    def finish(self, condition: dict[str, str]) -> None:
        """Put the parts together, on a condition given as headers."""
        listing = ET.Element("CompleteMultipartUpload")
        for number, etag in sorted(self._etags.items()):
            part = ET.SubElement(listing, "Part")
            ET.SubElement(part, "PartNumber").text = str(number)
            ET.SubElement(part, "ETag").text = f'"{etag}"'
        _complete(self._client, self._bucket, self._key, self._id, ET.tostring(listing), condition=condition)

    def abort(self) -> None:
        """Remove the parts."""
        _abort(self._client, self._bucket, self._key, self._id)


def abort_all(client: Minio, bucket: str, key: str) -> None:
    """Remove the parts of every upload to a key that is not finished."""
    found = client._list_multipart_uploads(bucket, prefix=key)  # noqa: SLF001
    for upload in found.uploads:
        if upload.object_name == key and upload.upload_id:
            try:
                client._abort_multipart_upload(bucket, key, upload.upload_id)  # noqa: SLF001
            except S3Error as error:
                if error.code != "NoSuchUpload":
                    raise


def put_parts(
    client: Minio,
    bucket: str,
    key: str,
    parts: Iterable[bytes],
    *,
    metadata: dict[str, str],
    condition: dict[str, str],
) -> None:
    """Store an object in parts, one in memory at a time; whatever goes wrong, no part is left behind.

    Parameters
    ----------
    client, bucket, key
        Where to.
    parts
        All but the last at least 5 MiB.
    metadata
        Headers that become part of the object.
    condition
        Headers on which the object appears at the end.
    """
    upload = PartsUpload(client, bucket, key, metadata)
    try:
        for number, data in enumerate(parts, 1):
            upload.put(number, data)
        upload.finish(condition)
    except BaseException:
        upload.abort()
        raise


def _complete(client: Minio, bucket: str, key: str, upload: str, listing: bytes, *, condition: dict[str, str]) -> None:
    headers = {"Content-Type": "application/xml", **condition}
    answer = client._execute(  # noqa: SLF001
        "POST", bucket, key, body=listing, headers=dict(headers), query_params={"uploadId": upload}
    )
    # A store may answer 200 before it knows the outcome: then a failure comes with status 200 as well.
    if b"CompleteMultipartUploadResult" not in answer.data:
        raise MinioException("the store could not put the parts together")


def _abort(client: Minio, bucket: str, key: str, upload: str) -> None:
    try:
        client._abort_multipart_upload(bucket, key, upload)  # noqa: SLF001
    except (MinioException, HTTPError) as error:
        # What led here is raised; parts that stay take room until the bucket's life-cycle rule removes them.
        _LOG.warning("parts of an upload left behind", bucket=bucket, reason=type(error).__name__)
