"""What a message, or a person, says of an order or a patient: facts with the time at which their source wrote them.

An order is what follows from all changes that name it, taken in the order of their stamps: arrival decides nothing, so
that a late or repeated message never undoes a newer one.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Literal, TypeAlias

from services.worklist.attributes import Attributes

#: What becomes of the steps. `update` changes attributes alone.
Action = Literal["schedule", "update", "arrive", "start", "complete", "discontinue", "cancel"]


@dataclass(frozen=True)
class Number:
    """An order number, a visit number or a patient's identifier, and who issued it; issuer empty: not said.

    Attributes
    ----------
    site
        Of a patient's identifier without an issuer: the site whose own it is. Two hospitals give the same identifier to
        two people.
    """

    value: str
    issuer: str = ""
    site: str = ""


def patient_number(value: str, issuer: str, site: str) -> Number:
    """Give a patient's identifier as it was said at a site."""
    return Number(value, issuer, "" if issuer else site)


@dataclass(frozen=True)
class Origin:
    """Where a change comes from. `(source, message, part)` is its identity for ever.

    Attributes
    ----------
    source
        Key of the node that sent it, or `hand:` and who did it.
    message
        MSH-10, or an identifier of its own.
    part
        Its place within the message, from 0.
    stamp
        When the source wrote it, in UTC: MSH-7, or the moment of arrival where that is missing.
    """

    source: str
    message: str
    part: int
    stamp: datetime


@dataclass(frozen=True)
class StepChange:
    """What is said of one scheduled procedure step.

    Attributes
    ----------
    step_id
        Scheduled Procedure Step ID (0040,0009); empty where the source has none: the order's only step.
    attributes
        Those of an item of the Scheduled Procedure Step Sequence (0040,0100).
    """

    step_id: str
    attributes: Attributes


@dataclass(frozen=True)
class OrderChange:
    """What is said of an order.

    Attributes
    ----------
    placer, filler, accession
        Its numbers; at least one is there.
    patient
        Patient ID with its issuer.
    about_patient
        Attributes of groups 0010 and 0038.
    about_order
        All others outside the Scheduled Procedure Step Sequence.
    reason
        Why a person says it; empty for messages.
    """

    origin: Origin
    tenant: str
    site: str
    action: Action
    patient: Number
    placer: Number | None = None
    filler: Number | None = None
    accession: Number | None = None
    about_patient: Attributes = field(default_factory=dict)
    about_order: Attributes = field(default_factory=dict)
    steps: Sequence[StepChange] = ()
    reason: str = ""


@dataclass(frozen=True)
class PatientChange:
    """What is said of a patient, whatever orders there are."""

    origin: Origin
    tenant: str
    patient: Number
    about_patient: Attributes


@dataclass(frozen=True)
class PatientMerge:
    """Two identifiers are one patient: what `merged` has belongs to `kept`."""

    origin: Origin
    tenant: str
    kept: Number
    merged: Number


Change: TypeAlias = OrderChange | PatientChange | PatientMerge
