"""HTTP routes of egress: deliveries, their instances, and destinations."""

import asyncio
from datetime import datetime
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query
from pydantic import BaseModel, Field
from sqlalchemy import ColumnElement, Row, and_, literal
from sqlalchemy.ext.asyncio import AsyncSession

from contracts.routing import PRIORITIES
from libs.storage.database import Database
from libs.web.permission import requires
from libs.web.principal import Principal, principal
from libs.web.problem import Problem
from services.egress import calls, listing, repository
from services.egress.deliveries import Deliveries
from services.egress.delivery import State
from services.egress.models import deliveries as table
from services.egress.reach import Obstacle
from services.egress.scu import Timeouts, echo

Caller = Annotated[Principal, Depends(principal)]
Limit = Annotated[int, Query(ge=1, le=500)]


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
    current: bool = Field(description="False: other content of the instance came later, and goes in place of this.")


class DeliveryDetail(DeliveryView):
    """One delivery with its counts and a page of its instances; `next` is the value of `after` for the page after."""

    sent_count: int
    pending_count: int
    failed_count: int
    bytes_sent: int
    items: list[ItemView]
    next: int | None


class DestinationView(BaseModel):
    """What is known of a destination, and what waits for it."""

    key: str
    reachable: bool | None
    problem: str | None
    failures: int
    retry_at: datetime | None
    reached_at: datetime | None
    backlog: int
    oldest_request_at: datetime | None


class Retried(BaseModel):
    """How many instances are tried again."""

    instances: int


class EchoResult(BaseModel):
    """Outcome of a C-ECHO."""

    ok: bool
    problem: str | None


def make_router(database: Database, deliveries: Deliveries, timeouts: Timeouts) -> APIRouter:
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
            rows = await listing.list_deliveries(tx, [_scope(caller), *conditions], _place(before), limit)
        following = f"{rows[-1].requested_at.isoformat()}~{rows[-1].id}" if len(rows) == limit else None
        return DeliveryList(deliveries=[DeliveryView(**_view(row)) for row in rows], next=following)

    @router.get("/deliveries/{delivery_id}", dependencies=[requires("deliveries.read")])
    async def show_delivery(caller: Caller, delivery_id: str, after: int = 0, limit: Limit = 500) -> DeliveryDetail:
        async with database.reading() as tx:
            row = await _visible(tx, caller, delivery_id)
            tally = await repository.tally(tx, delivery_id)
            items = await listing.list_items(tx, delivery_id, after, limit)
        return DeliveryDetail(
            **_view(row),
            sent_count=tally.sent,
            pending_count=tally.due + tally.blocked,
            failed_count=tally.failed,
            bytes_sent=tally.bytes_sent,
            items=[ItemView(**{name: getattr(item, name) for name in ItemView.model_fields}) for item in items],
            next=items[-1].id if len(items) == limit else None,
        )

    @router.post("/deliveries/{delivery_id}/retry", dependencies=[requires("deliveries.manage")])
    async def retry_delivery(caller: Caller, delivery_id: str) -> Retried:
        async with database.reading() as tx:
            await _visible(tx, caller, delivery_id)
        return Retried(instances=await deliveries.retry(delivery_id))

    @router.get("/destinations", dependencies=[requires("destinations.read")])
    async def list_destinations(caller: Caller) -> list[DestinationView]:
        async with database.reading() as tx:
            known = await calls.list_destinations(tx)
            backlog = await listing.backlog(tx, _scope(caller))
            keys = sorted(await _visible_destinations(tx, caller, deliveries))
        return [_destination(key, deliveries, known.get(key), backlog.get(key)) for key in keys]

    @router.post("/destinations/{key}/echo", dependencies=[requires("destinations.test")])
    async def echo_destination(caller: Caller, key: str) -> EchoResult:
        async with database.reading() as tx:
            visible = await _visible_destinations(tx, caller, deliveries)
        if key not in visible:
            raise Problem(
                404,
                "Not found",
                "There is no destination with this key in your scope.",
                advice="List them with GET /v1/egress/destinations.",
            )
        target = deliveries.reach(key)
        if isinstance(target, Obstacle):
            raise Problem(409, "Destination can't be called", f"{target.reason[:1].upper()}{target.reason[1:]}.")
        ending = await asyncio.to_thread(echo, target, timeouts)
        return EchoResult(ok=ending.kind == "finished", problem=ending.problem)

    return router


def _view(row: Row[Any]) -> dict[str, Any]:
    shown = {name: getattr(row, name) for name in DeliveryView.model_fields if name != "priority"}
    return shown | {"priority": PRIORITIES[row.lane]}


def _destination(
    key: str, deliveries: Deliveries, known: Row[Any] | None, backlog: tuple[int, datetime] | None
) -> DestinationView:
    target = deliveries.reach(key)
    count, oldest = backlog or (0, None)
    view = DestinationView(
        key=key,
        reachable=None,
        problem=target.reason if isinstance(target, Obstacle) else None,
        failures=0,
        retry_at=None,
        reached_at=None,
        backlog=count,
        oldest_request_at=oldest,
    )
    if known is None:
        return view
    tried = known.reached_at is not None or known.failures > 0
    return view.model_copy(
        update={
            "reachable": known.failures == 0 if tried else None,
            "problem": view.problem or known.problem,
            "failures": known.failures,
            "retry_at": known.retry_at,
            "reached_at": known.reached_at,
        }
    )


def _scope(caller: Principal) -> ColumnElement[bool]:
    inside: list[ColumnElement[bool]] = [literal(value=True)]
    if caller.tenants is not None:
        inside.append(table.c.tenant.in_(caller.tenants))
    if caller.sites is not None:
        inside.append(table.c.site.in_(caller.sites))
    return and_(*inside)


async def _visible_destinations(tx: AsyncSession, caller: Principal, deliveries: Deliveries) -> set[str]:
    """Name the destinations of the caller's own deliveries, and those that are in the caller's scope themselves."""
    used = await listing.destinations_of(tx, _scope(caller))
    if caller.tenants is None and caller.sites is None:
        return {*deliveries.destinations(), *used}
    places = {key: deliveries.place(key) for key in deliveries.destinations()}
    return used | {key for key, place in places.items() if place is not None and caller.sees(*place)}


def _place(before: str | None) -> tuple[datetime, str] | None:
    if before is None:
        return None
    at, _, delivery = before.partition("~")
    try:
        return datetime.fromisoformat(at), delivery
    except ValueError as error:
        raise Problem(422, "Not valid", "`before` is not a value that an earlier page gave as `next`.") from error


async def _visible(tx: AsyncSession, caller: Principal, delivery_id: str) -> Row[Any]:
    rows = await listing.list_deliveries(tx, [table.c.id == delivery_id, _scope(caller)], None, 1)
    if not rows:
        raise Problem(
            404,
            "Not found",
            "There is no delivery with this identifier in your scope.",
            advice="List them with GET /v1/egress/deliveries.",
        )
    return rows[0]
