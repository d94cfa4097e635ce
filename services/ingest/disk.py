"""Whether the spool's disk takes more, and what it means when it does not."""

import errno
import os
from pathlib import Path

_NO_ROOM = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})


class SpoolFullError(Exception):
    """There is no room for another object. To be refused with A700; nothing of the attempt remains."""

    safe_to_log = True


class SpoolUnavailableError(Exception):
    """The spool's folder can't be written. To be refused with A700, and an alarm."""

    safe_to_log = True


def require_room(folder: Path, wanted: int, min_free: int) -> None:
    """Raise SpoolFullError unless `wanted` bytes leave `min_free` bytes free on a folder's disk; OSError as statvfs."""
    disk = os.statvfs(folder)
    free = disk.f_bavail * disk.f_frsize
    if free - wanted < min_free:
        raise SpoolFullError(
            f"the spool's disk has {free} bytes free and {min_free} are kept free: "
            "free some space, or lower KIVUKO_INGEST_MIN_FREE_BYTES"
        )


def classified(error: OSError) -> SpoolFullError | SpoolUnavailableError:
    """Tell a full disk from one that is out of order; the sentence says what to do."""
    reason = os.strerror(error.errno) if error.errno else type(error).__name__
    if error.errno in _NO_ROOM:
        return SpoolFullError(f"the spool's disk is full ({reason}): free some space")
    return SpoolUnavailableError(f"the spool's folder can't be written ({reason}): check its disk and its permissions")
