"""Whether a disk has room, will have room, and when it is said that it has not. Pure; bytes and seconds."""

from collections import deque
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    # Receivers look at their disk, and do without the library that contracts are written in.
    from contracts.room import RoomState

#: Once full, a disk must have so much more than is needed before it takes anything: a share of what is needed.
_AGAIN: Final = 1 / 8
#: A disk that was low is ample again when it is above the mark by so much.
_BACK: Final = 1.1
#: The rate is measured over the last hours, and believed once it was measured for one.
_WINDOW: Final = 6 * 3600.0
_LEAST: Final = 3600.0
_SAMPLE: Final = 60.0
#: A forecast that was short must be longer by so much to be no alarm any more.
_EASED: Final = 1.5
_HOUR: Final = 3600.0


class Margin:
    """Whether a disk takes more bytes.

    Parameters
    ----------
    needed
        Bytes that are kept free, for whatever else must go on writing there.
    """

    def __init__(self, needed: int) -> None:
        self.needed = needed
        self._full = False

    def takes(self, free: int, coming: int = 0) -> bool:
        """Tell whether more may be taken, when `coming` bytes may be written before the next look."""
        wanted = self.needed + (int(self.needed * _AGAIN) if self._full else 0)
        self._full = free - coming < wanted
        return not self._full


class Room:
    """What is said of a disk: ample, low or full, and never to and fro.

    Parameters
    ----------
    needed
        Bytes below which it is full.
    share
        Share of the whole disk below which it is low.
    hours
        It is low too when it will be full sooner than this, at the rate of the last hours.
    """

    def __init__(self, needed: int, *, share: float, hours: float) -> None:
        self._margin = Margin(needed)
        self._share = share
        self._hours = hours
        self._samples: deque[tuple[float, int]] = deque()
        self.state: RoomState = "ample"
        #: Hours until it is full, at the rate of the last ones; None if that is not known, or it does not fill.
        self.hours_left: float | None = None

    def see(self, free: int, total: int, at: float) -> "RoomState":
        """Take a measurement in, at a time that never goes back, and give the state."""
        self.hours_left = self._forecast(free, at)
        if not self._margin.takes(free):
            self.state = "full"
        elif self._is_low(free, total):
            self.state = "low"
        else:
            self.state = "ample"
        return self.state

    def _is_low(self, free: int, total: int) -> bool:
        was = self.state != "ample"
        mark = max(self._share * total, 2 * self._margin.needed) * (_BACK if was else 1)
        soon = self._hours * (_EASED if was else 1)
        return free < mark or (self.hours_left is not None and self.hours_left < soon)

    def _forecast(self, free: int, at: float) -> float | None:
        samples = self._samples
        if not samples or at - samples[-1][0] >= _SAMPLE:
            samples.append((at, free))
        while at - samples[0][0] > _WINDOW:
            samples.popleft()
        began, before = samples[0]
        used = before - free
        if at - began < _LEAST or used <= 0:
            return None
        return max(0, free - self._margin.needed) * (at - began) / used / _HOUR
