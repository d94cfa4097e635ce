"""How long to wait before the next attempt, and when a destination is left alone."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

#: Gives a number in [0, 1).
Random = Callable[[], float]
_MAX_DOUBLINGS = 32


@dataclass(frozen=True)
class Backoff:
    """Waits that double from `first` up to `cap` (seconds), each shortened by chance by up to a half.

    The jitter keeps many deliveries that failed together from coming back together.
    """

    first: float
    cap: float

    def ceiling(self, failures: int) -> float:
        """Give the longest wait after so many failures in a row (from 1), in seconds."""
        if failures < 1:
            raise ValueError("there is no wait before the first failure")
        doublings = min(failures - 1, _MAX_DOUBLINGS)
        return min(self.cap, self.first * float(2**doublings))

    def after(self, failures: int, now: datetime, random: Random) -> datetime:
        """Give the time of the next attempt."""
        wait = self.ceiling(failures) * (0.5 + random() / 2)
        return now + timedelta(seconds=wait)


@dataclass(frozen=True)
class Circuit:
    """What is known of reaching one destination. After a failure a single association probes it, not one per delivery.

    Attributes
    ----------
    failures
        Associations in a row that failed; 0 when the last one went well.
    retry_at
        When the next probe is due, UTC.
    problem
        Why the last association failed.
    paused
        Whether a person let nothing go there.
    failing_since
        Since when it has taken nothing though it was tried, UTC; none if it took something the last time, or if that is
        not known.
    failed_at
        When the last association failed, UTC.
    """

    failures: int = 0
    retry_at: datetime | None = None
    problem: str | None = None
    paused: bool = False
    failing_since: datetime | None = None
    failed_at: datetime | None = None

    @property
    def healthy(self) -> bool:
        """Whether it could be reached the last time, and nobody has paused it."""
        return not self.failures and not self.paused

    def failed(self, problem: str, now: datetime, backoff: Backoff, random: Random, *, there: bool = True) -> "Circuit":
        """Record an association that failed; `there`: because of the destination, not of what is on our side."""
        failures = self.failures + 1
        since = (self.failing_since or now) if there else None
        return Circuit(failures, backoff.after(failures, now, random), problem, self.paused, since, now)

    def overlooked(self, now: datetime, grace: float) -> bool:
        """Tell whether nobody tried for so long (seconds) after the next probe was due that it may have been back."""
        return self.retry_at is not None and now - self.retry_at > timedelta(seconds=grace)

    def anew(self) -> "Circuit":
        """Forget since when it has failed."""
        return replace(self, failing_since=None)

    def out_of_reach(self, now: datetime, after: float) -> bool:
        """Tell whether it has taken nothing for so long (seconds), without interruption as far as is known."""
        since = self.failing_since
        return self.failures > 0 and since is not None and now - since >= timedelta(seconds=after)

    def allowance(self, now: datetime, associations: int) -> int:
        """Tell how many associations there may be at a time."""
        if self.paused:
            return 0
        if self.failures == 0:
            return associations
        return 1 if self.retry_at is None or self.retry_at <= now else 0
