"""Whether the spool's disk takes more, and what it means when it does not."""

import errno
import os
from pathlib import Path

from services.ingest.room import Margin

_NO_ROOM = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})


class SpoolFullError(Exception):
    """There is no room for another object. To be refused with A700; nothing of the attempt remains."""

    safe_to_log = True


class SpoolUnavailableError(Exception):
    """The spool's folder can't be written. To be refused with A700, and an alarm."""

    safe_to_log = True


def measure(folder: Path) -> tuple[int, int]:
    """Give the bytes that are free to this process on a folder's disk, and all that it has. Raises OSError."""
    disk = os.statvfs(folder)
    return disk.f_bavail * disk.f_frsize, disk.f_blocks * disk.f_frsize


def require_room(folder: Path, margin: Margin, coming: int = 0) -> int:
    """Give the bytes that are free on a folder's disk.

    Raises
    ------
    SpoolFullError
        It does not take more, with `coming` bytes on their way.
    OSError
        As statvfs.
    """
    free, _ = measure(folder)
    if not margin.takes(free, coming):
        raise SpoolFullError(
            f"the spool's disk has {free} bytes free and {margin.needed} are kept free: "
            "free some space, or lower KIVUKO_INGEST_MIN_FREE_BYTES"
        )
    return free


def classified(error: OSError) -> SpoolFullError | SpoolUnavailableError:
    """Tell a full disk from one that is out of order; the sentence says what to do."""
    reason = os.strerror(error.errno) if error.errno else type(error).__name__
    if error.errno in _NO_ROOM:
        return SpoolFullError(f"the spool's disk is full ({reason}): free some space")
    return SpoolUnavailableError(f"the spool's folder can't be written ({reason}): check its disk and its permissions")
