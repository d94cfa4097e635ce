"""When a destination is compared with what was sent to it."""

from dataclasses import dataclass
from datetime import datetime, time, timedelta
from typing import Final

from services.egress.window import local

#: What was sent just now may not show yet.
_SETTLES_IN: Final = timedelta(minutes=10)


@dataclass(frozen=True)
class Span:
    """What is compared: what was sent from `since` on, and before `until`, both UTC."""

    since: datetime
    until: datetime


def nightly(now: datetime, at: time, timezone: str, days: float, last: datetime | None) -> Span | None:
    """Tell what is to be compared now; none if its time has not come since the last comparison began.

    Parameters
    ----------
    now, last
        The time, and when the last comparison began; UTC.
    at, timezone
        Time of day by the wall clock of a zone.
    days
        How many days back at least. A box that was off for longer looks back to its last comparison.
    """
    here = local(timezone, now)
    start = here.replace(hour=at.hour, minute=at.minute, second=at.second, microsecond=0)
    if start > here:
        start -= timedelta(days=1)
    if last is not None and last >= start:
        return None
    back = now - timedelta(days=days)
    since = back if last is None else min(back, last)
    return Span(since - _SETTLES_IN, now - _SETTLES_IN)
