"""What messaging counts."""

from libs.telemetry.metric import counter, gauge

PUBLISHED = counter("kivuko_events_published_total", "Events that the broker has confirmed.", ("service", "event"))
PUBLISH_FAILED = counter(
    "kivuko_events_publish_failed_total",
    "Publications that failed; the events stay in the outbox.",
    ("service", "reason"),
)
CONSUMED = counter(
    "kivuko_events_consumed_total",
    "Events that were taken from a queue: processed, repeated, retried, dead, returned.",
    ("service", "queue", "outcome"),
)
DEAD = counter("kivuko_dead_letters_total", "Dead letters that were kept for people to look at.", ("service", "queue"))
OUTBOX_AGE = gauge("kivuko_outbox_oldest_seconds", "Age of the oldest event that is not confirmed.", ("service",))
