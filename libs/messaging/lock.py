"""An operating system's lock that keeps a second process off a file."""

import fcntl
import os
from pathlib import Path


class LockedError(Exception):
    """Another process has the file."""

    safe_to_log = True


class FileLock:
    """A lock on `FILE.lock` that ends with the process, however the process ends."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._path = file.with_name(file.name + ".lock")
        self._descriptor: int | None = None

    def acquire(self) -> None:
        """Take the lock.

        Raises
        ------
        LockedError
            Another process holds it; says which.
        """
        descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            holder = os.read(descriptor, 32).decode("ascii", "replace").strip() or "unknown"
            os.close(descriptor)
            raise LockedError(
                f"The message bus {self._file} is in use by process {holder}: only one process at a time can have it. "
                f"Stop that process first, or give this one another home (KIVUKO_HOME)."
            ) from error
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, str(os.getpid()).encode("ascii"), 0)
        self._descriptor = descriptor

    def release(self) -> None:
        """Give the lock up. The file stays: removing it would let two processes lock two files of one name."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None
