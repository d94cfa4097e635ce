"""When a destination is compared with what was sent to it."""

from dataclasses import dataclass
from datetime import datetime, time, timedelta
from typing import Final

from services.egress.window import local

#: What was sent just now may not show yet.
_SETTLES_IN: Final = timedelta(minutes=10)
#: When one that broke off is begun anew.
_ANEW: Final = timedelta(hours=1)


@dataclass(frozen=True)
class Span:
    """What is compared: what was sent from `since` on, and before `until`, both UTC."""

    since: datetime
    until: datetime


@dataclass(frozen=True)
class Last:
    """The last comparison.

    Attributes
    ----------
    began_at
        UTC.
    ended
        Whether it came to its end; one that broke off is begun anew.
    covered_until
        Up to when all that was sent was compared by this one or those before; none if nothing was.
    """

    began_at: datetime
    ended: bool
    covered_until: datetime | None


def nightly(now: datetime, at: time, timezone: str, days: float, last: Last | None) -> Span | None:
    """Tell what is to be compared now; none if its time has not come since the last comparison began.

    Parameters
    ----------
    now
        The time, UTC.
    at, timezone
        Time of day by the wall clock of a zone.
    days
        How many days back at least. Who was off for longer, or could not ask, looks back to what is covered.
    last
        The last comparison; none if there was none.
    """
    here = local(timezone, now)
    start = here.replace(hour=at.hour, minute=at.minute, second=at.second, microsecond=0)
    if start > here:
        start -= timedelta(days=1)
    if last is not None and last.began_at >= start and (last.ended or last.began_at > now - _ANEW):
        return None
    until = now - _SETTLES_IN
    back = until - timedelta(days=days)
    return Span(back if last is None else min(back, last.covered_until or back), until)
