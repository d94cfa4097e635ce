"""How fast bytes may leave: one cap in bit/s that any number of associations share."""

import threading
from collections.abc import Callable

#: Gives seconds that only ever grow, such as `time.monotonic`.
Now = Callable[[], float]
_BITS = 8
#: Seconds' worth of the cap that may go at once after a pause, and that one write may be long.
_AT_ONCE = 0.1
#: On a slow line so many bytes may go at once, as long as that is no more than so many seconds' worth: over any 10 s
#: the burst must stay under 5 %.
_SMALL_BURST = 16 * 1024
_SLOW_AT_ONCE = 0.4
#: A longer write gains nothing, and holds its memory longer.
_LONGEST_PIECE = 256 * 1024


def burst(rate: int) -> float:
    """Give the bytes that may go at once under a cap in bit/s."""
    return max(rate * _AT_ONCE / _BITS, min(_SMALL_BURST, rate * _SLOW_AT_ONCE / _BITS))


def piece(rate: int) -> int:
    """Give the most bytes of one write under a cap in bit/s: about 0.1 s worth, so that waits are short and even."""
    return max(1, min(_LONGEST_PIECE, int(rate * _AT_ONCE / _BITS)))


class Pace:
    """A cap on bytes, shared by the threads that send under it.

    In any t seconds no more than `rate / 8 * t + burst(rate)` bytes may go, as long as no write is longer than
    `piece(rate)`; who always has something to send gets all of the rate, in the order of asking. It is the virtual
    scheduling algorithm of ITU-T I.371 (leaky bucket): one number, the time at which all that was granted has gone at
    exactly the rate.

    Parameters
    ----------
    rate
        Cap in bit/s, over 0.
    now
        A clock that never goes back, in seconds; called under a lock.
    """

    def __init__(self, rate: int, now: Now) -> None:
        self._now = now
        self._lock = threading.Lock()
        self._rate = _checked(rate)
        self._gone_at = now()

    @property
    def rate(self) -> int:
        """The cap in bit/s."""
        return self._rate

    def take(self, count: int) -> float:
        """Grant a number of bytes; give the seconds to wait before they may go.

        What was granted counts, gone or not. Under two caps ask the narrower, wait, then ask the wider, wait: asked at
        once, the second would count bytes that go later.
        """
        with self._lock:
            now = self._now()
            bytes_a_second = self._rate / _BITS
            self._gone_at = max(self._gone_at, now) + count / bytes_a_second
            return max(0.0, self._gone_at - burst(self._rate) / bytes_a_second - now)

    def change(self, rate: int) -> None:
        """Set another cap, bit/s. What was granted keeps its time; what is asked for from now on goes after it."""
        with self._lock:
            self._rate = _checked(rate)


def _checked(rate: int) -> int:
    if rate <= 0:
        raise ValueError(f"a cap of {rate} bit/s lets nothing through: leave it out, or pause the destination")
    return rate
