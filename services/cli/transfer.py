"""Files, folders and zip archives to a C-STORE receiver, byte for byte."""

import hashlib
import os
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import BinaryIO

from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

from libs.dicom import part10
from libs.storage.objects import ObjectMissingError
from services.cli.output import err
from services.egress.calling import Ending, Timeouts
from services.egress.outcome import Outcome, Verdict
from services.egress.parcel import Parcel
from services.egress.reach import Target
from services.egress.scu import Call
from services.egress.shelf import Shelf

_TIMEOUTS = Timeouts(connect=10, acse=30, response=60, network=60)
#: The index of a medium (PS3.3 annex F) is no instance that a receiver stores.
_DICOMDIR = "1.2.840.10008.1.3.10"
#: What reading a file or a member of an archive can raise; the last two: damaged, or encrypted.
_UNREADABLE = (OSError, zipfile.BadZipFile, NotImplementedError, RuntimeError)


@dataclass(frozen=True)
class Found:
    """What was found to send, what was left aside, and what could not be read; the latter two with the reason."""

    parcels: tuple[Parcel, ...]
    aside: tuple[tuple[str, str], ...]
    unreadable: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Result:
    """What became of everything that was to be sent."""

    sent: int
    warnings: int
    sent_bytes: int
    failures: tuple[tuple[str, str], ...]
    ending: Ending


class Files:
    """Files on disk and members of zip archives, by names such as `/data/a.dcm` and `/data/b.zip|c/d.dcm`."""

    def __init__(self) -> None:
        self._archives: dict[Path, zipfile.ZipFile] = {}
        self._members: dict[str, tuple[zipfile.ZipFile, str]] = {}

    def open(self, key: str) -> BinaryIO:
        """Read one. Raises ObjectMissingError if it is gone."""
        try:
            if key in self._members:
                archive, member = self._members[key]
                return BytesIO(archive.read(member))
            return BytesIO(Path(key).read_bytes())
        except FileNotFoundError as error:
            raise ObjectMissingError(key) from error

    def keys(self, path: Path) -> list[str]:
        """Name what a path holds: the file itself, or the members of an archive."""
        if not zipfile.is_zipfile(path):
            return [str(path)]
        archive = self._archives[path] = self._archives.get(path) or zipfile.ZipFile(path)
        found = {
            f"{path}|{info.filename}": (archive, info.filename) for info in archive.infolist() if not info.is_dir()
        }
        self._members |= found
        return list(found)

    def close(self) -> None:
        """Close the archives."""
        for archive in self._archives.values():
            archive.close()


def find(paths: Sequence[Path], files: Files) -> Found:
    """Look at every file: what is an instance becomes a parcel, what is not is named."""
    parcels: list[Parcel] = []
    aside: list[tuple[str, str]] = []
    unreadable: list[tuple[str, str]] = []
    for path in _files(paths):
        try:
            keys = files.keys(path)
        except _UNREADABLE as error:
            unreadable.append((str(path), _why(error)))
            continue
        for key in keys:
            try:
                parcels.append(_parcel(len(parcels), key, files.open(key).read()))
            except part10.NotPart10Error:
                aside.append((key, "it is not a DICOM file"))
            except _NotAnInstanceError:
                aside.append((key, "it is the index of a medium"))
            except (*_UNREADABLE, ObjectMissingError) as error:
                unreadable.append((key, _why(error)))
    return Found(tuple(parcels), tuple(aside), tuple(unreadable))


class _NotAnInstanceError(Exception):
    """A Part 10 file that nobody stores."""


def _parcel(item: int, key: str, content: bytes) -> Parcel:
    meta, offset = part10.decode(BytesIO(content))
    if meta.sop_class_uid == _DICOMDIR:
        raise _NotAnInstanceError
    return Parcel(
        item=item,
        delivery_id="",
        rank=(0, item),
        sop_class_uid=meta.sop_class_uid,
        sop_instance_uid=meta.sop_instance_uid,
        transfer_syntax_uid=meta.transfer_syntax_uid,
        content_hash=hashlib.sha256(content[offset:]).hexdigest(),
        object_key=key,
        size=len(content),
        # It was read a moment ago, when its hash was made.
        fresh=True,
    )


def _why(error: Exception) -> str:
    return (error.strerror if isinstance(error, OSError) else str(error)) or type(error).__name__


def _files(paths: Sequence[Path]) -> Iterator[Path]:
    for path in paths:
        if not path.is_dir():
            yield path
            continue
        # Links to folders are not followed: they may lead round in a circle.
        for folder, folders, names in os.walk(path):
            folders.sort()
            yield from (Path(folder, name) for name in sorted(names))


def deliver(parcels: Sequence[Parcel], target: Target, files: Files, *, quiet: bool) -> Result:
    """Send everything, over as many associations as its presentation contexts need, with a progress bar."""
    outcomes: dict[int, Outcome] = {}
    ending = Ending("finished")
    sizes = {parcel.item: parcel.size for parcel in parcels}
    columns = (
        TextColumn("{task.fields[done]} of {task.fields[files]} files"),
        BarColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=err, disable=quiet) as progress:
        task = progress.add_task("sending", total=sum(sizes.values()), done=0, files=len(parcels))

        def tell(_parcel: Parcel, outcome: Outcome) -> None:
            outcomes[outcome.item] = outcome
            progress.update(task, advance=sizes.pop(outcome.item, 0), done=len(outcomes))

        shelf = Shelf(0, lambda: None)
        shelf.put(parcels)
        while (left := len(shelf)) and ending.kind == "finished":
            ending = Call(target, shelf, files, _TIMEOUTS, tell).run()
            if len(shelf) == left:
                break
    return _result(parcels, outcomes, ending)


def _result(parcels: Sequence[Parcel], outcomes: dict[int, Outcome], ending: Ending) -> Result:
    good = {item for item, outcome in outcomes.items() if outcome.verdict in (Verdict.SENT, Verdict.WARNING)}
    return Result(
        sent=len(good),
        warnings=sum(outcome.verdict is Verdict.WARNING for outcome in outcomes.values()),
        sent_bytes=sum(parcel.size for parcel in parcels if parcel.item in good),
        failures=tuple(
            (parcel.object_key, outcomes[parcel.item].reason if parcel.item in outcomes else "It had no turn.")
            for parcel in parcels
            if parcel.item not in good
        ),
        ending=ending,
    )
