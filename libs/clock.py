"""The clock, passed in wherever time matters, so that logic is tested without waiting."""

from collections.abc import Callable
from datetime import UTC, datetime

#: Gives the present time in UTC.
Clock = Callable[[], datetime]


def utc_now() -> datetime:
    """Read the machine's clock, in UTC."""
    return datetime.now(UTC)
