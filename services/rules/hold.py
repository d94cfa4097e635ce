"""How long a rule keeps a delivery back. Pure."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, time, timedelta
from typing import Any, Final, cast
from zoneinfo import ZoneInfo

from contracts.definition import UNTIL_RELEASED
from contracts.quantity import parse_duration
from libs.definition.ruleset import Match

_TIME_OF_DAY_LENGTH: Final = len("20:00")


@dataclass(frozen=True)
class Hold:
    """A delivery is not to go yet.

    Attributes
    ----------
    rule
        Name of the rule that says so.
    until
        Until when, UTC; none: until a person releases it.
    """

    rule: str
    until: datetime | None

    def document(self) -> dict[str, Any]:
        """Give it as JSON."""
        return {"rule": self.rule, "until": None if self.until is None else self.until.isoformat()}


#: Gives the hold that a rule asks for.
Holding = Callable[[Match], Hold | None]


def hold_of(document: dict[str, Any] | None) -> Hold | None:
    """Read what `Hold.document` gave."""
    if document is None:
        return None
    until = document["until"]
    return Hold(document["rule"], None if until is None else datetime.fromisoformat(until))


def longest(one: Hold | None, other: Hold | None) -> Hold | None:
    """Give the one that lasts longer, in any order; a person's word lasts longer than any time."""
    if one is None or other is None:
        return one or other
    return max(
        one, other, key=lambda hold: (hold.until is None, hold.until or datetime.min.replace(tzinfo=UTC), hold.rule)
    )


def holding(arrived: datetime, timezone: str) -> Holding:
    """Tell how long rules hold what arrived at a time: it follows from that, and not from when it is decided."""
    return lambda match: None if match.hold is None else Hold(match.rule, until(match.hold, arrived, timezone))


def until(hold: str, arrived: datetime, timezone: str) -> datetime | None:
    """Give the end of a hold, UTC.

    Parameters
    ----------
    hold
        As a rule says it: see `contracts.definition.Hold`.
    arrived
        When the last of what is held arrived.
    timezone
        IANA time zone of times of day and of local times.

    Returns
    -------
    datetime | None
        None: until a person releases it.
    """
    if hold == UNTIL_RELEASED:
        return None
    zone = ZoneInfo(timezone)
    if len(hold) == _TIME_OF_DAY_LENGTH and hold[2] == ":":
        return _next(time.fromisoformat(hold), arrived.astimezone(zone)).astimezone(UTC)
    if "T" in hold:
        return datetime.fromisoformat(hold).replace(tzinfo=zone).astimezone(UTC)
    return arrived.astimezone(UTC) + timedelta(seconds=cast("int", parse_duration(hold)))


def _next(of_day: time, local: datetime) -> datetime:
    """Give the first such time of day at or after a local time."""
    today = datetime.combine(local.date(), of_day, local.tzinfo)
    return today if today >= local else datetime.combine(local.date() + timedelta(days=1), of_day, local.tzinfo)
