"""Spool entries out of nothing but what matters to a test."""

from datetime import UTC, datetime
from pathlib import Path

from contracts.fact import Source
from services.ingest.arrival import Arrival, Entry

SOURCE = Source(site="luba", node="CT1", calling_aet="CT1", called_aet="KIVUKO", address="192.0.2.1")


def make_entry(
    number: int,
    *,
    study: str = "1.2.3",
    association: str = "a",
    sop_uid: str | None = None,
    content: str = "0",
    tenant: str = "default",
    accepted: bool = True,
) -> Entry:
    """Make the entry of one arrival; its file is not there."""
    arrival = Arrival(
        id=f"{number:016x}-00",
        tenant=tenant,
        source=SOURCE,
        association_id=association,
        sop_class_uid="1.2.840.10008.5.1.4.1.1.2",
        sop_instance_uid=sop_uid or f"1.2.3.{number}",
        transfer_syntax_uid="1.2.840.10008.1.2.1",
        received_at=datetime(2026, 1, 15, tzinfo=UTC),
    )
    return Entry(arrival, study, "1.2.3.4", Path("/nowhere"), content * 64, 1000, accepted=accepted)
