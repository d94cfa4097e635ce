"""The most resident memory of a tree of processes since a moment, as the kernel keeps it: no peak is missed."""

from contextlib import suppress
from pathlib import Path

import psutil


class Resident:
    """The tree below a process, from now on."""

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self._before = {}
        for each in self._family():
            # 5 sets the high-water mark of resident memory back to what it is now (proc(5), clear_refs).
            Path(f"/proc/{each}/clear_refs").write_text("5")
            self._before[each] = _kilobytes(each, "VmRSS")

    def growth(self) -> int:
        """Give the bytes by which its members have grown at most, each at its own peak."""
        return 1024 * sum(_kilobytes(each, "VmHWM") - self._before.get(each, 0) for each in self._family())

    def _family(self) -> list[int]:
        first = psutil.Process(self._pid)
        return [first.pid, *(each.pid for each in first.children(recursive=True))]


def _kilobytes(pid: int, field: str) -> int:
    with suppress(FileNotFoundError, ProcessLookupError):  # it has ended
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith(f"{field}:"):
                return int(line.split()[1])
    return 0
