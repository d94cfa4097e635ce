"""What this replica does of a delivery in one go, from the first instance in its hand to the last out of it."""

from collections import Counter
from dataclasses import dataclass, field
from datetime import datetime

from services.egress.outcome import Outcome, Verdict
from services.egress.parcel import Parcel


@dataclass
class Stretch:
    """One attempt of a delivery.

    Attributes
    ----------
    delivery_id, tenant, site, study_instance_uid, destination
        Of the delivery.
    attempt
        Its number, from 1.
    started_at
        When the first instance was taken in hand, UTC.
    traceparent
        Trace of the request.
    parcels
        What was taken in hand, by item.
    outcomes
        What became of it.
    in_hand
        Instances of which nothing is written down yet.
    """

    delivery_id: str
    tenant: str
    site: str | None
    study_instance_uid: str
    destination: str
    attempt: int
    started_at: datetime
    traceparent: str | None
    parcels: dict[int, Parcel] = field(default_factory=dict)
    outcomes: list[Outcome] = field(default_factory=list)
    in_hand: int = 0

    def add(self, parcels: "list[Parcel]") -> None:
        """Take more in hand."""
        self.parcels |= {parcel.item: parcel for parcel in parcels}
        self.in_hand += len(parcels)

    def count(self, *verdicts: Verdict) -> int:
        """Count the outcomes with one of these verdicts."""
        counts = Counter(outcome.verdict for outcome in self.outcomes)
        return sum(counts[verdict] for verdict in verdicts)
