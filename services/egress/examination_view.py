"""What was found out of a destination, as it is shown over HTTP."""

from collections.abc import Mapping

from pydantic import BaseModel, Field
from pydicom.uid import UID

from libs.dicom.reencode import can_reencode
from services.egress.examination import EXPLICIT, IMPLICIT, SYNTAXES, Examination, Pair
from services.egress.outcome import ARRIVED
from services.egress.reach import Target

#: PS3.8 table 9-18.
_RESULTS = {
    1: "user rejection",
    2: "no reason given",
    3: "SOP class not supported",
    4: "transfer syntax not supported",
}


class ContextView(BaseModel):
    """What it answered to a SOP class in a transfer syntax."""

    sop_class_uid: str
    sop_class: str
    transfer_syntax_uid: str
    transfer_syntax: str
    accepted: bool
    refusal: str | None = Field(description="Why not, by PS3.8 table 9-18.")
    needed: int = Field(description="Instances that are still to go there in this form.")
    goes: bool = Field(description="Whether these can go: as they are, or in another uncompressed transfer syntax.")


class StoredView(BaseModel):
    """What became of the test object."""

    ok: bool
    status: str
    reason: str | None
    study_instance_uid: str
    sop_instance_uid: str
    transfer_syntax: str
    bytes: int
    seconds: float
    bytes_per_second: float


class ExaminationView(BaseModel):
    """What a destination can do."""

    key: str
    ok: bool = Field(description="Whether nothing went wrong; what is refused in negotiation is not wrong.")
    problem: str | None
    address: str
    called_aet: str
    calling_aet: str
    tls: bool
    connected_in: float | None = Field(description="Seconds until the association stood.")
    round_trip: float | None = Field(description="Seconds of the fastest of three C-ECHOs.")
    implementation_class_uid: str
    implementation_version: str
    max_pdu: int = Field(description="Longest PDU that it takes, bytes; 0: any.")
    window: int = Field(description="Operations that it lets be under way at a time; 0: any number.")
    services: dict[str, bool]
    tried: dict[str, str | None] = Field(
        description="Queries that were tried, of a study that nobody has, and what was wrong; none if nothing was."
    )
    contexts: list[ContextView]
    stored: StoredView | None


def examination_view(key: str, target: Target, found: Examination, needed: Mapping[Pair, int]) -> ExaminationView:
    """Show what was found out."""
    return ExaminationView(
        key=key,
        ok=found.problem is None and (found.stored is None or found.stored.outcome.verdict in ARRIVED),
        problem=found.problem,
        address=f"{target.host}:{target.port}",
        called_aet=target.called_aet,
        calling_aet=target.calling_aet,
        tls=target.tls is not None,
        connected_in=found.connected_in,
        round_trip=found.round_trip,
        implementation_class_uid=found.implementation[0],
        implementation_version=found.implementation[1],
        max_pdu=found.max_pdu,
        window=found.window,
        services=found.services,
        tried=found.tried,
        contexts=[_context(pair, found, needed.get(pair, 0)) for pair in found.contexts],
        stored=_stored(found),
    )


def _context(pair: Pair, found: Examination, needed: int) -> ContextView:
    accepted = found.contexts[pair]
    instead = any(
        found.contexts.get((pair[0], syntax)) and can_reencode(pair[1], syntax) for syntax in (EXPLICIT, IMPLICIT)
    )
    return ContextView(
        sop_class_uid=pair[0],
        sop_class=UID(pair[0]).name,
        transfer_syntax_uid=pair[1],
        transfer_syntax=SYNTAXES.get(pair[1], UID(pair[1]).name),
        accepted=accepted,
        refusal=None if accepted else _RESULTS.get(found.results.get(pair, 0), "no answer to it"),
        needed=needed,
        goes=accepted or instead,
    )


def _stored(found: Examination) -> StoredView | None:
    stored = found.stored
    if stored is None:
        return None
    return StoredView(
        ok=stored.outcome.verdict in ARRIVED,
        status=stored.outcome.status,
        reason=stored.outcome.reason or None,
        study_instance_uid=stored.study_instance_uid,
        sop_instance_uid=stored.sop_instance_uid,
        transfer_syntax=SYNTAXES[stored.transfer_syntax_uid],
        bytes=stored.size,
        seconds=stored.seconds,
        bytes_per_second=stored.size / stored.seconds,
    )
