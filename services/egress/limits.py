"""What limits a destination now: its window, its caps and its site's, and what is left of today's budgets."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime

from contracts.definition import Definition
from services.egress import window
from services.egress.budget import Caps, caps
from services.egress.pace import Pace


@dataclass(frozen=True)
class Limits:
    """What holds for a destination.

    Attributes
    ----------
    key
        Of the destination.
    timezone
        Of the network: days and windows go by its clock.
    window
        Time of day in which to send; none: always.
    caps
        Caps and budgets.
    """

    key: str
    timezone: str
    window: str | None
    caps: Caps

    @property
    def line(self) -> str:
        """Name the site's line, apart from any destination."""
        return f"@{self.caps.site}"

    @property
    def shared(self) -> tuple[str, ...]:
        """Name what only one replica at a time may use: two would send at twice the rate."""
        own = (self.key,) if self.caps.own.bandwidth or self.caps.own.budget else ()
        return own + ((self.line,) if self.caps.line.bandwidth or self.caps.line.budget else ())

    @property
    def budgeted(self) -> tuple[str, ...]:
        """Name the counters of bytes that are kept."""
        own = (self.key,) if self.caps.own.budget else ()
        return own + ((self.line,) if self.caps.line.budget else ())

    def opens_at(self, now: datetime) -> datetime | None:
        """Give when the window opens, UTC; none if it is open."""
        if window.is_open(self.window, self.timezone, now):
            return None
        return window.opens_at(self.window, self.timezone, now)

    def closes_at(self, now: datetime) -> datetime | None:
        """Give when the open window closes, UTC; none if it never does."""
        return window.closes_at(self.window, self.timezone, now)


def limits(definition: Definition, key: str) -> Limits:
    """Give what limits a destination under a network definition. Raises KeyError if it is not in it."""
    return Limits(key, definition.timezone, definition.destinations[key].window, caps(definition, key))


class Paces:
    """The caps that are in use, each shared by all associations of this process that it holds for."""

    def __init__(self, now: Callable[[], float]) -> None:
        self._now = now
        self._known: dict[str, Pace] = {}

    def of(self, limits: Limits) -> tuple[Pace, ...]:
        """Give the paces of a destination, the narrowest first."""
        wanted = ((limits.key, limits.caps.own.bandwidth), (limits.line, limits.caps.line.bandwidth))
        found = [self._pace(key, rate) for key, rate in wanted if rate is not None]
        return tuple(sorted(found, key=lambda pace: pace.rate))

    def _pace(self, key: str, rate: int) -> Pace:
        pace = self._known.setdefault(key, Pace(rate, self._now))
        if pace.rate != rate:
            pace.change(rate)
        return pace
