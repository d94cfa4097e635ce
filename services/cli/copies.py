"""Copies of instances in a folder: which are there, by the hash of their dataset."""

import hashlib
import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

from libs.dicom import part10
from libs.dicom.identity import DEFLATED
from services.cli.output import err

_CHUNK = 1 << 20


@dataclass(frozen=True)
class Copies:
    """What a folder holds.

    Attributes
    ----------
    uids
        SOP Instance UID, as the file meta information says it, by the content hash of the dataset.
    foreign
        How many files are no Part 10 files.
    unreadable
        Files and folders that could not be read, and why.
    """

    uids: dict[str, str]
    foreign: int
    unreadable: tuple[tuple[str, str], ...]


def look(folder: Path, *, quiet: bool) -> Copies:
    """Hash every Part 10 file of a folder and the folders in it, with a progress bar. Links to folders are left out."""
    unreadable: list[tuple[str, str]] = []
    uids: dict[str, str] = {}
    foreign = 0
    files = list(_files(folder, unreadable))
    columns = (
        TextColumn("{task.fields[done]} of {task.fields[files]} files"),
        BarColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=err, disable=quiet) as progress:
        task = progress.add_task("reading", total=sum(size for _, size in files), done=0, files=len(files))
        for number, (path, size) in enumerate(files, 1):
            try:
                with path.open("rb") as file:
                    meta, _ = part10.decode(file)
                    uids |= dict.fromkeys(_hashes(file, meta), meta.sop_instance_uid)
            except part10.NotPart10Error:
                foreign += 1
            except OSError as error:
                unreadable.append((str(path), error.strerror or type(error).__name__))
            progress.update(task, advance=size, done=number)
    return Copies(uids, foreign, tuple(unreadable))


def _hashes(file: BinaryIO, meta: part10.Meta) -> Iterator[str]:
    """Hash a dataset; a deflated one also without the NULL that made its length even on its way: PS3.5 section A.5."""
    digest, shorter = hashlib.sha256(), None
    while chunk := file.read(_CHUNK):
        if meta.transfer_syntax_uid == DEFLATED and chunk.endswith(b"\0"):
            shorter = digest.copy()
            shorter.update(chunk[:-1])
        else:
            shorter = None
        digest.update(chunk)
    yield digest.hexdigest()
    if shorter is not None:
        yield shorter.hexdigest()


def _files(folder: Path, unreadable: list[tuple[str, str]]) -> Iterator[tuple[Path, int]]:
    def closed(error: OSError) -> None:
        unreadable.append((str(error.filename), error.strerror or type(error).__name__))

    for place, folders, names in os.walk(folder, onerror=closed):
        folders.sort()
        for path in (Path(place, name) for name in sorted(names)):
            try:
                found = path.stat()
            except OSError as error:
                closed(error)
                continue
            if stat.S_ISREG(found.st_mode):
                yield path, found.st_size
            else:
                # A pipe or a device may never end.
                unreadable.append((str(path), "it is not an ordinary file"))
