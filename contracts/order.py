"""Events about imaging orders. Producer: worklist."""

from typing import Literal

from contracts.fact import Fact, Instant, Uid, personal, plain, pseudonym
from contracts.routing import PriorityV1

OrderState = Literal["scheduled", "arrived", "started", "completed", "discontinued", "cancelled"]


class _Order(Fact):
    accession_number: str = pseudonym("Accession Number (0008,0050).")
    study_instance_uid: Uid = pseudonym("Study Instance UID (0020,000D) that the order was given.")
    priority: PriorityV1 = plain("Urgency of the requested procedure, as a lane.")
    modality: str = plain("Modality (0008,0060) of the scheduled step.")
    station_aet: str | None = plain("Scheduled Station AE Title (0040,0001).", default=None)
    scheduled_at: Instant | None = plain("Start of the scheduled step.", default=None)
    patient_id: str = personal("Patient ID (0010,0020).")
    issuer_of_patient_id: str | None = plain("Issuer of Patient ID (0010,0021).", default=None)
    # What follows is not said by releases before it.
    state: OrderState | None = plain("The state of its steps together.", default=None)
    revision: int | None = plain(
        "Grows with each event of an order: of two that came in the wrong order the higher one counts.",
        ge=1,
        default=None,
    )
    placer_order_number: str | None = pseudonym("Number that the one who placed it gave it.", default=None)
    filler_order_number: str | None = pseudonym("Number that the one who fills it gave it.", default=None)
    former_study_instance_uids: tuple[Uid, ...] = pseudonym(
        "Study Instance UIDs that the same order had before.", default=()
    )
    requested_priority: str | None = plain("Requested Procedure Priority (0040,1003), such as STAT.", default=None)
    procedure: str | None = personal("Requested Procedure Description (0032,1060).", default=None)
    code: str | None = plain("Code Value of the Requested Procedure Code Sequence (0032,1064).", default=None)
    physician: str | None = personal("Referring Physician's Name (0008,0090).", default=None)
    service: str | None = plain("Requesting Service (0032,1033).", default=None)
    location: str | None = plain("Current Patient Location (0038,0300).", default=None)
    reason: str | None = personal("Reason for the Requested Procedure (0040,1002).", default=None)
    patient_class: str | None = plain(
        "Patient Class (HL7 v2 PV1-2), such as E; as worklists have it, Route of Admissions (0038,0016).", default=None
    )
    linked_study_instance_uids: tuple[Uid, ...] = pseudonym(
        "Study Instance UIDs of studies that are its own though no number says so: by the patient, or a person.",
        default=(),
    )
    unlinked_study_instance_uids: tuple[Uid, ...] = pseudonym(
        "Study Instance UIDs of studies of which a person has said that they are not its own.", default=()
    )
    station_aets: tuple[str, ...] = plain("Station AE titles of all its open steps, sorted.", default=())


class OrderPlaced(_Order):
    """A new order became a worklist item."""


class OrderChanged(_Order):
    """An order was changed; the event holds its new state."""


class OrderCancelled(_Order):
    """An order was cancelled or discontinued."""
