"""What would be said again and again of the same caller: once in a while, with how often it came."""

from collections.abc import Callable
from typing import Final

#: Addresses that are remembered.
_MOST: Final = 10_000


class Refrain:
    """Counts by address; for one thread.

    Parameters
    ----------
    every
        Seconds in which one line is said of an address.
    now
        Seconds of a clock that only goes on.
    """

    def __init__(self, every: float, now: Callable[[], float]) -> None:
        self._every = every
        self._now = now
        # When a line was said last, and how often there was none since; the oldest line first.
        self._said: dict[str, tuple[float, int]] = {}

    def count(self, address: str) -> int | None:
        """Count once more; give how often it was since the last line, if another one is due."""
        now = self._now()
        last, unsaid = self._said.get(address, (None, 0))
        if last is not None and now - last < self._every:
            self._said[address] = (last, unsaid + 1)
            return None
        self._said.pop(address, None)
        if len(self._said) >= _MOST:
            del self._said[next(iter(self._said))]
        self._said[address] = (now, 0)
        return unsaid + 1
