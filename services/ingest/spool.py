"""The spool: each arrival is one Part 10 file, on stable storage before its sender is told success.

`NAME.part` is being written, `NAME.dcm` was acknowledged and waits to be indexed, `NAME.bad` was answered with a
failure and waits for the quarantine, `NAME.link` is on its way into the object store.
"""

import errno
import hashlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from libs.dicom import header, part10
from libs.storage.durable import make_folder, sync_folder
from services.ingest import identity
from services.ingest.arrival import Arrival, DamagedEntryError, Entry, from_meta
from services.ingest.identity import Objection

_CHUNK = 1 << 20
_NO_ROOM = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})


class SpoolFullError(Exception):
    """There is no room for another object. To be refused with A700; nothing of the attempt remains."""


class SpoolUnavailableError(Exception):
    """The spool's folder can't be written. To be refused with A700, and an alarm."""


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
        self._min_free = min_free
        make_folder(folder)

    def write(self, arrival: Arrival, dataset: memoryview) -> tuple[Path, str, int]:
        """Write an arrival beside the spool's entries, synced, but not an entry yet: see `keep`.

        Returns
        -------
        tuple
            The file, SHA-256 of the dataset, and the length of the file in bytes.

        Raises
        ------
        SpoolFullError
            The disk is full, or nearly.
        SpoolUnavailableError
            The folder can't be written.
        """
        path = self.folder / f"{arrival.id}.part"
        head = part10.encode(arrival.meta())
        digest = hashlib.sha256()
        try:
            self._require_room(len(head) + len(dataset))
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            try:
                _write_all(descriptor, memoryview(head))
                for start in range(0, len(dataset), _CHUNK):
                    part = dataset[start : start + _CHUNK]
                    digest.update(part)
                    _write_all(descriptor, part)
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
        except OSError as error:
            path.unlink(missing_ok=True)
            raise _classified(error) from error
        return path, digest.hexdigest(), len(head) + len(dataset)

    def keep(self, part: Path, *, accepted: bool) -> Path:
        """Make a written file an entry of the spool; on stable storage when this returns. Raises as `write`."""
        kept = part.with_suffix(".dcm" if accepted else ".bad")
        try:
            part.rename(kept)
            sync_folder(self.folder)
        except OSError as error:
            # The rename may stand: an entry that the sender was not promised must not appear after a restart.
            part.unlink(missing_ok=True)
            kept.unlink(missing_ok=True)
            raise _classified(error) from error
        return kept

    def bring(self, name: str, source: BinaryIO) -> Path:
        """Copy a whole Part 10 file into the spool as an entry. Raises as `write`."""
        part = self.folder / f"{name}.part"
        try:
            with part.open("wb") as file:
                shutil.copyfileobj(source, file, _CHUNK)
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            part.unlink(missing_ok=True)
            raise _classified(error) from error
        return self.keep(part, accepted=True)

    def discard(self, path: Path) -> None:
        """Remove a file that is kept elsewhere now, or that nobody was promised anything about."""
        path.unlink(missing_ok=True)

    def link(self, path: Path) -> Path:
        """Give an entry a second name, which the object store may take over while the entry stays."""
        second = path.with_suffix(".link")
        second.unlink(missing_ok=True)
        os.link(path, second)
        return second

    def note_headers(self, key: str) -> None:
        """Remember a header document that is about to be written, until `forget_headers`."""
        name = key.rsplit("/", 1)[-1].partition(".")[0]
        (self.folder / f"{name}.headers").write_text(key)

    def forget_headers(self, batch_id: str) -> None:
        """The batch of a header document is committed."""
        (self.folder / f"{batch_id}.headers").unlink(missing_ok=True)

    def noted_headers(self) -> dict[str, str]:
        """List header documents whose batch may not have been committed: batch to key."""
        noted = {}
        for path in sorted(self.folder.glob("*.headers")):
            key = path.read_text(errors="replace")
            if key.startswith("headers/") and key.endswith(f"/{path.stem}.json.gz"):
                noted[path.stem] = key
            else:
                # A power loss cut the note off, which is not synced: all that can stay behind is an unused document.
                path.unlink(missing_ok=True)
        return noted

    def repair(self) -> Iterator[Entry]:
        """Give every entry that a process before this one has left, and remove what never became an entry.

        A file that can't be understood is renamed to `NAME.damaged`, for people to look at: `damaged` counts them.
        """
        for path in sorted(self.folder.iterdir()):
            if path.suffix in {".part", ".link"}:
                path.unlink(missing_ok=True)
            elif path.suffix in {".dcm", ".bad"}:
                try:
                    yield read_entry(path)
                except (part10.NotPart10Error, DamagedEntryError):
                    path.rename(path.with_suffix(".damaged"))

    def damaged(self) -> list[Path]:
        """List the files that were found and could not be understood."""
        return sorted(self.folder.glob("*.damaged"))

    def check(self) -> None:
        """Raise SpoolFullError or SpoolUnavailableError if an arrival could not be written now."""
        probe = self.folder / f"{os.getpid()}.part"
        try:
            self._require_room(0)
            probe.write_bytes(b"")
        except OSError as error:
            raise _classified(error) from error
        finally:
            probe.unlink(missing_ok=True)

    def _require_room(self, wanted: int) -> None:
        free = shutil.disk_usage(self.folder).free
        if free - wanted < self._min_free:
            raise SpoolFullError(
                f"the spool's disk has {free} bytes free and {self._min_free} are kept free: "
                "free some space, or lower KIVUKO_INGEST_MIN_FREE_BYTES"
            )


def read_entry(path: Path) -> Entry:
    """Read an entry back from its file. Raises NotPart10Error or DamagedEntryError."""
    with path.open("rb") as file:
        meta, offset = part10.decode(file)
        arrival = from_meta(meta)
        digest = hashlib.sha256()
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
        size = file.tell()
        file.seek(offset)
        found, _ = examine(arrival, file)
    return Entry(
        arrival=arrival,
        study_uid=found.study_instance_uid if found else "",
        series_uid=found.series_instance_uid if found else "",
        path=path,
        content_hash=digest.hexdigest(),
        size=size,
        accepted=path.suffix == ".dcm",
    )


def examine(arrival: Arrival, dataset: BinaryIO) -> tuple[header.Header | None, Objection | None]:
    """Read a dataset's header and compare it with its command. The same bytes always get the same verdict."""
    try:
        found = header.read(dataset, arrival.transfer_syntax_uid)
    except header.UnreadableDatasetError as error:
        return None, identity.unreadable(str(error))
    return found, identity.check(arrival.sop_class_uid, arrival.sop_instance_uid, found)


def _write_all(descriptor: int, data: memoryview) -> None:
    while data:
        data = data[os.write(descriptor, data) :]


def _classified(error: OSError) -> SpoolFullError | SpoolUnavailableError:
    reason = os.strerror(error.errno) if error.errno else type(error).__name__
    if error.errno in _NO_ROOM:
        return SpoolFullError(f"the spool's disk is full ({reason}): free some space")
    return SpoolUnavailableError(f"the spool's folder can't be written ({reason}): check its disk and its permissions")
