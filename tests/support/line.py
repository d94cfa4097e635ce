"""One direction of a slow line: when what enters it leaves it, and what has passed. No clock, no socket."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Usage:
    """What passed in one direction.

    Attributes
    ----------
    passed
        Bytes that arrived.
    lost
        Bytes that were taken and never arrived: their connection was reset before.
    first, last
        When the first byte entered the line and the last one left it, in seconds of line time, which stands still while
        the line is cut. Both 0 before the first byte.
    busy
        Part of the time between them for which the line was busy with what arrived: 0 to 1.
    """

    passed: int
    lost: int
    first: float
    last: float
    busy: float


class Line:
    """One direction. Times are seconds of line time, passed in, never falling.

    Parameters
    ----------
    rate
        Bits a second.
    delay
        Seconds from the end of a packet on the line to its arrival.
    queue
        Bytes that may wait for the line: while more do, there is no room for another packet.
    """

    def __init__(self, rate: float, delay: float, queue: int) -> None:
        self._rate = rate
        self._delay = delay
        self._queue_s = queue * 8 / rate
        self._free_at = float("-inf")
        self._passed = self._lost = 0
        self._first, self._last = float("inf"), float("-inf")

    @property
    def room_at(self) -> float:
        """When there is room for another packet."""
        return self._free_at - self._queue_s

    def take(self, now: float, size: int) -> float:
        """Take a packet of so many bytes, and give the time of its arrival."""
        self._free_at = max(now, self._free_at) + size * 8 / self._rate
        return self._free_at + self._delay

    def arrived(self, at: float, size: int) -> None:
        """Count a packet that arrived when `take` said."""
        end = at - self._delay
        self._passed += size
        self._first = min(self._first, end - size * 8 / self._rate)
        self._last = max(self._last, end)

    def lose(self, size: int) -> None:
        """Count bytes that will not arrive."""
        self._lost += size

    def empty(self) -> None:
        """Drop what waits: the line is free at once."""
        self._free_at = float("-inf")

    def forget(self) -> None:
        """Count anew."""
        self._passed = self._lost = 0
        self._first, self._last = float("inf"), float("-inf")

    def usage(self) -> Usage:
        """Tell what passed since the counting began."""
        if not self._passed:
            return Usage(0, self._lost, 0.0, 0.0, 0.0)
        busy = self._passed * 8 / self._rate / (self._last - self._first)
        return Usage(self._passed, self._lost, self._first, self._last, busy)
