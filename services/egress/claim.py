"""What this replica does of a delivery in one go, from the first instance in its hand to the last out of it."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final

from sqlalchemy import Row

from contracts.definition import Transform
from contracts.delivery import InstanceFailure
from services.egress.outcome import ARRIVED, Outcome, Verdict
from services.egress.parcel import Parcel

#: How many of the instances that failed are named.
FAILURES_TOLD: Final = 20


@dataclass
class Stretch:
    """One attempt of a delivery. It keeps figures and what is in hand, so it stays small however long it lasts.

    It is over when nothing is in hand and something had to be left, or the whole study was there, or no association is
    left that would take more of it.

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
    closed
        Whether it was known, when something was taken in hand last, which version of the study is delivered.
    in_hand
        Instances of which nothing is written down yet, by item.
    sent, warnings, damaged
        Instances that arrived, those of them with a warning, and those that what we hold is not good enough for.
    bytes_sent
        Bytes of those that arrived.
    unsent
        Items that had their turn, or lost it, and have not arrived since.
    failures
        The first of those that were answered otherwise than with success, or not at all.
    problem
        Why an association ended before its time, the first that did while this was under way.
    """

    delivery_id: str
    tenant: str
    site: str | None
    study_instance_uid: str
    destination: str
    attempt: int
    started_at: datetime
    traceparent: str | None
    closed: bool = False
    in_hand: dict[int, Parcel] = field(default_factory=dict)
    sent: int = 0
    warnings: int = 0
    damaged: int = 0
    bytes_sent: int = 0
    unsent: set[int] = field(default_factory=set)
    failures: list[InstanceFailure] = field(default_factory=list)
    problem: str | None = None

    @property
    def bytes_in_hand(self) -> int:
        """Bytes of what is in hand."""
        return sum(parcel.size for parcel in self.in_hand.values())

    def add(self, parcels: Iterable[Parcel], *, closed: bool) -> None:
        """Take more in hand."""
        self.closed = closed
        self.in_hand |= {parcel.item: parcel for parcel in parcels}

    def note(self, parcel: Parcel, outcome: Outcome) -> None:
        """Note what became of an instance: it is out of hand."""
        self.in_hand.pop(parcel.item, None)
        if outcome.verdict in ARRIVED:
            self.unsent.discard(parcel.item)
            self.sent += 1
            self.bytes_sent += parcel.size
            self.warnings += outcome.verdict is Verdict.WARNING
            return
        self.unsent.add(parcel.item)
        self.damaged += outcome.verdict is Verdict.DAMAGED
        if len(self.failures) < FAILURES_TOLD:
            self.failures.append(
                InstanceFailure(sop_instance_uid=parcel.sop_instance_uid, status=outcome.status, reason=outcome.reason)
            )

    def drop(self, parcel: Parcel) -> None:
        """Let go of an instance that had no turn."""
        self.in_hand.pop(parcel.item, None)
        self.unsent.add(parcel.item)


def ended(
    stretches: dict[str, Stretch], told: Iterable[tuple[Parcel, Outcome]], returned: Iterable[Parcel], *, calling: bool
) -> list[Stretch]:
    """Note what became of instances with the attempts that they belong to; take out those that are over, and give them.

    Parameters
    ----------
    stretches
        Attempts with a destination, by delivery.
    told, returned
        Outcomes; instances that had no turn.
    calling
        Whether there is an association with the destination: what has arrived so far goes on as soon as more of its
        study comes.
    """
    for parcel, outcome in told:
        if parcel.delivery_id in stretches:
            stretches[parcel.delivery_id].note(parcel, outcome)
    for parcel in returned:
        if parcel.delivery_id in stretches:
            stretches[parcel.delivery_id].drop(parcel)
    over = [
        key
        for key, stretch in stretches.items()
        if not stretch.in_hand and (stretch.closed or stretch.unsent or not calling)
    ]
    return [stretches.pop(key) for key in over]


def stretch_of(delivery: Row[Any], attempt: int, now: datetime) -> Stretch:
    """Begin an attempt of a delivery."""
    return Stretch(
        delivery.id,
        delivery.tenant,
        delivery.site,
        delivery.study_instance_uid,
        delivery.destination,
        attempt,
        now,
        delivery.traceparent,
        delivery.study_version is not None,
    )


def parcel_of(
    delivery: Row[Any], item: Row[Any], number: int, *, fresh: bool = False, said: Transform | str | None = None
) -> Parcel:
    """Make what is sent of an item; `number` is its place in its lane, `said` what its transform said."""
    return Parcel(
        item=item.id,
        delivery_id=delivery.id,
        rank=(delivery.lane, number),
        sop_class_uid=item.sop_class_uid,
        sop_instance_uid=item.sop_instance_uid,
        transfer_syntax_uid=item.transfer_syntax_uid,
        content_hash=item.content_hash,
        object_key=item.object_key,
        size=item.size,
        fresh=fresh,
        transform=item.transform,
        said=said,
        made=getattr(item, "made_version", None) is not None,
        # Never the time of the sending: what is sent twice must be the same.
        arrived_at=item.received_at or delivery.requested_at,
    )
