"""HTTP routes of what people order for deliveries: hold, release, cancel, and try again; one, or many at once."""

from typing import Annotated, Any

from fastapi import APIRouter, Request
from pydantic import BaseModel, Field
from sqlalchemy import ColumnElement, Row

from libs.storage.database import Database
from libs.web.permission import requires
from libs.web.principal import Principal
from libs.web.problem import Problem
from libs.web.recording import use_of
from services.egress import listing, scope
from services.egress.delivery import State
from services.egress.models import deliveries as table
from services.egress.orders import FITTING, MEANT, Given, Orders, Verb
from services.egress.scope import Caller
from services.egress.view import DeliveryView, shown

#: What may be written where people read it: no control characters.
Why = Annotated[
    str | None,
    Field(
        None,
        max_length=200,
        pattern=r"^[^\x00-\x1f\x7f]*$",
        description="Why, for those who look at the delivery later; without data of patients.",
    ),
]
_MANAGE = requires("deliveries.manage")
#: Of one delivery the fourth, retry, has a route of its own: it answers something else.
_OF_ONE: tuple[Verb, ...] = ("hold", "release", "cancel")
#: What edits a delivery has routes of its own: it needs more to be said (edit_api).
_OF_MANY: tuple[Verb, ...] = (*_OF_ONE, "retry")


class Reason(BaseModel):
    """Why something is ordered."""

    reason: Why = None


class Many(Reason):
    """Which deliveries an order is for: all to which it can be given and that fit. One of the filters is needed."""

    destination: str | None = None
    study: str | None = None
    state: State | None = Field(
        None,
        description="If it is left out: hold, cancel, redirect and change are for all that are not done, retry for "
        "those that failed, release for those that a person holds.",
    )
    dry_run: bool = Field(False, description="Count only.")


class Counted(BaseModel):
    """How many deliveries an order was given to, or would be."""

    deliveries: int
    instances: int = Field(description="Of a retry: how many are tried again; 0 of a dry run.")
    states: dict[str, int] = Field(description="The deliveries by their state before.")


class Retried(BaseModel):
    """How many instances are tried again."""

    instances: int


def make_order_router(database: Database, orders: Orders) -> APIRouter:
    """Build the routes."""
    router = APIRouter(tags=["egress"])
    for verb in _OF_MANY:
        _for_many(router, verb, database, orders)
    for verb in _OF_ONE:
        _for_one(router, verb, database, orders)

    @router.post("/deliveries/{delivery_id}/retry", dependencies=[_MANAGE])
    async def retry(request: Request, caller: Caller, delivery_id: str) -> Retried:
        async with database.reading() as tx:
            row = await scope.delivery(tx, caller, delivery_id)
        use_of(request).concerns(row.study_instance_uid, row.tenant)
        count, instances = await orders.give(Given("retry", caller.name), [delivery_id])
        if not count and row.state != "done":
            async with database.reading() as tx:
                raise _unfit("retry", await scope.delivery(tx, caller, delivery_id))
        return Retried(instances=instances)

    return router


def _for_many(router: APIRouter, verb: Verb, database: Database, orders: Orders) -> None:
    @router.post(f"/deliveries/{verb}", dependencies=[_MANAGE], name=f"{verb}_deliveries")
    async def many(caller: Caller, wanted: Many) -> Counted:
        return await give_many(database, orders, caller, Given(verb, caller.name, wanted.reason), wanted)


def _for_one(router: APIRouter, verb: Verb, database: Database, orders: Orders) -> None:
    @router.post(f"/deliveries/{{delivery_id}}/{verb}", dependencies=[_MANAGE], name=f"{verb}_delivery")
    async def one(request: Request, caller: Caller, delivery_id: str, why: Reason | None = None) -> DeliveryView:
        async with database.reading() as tx:
            row = await scope.delivery(tx, caller, delivery_id)
        # The use belongs into the timeline of the study.
        use_of(request).concerns(row.study_instance_uid, row.tenant)
        reason = None if why is None else why.reason
        return await give_one(database, orders, caller, Given(verb, caller.name, reason), delivery_id)


async def give_one(
    database: Database, orders: Orders, caller: Principal, order: Given, delivery_id: str
) -> DeliveryView:
    """Give an order to one delivery, and show it. Raises Problem 409 if it does not fit."""
    count, _ = await orders.give(order, [delivery_id])
    async with database.reading() as tx:
        row = await scope.delivery(tx, caller, delivery_id)
    if not count:
        raise _unfit(order.verb, row)
    return DeliveryView(**shown(row))


async def give_many(database: Database, orders: Orders, caller: Principal, order: Given, wanted: Many) -> Counted:
    """Give an order to all deliveries that are meant, or count them."""
    async with database.reading() as tx:
        found = await listing.keys_by_state(tx, _conditions(caller, order.verb, wanted))
    states = {state: len(keys) for state, keys in found.items()}
    if wanted.dry_run:
        return Counted(deliveries=sum(states.values()), instances=0, states=states)
    keys = [key for each in found.values() for key in each]
    count, instances = await orders.give(order, keys)
    return Counted(deliveries=count, instances=instances, states=states)


def _conditions(caller: Principal, verb: Verb, wanted: Many) -> list[ColumnElement[bool]]:
    given = {table.c.destination: wanted.destination, table.c.study_instance_uid: wanted.study}
    chosen = [column == value for column, value in given.items() if value is not None]
    if not chosen and wanted.state is None:
        raise Problem(
            422,
            "Not valid",
            "An order for many deliveries has to say which.",
            advice="Name a destination, a study or a state.",
        )
    state = MEANT[verb] if wanted.state is None else table.c.state == wanted.state
    return [scope.within(caller), FITTING[verb], state, *chosen]


def _unfit(verb: Verb, row: Row[Any]) -> Problem:
    if row.state == "diverted":
        said, advice = _diverted(row)
    else:
        said, advice = {
            "hold": ("It is done: all of it has arrived, so there is nothing to hold.", None),
            "cancel": _cancelled(row),
            "release": _released(row),
            "retry": (f"A person holds it ({row.reason}), so it is not tried again.", "Release it instead."),
            "redirect": (f"It is {row.state}: nothing of it is left to be sent elsewhere.", None),
            "change": (f"It is {row.state}, so it has no turn that could be changed.", None),
        }[verb]
    return Problem(409, "It does not fit", said, advice=advice)


def _diverted(row: Row[Any]) -> tuple[str, str | None]:
    advice = f"Order it for the delivery of the same study to {row.diverted_to}, or have this one retried first."
    return f"It goes to another destination: {row.reason}.", advice


def _cancelled(row: Row[Any]) -> tuple[str, str | None]:
    if row.state == "cancelled":
        return f"It is not wanted any more already: {row.reason}.", None
    return "It is done: all of it has arrived, and can't be called back.", "Have it deleted where it has arrived."


def _released(row: Row[Any]) -> tuple[str, str | None]:
    if row.state == "failed":
        return "Nobody holds it: it has failed.", "Try it again instead, once the cause is mended."
    if row.state != "held":
        return f"Nobody holds it: it is {row.state}.", None
    advice = "Resume the destination, or change the network definition: then it goes by itself."
    return f"No person holds it. What does: {row.reason}.", advice
