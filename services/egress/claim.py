"""A batch that one replica sends, and what became of it."""

from dataclasses import dataclass, field
from datetime import datetime

from services.egress.outcome import Outcome, Verdict
from services.egress.parcel import Parcel
from services.egress.reach import Target


@dataclass(frozen=True)
class Claim:
    """A batch of one delivery that this replica sends in one association."""

    delivery_id: str
    tenant: str
    site: str | None
    study_instance_uid: str
    destination: str
    target: Target
    attempt: int
    started_at: datetime
    traceparent: str | None
    parcels: tuple[Parcel, ...]


@dataclass
class Progress:
    """What became of a claim's instances so far."""

    outcomes: list[Outcome] = field(default_factory=list)

    def count(self, *verdicts: Verdict) -> int:
        """Count the instances with one of these verdicts."""
        return sum(outcome.verdict in verdicts for outcome in self.outcomes)
