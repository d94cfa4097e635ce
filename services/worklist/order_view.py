"""Orders as HTTP shows them."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from pydantic import BaseModel, Field
from sqlalchemy import Row

from services.worklist import required
from services.worklist.item import first
from services.worklist.order import OPEN, State


class StepView(BaseModel):
    """A scheduled procedure step, as worklists show it."""

    id: int
    step_id: str
    state: State
    performed: str | None = Field(description="What a modality reports: in-progress, completed or discontinued.")
    start: str = Field(description="By the clock of the site, YYYYMMDDHHMMSS; empty if there is none.")
    modality: str
    station_aets: tuple[str, ...]
    changed_at: datetime


class OrderView(BaseModel):
    """An order."""

    id: int
    tenant: str
    site: str
    state: State
    patient: str = Field(description="Patient ID that it names; it may have been merged into another one.")
    issuer: str
    patient_name: str = Field("", description="As modalities are told it.")
    placer: str | None
    filler: str | None
    accession: str
    study_instance_uid: str
    minted: tuple[str, ...] = Field(description="Keywords of the numbers that Kivuko made.")
    priority: str
    start: str
    placed_at: datetime
    changed_at: datetime
    steps: tuple[StepView, ...] = ()
    warnings: tuple[str, ...] = Field((), description="What may keep modalities from seeing it, or tell them wrong.")


class Said(BaseModel):
    """One thing that was said of an order."""

    source: str
    message: str
    stamp: datetime
    body: dict[str, Any]


class Came(BaseModel):
    """A study of an order."""

    study_instance_uid: str
    matched_by: str = Field(description="study-uid, accession, patient, or hand.")
    contradicts: bool = Field(description="It names another patient than the order.")
    first_seen_at: datetime


class OrderDetail(OrderView):
    """An order with all that is known of it."""

    attributes: dict[str, Any] = Field(description="The dataset of its first step's worklist answer, by keyword.")
    journal: tuple[Said, ...] = Field(description="What was said of it, in the order in which it counts.")
    studies: tuple[Came, ...] = Field(description="Studies that belong to it.")


class OrderPage(BaseModel):
    """Orders, the newest first."""

    orders: tuple[OrderView, ...]
    before: int | None = Field(description="Ask with this for the next page; null: there is none.")


def view(row: Row[Any], items: Sequence[Row[Any]], warnings: Sequence[str] = ()) -> OrderView:
    """Show an order.

    Parameters
    ----------
    items
        Of this order, and maybe others.
    warnings
        Further ones, besides those of what its open steps lack.
    """
    names = OrderView.model_fields.keys() - {"steps", "warnings", "patient_name"}
    own = [one for one in items if one.order_id == row.id]
    lacks = [said for one in own if one.state in OPEN for said in required.lacking(one.attributes)]
    return OrderView(
        patient_name=first(own[0].attributes, "PatientName") if own else "",
        **{name: getattr(row, name) for name in names},
        steps=tuple(StepView(**{name: getattr(one, name) for name in StepView.model_fields}) for one in own),
        warnings=tuple(dict.fromkeys((*warnings, *lacks))),
    )
