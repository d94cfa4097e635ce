"""What a tree of processes uses: processor time and memory."""

import threading
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self

import psutil

_EVERY_S = 0.1


def family(pid: int) -> list[psutil.Process]:
    """Give a process and all that descend from it."""
    with suppress(psutil.NoSuchProcess):
        first = psutil.Process(pid)
        return [first, *first.children(recursive=True)]
    return []


def cpu_seconds(pid: int) -> float:
    """Sum up the processor time of a tree since it began, with that of members that ended and were waited for."""
    total = 0.0
    for each in family(pid):
        with suppress(psutil.NoSuchProcess):
            times = each.cpu_times()
            total += times.user + times.system + times.children_user + times.children_system
    return total


def memory_bytes(pid: int) -> int:
    """Sum up the proportional set size of a tree: pages that several share count once."""
    return sum(_proportional(each.pid) for each in family(pid))


def resident_bytes(pid: int) -> int:
    """Sum up the resident memory of a tree; pages that several share count for each."""
    total = 0
    for each in family(pid):
        with suppress(psutil.NoSuchProcess):
            total += each.memory_info().rss
    return total


def _proportional(pid: int) -> int:
    with suppress(OSError, ValueError):  # it may have ended
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                return int(line.split()[1]) * 1024
    return 0


class Gauge:
    """Watches a tree until the block ends."""

    def __init__(self, pid: int, *, resident: bool = False) -> None:
        self._pid = pid
        self._look = resident_bytes if resident else memory_bytes
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._began = 0.0
        self.peak = 0

    def __enter__(self) -> Self:
        self._began = cpu_seconds(self._pid)
        self.peak = self._look(self._pid)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join()

    @property
    def cpu(self) -> float:
        """Processor seconds since the block began."""
        return cpu_seconds(self._pid) - self._began

    def _watch(self) -> None:
        while not self._stop.wait(_EVERY_S):
            self.peak = max(self.peak, self._look(self._pid))
