"""What is told of an order to the other services. Pure."""

from datetime import UTC, datetime
from zoneinfo import ZoneInfo

from contracts.order import OrderCancelled, OrderChanged, OrderPlaced
from services.worklist import item
from services.worklist.attributes import Attributes
from services.worklist.order import OPEN, Order, Step


def placed(
    order: Order, named: item.Identity, patient: Attributes, before: OrderPlaced | None, zone: ZoneInfo
) -> OrderPlaced:
    """Tell an order as it is now.

    Parameters
    ----------
    order, named, patient
        The order.
    before
        What was told of it last.
    zone
        Time zone of its site: steps start by the clock there.
    """
    steps = sorted(order.steps, key=lambda step: (step.state not in OPEN, item.start(step.attributes) or "9"))
    step = steps[0] if steps else Step("")
    everything = {**order.attributes, **patient}
    codes = order.attributes.get("RequestedProcedureCodeSequence", ())
    code = codes[0] if codes and not isinstance(codes[0], str) else {}

    def said(keyword: str) -> str | None:
        return item.first(everything, keyword) or None

    return OrderPlaced(
        accession_number=named.accession,
        study_instance_uid=named.study_instance_uid,
        priority=item.priority(order),
        modality=item.first(step.attributes, "Modality"),
        station_aet=item.first(step.attributes, "ScheduledStationAETitle") or None,
        scheduled_at=_instant(item.start(step.attributes), zone),
        patient_id=item.first(patient, "PatientID"),
        issuer_of_patient_id=said("IssuerOfPatientID"),
        state=order.state,
        placer_order_number=order.placer.value if order.placer else None,
        filler_order_number=order.filler.value if order.filler else None,
        former_study_instance_uids=_former(before, named.study_instance_uid),
        linked_study_instance_uids=before.linked_study_instance_uids if before else (),
        unlinked_study_instance_uids=before.unlinked_study_instance_uids if before else (),
        requested_priority=said("RequestedProcedurePriority"),
        procedure=said("RequestedProcedureDescription"),
        code=item.first(code, "CodeValue") or None,
        physician=said("ReferringPhysicianName"),
        service=said("RequestingService"),
        location=said("CurrentPatientLocation"),
        patient_class=said("RouteOfAdmissions"),
        reason=said("ReasonForTheRequestedProcedure"),
        station_aets=tuple(
            sorted({aet for one in order.steps if one.state in OPEN for aet in item.stations(one.attributes)})
        ),
    )


def _former(before: OrderPlaced | None, uid: str) -> tuple[str, ...]:
    if before is None:
        return ()
    return tuple(sorted({*before.former_study_instance_uids, before.study_instance_uid} - {uid}))


def event(now: OrderPlaced, before: OrderPlaced | None) -> OrderPlaced | OrderChanged | OrderCancelled:
    """Give the event that tells what an order is now, and was before."""
    if now.state in ("cancelled", "discontinued"):
        return OrderCancelled(**dict(now))
    if before is not None:
        return OrderChanged(**dict(now))
    return now if type(now) is OrderPlaced else OrderPlaced(**dict(now))


def _instant(start: str, zone: ZoneInfo) -> datetime | None:
    try:
        month, day, hour, minute, second = (int(start[at : at + 2]) for at in range(4, len(start), 2))
        return datetime(int(start[:4]), month, day, hour, minute, second, tzinfo=zone).astimezone(UTC)
    except (ValueError, OverflowError):
        return None
