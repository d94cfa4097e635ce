"""Events about imaging orders. Producer: worklist."""

from contracts.fact import Fact, Instant, Uid, personal, plain, pseudonym
from contracts.routing import PriorityV1


class _Order(Fact):
    accession_number: str = pseudonym("Accession Number (0008,0050).")
    study_instance_uid: Uid = pseudonym("Study Instance UID (0020,000D) that the order was given.")
    priority: PriorityV1 = plain("Urgency of the requested procedure, as a lane.")
    modality: str = plain("Modality (0008,0060) of the scheduled step.")
    station_aet: str | None = plain("Scheduled Station AE Title (0040,0001).", default=None)
    scheduled_at: Instant | None = plain("Start of the scheduled step.", default=None)
    patient_id: str = personal("Patient ID (0010,0020).")
    issuer_of_patient_id: str | None = plain("Issuer of Patient ID (0010,0021).", default=None)


class OrderPlaced(_Order):
    """A new order became a worklist item."""


class OrderChanged(_Order):
    """An order was changed; the event holds its new state."""


class OrderCancelled(_Order):
    """An order was cancelled or discontinued."""
