"""What is told of a delivery: the events of egress."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any, Literal

from sqlalchemy import Row

from contracts.delivery import (
    DeliveryAttempted,
    DeliveryChanged,
    DeliveryCompleted,
    DeliveryDiverted,
    DeliveryFailed,
    DeliveryOrdered,
    DeliveryUnconfirmed,
    DestinationChanged,
    InstanceFailure,
)
from contracts.routing import PRIORITIES
from services.egress.claim import FAILURES_TOLD, Stretch
from services.egress.delivery import Closing, Tally
from services.egress.outcome import NO_TURN


def completed(delivery: Row[Any], closing: Closing, now: datetime, bytes_sent: int) -> DeliveryCompleted:
    """Tell that a version of the study is delivered in full."""
    return DeliveryCompleted(
        delivery_id=delivery.id,
        study_instance_uid=delivery.study_instance_uid,
        destination=delivery.destination,
        study_version=closing.study_version,
        instance_count=closing.expected_count,
        bytes_sent=bytes_sent,
        attempts=delivery.attempts,
        requested_at=delivery.requested_at,
        completed_at=now,
    )


def failed(delivery: Row[Any], failures: Sequence[Row[Any]], tally: Tally, reason: str) -> DeliveryFailed:
    """Tell that what is left was refused for good, or given up."""
    return DeliveryFailed(
        delivery_id=delivery.id,
        study_instance_uid=delivery.study_instance_uid,
        destination=delivery.destination,
        failed_count=tally.failed + tally.due,
        sent_count=tally.sent,
        failures=tuple(
            InstanceFailure(
                sop_instance_uid=each.sop_instance_uid,
                status=each.status or NO_TURN,
                reason=each.reason or "it was not tried, or no answer came",
            )
            for each in failures
        ),
        reason=reason,
    )


def unconfirmed(
    delivery: Row[Any], asked: Literal["query", "commitment"], missing: Sequence[str], sent: int
) -> DeliveryUnconfirmed:
    """Tell that a destination was seen not to have what it said success for."""
    return DeliveryUnconfirmed(
        delivery_id=delivery.id,
        study_instance_uid=delivery.study_instance_uid,
        destination=delivery.destination,
        asked=asked,
        missing_count=len(missing),
        sent_count=sent,
        missing=tuple(missing[:FAILURES_TOLD]),
    )


def ordered(
    delivery: Row[Any], order: Literal["held", "released", "cancelled", "retried"], by: str, why: str | None
) -> DeliveryOrdered:
    """Tell what a person decided."""
    return DeliveryOrdered(
        delivery_id=delivery.id,
        study_instance_uid=delivery.study_instance_uid,
        destination=delivery.destination,
        order=order,
        actor=by,
        reason=why,
        study_version=delivery.study_version or 1,
    )


def diverted(delivery: Row[Any], instead: str) -> DeliveryDiverted:
    """Tell where a delivery goes instead, or has gone, and of which version all has arrived there."""
    return DeliveryDiverted(
        delivery_id=delivery.id,
        study_instance_uid=delivery.study_instance_uid,
        destination=delivery.destination,
        instead=instead,
        actor=delivery.diverted_by,
        reason=delivery.diverted_why,
        arrived_version=delivery.arrived_version,
    )


def changed(delivery: Row[Any], by: str, why: str | None) -> DeliveryChanged:
    """Tell in which lane a person put a delivery."""
    return DeliveryChanged(
        delivery_id=delivery.id,
        study_instance_uid=delivery.study_instance_uid,
        destination=delivery.destination,
        priority=PRIORITIES[delivery.lane],
        actor=by,
        reason=why,
    )


def health(destination: str, problem: str | None, now: datetime) -> DestinationChanged:
    """Tell whether a destination can be reached."""
    return DestinationChanged(destination=destination, healthy=problem is None, problem=problem, since=now)


def attempted(stretch: Stretch, now: datetime, next_attempt_at: datetime | None) -> DeliveryAttempted:
    """Tell how an attempt ended."""
    return DeliveryAttempted(
        delivery_id=stretch.delivery_id,
        study_instance_uid=stretch.study_instance_uid,
        destination=stretch.destination,
        attempt=stretch.attempt,
        sent_count=stretch.sent,
        failed_count=len(stretch.unsent),
        warning_count=stretch.warnings,
        bytes_sent=stretch.bytes_sent,
        started_at=stretch.started_at,
        ended_at=now,
        problem=stretch.problem,
        failures=tuple(stretch.failures),
        next_attempt_at=next_attempt_at,
    )
