"""HTTP routes of egress: deliveries and their instances."""

from datetime import datetime
from typing import Annotated

from fastapi import APIRouter, Query
from pydantic import BaseModel, Field

from libs.storage.database import Database
from libs.web.permission import requires
from libs.web.problem import Problem
from services.egress import comparison_rows, listing, repository, scope
from services.egress.deliveries import Deliveries
from services.egress.delivery import State
from services.egress.models import deliveries as table
from services.egress.scope import Caller
from services.egress.view import DeliveryView, shown

Limit = Annotated[int, Query(ge=1, le=500)]


class DeliveryList(BaseModel):
    """A page of deliveries, the youngest first; `next` is the value of `before` for the page after it."""

    deliveries: list[DeliveryView]
    next: str | None


class ItemView(BaseModel):
    """One instance of a delivery."""

    id: int
    sop_instance_uid: str
    sop_class_uid: str
    transfer_syntax_uid: str
    content_hash: str
    transform: str
    size: int
    state: str
    status: str | None
    reason: str | None
    attempts: int
    next_attempt_at: datetime | None
    sent_at: datetime | None
    committed_at: datetime | None = Field(description="When the destination committed itself to keep it.")
    found_at: datetime | None = Field(description="When the destination first showed that it has it.")
    missing_at: datetime | None = Field(description="When the destination was found not to have it (any more).")
    current: bool = Field(description="False: other content of the instance came later, and goes in place of this.")


class DeliveryDetail(DeliveryView):
    """One delivery with its counts and a page of its instances; `next` is the value of `after` for the page after."""

    sent_count: int
    pending_count: int
    failed_count: int
    bytes_sent: int
    committed_count: int = Field(description="Instances that the destination committed itself to.")
    found_count: int = Field(description="Instances that it was seen to have, the committed ones included.")
    missing_count: int = Field(description="Instances that it said success for and was seen not to have.")
    confirm: str = Field(description="What counts as delivered there: `store`, `commit` or `query`.")
    confirm_at: datetime | None = Field(description="When it is asked the next time; none if it need not be.")
    items: list[ItemView]
    next: int | None


def make_router(database: Database, deliveries: Deliveries) -> APIRouter:
    """Build the routes."""
    router = APIRouter(tags=["egress"])

    @router.get("/deliveries", dependencies=[requires("deliveries.read")])
    async def list_deliveries(
        caller: Caller,
        *,
        state: State | None = None,
        destination: str | None = None,
        study: str | None = None,
        before: str | None = None,
        limit: Limit = 100,
    ) -> DeliveryList:
        wanted = {table.c.state: state, table.c.destination: destination, table.c.study_instance_uid: study}
        conditions = [column == value for column, value in wanted.items() if value is not None]
        async with database.reading() as tx:
            rows = await listing.list_deliveries(tx, [scope.within(caller), *conditions], _place(before), limit)
        following = f"{rows[-1].requested_at.isoformat()}~{rows[-1].id}" if len(rows) == limit else None
        return DeliveryList(deliveries=[DeliveryView(**shown(row)) for row in rows], next=following)

    @router.get("/deliveries/{delivery_id}", dependencies=[requires("deliveries.read")])
    async def show_delivery(caller: Caller, delivery_id: str, after: int = 0, limit: Limit = 500) -> DeliveryDetail:
        async with database.reading() as tx:
            row = await scope.delivery(tx, caller, delivery_id)
            tally = await repository.tally(tx, delivery_id)
            missing = await comparison_rows.missing(tx, table.c.id == delivery_id)
            items = await listing.list_items(tx, delivery_id, after, limit)
        return DeliveryDetail(
            **shown(row),
            sent_count=tally.sent,
            pending_count=tally.due,
            failed_count=tally.failed,
            bytes_sent=tally.bytes_sent,
            committed_count=tally.committed,
            found_count=tally.found,
            missing_count=missing.get(row.destination, 0),
            confirm=deliveries.confirm(row.destination),
            confirm_at=row.confirm_at,
            items=[ItemView(**{name: getattr(item, name) for name in ItemView.model_fields}) for item in items],
            next=items[-1].id if len(items) == limit else None,
        )

    return router


def _place(before: str | None) -> tuple[datetime, str] | None:
    if before is None:
        return None
    at, _, delivery = before.partition("~")
    try:
        return datetime.fromisoformat(at), delivery
    except ValueError as error:
        raise Problem(422, "Not valid", "`before` is not a value that an earlier page gave as `next`.") from error
