"""Links by which a partner reads one instance from the object store itself, for minutes, instead of through us."""

from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Final, Protocol

from libs.clock import Clock
from libs.storage.bucket import Bucket
from libs.storage.objects import ObjectStat
from services.egress.parcel import DamagedError, Parcel

#: Long enough to begin a download over a bad line, and to end most; a link that got lost is worth nothing soon.
VALID: Final = timedelta(minutes=5)
DICOM: Final = "application/dicom"


class Signs(Protocol):
    """Makes an address that the store honours: see `libs.storage.presigned`."""

    def address(self, key: str, kind: str, now: datetime, valid: timedelta) -> str:
        """Give the address of an object."""
        ...


class Tells(Protocol):
    """Says what the store knows of an object."""

    def stat(self, key: str) -> ObjectStat | None:
        """Give it; None if there is none. Raises StoreUnavailableError."""
        ...


class Links:
    """Gives links to instances whose content need not be checked by us.

    Parameters
    ----------
    signs, objects
        The store, as partners reach it and as we do.
    trusted_since
        Given the time, from when on an instance must have been taken in for its hash not to be computed again
        (docs/decisions/0019).
    clock
        The time, UTC.
    """

    def __init__(
        self, signs: Signs, objects: Tells, trusted_since: Callable[[datetime], datetime], clock: Clock
    ) -> None:
        self._signs = signs
        self._objects = objects
        self._trusted_since = trusted_since
        self._clock = clock

    def link(self, parcel: Parcel, received_at: datetime | None) -> str | None:
        """Give the address of an instance; None if it must be streamed, because we have to check its hash.

        It waits for the store: asyncio code calls it in a thread.

        Raises
        ------
        DamagedError
            The object is missing, or has another length.
        StoreUnavailableError
            The object store can't be asked now.
        """
        now = self._clock()
        if received_at is None or received_at < self._trusted_since(now):
            return None
        found = self._objects.stat(parcel.object_key)
        if found is None:
            raise DamagedError("The instance is missing in the object store; restore it, then try again.")
        if found.size != parcel.size:
            raise DamagedError(
                "The instance in the object store has another length than when it was taken in; restore it."
            )
        return self._signs.address(parcel.object_key, DICOM, now, VALID)


def make_links(
    objects_url: str, address: str | None, objects: Tells, trusted_since: Callable[[datetime], datetime], clock: Clock
) -> Links | None:
    """Make what gives links; None where everything is streamed: by default, and where the store is a folder.

    Parameters
    ----------
    objects_url
        See `libs.storage.objects.open_store`.
    address
        Where partners reach the store, `https://HOST[:PORT]`.
    """
    if address is None or not objects_url.startswith("s3:"):
        return None
    from libs.storage.presigned import Presigned  # noqa: PLC0415 - the embedded profile never loads the S3 client

    return Links(Presigned(Bucket.from_url(objects_url), address), objects, trusted_since, clock)
