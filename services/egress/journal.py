"""What receivers have said success for and no database knows yet: in a file, which a killed process leaves.

It makes a kill cost what was under way, and not what waited to be written down. It is not synced: a power cut may take
it, and then the instances are sent once more.
"""

import fcntl
import os
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from services.egress.outcome import ARRIVED, Outcome, Verdict
from services.egress.parcel import Parcel

_NAME: Final = "answers-*.log"
#: Beyond so many bytes it is begun anew with what is still not written down.
_LONG: Final = 1 << 20


@dataclass(frozen=True)
class Answer:
    """A success that a receiver said. All of it must fit: numbers of items come again when a database is restored."""

    item: int
    delivery_id: str
    content_hash: str
    verdict: Verdict
    status: str


class Journal:
    """The answers of one process. For many threads.

    Parameters
    ----------
    folder
        Where it is; made if it is not there.
    worker
        Names it.
    """

    def __init__(self, folder: Path, worker: str) -> None:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._path = folder / f"answers-{worker}.log"
        self._lock = threading.Lock()
        self._open: dict[int, bytes] = {}
        self._file = _create(self._path)
        self._size = 0

    def note(self, parcel: Parcel, outcome: Outcome) -> None:
        """Keep that an instance was answered with success: it outlives this process. Raises OSError."""
        said = f"{outcome.verdict} {outcome.status}"
        line = f"\n{parcel.item} {parcel.delivery_id} {parcel.content_hash} {said} .".encode()
        with self._lock:
            self._open[parcel.item] = line
            self._size += os.write(self._file, line)

    def settled(self, items: Iterable[int]) -> None:
        """Forget items: the database knows."""
        with self._lock:
            for item in items:
                self._open.pop(item, None)
            if not self._open and self._size:
                os.ftruncate(self._file, 0)
                self._size = 0
            elif self._size > _LONG:
                self._renew()

    def close(self) -> None:
        """Give it up; what is still in it is found by whoever looks for it."""
        with self._lock:
            if not self._open:
                self._path.unlink(missing_ok=True)
            os.close(self._file)

    def _renew(self) -> None:
        fresh = self._path.with_suffix(".new")
        file = _create(fresh)
        self._size = os.write(file, b"".join(self._open.values()))
        fresh.replace(self._path)
        os.close(self._file)
        self._file = file


@contextmanager
def left_behind(folder: Path) -> Iterator[list[Answer]]:
    """Give what processes that have ended left. When the block ends well it is removed."""
    found: list[Answer] = []
    taken: list[tuple[Path, int]] = []
    try:
        for path in sorted(folder.glob(_NAME)):
            file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                os.close(file)  # its process is alive
                continue
            taken.append((path, file))
            found += _read(path)
        yield found
        for path, _ in taken:
            path.unlink(missing_ok=True)
    finally:
        for _, file in taken:
            os.close(file)


def _create(path: Path) -> int:
    while True:
        file = os.open(path, os.O_CREAT | os.O_TRUNC | os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC, 0o600)
        fcntl.flock(file, fcntl.LOCK_EX)
        # Before it was locked, another process may have taken it for left behind, and removed it.
        if os.fstat(file).st_nlink:
            return file
        os.close(file)


def _read(path: Path) -> Iterator[Answer]:
    for line in path.read_bytes().splitlines():
        # The last line may have been cut off, and one for which there was no room, in the middle of the file.
        match line.decode("ascii", "replace").split(" "):
            case [item, delivery_id, content_hash, verdict, status, "."] if item.isdecimal() and verdict in ARRIVED:
                yield Answer(int(item), delivery_id, content_hash, Verdict(verdict), status)
