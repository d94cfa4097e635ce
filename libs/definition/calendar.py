"""Working time: days of the week, hours, public holidays, in the network's time zone."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from functools import lru_cache
from typing import Final
from zoneinfo import ZoneInfo

import holidays as public_holidays

from contracts.definition import Calendar

_DAYS: Final = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
_HOURS: Final = re.compile(r"^(\d\d):(\d\d)-(\d\d):(\d\d)$")
_MINUTES_A_DAY: Final = 24 * 60


class CalendarError(ValueError):
    """A calendar that can't be used; the message says what to write."""


@dataclass(frozen=True)
class WorkingTime:
    """A calendar, read.

    Attributes
    ----------
    days
        Days of the week on which work starts, Monday is 0.
    start, end
        Minutes after midnight by the wall clock; an end before the start is on the next day.
    country
        ISO 3166 code of the country whose public holidays are not worked.
    closed
        Other days that are not worked.
    """

    days: frozenset[int]
    start: int
    end: int
    country: str | None
    closed: frozenset[date] = frozenset()

    def holds(self, local: datetime) -> bool:
        """Tell whether work goes on at a time of the wall clock; hours past midnight belong to the day before."""
        minute = local.hour * 60 + local.minute
        today = local.date()
        if self.end > self.start:
            return self.start <= minute < self.end and self._worked(today)
        return (minute >= self.start and self._worked(today)) or (
            minute < self.end and self._worked(today - timedelta(days=1))
        )

    def _worked(self, day: date) -> bool:
        if day.weekday() not in self.days or day in self.closed:
            return False
        return self.country is None or day not in _holidays(self.country)


@lru_cache(maxsize=1024)
def read(calendar: Calendar) -> WorkingTime:
    """Read a calendar. Raises CalendarError."""
    if calendar.holidays is not None and not is_country(calendar.holidays):
        raise CalendarError(f"`{calendar.holidays}` has no known public holidays: write an ISO 3166 code such as GQ")
    start, end = parse_hours(calendar.hours)
    return WorkingTime(parse_days(calendar.days), start, end, calendar.holidays, frozenset(calendar.closed))


def is_working_time(calendar: Calendar, at: datetime, timezone: str) -> bool:
    """Tell whether it is working time.

    Parameters
    ----------
    calendar
        The calendar.
    at
        A moment, with its offset.
    timezone
        IANA name of the zone whose wall clock counts; in an hour that a change of clocks repeats, both count alike.

    Raises
    ------
    CalendarError
        If the calendar can't be used.
    ValueError
        If the moment has no offset.
    """
    if at.tzinfo is None:
        raise ValueError("a moment needs its offset")
    return read(calendar).holds(at.astimezone(ZoneInfo(timezone)))


def working(calendars: Mapping[str, Calendar], at: datetime, timezone: str) -> dict[str, bool]:
    """Tell for each calendar whether it is working time. Raises as `is_working_time`."""
    return {name: is_working_time(calendar, at, timezone) for name, calendar in calendars.items()}


def wall_clock(at: datetime, timezone: str) -> dict[str, str]:
    """Give the clock of a place: `time` as 22:05, `date` as 20261120, `day` as mon to sun.

    Parameters
    ----------
    at
        A moment, with its offset.
    timezone
        IANA name of the place's zone.
    """
    local = at.astimezone(ZoneInfo(timezone))
    return {"time": f"{local:%H:%M}", "date": f"{local:%Y%m%d}", "day": _DAYS[local.weekday()]}


def parse_days(text: str) -> frozenset[int]:
    """Read `Mon-Fri` or `Mon,Wed`; a range may go over Sunday. Monday is 0. Raises CalendarError."""
    days: set[int] = set()
    for part in text.split(","):
        first, _, last = (name.strip().lower() for name in part.partition("-"))
        last = last or first
        if first not in _DAYS or last not in _DAYS or part.strip().endswith("-"):
            raise CalendarError(f"`{part.strip()}` is not a day or range of days: write such as Mon-Fri or Mon,Wed")
        start, length = _DAYS.index(first), (_DAYS.index(last) - _DAYS.index(first)) % 7
        days.update((start + offset) % 7 for offset in range(length + 1))
    return frozenset(days)


def parse_hours(text: str) -> tuple[int, int]:
    """Read `08:00-16:00` as minutes after midnight, end excluded; an end may be next day's. Raises CalendarError."""
    match = _HOURS.match(text)
    if match is None:
        raise CalendarError(f"`{text}` is not a range of hours: write such as 08:00-16:00")
    start, end = int(match[1]) * 60 + int(match[2]), int(match[3]) * 60 + int(match[4])
    if start >= _MINUTES_A_DAY or end > _MINUTES_A_DAY or int(match[2]) > 59 or int(match[4]) > 59:  # noqa: PLR2004  # minutes of an hour
        raise CalendarError(f"`{text}` goes past the end of the day: the latest is 24:00")
    if start == end:
        raise CalendarError(f"`{text}` is empty: for the whole day write 00:00-24:00")
    return start, end


def is_country(code: str) -> bool:
    """Tell whether the public holidays of a country are known."""
    return code in public_holidays.list_supported_countries()


@lru_cache(maxsize=256)
def _holidays(country: str) -> public_holidays.HolidayBase:
    """Give the holidays of a country; years are worked out when they are first asked for."""
    return public_holidays.country_holidays(country)
