"""Whether something that failed is worth another try: not each caller has to wait for what does not answer."""

from collections.abc import Callable
from typing import Final

#: Failures in a row before callers are turned away at once.
_BORNE: Final = 2
_FIRST_PAUSE: Final = 1.0
_LONGEST_PAUSE: Final = 10.0


class Breaker:
    """Turns callers away after failures, and lets one through now and then to see whether it works again.

    Parameters
    ----------
    now
        Gives seconds on a clock that is never put back.

    Attributes
    ----------
    why
        Why callers are turned away; None while they are not.
    """

    def __init__(self, now: Callable[[], float]) -> None:
        self._now = now
        self._failures = 0
        self._pause = _FIRST_PAUSE
        self._next = 0.0
        self.why: str | None = None

    def refuses(self) -> str | None:
        """Say why a caller is turned away; None lets it through, and it has to say how it went."""
        if self.why is None or self._now() < self._next:
            return self.why
        self._pause = min(_LONGEST_PAUSE, 2 * self._pause)
        self._next = self._now() + self._pause
        return None

    def failed(self, why: str) -> bool:
        """Note a failure; tell whether callers are turned away from now on, and were not before."""
        self._failures += 1
        if self._failures < _BORNE:
            return False
        opened = self.why is None
        if opened:
            self._pause = _FIRST_PAUSE
        self._next = self._now() + self._pause
        self.why = why
        return opened

    def worked(self) -> bool:
        """Note a success; tell whether callers were turned away until now."""
        self._failures = 0
        closed = self.why is not None
        self.why = None
        return closed
