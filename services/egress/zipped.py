"""Instances as one ZIP file, made while it is read: nothing of it is kept, in memory or on a disk."""

import zipfile
from collections.abc import Generator, Sequence

from services.egress.original import original
from services.egress.parcel import Parcel, Readable

#: The earliest that the format knows: when an instance was stored is nobody's business.
_NO_TIME = (1980, 1, 1, 0, 0, 0)
_REGULAR_READABLE = 0o100644 << 16


def zipped(folder: str, parcels: Sequence[Parcel], objects: Readable) -> Generator[bytes]:
    """Give a ZIP file a piece at a time: stored, as images do not shrink much, with ZIP64 and data descriptors.

    What is raised instead of the end leaves a file without its directory, which no program takes for a whole one.

    Parameters
    ----------
    folder
        Name of the folder in it.
    parcels
        What is in it, as `SOP.dcm`.
    objects
        Where they are read.

    Raises
    ------
    DamagedError, StoreUnavailableError
        As `original`.
    """
    made = _Made()
    with zipfile.ZipFile(made, "w", zipfile.ZIP_STORED, allowZip64=True) as archive:
        for parcel in parcels:
            entry = zipfile.ZipInfo(f"{folder}/{parcel.sop_instance_uid}.dcm", _NO_TIME)
            entry.external_attr = _REGULAR_READABLE
            with archive.open(entry, "w", force_zip64=True) as file:
                for piece in original(parcel, objects):
                    file.write(piece)
                    yield made.take()
            yield made.take()
    yield made.take()


class _Made:
    """What was written and not taken yet. It can't be sought in, so that nothing in it is changed afterwards."""

    def __init__(self) -> None:
        self._pieces: list[bytes] = []

    def write(self, data: bytes) -> int:
        self._pieces.append(bytes(data))
        return len(data)

    def flush(self) -> None:
        """Do nothing: it is taken at once."""

    def close(self) -> None:
        """Do nothing: there is nothing to be let go of."""

    def take(self) -> bytes:
        taken, self._pieces = b"".join(self._pieces), []
        return taken
