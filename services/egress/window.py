"""When a destination's window is open: `20:00-06:00`, by the wall clock of the network's time zone.

The wall clock decides, and nothing else: an hour that it skips is not there, and in an hour that it repeats both count
alike. So a window that lies wholly in a skipped hour does not open on that day.
"""

from bisect import bisect_left
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

_DAY = timedelta(days=1)
_MINUTES_A_DAY = 24 * 60


def is_open(window: str | None, timezone: str, at: datetime) -> bool:
    """Tell whether sending is allowed.

    Parameters
    ----------
    window
        Two times of day as in `contracts.definition.TimeWindow`, the end excluded and perhaps next day's; none: always.
    timezone
        IANA name of the zone whose wall clock counts.
    at
        A moment, with its offset.

    Raises
    ------
    ValueError
        If the moment has no offset.
    ZoneInfoNotFoundError
        If the zone is not known here.
    """
    if window is None:
        return True
    start, end = _minutes(window)
    clock = local(timezone, at)
    minute = clock.hour * 60 + clock.minute
    return start <= minute < end if start < end else minute >= start or minute < end


def opens_at(window: str | None, timezone: str, at: datetime) -> datetime:
    """Give the first moment from `at` on at which sending is allowed, UTC: `at` if it is now. Raises as `is_open`."""
    if window is None or is_open(window, timezone, at):
        return at.astimezone(UTC)
    return next(moment for moment in _changes(window, timezone, at) if is_open(window, timezone, moment))


def closes_at(window: str | None, timezone: str, at: datetime) -> datetime | None:
    """Give the first moment from `at` on at which sending is not allowed, UTC: `at` if it is not allowed now.

    None if there is no such moment. Raises as `is_open`.
    """
    if not is_open(window, timezone, at):
        return at.astimezone(UTC)
    if window is None or _minutes(window) == (0, _MINUTES_A_DAY):
        return None
    return next(moment for moment in _changes(window, timezone, at) if not is_open(window, timezone, moment))


def local(timezone: str, at: datetime) -> datetime:
    """Give what the wall clock of a zone shows. Raises as `is_open`."""
    if at.tzinfo is None:
        raise ValueError("a moment needs its offset")
    return at.astimezone(ZoneInfo(timezone))


def passings(timezone: str, clock: datetime) -> list[datetime]:
    """Give the moments (UTC, in order) at which the wall clock of a zone comes to a time, or jumps over it.

    One as a rule. Where clocks are put forward over the time, the moment of that. Where they are put back over it: the
    first time that they show it, the moment when they are put back, the second time.
    """
    zone = ZoneInfo(timezone)
    first, second = (clock.replace(tzinfo=zone, fold=fold).astimezone(UTC) for fold in (0, 1))
    if first == second:
        return [first]
    change = _change_of_clocks(zone, min(first, second), max(first, second))
    return [change] if second < first else [first, change, second]


def _change_of_clocks(zone: ZoneInfo, before: datetime, after: datetime) -> datetime:
    seconds = range(int(before.timestamp()), int(after.timestamp()) + 1)
    offset = before.astimezone(zone).utcoffset()
    at = bisect_left(seconds, True, key=lambda second: datetime.fromtimestamp(second, zone).utcoffset() != offset)
    return datetime.fromtimestamp(seconds[at], UTC)


def _changes(window: str, timezone: str, after: datetime) -> Iterator[datetime]:
    """Give every moment, in order, at which the window may open or close in the days after a moment."""
    # Clocks were put forward by a whole day (Apia 2011) or back over midnight (St John's): hence the days around.
    midnight = local(timezone, after).replace(tzinfo=None, hour=0, minute=0, second=0, microsecond=0)
    times = [timedelta(minutes=minute) for minute in _minutes(window)]
    clocks = [midnight + day * _DAY + time for day in range(-1, 4) for time in times]
    return iter(sorted(moment for clock in clocks for moment in passings(timezone, clock) if moment > after))


def _minutes(window: str) -> tuple[int, int]:
    """Give the minutes after midnight at which a window opens and closes."""
    (open_hour, open_minute), (close_hour, close_minute) = (time.split(":") for time in window.split("-"))
    return int(open_hour) * 60 + int(open_minute), int(close_hour) * 60 + int(close_minute)
