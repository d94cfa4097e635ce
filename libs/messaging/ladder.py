"""The delay ladder: how long a failed event waits before its next try, and with what headers it travels."""

from collections.abc import Mapping, Sequence
from typing import Any

from libs.messaging.death import without_broker_headers

#: Seconds to wait after the first, second ... failure. After the last the event is a dead letter.
LADDER: tuple[float, ...] = (1.0, 5.0, 30.0, 120.0, 600.0)

#: Failures so far.
ATTEMPT = "x-attempt"
#: Why it failed last; never with values from the event.
REASON = "x-reason"
#: The work queue that it failed in.
QUEUE = "x-queue"
#: Identifier of the message as it was first published: each further publication has its own.
MESSAGE_ID = "x-message-id"
#: The dead letter that was replayed to make this message.
REPLAY = "x-replay"

_OURS = (ATTEMPT, REASON, QUEUE, MESSAGE_ID, REPLAY)


def delay_name(seconds: float) -> str:
    """Name the exchange and the queue of a rung."""
    return f"kivuko.delay.{round(seconds * 1000)}ms"


def attempt(headers: Mapping[str, Any]) -> int:
    """Give the number of failures so far; a header that is no sensible number counts as none."""
    found = headers.get(ATTEMPT, 0)
    return found if isinstance(found, int) and found > 0 else 0


def next_delay(failures: int, ladder: Sequence[float]) -> float | None:
    """Give the wait after so many failures in seconds, or None when there was one try too many."""
    return ladder[failures - 1] if failures <= len(ladder) else None


def patient_delay(ladder: Sequence[float]) -> float | None:
    """Give the wait of an event that cannot be begun, which does not climb: a middle rung."""
    return ladder[len(ladder) // 2] if ladder else None


def failed(
    headers: Mapping[str, Any], *, failures: int, reason: str, queue: str, message_id: str | None
) -> dict[str, Any]:
    """Give the headers of an event that failed, for its next try or its grave."""
    own = without_broker_headers(headers)
    return own | {
        ATTEMPT: failures,
        REASON: reason,
        QUEUE: queue,
        MESSAGE_ID: own.get(MESSAGE_ID) or message_id or "",
    }


def fresh(headers: Mapping[str, Any]) -> dict[str, Any]:
    """Give the headers of an event that starts anew."""
    return {name: value for name, value in without_broker_headers(headers).items() if name not in _OURS}
