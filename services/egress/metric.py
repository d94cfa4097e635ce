"""Figures of egress. Destinations are labels; studies and instances never are."""

from collections.abc import Iterable, Mapping
from datetime import datetime

from libs.telemetry.metric import DELIVERY, counter, gauge, histogram
from services.egress.forecast import Queue
from services.egress.outcome import Outcome

DELIVERIES = gauge("kivuko_egress_deliveries", "Deliveries, by state.", ["state"])
BACKLOG = gauge("kivuko_egress_backlog", "Deliveries that have something to send.", ["destination"])
BACKLOG_AGE = gauge("kivuko_egress_backlog_age_seconds", "Age of the oldest such delivery.", ["destination"])
QUEUED = gauge("kivuko_egress_queue_instances", "Instances that are not sent yet.", ["destination"])
QUEUED_BYTES = gauge("kivuko_egress_queue_bytes", "Bytes that are not sent yet.", ["destination"])
HELD = gauge("kivuko_egress_queue_held", "Deliveries among them that do not go at present.", ["destination"])
FORECAST = gauge(
    "kivuko_egress_queue_forecast_seconds", "Until the queue is empty; absent if not known.", ["destination"]
)
PAUSED = gauge("kivuko_egress_destination_paused", "1: a person let nothing go there.", ["destination"])
ITEMS = counter("kivuko_egress_instances_total", "Instances attempted, by outcome.", ["destination", "outcome"])
ASSOCIATIONS = counter("kivuko_egress_associations_total", "Associations, by how they ended.", ["destination", "kind"])
CONFIRMED = counter(
    "kivuko_egress_confirmed_total",
    "Instances that destinations were asked for, by what they said.",
    ["destination", "outcome"],
)
MISSING = gauge(
    "kivuko_egress_missing", "Instances that a destination said success for and was seen not to have.", ["destination"]
)
COMPARED = counter(
    "kivuko_egress_compared_total", "Comparisons with destinations, by their end.", ["destination", "outcome"]
)
REPEATED = counter("kivuko_egress_repeated_total", "Instances that the receiver may have got more than once.")
ALARMS = counter("kivuko_egress_alarms_total", "Deliveries that were parked: people must look.", ["destination"])
AWAITED = gauge(
    "kivuko_egress_secret_missing", "1: what is to go there waits for a secret of a transform.", ["destination"]
)
DELIVERED = histogram("kivuko_egress_delivery_seconds", "From the first request to the last success.", buckets=DELIVERY)


def count_outcomes(destination: str, outcomes: Iterable[Outcome]) -> None:
    """Count what became of instances."""
    for outcome in outcomes:
        ITEMS.labels(destination, outcome.verdict).inc()


def show(states: Mapping[str, int], backlog: Mapping[str, tuple[int, datetime]], now: datetime) -> None:
    """Show what there is to do."""
    for state in ("open", "waiting", "done", "failed", "held", "cancelled", "diverted"):
        DELIVERIES.labels(state).set(states.get(state, 0))
    BACKLOG.clear()
    BACKLOG_AGE.clear()
    for destination, (count, oldest) in backlog.items():
        BACKLOG.labels(destination).set(count)
        BACKLOG_AGE.labels(destination).set(max(0.0, (now - oldest).total_seconds()))


def show_missing(missing: Mapping[str, int]) -> None:
    """Show what destinations were seen not to have."""
    MISSING.clear()
    for destination, count in missing.items():
        MISSING.labels(destination).set(count)


def show_awaited(destinations: Iterable[str]) -> None:
    """Show where things wait for secrets."""
    AWAITED.clear()
    for destination in destinations:
        AWAITED.labels(destination).set(1)


def show_queues(queues: Mapping[str, Queue], left: Mapping[str, float | None], paused: Iterable[str]) -> None:
    """Show the queue of each destination, and in how many seconds it will be empty."""
    for each in (QUEUED, QUEUED_BYTES, HELD, FORECAST, PAUSED):
        each.clear()
    for destination, queue in queues.items():
        QUEUED.labels(destination).set(queue.instances)
        QUEUED_BYTES.labels(destination).set(queue.size)
        HELD.labels(destination).set(queue.held)
    for destination, seconds in left.items():
        if seconds is not None:
            FORECAST.labels(destination).set(seconds)
    for destination in paused:
        PAUSED.labels(destination).set(1)
