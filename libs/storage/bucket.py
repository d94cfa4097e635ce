"""Where a bucket is, read from a URL."""

import ipaddress
import re
from dataclasses import dataclass, field
from typing import Self
from urllib.parse import parse_qs, unquote, urlsplit

_NAME = re.compile(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]")


@dataclass(frozen=True)
class Bucket:
    """Where a bucket is. The secret is kept out of `repr`.

    Attributes
    ----------
    host
        HOST or HOST:PORT.
    name
        Name of the bucket.
    key, secret
        Credentials.
    region
        Region to sign for.
    secure
        Whether to use TLS. Left out of a URL it is on, but for loopback addresses.
    """

    host: str
    name: str
    key: str
    secret: str = field(repr=False)
    region: str = "us-east-1"
    secure: bool = True

    @classmethod
    def from_url(cls, url: str) -> Self:
        """Read `s3://KEY:SECRET@HOST:PORT/BUCKET[?region=us-east-1&secure=true]`; key and secret percent-encoded.

        Raises
        ------
        ValueError
            It is not such a URL, or no name of a bucket. The text never holds the URL.
        """
        parts = urlsplit(url)
        query = parse_qs(parts.query)
        name = parts.path.strip("/")
        unknown = set(query) - {"region", "secure"}
        if unknown or not (parts.hostname and parts.username and parts.password and _NAME.fullmatch(name)):
            raise ValueError(
                "the object store's address can't be read: set KIVUKO_OBJECTS_URL to "
                "s3://KEY:SECRET@HOST:PORT/BUCKET[?region=us-east-1&secure=true], key and secret percent-encoded"
            )
        secure = query.get("secure", ["false" if _is_loopback(parts.hostname) else "true"])[0].lower()
        if secure not in ("true", "false"):
            raise ValueError("secure in KIVUKO_OBJECTS_URL is neither true nor false")
        return cls(
            host=parts.netloc.rpartition("@")[2],
            name=name,
            key=unquote(parts.username),
            secret=unquote(parts.password),
            region=query.get("region", ["us-east-1"])[0],
            secure=secure == "true",
        )


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
