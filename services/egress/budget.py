"""What may be sent to a destination: its own caps and budget, and those of the line of its site, which it shares."""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import date, datetime, time, timedelta

from contracts.definition import Definition
from services.egress.window import local, passings


@dataclass(frozen=True)
class Limit:
    """A cap in bit/s and a budget in bytes a day; none: no limit."""

    bandwidth: int | None = None
    budget: int | None = None

    def left(self, sent: int) -> int | None:
        """Give the bytes that are left of the budget after so many were sent today; none: no end."""
        return None if self.budget is None else max(0, self.budget - sent)


@dataclass(frozen=True)
class Caps:
    """What limits a destination. Both hold, so the smaller decides.

    Attributes
    ----------
    own
        The destination's.
    site
        Key of the site whose line leads to it; none for one that is no node.
    line
        That of the site's line: for all destinations together whose node is at the site.
    """

    own: Limit
    site: str | None = None
    line: Limit = Limit()

    @property
    def bandwidth(self) -> int | None:
        """The most that this destination can ever get, bit/s; none: no limit."""
        return _smaller(self.own.bandwidth, self.line.bandwidth)

    def left(self, sent_own: int, sent_line: int) -> int | None:
        """Give the bytes that are left for today; none: no end.

        Parameters
        ----------
        sent_own, sent_line
            Bytes sent today, or on their way, to the destination; to all destinations at its site.
        """
        return _smaller(self.own.left(sent_own), self.line.left(sent_line))


def caps(definition: Definition, key: str) -> Caps:
    """Give what limits a destination. A group has no limits: its members have.

    Raises
    ------
    KeyError
        The destination, its node or the node's site is not in the definition.
    """
    destination = definition.destinations[key]
    own = Limit(destination.bandwidth, destination.budget)
    if destination.node is None:
        return Caps(own)
    site = definition.nodes[destination.node].site
    link = definition.sites[site].link
    return Caps(own, site, Limit() if link is None else Limit(link.bandwidth, link.budget))


def startable(sizes: Iterable[int], left: int | None) -> int:
    """Tell how many of the next objects may be started, in their order.

    An object may start as long as anything is left for today, so the last one may go past the budget by less than its
    own size: one that had to fit whole would never go if it is larger than a day's budget, or if urgent ones come first
    every day. The next does not go before it either: small ones would be in its way for ever.

    Parameters
    ----------
    sizes
        Bytes of the objects in the order in which they are to go; no more are read than may go, and one.
    left
        Bytes left for today, see `Caps.left`.
    """
    count = ahead = 0
    for size in sizes:
        if left is not None and ahead >= left:
            break
        count += 1
        ahead += size
    return count


def today(timezone: str, at: datetime) -> date:
    """Give the day on which bytes that are sent at a moment count, by the wall clock of the network's time zone."""
    return local(timezone, at).date()


def next_day(timezone: str, at: datetime) -> datetime:
    """Give the moment (UTC) at which the next day begins: not always midnight, nor 24 hours after the last."""
    day = today(timezone, at)
    midnight = datetime.combine(day + timedelta(days=1), time())
    return next(moment for moment in passings(timezone, midnight) if moment > at)


def _smaller(first: int | None, second: int | None) -> int | None:
    return min((value for value in (first, second) if value is not None), default=None)
