"""Spool files of one receiver, made ahead, so that an arrival costs one sync.

A file is made, and its name put on stable storage, before anything arrives: many with one sync of the folder. An
arrival takes one, and is durable once its bytes and its seal are.
"""

import fcntl
import hashlib
import itertools
import os
import threading
from collections import deque
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO, Final

from libs.storage.durable import make_folder, sync_folder
from services.ingest.disk import classified, require_room
from services.ingest.room import Margin
from services.ingest.seal import Head, Seal

#: Suffix of a file that is waiting for an arrival, is being written, or is sealed: only its seal tells.
SUFFIX: Final = ".in"
#: Bytes of a dataset that are gathered in memory: a smaller one is written at once, head and seal included. Fragments
#: of dcmtk and of TLS have 16 KiB, and each write costs, and each turn that a thread gives to others while it hashes.
_BUFFER: Final = 64 << 10
#: Bytes after which the disk is told to begin, so that the last sync of a large object is short.
_WRITE_BACK: Final = 32 << 20
#: Bytes of an object after which its disk is looked at again. Each that is on its way counts with so many, so that
#: together they cannot take what is kept free.
_STEP: Final = 256 << 10
_AHEAD: Final = 32


class FolderInUseError(Exception):
    """Another receiver still has the folder."""

    safe_to_log = True


def lock(folder: Path) -> int:
    """Take a receiver's folder for this process, until the descriptor that is given is closed.

    Raises
    ------
    FolderInUseError
        Another process has it.
    """
    make_folder(folder)
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(descriptor)
        raise FolderInUseError(f"another receiver works in the spool folder {folder.name}") from error
    return descriptor


class Incoming:
    """A spool file that an arrival is written into; for one thread. What fails raises OSError or SpoolFullError."""

    def __init__(self, path: Path, descriptor: int, head: Head, pool: "Pool") -> None:
        self.path = path
        #: Bytes of the dataset so far.
        self.length = 0
        self._descriptor = descriptor
        self._head = head
        self._pool = pool
        self._digest = hashlib.sha256()
        self._waiting: list[bytes] = []
        self._gathered = 0
        #: Bytes of the file, head included, that are written.
        self.landed = 0
        self._begun = 0
        self._looked = 0

    @property
    def size(self) -> int:
        """Length of the file when it is sealed, in bytes."""
        return len(self._head) + self.length

    def write(self, fragment: memoryview) -> None:
        """Take more of the dataset; the fragment is not used after the call."""
        self.length += len(fragment)
        self._gathered += len(fragment)
        if self.length - self._looked >= _STEP:
            self._pool.require_room()
            self._looked = self.length
        if self._gathered <= _BUFFER:
            self._waiting.append(bytes(fragment))
        else:
            self._flush(fragment)
        if self.length - self._begun >= _WRITE_BACK:
            # On Linux this begins to write, and drops what is written: nobody reads a large object soon.
            os.posix_fadvise(self._descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
            self._begun = self.length

    def _flush(self, last: memoryview | bytes) -> None:
        data = b"".join([*self._waiting, last]) if self._waiting else last
        self._waiting, self._gathered = [], 0
        self._digest.update(data)
        self._append(data)

    def _append(self, data: memoryview | bytes) -> None:
        parts = [data] if self.landed else [bytes(self._head), data]
        _write(self._descriptor, parts)
        self.landed += sum(map(len, parts))

    def _close(self) -> None:
        os.close(self._descriptor)
        self._descriptor = -1
        self._pool.ended()

    def seal(self, status: int, reason: str, detail: str, traceparent: str) -> Seal:
        """Finish the file; it is on stable storage when this returns, and an entry of the spool from then on."""
        rest = b"".join(self._waiting)
        self._digest.update(rest)
        seal = Seal(self._digest.hexdigest(), self.length, status, reason, detail)
        self._append(rest)
        # Last of all, so that a process that is killed leaves no sealed file which is cut short.
        for offset, value in self._head.fill(seal, traceparent):
            os.pwrite(self._descriptor, value, offset)
        os.fdatasync(self._descriptor)
        self._close()
        return seal

    def reading(self) -> BinaryIO:
        """Open the dataset, as far as it has come, for reading. Raises OSError."""
        self._flush(b"")
        file = self.path.open("rb")
        file.seek(len(self._head))
        return file

    def discard(self) -> None:
        """Remove the file: nothing in it was promised."""
        self._waiting = []
        if self._descriptor >= 0:
            self._close()
        self.path.unlink(missing_ok=True)


class Pool:
    """The files of one receiver; safe to use from many threads.

    Parameters
    ----------
    folder
        This receiver's own, locked.
    min_free
        Free bytes on its disk below which nothing more is taken.
    run
        Name of this process, never used before: its files have names of their own.
    """

    def __init__(self, folder: Path, min_free: int, run: str) -> None:
        self._folder = folder
        self._margin = Margin(min_free)
        self._coming = 0
        self._run = run
        self._lock = threading.Lock()
        self._numbers = itertools.count(1)
        self._free: deque[tuple[Path, int]] = deque()

    def take(self, head: Head) -> Incoming:
        """Give a file for an arrival. Raises SpoolFullError or SpoolUnavailableError."""
        try:
            self.require_room()
            with self._lock:
                if not self._free:
                    self._fill()
                path, descriptor = self._free.popleft()
                self._coming += 1
        except OSError as error:
            raise classified(error) from error
        return Incoming(path, descriptor, head, self)

    def ended(self) -> None:
        """One of the arrivals is not on its way any more."""
        with self._lock:
            self._coming -= 1

    def require_room(self) -> None:
        """Raise SpoolFullError if the disk takes no more, all that is on its way a step further; OSError."""
        require_room(self._folder, self._margin, self._coming * _STEP)

    def close(self) -> None:
        """Remove the files that nothing arrived in."""
        with self._lock:
            while self._free:
                path, descriptor = self._free.popleft()
                os.close(descriptor)
                path.unlink(missing_ok=True)

    def _fill(self) -> None:
        made: list[tuple[Path, int]] = []
        try:
            for _ in range(_AHEAD):
                path = self._folder / f"{self._run}-{next(self._numbers):08x}{SUFFIX}"
                made.append((path, os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)))
            sync_folder(self._folder)
        except OSError:
            for path, descriptor in made:
                os.close(descriptor)
                path.unlink(missing_ok=True)
            raise
        self._free.extend(made)


def _write(descriptor: int, parts: Sequence[bytes | memoryview]) -> None:
    written = os.writev(descriptor, parts)
    if written < sum(map(len, parts)):
        rest = memoryview(b"".join(parts))[written:]
        while rest:
            rest = rest[os.write(descriptor, rest) :]
