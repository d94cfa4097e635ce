"""Spool files of one receiver, made ahead, so that an arrival costs one sync.

A file is made, and its name put on stable storage, before anything arrives: many with one sync of the folder. An
arrival takes one, and is durable once its bytes and its seal are.
"""

import fcntl
import hashlib
import itertools
import mmap
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import BinaryIO, Final

from libs.storage.durable import make_folder, sync_folder
from services.ingest.disk import classified, require_room
from services.ingest.room import Margin
from services.ingest.seal import Head, Seal

#: Suffix of a file that is waiting for an arrival, is being written, or is sealed: only its seal tells.
SUFFIX: Final = ".in"
#: Bytes of a dataset that are gathered in memory. Nearly every one is hashed and written in one piece: each piece costs
#: calls, and turns that a thread gives to others and waits to get back.
_LARGE: Final = 1 << 20
#: Arrivals that may have so much at a time; the memory stays, so that it is not asked for again each time.
_MANY: Final = 32
#: Bytes that each of the others gathers.
_SMALL: Final = 64 << 10
#: Bytes after which the disk is told to begin, so that the last sync of a large object is short.
_WRITE_BACK: Final = 32 << 20
#: With so many bytes free beyond what is needed, a look at the disk stands for some seconds. Nothing fills it by then.
_AMPLE: Final = 4 << 30
_LOOK: Final = 0.1
#: Files that are made at a time, and how many are left then.
_AHEAD: Final = 32
_FEW: Final = 8
_NOTHING: Final = memoryview(b"")


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

    def __init__(self, name: str, descriptor: int, head: Head, pool: "Pool", buffer: memoryview) -> None:
        #: Of the file, in the pool's folder.
        self.name = name
        #: Bytes of the dataset so far.
        self.length = 0
        #: Bytes of the file, head included, that are written.
        self.landed = 0
        self._descriptor = descriptor
        self._head = head
        self._pool = pool
        self._digest = hashlib.sha256()
        self._buffer = buffer
        self._gathered = 0
        self._begun = 0

    @property
    def path(self) -> Path:
        """Where the file is."""
        return self._pool.folder / self.name

    @property
    def size(self) -> int:
        """Length of the file when it is sealed, in bytes."""
        return len(self._head) + self.length

    def write(self, fragment: memoryview) -> None:
        """Take more of the dataset; the fragment is not used after the call."""
        size = len(fragment)
        self.length += size
        end = self._gathered + size
        if end > len(self._buffer):
            self._flush()
            if size > len(self._buffer):
                self._append(fragment)
                return
            end = size
        self._buffer[self._gathered : end] = fragment
        self._gathered = end

    def _flush(self) -> None:
        data, self._gathered = self._buffer[: self._gathered], 0
        if data or not self.landed:
            self._append(data)

    def _append(self, data: memoryview) -> None:
        if len(data) > _SMALL:
            self._pool.require_room()
        self._digest.update(data)
        parts: list[bytes | memoryview] = [data] if self.landed else [bytes(self._head), data]
        _write(self._descriptor, parts)
        self.landed += sum(map(len, parts))
        if self.landed - self._begun >= _WRITE_BACK:
            # On Linux this begins to write, and drops what is written: nobody reads a large object soon.
            os.posix_fadvise(self._descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
            self._begun = self.landed

    def _close(self) -> None:
        os.close(self._descriptor)
        self._descriptor = -1
        buffer, self._buffer = self._buffer, _NOTHING
        self._pool.ended(buffer)

    def seal(self, status: int, reason: str, detail: str, traceparent: str) -> Seal:
        """Finish the file; it is on stable storage when this returns, and an entry of the spool from then on."""
        self._flush()
        seal = Seal(self._digest.hexdigest(), self.length, status, reason, detail)
        # Last of all, so that a process that is killed leaves no sealed file which is cut short.
        offset, value = self._head.fill(seal, traceparent)
        os.pwrite(self._descriptor, value, offset)
        os.fdatasync(self._descriptor)
        self._close()
        return seal

    def reading(self) -> BinaryIO:
        """Open the dataset, as far as it has come, for reading. Raises OSError."""
        self._flush()
        file = self.path.open("rb")
        file.seek(len(self._head))
        return file

    def discard(self) -> None:
        """Remove the file: nothing in it was promised."""
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
    now
        Seconds of a clock that only goes on.
    """

    def __init__(self, folder: Path, min_free: int, run: str, now: Callable[[], float] = time.monotonic) -> None:
        self.folder = folder
        self._margin = Margin(min_free)
        self._now = now
        self._ample_until = 0.0
        #: Bytes that all who are on their way may write before the disk is looked at again.
        self._coming = 0
        self._buffers: list[memoryview] = []
        self._unmade = _MANY
        self._run = run
        self._lock = threading.Lock()
        self._filling = threading.Lock()
        self._numbers = itertools.count(1)
        self._free: deque[tuple[str, int]] = deque()

    def take(self, head: Head) -> Incoming:
        """Give a file for an arrival. Raises SpoolFullError or SpoolUnavailableError."""
        try:
            self.require_room()
            name, descriptor = self._file()
            with self._lock:
                buffer = self._buffer()
                self._coming += len(buffer)
        except OSError as error:
            raise classified(error) from error
        return Incoming(name, descriptor, head, self, buffer)

    def _file(self) -> tuple[str, int]:
        if len(self._free) < _FEW and self._filling.acquire(blocking=False):
            # While the others take what is left.
            try:
                self._fill()
            finally:
                self._filling.release()
        while True:
            try:
                return self._free.popleft()
            except IndexError:
                with self._filling:
                    if not self._free:
                        self._fill()

    def _buffer(self) -> memoryview:
        if self._buffers:
            return self._buffers.pop()
        if not self._unmade:
            return memoryview(bytearray(_SMALL))
        self._unmade -= 1
        # Not of bytes that are written to be zero: memory is taken as far as it is used.
        return memoryview(mmap.mmap(-1, _LARGE))

    def ended(self, buffer: memoryview) -> None:
        """Take the memory back of an arrival that is not on its way any more."""
        with self._lock:
            self._coming -= len(buffer)
            if len(buffer) == _LARGE:
                self._buffers.append(buffer)

    def require_room(self) -> None:
        """Raise SpoolFullError if the disk can't take what all who are on their way may write next; OSError."""
        now = self._now()
        if now < self._ample_until:
            return
        free = require_room(self.folder, self._margin, self._coming)
        if free - self._coming - self._margin.needed > _AMPLE:
            self._ample_until = now + _LOOK

    def close(self) -> None:
        """Remove the files that nothing arrived in."""
        with self._filling:
            while self._free:
                name, descriptor = self._free.popleft()
                os.close(descriptor)
                (self.folder / name).unlink(missing_ok=True)

    def _fill(self) -> None:
        made: list[tuple[str, int]] = []
        folder = os.fspath(self.folder)
        try:
            for _ in range(_AHEAD):
                name = f"{self._run}-{next(self._numbers):08x}{SUFFIX}"
                flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
                made.append((name, os.open(f"{folder}/{name}", flags, 0o600)))
            sync_folder(self.folder)
        except OSError:
            for name, descriptor in made:
                os.close(descriptor)
                (self.folder / name).unlink(missing_ok=True)
            raise
        self._free.extend(made)


def _write(descriptor: int, parts: Sequence[bytes | memoryview]) -> None:
    written = os.writev(descriptor, parts)
    if written < sum(map(len, parts)):
        rest = memoryview(b"".join(parts))[written:]
        while rest:
            rest = rest[os.write(descriptor, rest) :]
