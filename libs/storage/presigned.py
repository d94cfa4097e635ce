"""Addresses of single objects in a bucket, by which others read them for a short time without a key of ours."""

from datetime import datetime, timedelta
from urllib.parse import urlsplit

from minio import Minio

from libs.storage.bucket import Bucket
from libs.storage.objects import require_key


class Presigned:
    """Makes addresses that the store honours by itself until they expire; nothing is asked of the store for it.

    Whoever has one can read that object and nothing else. It shows the access key's name, never its secret; no log
    may have it.

    Parameters
    ----------
    bucket
        Where the objects are, and who signs.
    address
        Where those who get an address reach the store, `https://HOST[:PORT]`: the signature covers it.
    """

    def __init__(self, bucket: Bucket, address: str) -> None:
        self._name = bucket.name
        parts = urlsplit(address)
        self._minio = Minio(
            parts.netloc,
            access_key=bucket.key,
            secret_key=bucket.secret,
            secure=parts.scheme == "https",
            # Given, so that it is never asked for.
            region=bucket.region,
        )

    def address(self, key: str, kind: str, now: datetime, valid: timedelta) -> str:
        """Give the address of an object.

        Parameters
        ----------
        key
            Of the object; it need not be there.
        kind
            Content type that the store is to give it.
        now, valid
            From when, UTC, and for how long the store honours it; by the store's clock.
        """
        return self._minio.presigned_get_object(
            self._name,
            require_key(key),
            expires=valid,
            response_headers={"response-content-type": kind},
            request_date=now,
        )
