"""What of egress a caller may see."""

from typing import Annotated, Any

from fastapi import Depends
from sqlalchemy import ColumnElement, Row, and_, literal
from sqlalchemy.ext.asyncio import AsyncSession

from libs.web.principal import Principal, principal
from libs.web.problem import Problem
from services.egress import listing
from services.egress.deliveries import Deliveries
from services.egress.models import deliveries as table

Caller = Annotated[Principal, Depends(principal)]


def within(caller: Principal) -> ColumnElement[bool]:
    """Tell which deliveries are in the caller's scope."""
    inside: list[ColumnElement[bool]] = [literal(value=True)]
    if caller.tenants is not None:
        inside.append(table.c.tenant.in_(caller.tenants))
    if caller.sites is not None:
        inside.append(table.c.site.in_(caller.sites))
    return and_(*inside)


async def delivery(tx: AsyncSession, caller: Principal, delivery_id: str) -> Row[Any]:
    """Read a delivery. Raises Problem 404 if there is none in the caller's scope."""
    rows = await listing.list_deliveries(tx, [table.c.id == delivery_id, within(caller)], None, 1)
    if not rows:
        raise Problem(
            404,
            "Not found",
            "There is no delivery with this identifier in your scope.",
            advice="List them with GET /v1/egress/deliveries.",
        )
    return rows[0]


def own_destinations(caller: Principal, deliveries: Deliveries) -> set[str]:
    """Name the destinations that are in the caller's scope themselves: what is done to one meets all who use it."""
    if caller.tenants is None and caller.sites is None:
        return set(deliveries.destinations())
    places = {key: deliveries.place(key) for key in deliveries.destinations()}
    return {key for key, place in places.items() if place is not None and caller.sees(*place)}


async def destinations(tx: AsyncSession, caller: Principal, deliveries: Deliveries) -> set[str]:
    """Name the caller's own destinations, and those of deliveries in the caller's scope."""
    return own_destinations(caller, deliveries) | await listing.destinations_of(tx, within(caller))


def no_destination() -> Problem:
    """Say that there is none."""
    return Problem(
        404,
        "Not found",
        "There is no destination with this key in your scope.",
        advice="List them with GET /v1/egress/destinations.",
    )
