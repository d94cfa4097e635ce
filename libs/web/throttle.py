"""How many failures an address may have before it is told to wait. Counts only: nothing here opens a door."""

from datetime import datetime, timedelta

from libs.clock import Clock


class Throttle:
    """Failures by address within a window of time.

    Parameters
    ----------
    clock
        The time in UTC.
    limit
        Failures that an address may have in a window.
    window
        Length of a window.
    addresses
        How many addresses are remembered; the oldest are forgotten first, which bounds the memory.
    """

    def __init__(
        self, clock: Clock, *, limit: int = 20, window: timedelta = timedelta(minutes=1), addresses: int = 10_000
    ) -> None:
        self._clock = clock
        self._limit = limit
        self._window = window
        self._addresses = addresses
        self._failures: dict[str, tuple[datetime, int]] = {}

    def failed(self, address: str) -> int | None:
        """Count a failure; give the seconds to wait when there were too many, else None."""
        now = self._clock()
        since, count = self._failures.pop(address, (now, 0))
        if abs(now - since) >= self._window:
            since, count = now, 0
        self._failures[address] = (since, count + 1)
        while len(self._failures) > self._addresses:
            del self._failures[next(iter(self._failures))]
        if count + 1 <= self._limit:
            return None
        return max(1, round((since + self._window - now).total_seconds()))
