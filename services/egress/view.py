"""Deliveries as they are shown over HTTP."""

from datetime import datetime
from typing import Any

from pydantic import BaseModel, Field
from sqlalchemy import Row

from contracts.routing import PRIORITIES
from services.egress.delivery import State


class DeliveryView(BaseModel):
    """One delivery: a study on its way to a destination."""

    id: str
    tenant: str
    site: str | None
    study_instance_uid: str
    destination: str
    state: State
    reason: str | None
    priority: str
    source_node: str
    network_version: int
    study_version: int | None
    expected_count: int | None
    attempts: int
    next_attempt_at: datetime | None
    requested_at: datetime
    completed_at: datetime | None
    ordered: str | None = Field(description="What a person ordered: `held` or `cancelled`; none if nothing.")
    ordered_by: str | None
    ordered_at: datetime | None
    diverted_to: str | None = Field(description="The destination that gets it instead; none if it goes to its own.")
    diverted_at: datetime | None
    hold_rule: str | None = Field(description="The rule that holds it, or held it; none if none did.")
    hold_until: datetime | None = Field(description="Until when the rule holds it; none: until a person releases it.")
    wanted_since: datetime | None = Field(description="Since when it is tried, without anybody having decided anew.")


def shown(row: Row[Any]) -> dict[str, Any]:
    """Give the values of a `DeliveryView`."""
    values = {name: getattr(row, name) for name in DeliveryView.model_fields if name != "priority"}
    return values | {"priority": PRIORITIES[row.lane]}
