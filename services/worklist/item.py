"""The dataset of a worklist answer, made of an order, one of its steps and its patient. Pure."""

import re
from dataclasses import dataclass
from typing import Final

from contracts.routing import Priority
from services.worklist import required
from services.worklist.attributes import Attributes
from services.worklist.change import Number
from services.worklist.identity import SHORT, short_number, study_instance_uid
from services.worklist.order import Order, Step

_UID: Final = re.compile(r"^(?=.{1,64}$)[0-9]+(\.[0-9]+)*$")
_PRIORITIES: Final[dict[str, Priority]] = {
    "STAT": "stat",
    "HIGH": "urgent",
    "ROUTINE": "routine",
    "MEDIUM": "routine",
    "LOW": "bulk",
}


@dataclass(frozen=True)
class Identity:
    """What names an order to modalities and archives.

    Attributes
    ----------
    accession, study_instance_uid
        The source's, or minted.
    minted
        Keywords of those that were minted.
    """

    accession: str
    study_instance_uid: str
    minted: frozenset[str]


def identity(order: Order, tenant: str) -> Identity:
    """Give an order its numbers: those that it has, and minted ones for those that it has not.

    What is minted is made of the number in the order's earliest change: it stays when numbers are added.
    """
    minted = set()
    accession = first(order.attributes, "AccessionNumber") or (order.accession.value if order.accession else "")
    if not accession or len(accession) > SHORT:
        accession = short_number("K", *_name(order, tenant))
        minted.add("AccessionNumber")
    uid = first(order.attributes, "StudyInstanceUID")
    if not _UID.match(uid):
        uid = study_instance_uid("study", *_name(order, tenant))
        minted.add("StudyInstanceUID")
    return Identity(accession, uid, frozenset(minted))


def dataset(order: Order, step: Step, named: Identity, patient: Attributes, tenant: str) -> Attributes:
    """Give all attributes of a worklist item, PS3.4 table K.6-1."""
    about, of_step = required.completed(order.attributes, step.attributes)
    attributes = dict(about)
    if not first(attributes, "RequestedProcedureID"):
        attributes["RequestedProcedureID"] = (short_number("R", *_name(order, tenant)),)
    for keyword, number in (
        ("PlacerOrderNumberImagingServiceRequest", order.placer),
        ("FillerOrderNumberImagingServiceRequest", order.filler),
    ):
        if number is not None:
            attributes.setdefault(keyword, (number.value,))
    in_step = dict(of_step)
    if not first(in_step, "ScheduledProcedureStepID"):
        short = step.step_id if 0 < len(step.step_id) <= SHORT else ""
        in_step["ScheduledProcedureStepID"] = (short or short_number("S", step.step_id, *_name(order, tenant)),)
    return {
        **attributes,
        **patient,
        "AccessionNumber": (named.accession,),
        "StudyInstanceUID": (named.study_instance_uid,),
        "ScheduledProcedureStepSequence": (in_step,),
    }


def first(attributes: Attributes, keyword: str) -> str:
    """Give the first value of an attribute; empty if there is none."""
    values = attributes.get(keyword, ())
    return values[0].strip() if values and isinstance(values[0], str) else ""


def stations(step: Attributes) -> list[str]:
    """Give the AE titles that a step is scheduled on."""
    return [one.strip() for one in step.get("ScheduledStationAETitle", ()) if isinstance(one, str) and one.strip()]


def start(step: Attributes) -> str:
    """Give the start of a step, YYYYMMDDHHMMSS by the clock of its site; empty if it has no date."""
    date = re.sub(r"\D", "", first(step, "ScheduledProcedureStepStartDate"))[:8]
    time = re.sub(r"\D", "", first(step, "ScheduledProcedureStepStartTime").partition(".")[0])[:6]
    return date + time.ljust(6, "0") if len(date) == len("YYYYMMDD") else ""


def priority(order: Order) -> Priority:
    """Give the lane of an order's priority, Requested Procedure Priority (0040,1003)."""
    return _PRIORITIES.get(first(order.attributes, "RequestedProcedurePriority").upper(), "routine")


def scope(number: Number, site: str) -> str:
    """Tell within what a number is unique: its issuer, or the site where none is said."""
    return number.issuer or f"@{site}"


def _name(order: Order, tenant: str) -> tuple[str, ...]:
    change = order.first
    for kind, number in (("placer", change.placer), ("filler", change.filler), ("accession", change.accession)):
        if number is not None:
            return tenant, kind, number.value, scope(number, change.site)
    raise ValueError("an order's change has no number")
