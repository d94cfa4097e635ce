"""The edge to folders: instances become files, each whole or not at all, in the caller's thread."""

import errno
import fcntl
import io
import os
import re
import stat
import threading
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Final

from libs.storage.objects import StoreUnavailableError
from services.egress.calling import Ending
from services.egress.folder import FolderTarget, Owner, names
from services.egress.original import original
from services.egress.outcome import NO_ANSWER, NO_ROOM, OBJECT_DAMAGED, UNSENDABLE, Outcome, Verdict
from services.egress.pace import Pace, piece
from services.egress.parcel import DamagedError, Parcel, Readable
from services.egress.scu import Tell
from services.egress.shelf import Shelf

#: Fixed word of an instance's status: its file is there.
WRITTEN: Final = "written"

_STOPPED: Final = Ending("stopped", "this process was asked to stop")
_FULL: Final = (errno.ENOSPC, errno.EDQUOT)
_FORBIDDEN: Final = (errno.EACCES, errno.EPERM, errno.EROFS)
_IN_THE_WAY: Final = (errno.EISDIR, errno.ENOTDIR, errno.ELOOP)
_FOLDER: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
_TEMPORARY: Final = re.compile(r"\.[0-9.]+\.[0-9a-f]{32}\.part")
#: Folders of which it is remembered that they are synced and tidy; beyond, it is seen to once more.
_REMEMBERED: Final = 4096


class _UnfitError(Exception):
    """The folder can't ever have the instance as things are; the text is a sentence for people."""


class _AbortError(Exception):
    """We were asked to end at once."""


class _OverError(Exception):
    """The visit ends as it says."""

    def __init__(self, ending: Ending) -> None:
        super().__init__(ending.problem or "")
        self.ending = ending


class Filing:
    """One visit to a folder: a `Carrier`, see `services.egress.target`.

    The file of an instance is written under a temporary name in its own folder, synced, renamed, and the folder synced:
    then it is told. Under its name there never is a part of it. The same content that is there already stays as it is;
    other content takes its place. No link in the folder is followed.

    Parameters
    ----------
    target
        The folder.
    shelf, objects, tell
        As for a C-STORE: what is to be delivered, where it is read, and who hears each outcome.
    owner_of
        Tells whose an instance is; called in the thread of `run`.
    linger
        How long to wait for more when nothing is to be written, in seconds.
    paces
        Caps that hold for it, the narrowest first.
    """

    def __init__(
        self,
        target: FolderTarget,
        shelf: Shelf,
        objects: Readable,
        tell: Tell,
        owner_of: Callable[[Parcel], Owner],
        *,
        linger: float = 0.0,
        paces: Sequence[Pace] = (),
    ) -> None:
        self._target = target
        self._shelf = shelf
        self._objects = objects
        self._tell = tell
        self._owner_of = owner_of
        self._linger = linger
        self._paces = paces
        self._stop = threading.Event()
        self._abort = threading.Event()
        self._seen: set[tuple[str, str]] = set()
        self._begun = False

    def stop(self) -> None:
        """End after the file under way; from any thread."""
        self._stop.set()

    def abort(self) -> None:
        """End at the next piece of the file under way, which is then not there; from any thread."""
        self._stop.set()
        self._abort.set()

    def run(self) -> Ending:
        """Write what is on the shelf; say how it ended."""
        try:
            root = os.open(self._target.path, _FOLDER)
        except OSError as error:
            return Ending("unreachable", _trouble(self._target, error))
        try:
            while not self._stop.is_set():
                parcel = self._shelf.take(self._linger)
                if parcel is None:
                    break
                self._deliver(root, parcel)
        except _OverError as over:
            return over.ending
        finally:
            os.close(root)
        return _STOPPED if self._stop.is_set() else Ending("finished")

    def _deliver(self, root: int, parcel: Parcel) -> None:
        self._begun = False
        try:
            self._put(root, parcel)
        except DamagedError as error:
            outcome = Outcome(parcel.item, Verdict.DAMAGED, OBJECT_DAMAGED, str(error))
        except _UnfitError as error:
            outcome = Outcome(parcel.item, Verdict.REFUSED, UNSENDABLE, str(error))
        except StoreUnavailableError as error:
            self._shelf.put([parcel])
            raise _OverError(Ending("store-away", str(error))) from error
        except _AbortError as error:
            self._tell(parcel, Outcome(parcel.item, Verdict.LATER, NO_ANSWER, "Not written: it was broken off."))
            raise _OverError(_STOPPED) from error
        except OSError as error:
            raise _OverError(self._broken(parcel, error)) from error
        else:
            outcome = Outcome(parcel.item, Verdict.SENT, WRITTEN)
        self._tell(parcel, outcome)

    def _broken(self, parcel: Parcel, error: OSError) -> Ending:
        """Tell of the instance under way, or put it back where nothing of it was begun."""
        full = error.errno in _FULL
        problem = _trouble(self._target, error)
        if self._begun:
            status = NO_ROOM if full else NO_ANSWER
            self._tell(parcel, Outcome(parcel.item, Verdict.LATER, status, f"Not written: {problem}."))
        else:
            self._shelf.put([parcel])
        return Ending("busy" if full else "unreachable", problem)

    def _put(self, root: int, parcel: Parcel) -> None:
        try:
            tenant, study, name = names(self._owner_of(parcel), parcel.sop_instance_uid)
        except ValueError as error:
            raise _UnfitError(f"It can't be filed: {error}.") from error
        try:
            with self._entered(root, tenant, study) as folder:
                if not self._is_there(folder, name, parcel):
                    self._write(folder, name, parcel)
                os.fsync(folder)
        except OSError as error:
            if error.errno in _IN_THE_WAY:
                raise _UnfitError(
                    f"Something that is not ours has its name, or its study's, in {self._target.path}: move it away."
                ) from error
            if error.errno == errno.EFBIG:
                raise _UnfitError(
                    f"The file system of {self._target.path} takes no file of {parcel.size} bytes: use another."
                ) from error
            raise

    @contextmanager
    def _entered(self, root: int, tenant: str, study: str) -> Iterator[int]:
        """Open the folder of a study, made if it isn't there; what a killed writer has left in it goes."""
        first = (tenant, study) not in self._seen
        outer = _enter(root, tenant, sync=first)
        try:
            inner = _enter(outer, study, sync=first)
        finally:
            os.close(outer)
        try:
            if first:
                _tidy(inner)
                if len(self._seen) >= _REMEMBERED:
                    self._seen.clear()
                self._seen.add((tenant, study))
            yield inner
        finally:
            os.close(inner)

    def _is_there(self, folder: int, name: str, parcel: Parcel) -> bool:
        """Tell whether the file has this content already, and see that it stays."""
        try:
            # Not to wait for the other end of a pipe that somebody put there.
            flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
            descriptor = os.open(name, flags, dir_fd=folder)
        except OSError as error:
            if error.errno in (errno.ENOENT, errno.ELOOP, errno.ENXIO, errno.EACCES):
                return False
            raise
        try:
            found = os.fstat(descriptor)
            if not stat.S_ISREG(found.st_mode) or found.st_size != parcel.size:
                return False
            there = io.BufferedReader(io.FileIO(descriptor, closefd=False))
            for each in original(parcel, self._objects):
                self._go_on()
                if there.read(len(each)) != each:
                    return False
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        return True

    def _write(self, folder: int, name: str, parcel: Parcel) -> None:
        pieces = original(parcel, self._objects)
        # What is missing, or can't be read at all, is found out before anything is written.
        following: bytes | None = next(pieces)
        temporary, file = _new(folder, parcel)
        try:
            self._begun = True
            with file:
                while following is not None:
                    self._write_piece(file, following)
                    following = next(pieces, None)
                os.fsync(file.fileno())
                os.rename(temporary, name, src_dir_fd=folder, dst_dir_fd=folder)
        except BaseException:
            # Where even that fails, the next visit tidies up.
            with suppress(OSError):
                os.unlink(temporary, dir_fd=folder)
            raise

    def _write_piece(self, file: io.FileIO, data: bytes) -> None:
        at, view = 0, memoryview(data)
        while at < len(view):
            part = view[at : at + piece(self._paces[0].rate)] if self._paces else view[at:]
            for pace in self._paces:
                self._abort.wait(pace.take(len(part)))
            self._go_on()
            at += file.write(part)

    def _go_on(self) -> None:
        if self._abort.is_set():
            raise _AbortError


def check(target: FolderTarget) -> Ending:
    """See whether files can be written to a folder: one is, synced, and removed."""
    name = f".0.{uuid.uuid4().hex}.part"
    try:
        root = os.open(target.path, _FOLDER)
        try:
            descriptor = os.open(name, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o600, dir_fd=root)
            try:
                os.write(descriptor, b"\0")
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
                os.unlink(name, dir_fd=root)
        finally:
            os.close(root)
    except OSError as error:
        return Ending("busy" if error.errno in _FULL else "unreachable", _trouble(target, error))
    return Ending("finished")


def _enter(parent: int, name: str, *, sync: bool) -> int:
    with suppress(FileExistsError):
        os.mkdir(name, dir_fd=parent)
    if sync:
        # One that was there may have been made by a writer that was killed before it synced.
        os.fsync(parent)
    return os.open(name, _FOLDER | os.O_NOFOLLOW, dir_fd=parent)


def _new(folder: int, parcel: Parcel) -> tuple[str, io.FileIO]:
    """Make a temporary file and lock it, so that nobody takes it for one that was left behind."""
    while True:
        name = f".{parcel.sop_instance_uid}.{uuid.uuid4().hex}.part"
        flags = os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_NOFOLLOW | os.O_CLOEXEC
        # Unbuffered, so that a failed write shows here and not when the file is closed.
        file = io.FileIO(os.open(name, flags, 0o666, dir_fd=folder), "w")
        try:
            # A file system without locks keeps what is left behind: nobody can tell it from what is being written.
            with suppress(OSError):
                fcntl.flock(file.fileno(), fcntl.LOCK_EX)
            if os.fstat(file.fileno()).st_nlink:
                return name, file
        except BaseException:
            file.close()
            raise
        file.close()


def _tidy(folder: int) -> None:
    """Remove temporary files that no living writer has locked."""
    with os.scandir(folder) as entries:
        left = [entry.name for entry in entries if _TEMPORARY.fullmatch(entry.name)]
    for name in left:
        with suppress(OSError):
            descriptor = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=folder)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                os.unlink(name, dir_fd=folder)
            finally:
                os.close(descriptor)


def _trouble(target: FolderTarget, error: OSError) -> str:
    if error.errno in _FULL:
        return f"no room in the folder {target.path} ({_said(error)}): free some space, or use a larger disk"
    if error.errno in (errno.ENOENT, errno.ENOTDIR):
        return f"the folder {target.path} is not there ({_said(error)}): make it, or mount its disk"
    if error.errno in _FORBIDDEN:
        return f"the folder {target.path} can't be written ({_said(error)}): let Kivuko's user write to it"
    return f"the folder {target.path} can't be used ({_said(error)}): see to its disk"


def _said(error: OSError) -> str:
    return os.strerror(error.errno).lower() if error.errno else type(error).__name__
