"""HTTP routes that edit deliveries: another destination, another lane; one delivery, or many at once."""

from typing import Any

from fastapi import APIRouter, Request
from pydantic import Field
from sqlalchemy import Row

from contracts.routing import PriorityRead
from libs.storage.database import Database
from libs.web.permission import requires
from libs.web.principal import Principal
from libs.web.problem import Problem
from libs.web.recording import use_of
from services.egress import scope
from services.egress.deliveries import Deliveries
from services.egress.order_api import Counted, Many, Reason, give_many, give_one
from services.egress.orders import Given, Orders
from services.egress.scope import Caller
from services.egress.view import DeliveryView

_MANAGE = requires("deliveries.manage")
_TO = Field(description="Key of the destination that is to get it instead.")
_PRIORITY = Field(description="Its lane from now on, whatever is asked for later.")


class Elsewhere(Reason):
    """Where one delivery is to go instead."""

    to: str = _TO


class ManyElsewhere(Many):
    """Which deliveries are to go elsewhere, and where; those that must not go there stay as they are."""

    to: str = _TO


class Urgency(Reason):
    """How urgent one delivery is."""

    priority: PriorityRead = _PRIORITY


class ManyUrgency(Many):
    """Which deliveries get another lane."""

    priority: PriorityRead = _PRIORITY


def make_edit_router(database: Database, orders: Orders, deliveries: Deliveries) -> APIRouter:
    """Build the routes."""
    router = APIRouter(tags=["egress"])

    @router.post("/deliveries/redirect", dependencies=[_MANAGE])
    async def redirect_deliveries(caller: Caller, wanted: ManyElsewhere) -> Counted:
        await _see_destination(database, deliveries, caller, wanted.to)
        order = Given("redirect", caller.name, wanted.reason, to=wanted.to)
        return await give_many(database, orders, caller, order, wanted)

    @router.post("/deliveries/{delivery_id}/redirect", dependencies=[_MANAGE])
    async def redirect_delivery(request: Request, caller: Caller, delivery_id: str, wanted: Elsewhere) -> DeliveryView:
        row = await _concerned(database, request, caller, delivery_id)
        await _see_destination(database, deliveries, caller, wanted.to)
        unfit = deliveries.unfit(row.destination, wanted.to, row.source_node)
        if unfit is not None:
            raise Problem(409, "It does not fit", f"It can't go to {wanted.to}: {unfit}.", advice="Name another one.")
        order = Given("redirect", caller.name, wanted.reason, to=wanted.to)
        return await give_one(database, orders, caller, order, delivery_id)

    @router.post("/deliveries/change", dependencies=[_MANAGE])
    async def change_deliveries(caller: Caller, wanted: ManyUrgency) -> Counted:
        order = Given("change", caller.name, wanted.reason, priority=wanted.priority)
        return await give_many(database, orders, caller, order, wanted)

    @router.post("/deliveries/{delivery_id}/change", dependencies=[_MANAGE])
    async def change_delivery(request: Request, caller: Caller, delivery_id: str, wanted: Urgency) -> DeliveryView:
        await _concerned(database, request, caller, delivery_id)
        order = Given("change", caller.name, wanted.reason, priority=wanted.priority)
        return await give_one(database, orders, caller, order, delivery_id)

    return router


async def _concerned(database: Database, request: Request, caller: Principal, delivery_id: str) -> Row[Any]:
    async with database.reading() as tx:
        row = await scope.delivery(tx, caller, delivery_id)
    # The use belongs into the timeline of the study.
    use_of(request).concerns(row.study_instance_uid, row.tenant)
    return row


async def _see_destination(database: Database, deliveries: Deliveries, caller: Principal, key: str) -> None:
    """See that a destination is in the caller's scope: nobody has studies sent where their tenant sends nothing."""
    async with database.reading() as tx:
        known = await scope.destinations(tx, caller, deliveries)
    if key not in known or key not in deliveries.destinations():
        raise Problem(
            422,
            "Not valid",
            f"There is no destination {key} in your scope that a study could be sent to.",
            advice="List them with GET /v1/egress/destinations; of a group name a member.",
        )
