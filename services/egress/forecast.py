"""When the queue of a destination will be empty, by how fast it went lately."""

from dataclasses import dataclass
from datetime import datetime, timedelta

#: How far back it is looked: so short that a pause before does not count, or longer where little arrives in that time.
JUST_NOW = timedelta(minutes=1)
LATELY = timedelta(minutes=5)
#: So many instances are enough to tell a rate by.
_ENOUGH = 10
#: Less than so many seconds say nothing of a rate.
_LEAST = 1.0


@dataclass(frozen=True)
class Queue:
    """What is not sent yet to a destination, but for what was refused for good or cancelled.

    Attributes
    ----------
    deliveries, instances, size
        How much, in bytes.
    held
        How many of the deliveries do not go at present: held, or their destination is paused or can't be called.
    held_size
        Bytes of those.
    oldest
        When the first of them was requested, UTC.
    """

    deliveries: int
    instances: int
    size: int
    held: int
    held_size: int
    oldest: datetime


@dataclass(frozen=True)
class Flow:
    """What was sent lately.

    Attributes
    ----------
    instances, size
        How much, in bytes.
    since
        When the first of it had arrived, UTC; not before `LATELY`.
    """

    instances: int
    size: int
    since: datetime


def chosen(just_now: Flow | None, lately: Flow) -> Flow:
    """Choose by what to tell the rate: by what arrived just now, if that is enough."""
    return just_now if just_now is not None and just_now.instances >= _ENOUGH else lately


def rate(flow: Flow | None, now: datetime) -> float | None:
    """Give bytes a second; none if nothing was sent lately, or only just now."""
    if flow is None or (now - flow.since).total_seconds() < _LEAST:
        return None
    return flow.size / (now - flow.since).total_seconds()


def seconds_left(queue: Queue | None, flow: Flow | None, now: datetime) -> float | None:
    """Give the seconds until all that may go has gone, at the rate of late; none if that is not known.

    What is held does not count: nobody knows when it goes.
    """
    if queue is None or (queue.size == queue.held_size and queue.deliveries == queue.held):
        return 0.0
    speed = rate(flow, now)
    return None if not speed else (queue.size - queue.held_size) / speed
