"""The spool: each arrival is one Part 10 file, on stable storage before its sender is told success.

Each receiver has a folder of its own, `receiver-0`, whose files `NAME.in` are made ahead and sealed when an arrival is
whole: see `services.ingest.pool`. In the spool's own folder are `NAME.dcm`, an acknowledged arrival that was brought
back from the object store; `NAME.part`, one that is being brought; `NAME.headers`, a note of a header document.
Anywhere, `NAME.link` is on its way into the object store, and `NAME.damaged` is for people to look at.
"""

import hashlib
import os
import re
import shutil
import time
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import BinaryIO, Final

from libs.dicom import header, part10
from libs.storage.durable import make_folder, sync_folder
from services.ingest import identity, pool, seal
from services.ingest.arrival import Arrival, DamagedEntryError, Entry, from_meta
from services.ingest.disk import SpoolUnavailableError, classified, require_room
from services.ingest.identity import Identity, Objection
from services.ingest.room import Margin
from services.ingest.scan import LOOKED_AT, Scan
from services.ingest.seal import BrokenSealError, Seal, UnsealedError

_CHUNK: Final = 1 << 20
#: A receiver of a process that was killed ends by itself, after what it is writing.
_LOCK_TIMEOUT: Final = 15.0
_LOCK_LOOK: Final = 0.05
#: The heads that we write are shorter.
_HEAD: Final = 4096
_HEADERS_KEY: Final = re.compile(r"headers/[^/]+/[^/]+/[0-9a-f]{32}\.json\.gz")


@dataclass(frozen=True, order=True)
class Note:
    """A note that header documents are about to be written: its name, and their keys."""

    name: str
    keys: tuple[str, ...]


class Spool:
    """The folder of arrivals that are not indexed yet. Safe to use from many threads.

    Parameters
    ----------
    folder
        Made if it isn't there.
    min_free
        Free bytes on its disk below which nothing more is taken.
    """

    def __init__(self, folder: Path, min_free: int) -> None:
        self.folder = folder
        self._margin = Margin(min_free)
        make_folder(folder)

    def bring(self, name: str, source: BinaryIO) -> Path:
        """Copy a whole Part 10 file into the spool as an entry. Raises SpoolFullError or SpoolUnavailableError."""
        part = self.folder / f"{name}.part"
        try:
            with part.open("wb") as file:
                shutil.copyfileobj(source, file, _CHUNK)
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            part.unlink(missing_ok=True)
            raise classified(error) from error
        kept = part.with_suffix(".dcm")
        try:
            part.rename(kept)
            sync_folder(self.folder)
        except OSError as error:
            part.unlink(missing_ok=True)
            kept.unlink(missing_ok=True)
            raise classified(error) from error
        return kept

    def discard(self, path: Path) -> None:
        """Remove a file that is kept elsewhere now, or that nobody was promised anything about."""
        path.unlink(missing_ok=True)

    def link(self, path: Path) -> Path:
        """Give an entry a second name, which the object store may take over while the entry stays."""
        second = path.with_suffix(".link")
        second.unlink(missing_ok=True)
        os.link(path, second)
        return second

    def note_headers(self, keys: Sequence[str]) -> Note:
        """Remember header documents that are about to be written, until `forget_headers`; durable when it returns."""
        text = "\n".join(keys) + "\n"
        name = hashlib.sha256(text.encode()).hexdigest()[:32]
        part = self.folder / f"{name}.part"
        with part.open("w") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        part.rename(part.with_suffix(".headers"))
        sync_folder(self.folder)
        return Note(name, tuple(keys))

    def forget_headers(self, note: Note) -> None:
        """What a note names is committed, or removed."""
        (self.folder / f"{note.name}.headers").unlink(missing_ok=True)

    def noted_headers(self) -> list[Note]:
        """List the notes of header documents whose batch may not have been committed."""
        noted = []
        for path in sorted(self.folder.glob("*.headers")):
            # A power loss may have cut off the note of an earlier release, which did not sync it.
            keys = path.read_text(errors="replace").split()
            noted.append(Note(path.stem, tuple(key for key in keys if _HEADERS_KEY.fullmatch(key))))
        return noted

    def repair(self) -> Iterator[Entry]:
        """Give every entry that a process before this one has left, and remove what never became an entry.

        A file that can't be understood is renamed to `NAME.damaged`, for people to look at: `damaged` counts them.
        Raises SpoolUnavailableError if another process still works in a receiver's folder.
        """
        yield from _entries(self.folder, frozenset())
        for folder in sorted(self.folder.glob("receiver-*/")):
            yield from _left(folder, frozenset())

    def left(self, folder: Path, known: Collection[str]) -> list[Entry]:
        """Give the entries that a receiver which is no more has left in its folder, but for arrivals that are known.

        Removes and renames as `repair`. Raises SpoolUnavailableError if the receiver still lives.
        """
        return list(_left(folder, known))

    def damaged(self) -> list[Path]:
        """List the files that were found and could not be understood."""
        return sorted(self.folder.rglob("*.damaged"))

    def check(self) -> None:
        """Raise SpoolFullError or SpoolUnavailableError if an arrival could not be written now."""
        probe = self.folder / f"{os.getpid()}.part"
        try:
            require_room(self.folder, self._margin)
            probe.write_bytes(b"")
        except OSError as error:
            raise classified(error) from error
        finally:
            probe.unlink(missing_ok=True)


def _left(folder: Path, known: Collection[str]) -> Iterator[Entry]:
    descriptor = _locked(folder)
    try:
        yield from _entries(folder, known)
    finally:
        os.close(descriptor)


def _entries(folder: Path, known: Collection[str]) -> Iterator[Entry]:
    for path in sorted(folder.iterdir()):
        if path.suffix in {".part", ".link"}:
            path.unlink(missing_ok=True)
        elif path.suffix in {".dcm", ".bad", pool.SUFFIX}:
            try:
                if known and _is_known(path, known):
                    continue
                yield read_entry(path)
            except FileNotFoundError:
                # Indexed meanwhile.
                continue
            except UnsealedError:
                path.unlink(missing_ok=True)
            except (part10.NotPart10Error, DamagedEntryError, BrokenSealError):
                path.rename(path.with_suffix(".damaged"))


def _is_known(path: Path, known: Collection[str]) -> bool:
    with path.open("rb") as file:
        return _head(path, file)[0].id in known


def _locked(folder: Path) -> int:
    deadline = time.monotonic() + _LOCK_TIMEOUT
    while True:
        try:
            return pool.lock(folder)
        except pool.FolderInUseError as error:
            if time.monotonic() > deadline:
                raise SpoolUnavailableError(f"{error}: end it, then start again") from error
            time.sleep(_LOCK_LOOK)


def read_entry(path: Path) -> Entry:
    """Read an entry back from its file.

    Raises
    ------
    UnsealedError
        Nothing of it was acknowledged.
    NotPart10Error, DamagedEntryError, BrokenSealError
        It can't be understood, or is not what was sealed.
    FileNotFoundError
        It is gone.
    """
    with path.open("rb") as file:
        arrival, sealed, offset = _head(path, file)
        digest = hashlib.sha256()
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
        size = file.tell()
        if sealed is not None and (sealed.sha256, sealed.length) != (digest.hexdigest(), size - offset):
            raise BrokenSealError("the bytes are not those that were sealed")
        file.seek(offset)
        found, _ = examine(arrival, file)
        if found is None:
            # Its identifiers counted when it came, whatever stands behind them.
            file.seek(offset)
            scan = Scan(arrival.transfer_syntax_uid)
            scan.feed(memoryview(file.read(LOOKED_AT)))
            found = scan.found
    accepted = path.suffix != ".bad" if sealed is None else sealed.accepted
    return Entry(
        arrival=arrival,
        study_uid=found.study_instance_uid if found else "",
        series_uid=found.series_instance_uid if found else "",
        path=path,
        content_hash=digest.hexdigest(),
        size=size,
        accepted=accepted,
        objection=None if sealed is None or accepted else _objection(sealed),
    )


def examine(arrival: Arrival, dataset: BinaryIO) -> tuple[Identity | None, Objection | None]:
    """Read a dataset's header and compare it with its command. The same bytes always get the same verdict."""
    try:
        found = header.read(dataset, arrival.transfer_syntax_uid)
    except header.UnreadableDatasetError as error:
        return None, identity.unreadable(str(error))
    return found, identity.check(arrival.sop_class_uid, arrival.sop_instance_uid, found)


def _head(path: Path, file: BinaryIO) -> tuple[Arrival, Seal | None, int]:
    """Read what stands before the dataset, and where that begins."""
    try:
        meta, offset = part10.decode(file)
    except part10.NotPart10Error as error:
        if path.suffix == pool.SUFFIX and os.fstat(file.fileno()).st_size < _HEAD:
            raise UnsealedError("nothing arrived, or the process was killed while it wrote the head") from error
        raise
    sealed = _seal(path, meta)
    if meta.private.get(seal.TRACE_KEY) == seal.NO_TRACE:
        meta = replace(meta, private={**meta.private, seal.TRACE_KEY: ""})
    return from_meta(meta), sealed, offset


def _seal(path: Path, meta: part10.Meta) -> Seal | None:
    """Read the seal; there is none in what an earlier release has written, whose name says what it is."""
    text = meta.private.get(seal.KEY)
    if text is not None:
        return seal.read(text)
    if path.suffix == pool.SUFFIX:
        raise UnsealedError("its head is not whole")
    return None


def _objection(sealed: Seal) -> Objection:
    if sealed.reason == "unreadable-dataset":
        return Objection(sealed.status, "unreadable-dataset", sealed.detail)
    return Objection(sealed.status, "identity-mismatch", sealed.detail)
