"""What this replica has in hand for one destination, the most urgent first. Many threads take from it."""

import heapq
import threading
from collections.abc import Callable, Iterable
from itertools import count

from services.egress.parcel import Parcel


class Shelf:
    """Instances that are leased and not sent yet.

    Parameters
    ----------
    low
        When fewer than so many are left on it, more are wanted.
    wanting
        Called when more are wanted; from any thread.
    """

    def __init__(self, low: int, wanting: Callable[[], None]) -> None:
        self._low = low
        self._wanting = wanting
        self._numbers = count()
        self._heap: list[tuple[tuple[int, int], int, Parcel]] = []
        self._changed = threading.Condition()
        self._closed = False
        self._idle = 0

    @property
    def unattended(self) -> int:
        """How many there are for which nobody waits."""
        with self._changed:
            return max(0, len(self._heap) - self._idle)

    def __len__(self) -> int:
        return len(self._heap)

    def put(self, parcels: Iterable[Parcel]) -> None:
        """Add instances."""
        with self._changed:
            for parcel in parcels:
                heapq.heappush(self._heap, (parcel.rank, next(self._numbers), parcel))
            self._changed.notify_all()

    def take(self, seconds: float, may: Callable[[Parcel], bool] = lambda _parcel: True) -> Parcel | None:
        """Take the most urgent one, or wait for it so long; nothing if there is none, or if it may not be taken."""
        with self._changed:
            if not self._heap and seconds > 0 and not self._closed:
                self._idle += 1
                try:
                    self._changed.wait_for(lambda: self._heap or self._closed, seconds)
                finally:
                    self._idle -= 1
            if not self._heap or self._closed or not may(self._heap[0][2]):
                return None
            parcel = heapq.heappop(self._heap)[2]
            low = len(self._heap) in (0, self._low - 1)
        if low:
            self._wanting()
        return parcel

    def next(self) -> Parcel | None:
        """Give the one that would be taken now."""
        with self._changed:
            return self._heap[0][2] if self._heap else None

    def pairs(self) -> list[tuple[str, str]]:
        """Give the pairs of SOP class and transfer syntax that are needed, in the order of need."""
        with self._changed:
            return list(dict.fromkeys(parcel.pair for _, _, parcel in sorted(self._heap, key=lambda each: each[:2])))

    def urgency(self) -> int | None:
        """Give the lane of the most urgent one."""
        with self._changed:
            return self._heap[0][2].rank[0] if self._heap else None

    def remove(self, which: Callable[[Parcel], bool] = lambda _parcel: True) -> list[Parcel]:
        """Take those away that are meant; all, if none are."""
        with self._changed:
            taken = [parcel for _, _, parcel in self._heap if which(parcel)]
            self._heap = [entry for entry in self._heap if not which(entry[2])]
            heapq.heapify(self._heap)
        return taken

    def close(self) -> None:
        """Let nobody take anything any more, nor wait for it."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
