"""Looks for a dataset's identifiers while its first bytes pass."""

import io
from typing import Final

from libs.dicom import identity
from services.ingest.identity import Identity

#: Bytes in which they are looked for; real headers have them in the first thousands.
LOOKED_AT: Final = 256 << 10
#: Bytes that are looked at first: nearly always there is no need for more.
_SOON: Final = 8 << 10


class Scan:
    """The identifiers of one dataset.

    Attributes
    ----------
    found
        None while they are not known.
    unreadable
        Why these bytes can't be a dataset; None while they can.
    """

    def __init__(self, transfer_syntax: str) -> None:
        self._syntax = transfer_syntax
        self._kept = bytearray()
        self._over = False
        self.found: Identity | None = None
        self.unreadable: str | None = None

    def feed(self, fragment: memoryview) -> None:
        """Look at the next bytes of the dataset."""
        if self._over:
            return
        try:
            if not self._kept and len(fragment) > _SOON:
                self.found = identity.identity(fragment[:_SOON], self._syntax)
            if self.found is None:
                self._kept += fragment[: LOOKED_AT - len(self._kept)]
                self.found = identity.identity(memoryview(self._kept), self._syntax)
        except identity.UnreadableDatasetError as error:
            self.unreadable = str(error)
        self._over = self.found is not None or self.unreadable is not None or len(self._kept) >= LOOKED_AT

    def whole(self) -> io.BytesIO | None:
        """Give all that was fed, if that was little enough to be kept and more is needed."""
        return None if self._over else io.BytesIO(self._kept)
