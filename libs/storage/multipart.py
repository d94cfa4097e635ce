"""Uploads to S3, whole or in parts, with conditions.

The client's public methods let no conditional headers through, hence its inner ones here. Errors are the client's own.
"""

import os
from collections.abc import Iterable
from typing import BinaryIO
from xml.etree import ElementTree as ET

from minio import Minio
from minio.error import MinioException
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
    upload = client._create_multipart_upload(bucket, key, dict(metadata))  # noqa: SLF001
    try:
        listing = ET.Element("CompleteMultipartUpload")
        for number, data in enumerate(parts, 1):
            etag = client._upload_part(bucket, key, data, None, upload, number)  # noqa: SLF001
            part = ET.SubElement(listing, "Part")
            ET.SubElement(part, "PartNumber").text = str(number)
            ET.SubElement(part, "ETag").text = f'"{etag}"'
        _complete(client, bucket, key, upload, ET.tostring(listing), condition=condition)
    except BaseException:
        _abort(client, bucket, key, upload)
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
