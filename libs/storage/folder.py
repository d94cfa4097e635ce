"""Objects in a folder: atomic, synced, one file each."""

import errno
import fcntl
import io
import os
import shutil
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import BinaryIO, cast

from libs.storage.durable import make_folder, sync_folder
from libs.storage.objects import (
    ObjectMissingError,
    ObjectStat,
    StoreFullError,
    StoreUnavailableError,
    require_key,
)

_CHUNK = 1024 * 1024
#: Folders of which it is remembered that their entry is on stable storage; beyond, they are synced once more.
_REMEMBERED = 65_536
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class FolderStore:
    """An object store in a folder.

    An object is written to `.tmp`, synced, and linked under its key; then the entry is synced. `open` without a length
    gives a plain file, fit for `os.sendfile`. Folders that become empty stay: removing one could take away an entry
    that another writer believes to be synced.

    Parameters
    ----------
    root
        The folder; made if it isn't there.

    Raises
    ------
    StoreUnavailableError
        The folder can't be made or used.
    """

    def __init__(self, root: Path) -> None:
        self._root = root.absolute()
        self._temporary = self._root / ".tmp"
        self._synced: set[Path] = set()
        with self._classified():
            make_folder(self._temporary)
            self._lock = os.open(self._root / ".lock", os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
            self._remove_orphans()

    def __repr__(self) -> str:
        return f"FolderStore({self._root})"

    def put(self, key: str, data: bytes | BinaryIO, *, if_absent: bool = False) -> bool:
        """Store an object: see `ObjectStore.put`."""
        target = self._path(key)
        temporary = self._new_temporary()
        try:
            self._write(temporary, data)
            return self._place(temporary, target, if_absent=if_absent)
        finally:
            with self._classified():
                temporary.unlink(missing_ok=True)

    def adopt(self, key: str, path: Path, *, if_absent: bool = False) -> bool:
        """Take over a synced file: see `ObjectStore.adopt`."""
        target = self._path(key)
        path.stat()  # a file that isn't there is the caller's error, not the store's
        try:
            placed = self._place(path, target, if_absent=if_absent)
        except StoreUnavailableError as error:
            # Two mounts of one file system are two file systems here, so only trying tells.
            if not isinstance(error.__cause__, OSError) or error.__cause__.errno != errno.EXDEV:
                raise
            with path.open("rb") as data:
                placed = self.put(key, data, if_absent=if_absent)
        if placed:
            path.unlink(missing_ok=True)
        return placed

    def keep(self, files: Mapping[str, Path]) -> None:
        """Link or copy synced files: see `ObjectStore.keep`."""
        targets = {self._path(key): path for key, path in files.items()}
        folders = {target.parent for target in targets}
        apart = []
        with self._classified(), _key_is_no_folder():
            for folder in folders:
                self._sync_entries(folder)
            for target, path in targets.items():
                try:
                    os.link(path, target)
                except FileExistsError:
                    if target.is_dir():
                        raise
                except OSError as error:
                    # Two mounts of one file system are two file systems here, so only trying tells.
                    if error.errno != errno.EXDEV:
                        raise
                    apart.append((target, path))
            for folder in folders:
                sync_folder(folder)
        for target, path in apart:
            with path.open("rb") as data:
                self.put(str(target.relative_to(self._root)), data, if_absent=True)

    def begin(self, key: str) -> None:
        """A file is taken over by a link, without a copy: see `ObjectStore.begin`."""
        require_key(key)

    def discard(self, key: str) -> None:
        """Remove an object, which nothing is ever on its way to: see `ObjectStore.discard`."""
        self.delete(key)

    def open(self, key: str, offset: int = 0, length: int | None = None) -> BinaryIO:
        """Read an object: see `ObjectStore.open`."""
        path = self._path(key)
        with self._classified():
            try:
                file = path.open("rb")
            except (FileNotFoundError, IsADirectoryError, NotADirectoryError):
                self._require_root()
                raise ObjectMissingError(f"there is no object {key}") from None
        if offset:
            file.seek(offset)
        return file if length is None else cast("BinaryIO", io.BufferedReader(_Range(file, length)))

    def stat(self, key: str) -> ObjectStat | None:
        """Say what is known of an object: see `ObjectStore.stat`."""
        path = self._path(key)
        with self._classified():
            try:
                found = path.stat()
            except (FileNotFoundError, NotADirectoryError):
                self._require_root()
                return None
        if path.is_dir():
            return None
        return ObjectStat(found.st_size, datetime.fromtimestamp(found.st_mtime, UTC))

    def delete(self, key: str) -> None:
        """Remove an object: see `ObjectStore.delete`."""
        path = self._path(key)
        with self._classified():
            try:
                path.unlink()
            except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
                self._require_root()
                return
            sync_folder(path.parent)

    def list(self, prefix: str) -> Iterator[str]:
        """Give the keys that start with a prefix: see `ObjectStore.list`."""
        folder, _, _ = prefix.rpartition("/")
        if folder:
            require_key(folder)
        return self._walk(f"{folder}/" if folder else "", prefix)

    def check(self) -> None:
        """Store, link and remove an empty file: see `ObjectStore.check`."""
        first, second = self._new_temporary(), self._new_temporary()
        try:
            self._write(first, b"")
            with self._classified():
                os.link(first, second)
                sync_folder(self._temporary)
        except StoreFullError as error:
            raise StoreUnavailableError(str(error)) from error
        finally:
            with self._classified():
                first.unlink(missing_ok=True)
                second.unlink(missing_ok=True)

    def close(self) -> None:
        """Let go of the folder."""
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1

    def _path(self, key: str) -> Path:
        return self._root / require_key(key)

    def _new_temporary(self) -> Path:
        return self._temporary / uuid.uuid4().hex

    def _write(self, path: Path, data: bytes | BinaryIO) -> None:
        with self._classified():
            descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o600)
        # Unbuffered, so that a failed write shows here and not when the file is closed.
        with io.FileIO(descriptor, "w") as file:
            for chunk in [data] if isinstance(data, bytes) else iter(lambda: data.read(_CHUNK), b""):
                with self._classified():
                    _write_all(file, chunk)
            with self._classified():
                os.fsync(descriptor)

    def _place(self, source: Path, target: Path, *, if_absent: bool) -> bool:
        with self._classified(), _key_is_no_folder():
            self._sync_entries(target.parent)
            placed = True
            if if_absent:
                try:
                    os.link(source, target)
                except FileExistsError:
                    if target.is_dir():
                        raise
                    placed = False
            else:
                source.replace(target)
            # Where another writer was first, its entry may not be synced yet.
            sync_folder(target.parent)
        return placed

    def _sync_entries(self, folder: Path) -> None:
        """Make a key's folders durable, once for each: another process may have made them and not synced them yet."""
        if folder in self._synced or folder == self._root:
            return
        self._sync_entries(folder.parent)
        folder.mkdir(mode=0o700, exist_ok=True)
        sync_folder(folder.parent)
        if len(self._synced) >= _REMEMBERED:
            self._synced.clear()
        self._synced.add(folder)

    def _walk(self, folder: str, prefix: str) -> Iterator[str]:
        with self._classified():
            try:
                with os.scandir(self._root / folder) as entries:
                    names = sorted(
                        entry.name + "/" if entry.is_dir(follow_symlinks=False) else entry.name
                        for entry in entries
                        if not entry.name.startswith(".")
                    )
            except (FileNotFoundError, NotADirectoryError):
                self._require_root()
                return
        for name in names:
            key = folder + name
            if not key.startswith(prefix[: len(key)]):
                continue
            if name.endswith("/"):
                yield from self._walk(key, prefix)
            elif key.startswith(prefix):
                yield key

    def _remove_orphans(self) -> None:
        """Remove what writers that were killed have left, if nobody else has the store open."""
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            pass
        else:
            for orphan in self._temporary.iterdir():
                orphan.unlink(missing_ok=True)
        fcntl.flock(self._lock, fcntl.LOCK_SH)

    def _require_root(self) -> None:
        """Tell an object that is missing from a disk that is missing."""
        if not self._temporary.is_dir():
            raise StoreUnavailableError(f"the folder {self._root} has gone: is its disk mounted?")

    @contextmanager
    def _classified(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            reason = os.strerror(error.errno) if error.errno else type(error).__name__
            if error.errno in _NO_ROOM:
                free = shutil.disk_usage(self._root).free
                raise StoreFullError(
                    f"no room in {self._root} ({reason}, {free} bytes free): free some space or use a larger disk"
                ) from error
            raise StoreUnavailableError(
                f"the object folder {self._root} can't be used ({reason}): "
                "it must be on a writable local disk that allows hard links"
            ) from error


class _Range(io.RawIOBase):
    """The next `length` bytes of a file."""

    def __init__(self, file: BinaryIO, length: int) -> None:
        self._file = file
        self._left = length

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: bytearray | memoryview) -> int:  # type: ignore[override] # narrower than Buffer
        data = self._file.read(min(len(buffer), self._left))
        buffer[: len(data)] = data
        self._left -= len(data)
        return len(data)

    def close(self) -> None:
        self._file.close()
        super().close()


@contextmanager
def _key_is_no_folder() -> Iterator[None]:
    try:
        yield
    except (FileExistsError, NotADirectoryError, IsADirectoryError):
        raise ValueError("an object key can't be the folder of another object's key") from None


def _write_all(file: io.FileIO, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[file.write(view) :]
