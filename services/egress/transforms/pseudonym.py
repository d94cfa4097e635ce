"""Pseudonyms, UIDs and shifts of dates that follow from a project's secret: consistent without any table.

Each is an HMAC (RFC 2104) with SHA-256 of what it stands for. Who has the secret can make it again; nobody can go back
without trying all values. Tenants share nothing: the tenant is part of what is hashed.
"""

import base64
import hmac
from collections.abc import Mapping
from typing import Final
from uuid import UUID

#: A secret shorter than this can be tried out.
SHORTEST_SECRET: Final = 16
#: Dates move back by 1 to this many days: about ten years.
_MOST_DAYS: Final = 3653
_PATIENT_LENGTH: Final = 16


class Key:
    """The secret of a project, in the hands of one tenant.

    Parameters
    ----------
    secret
        At least `SHORTEST_SECRET` bytes.
    tenant
        Whose instances these are.
    """

    def __init__(self, secret: bytes, tenant: str) -> None:
        self._secret = secret
        self._tenant = tenant

    def digest(self, kind: str, *values: str) -> bytes:
        """Give 32 bytes that stand for values."""
        parts = (kind, self._tenant, *values)
        # Each part has its length before it: no two lists of parts give the same message.
        message = b"".join(len(part.encode()).to_bytes(4, "big") + part.encode() for part in parts)
        return hmac.digest(self._secret, message, "sha256")

    def uid(self, uid: str) -> str:
        """Give the UID that stands for another: a UUID of version 8 (RFC 9562) under 2.25, PS3.5 section B.2."""
        return _uid(self.digest("uid", uid))

    def text(self, kind: str, *values: str, length: int = _PATIENT_LENGTH) -> str:
        """Give a text of capital letters and digits that stands for values."""
        return base64.b32encode(self.digest(kind, *values)).decode()[:length]

    def days(self, patient: str, issuer: str) -> int:
        """Give by how many days a patient's dates move; always back, for all of the patient's studies the same."""
        number = int.from_bytes(self.digest("days", issuer, patient)[:8], "big")
        return -(1 + number % _MOST_DAYS)


Keys = Mapping[str, Key]


def derived_uid(uid: str, why: str) -> str:
    """Give the UID of an image that was made of another without a project: always the same one for the same image."""
    return _uid(hmac.digest(b"kivuko derived image", f"{why}\0{uid}".encode(), "sha256"))


def _uid(digest: bytes) -> str:
    number = int.from_bytes(digest[:16], "big")
    number = number & ~(0xF << 76) | (8 << 76)
    number = number & ~(0x3 << 62) | (0x2 << 62)
    return f"2.25.{UUID(int=number).int}"
