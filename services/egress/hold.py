"""That a rule keeps a delivery back, until a time or until a person releases it. Pure."""

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

from sqlalchemy import Row

from contracts.delivery import DeliveryHold

_EARLIEST: Final = datetime.min.replace(tzinfo=UTC)


@dataclass(frozen=True)
class Hold:
    """A rule keeps a delivery back.

    Attributes
    ----------
    rule
        Name of the rule.
    until
        Until when, UTC; none: until a person releases it.
    """

    rule: str
    until: datetime | None = None

    @property
    def reason(self) -> str:
        """Say it as a sentence."""
        if self.until is None:
            return f"held by the rule `{self.rule}` until a person releases it: `kivuko delivery release`"
        return f"held by the rule `{self.rule}` until {self.until:%Y-%m-%d %H:%M} UTC"

    def lasts(self, now: datetime) -> bool:
        """Tell whether it holds still."""
        return self.until is None or self.until > now


def asked(said: DeliveryHold | None) -> Hold | None:
    """Give the hold of a request."""
    return None if said is None else Hold(said.rule, said.until)


def longest(one: Hold | None, other: Hold | None) -> Hold | None:
    """Give the one that lasts longer, in any order; a person's word lasts longer than any time."""
    if one is None or other is None:
        return one or other
    return max(one, other, key=lambda hold: (hold.until is None, hold.until or _EARLIEST, hold.rule))


def noted(row: Row[Any]) -> Hold | None:
    """Give the hold that is noted of a delivery."""
    return None if row.hold_rule is None else Hold(row.hold_rule, row.hold_until)


def lasting(row: Row[Any], now: datetime) -> Hold | None:
    """Give the hold that keeps a delivery back now: nobody has released it, and its time is not over."""
    hold = None if row.hold_off else noted(row)
    return hold if hold is not None and hold.lasts(now) else None


def columns(hold: Hold | None) -> dict[str, Any]:
    """Give the columns of a hold."""
    return {"hold_rule": None if hold is None else hold.rule, "hold_until": None if hold is None else hold.until}
