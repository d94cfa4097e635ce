"""HTTP routes of what stays alone: studies without order, and orders without study."""

from datetime import datetime
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query
from pydantic import BaseModel, Field

from libs.storage.database import Database
from libs.web.permission import requires
from libs.web.principal import Principal, principal
from services.worklist import listing, matching_rows
from services.worklist.meeting import Meeting
from services.worklist.models import orders, studies

Caller = Annotated[Principal, Depends(principal)]


class StudyAlone(BaseModel):
    """A study without an order, or with that of another patient."""

    tenant: str
    site: str | None
    study_instance_uid: str
    accession: str
    patient: str
    modality: str
    first_seen_at: datetime
    order_id: int | None = Field(description="The order with its number, which is another patient's; else null.")


class OrderAlone(BaseModel):
    """An order whose time is over and for which no study came."""

    id: int
    tenant: str
    site: str
    state: str
    accession: str
    study_instance_uid: str
    start: str


class Alone(BaseModel):
    """What stays alone, the newest first."""

    studies: tuple[StudyAlone, ...]
    orders: tuple[OrderAlone, ...]
    order_grace: float = Field(description="Seconds after its start in which an order may be without a study.")
    study_grace: float = Field(description="Seconds in which a complete study may be without an order.")


def make_matching_router(database: Database, meeting: Meeting) -> APIRouter:
    """Build the route `/unmatched`."""
    router = APIRouter(tags=["worklist"])

    @router.get("/unmatched", dependencies=[requires("orders.read")])
    async def list_unmatched(
        caller: Caller,
        limit: Annotated[int, Query(ge=1, le=500, description="At most so many of each.")] = 100,
        site: Annotated[str | None, Query(description="Of this site only.")] = None,
    ) -> Alone:
        """List studies without order, and orders without study after their time."""
        async with database.reading() as tx:
            came = await matching_rows.studies_without(
                tx, _wanted(caller, studies, site), *meeting.studies_between(), limit
            )
            overdue = await matching_rows.orders_without(
                tx, _wanted(caller, orders, site), *meeting.orders_between(), limit
            )
        return Alone(
            studies=tuple(StudyAlone(**{n: getattr(one, n) for n in StudyAlone.model_fields}) for one in came),
            orders=tuple(OrderAlone(**{n: getattr(one, n) for n in OrderAlone.model_fields}) for one in overdue),
            order_grace=meeting.order_grace.total_seconds(),
            study_grace=meeting.study_grace.total_seconds(),
        )

    return router


def _wanted(caller: Principal, table: Any, site: str | None) -> list[Any]:
    return [listing.within(caller, table)] + ([table.c.site == site] if site is not None else [])
