"""The headers with which a dead-lettered message tells its story, in RabbitMQ's form."""

from collections.abc import Mapping
from datetime import datetime
from typing import Any, Literal

DeathReason = Literal["rejected", "expired", "delivery_limit"]
#: Headers that the broker writes; a message that is published anew does not carry them on.
_BROKER_HEADERS = ("x-death", "x-delivery-count", "x-first-death-", "x-last-death-")


def without_broker_headers(headers: Mapping[str, Any]) -> dict[str, Any]:
    """Give the headers that belong to the message itself."""
    return {name: value for name, value in headers.items() if not name.startswith(_BROKER_HEADERS)}


def deaths(headers: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Give the entries of `x-death`, the latest first."""
    found = headers.get("x-death")
    return [dict(entry) for entry in found if isinstance(entry, Mapping)] if isinstance(found, list) else []


def with_death(
    headers: Mapping[str, Any],
    *,
    queue: str,
    reason: DeathReason,
    exchange: str,
    routing_key: str,
    time: datetime,
    expiration: str | None = None,
) -> dict[str, Any]:
    """Add one death to the headers: one entry for each queue and reason, counted, the latest first.

    Parameters
    ----------
    headers
        Headers so far.
    queue, exchange, routing_key
        Where the message died, and with what it had been published there.
    reason
        Why it died.
    time
        When it died, UTC.
    expiration
        The message's own time to live in milliseconds, which it loses by dying.
    """
    before = deaths(headers)
    same = [entry for entry in before if entry.get("queue") == queue and entry.get("reason") == reason]
    others = [entry for entry in before if entry not in same]
    entry: dict[str, Any] = {
        "count": 1 + sum(int(each.get("count", 1)) for each in same),
        "reason": reason,
        "queue": queue,
        "time": time,
        "exchange": exchange,
        "routing-keys": [routing_key],
    }
    if expiration is not None:
        entry["original-expiration"] = expiration
    last = {"x-last-death-queue": queue, "x-last-death-reason": reason, "x-last-death-exchange": exchange}
    first = {name.replace("last", "first"): headers.get(name.replace("last", "first"), last[name]) for name in last}
    return {**headers, **first, **last, "x-death": [entry, *others]}
