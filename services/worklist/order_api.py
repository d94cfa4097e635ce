"""HTTP routes of orders: what people see of them, and what they add, change and cancel by hand."""

import asyncio
import hashlib
from collections.abc import Mapping
from datetime import datetime
from typing import Annotated, Any, Literal
from uuid import uuid4

from fastapi import APIRouter, Depends, Query, Request
from pydantic import BaseModel, ConfigDict, Field
from sqlalchemy import Row

from contracts.fact import Slug
from libs.clock import Clock
from libs.snapshot import NetworkView
from libs.storage.database import Database
from libs.web.permission import requires
from libs.web.principal import Principal, principal
from libs.web.problem import Problem
from libs.web.recording import use_of
from services.worklist import listing, sheet
from services.worklist.change import Change, Number, Origin
from services.worklist.form import Added, Edited, added, edited, ordered
from services.worklist.models import orders as table
from services.worklist.order import State
from services.worklist.orders import NotTakenError, Orders, Received, Taken
from services.worklist.sheet import Flaw, Line

Caller = Annotated[Principal, Depends(principal)]
Limit = Annotated[int, Query(ge=1, le=500, description="Orders at most.")]
_READ, _MANAGE = requires("orders.read"), requires("orders.manage")
#: Lines of a file that are on their way at a time: they share transactions.
_AT_ONCE = 64


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


class Said(BaseModel):
    """One thing that was said of an order."""

    source: str
    message: str
    stamp: datetime
    body: dict[str, Any]


class OrderDetail(OrderView):
    """An order with all that is known of it."""

    attributes: dict[str, Any] = Field(description="The dataset of its first step's worklist answer, by keyword.")
    journal: tuple[Said, ...] = Field(description="What was said of it, in the order in which it counts.")


class OrderPage(BaseModel):
    """Orders, the newest first."""

    orders: tuple[OrderView, ...]
    before: int | None = Field(description="Ask with this for the next page; null: there is none.")


class Cancelled(BaseModel):
    """Why an order is given up."""

    model_config = ConfigDict(extra="forbid")

    step: str | None = Field(None, max_length=64, description="Only this step.")
    reason: str | None = Field(
        None, max_length=200, pattern=r"^[^\x00-\x1f\x7f]*$", description="Why; without data of patients."
    )
    discontinue: bool = Field(False, description="It was begun, and is not brought to its end.")


class Sheet(BaseModel):
    """A file of orders."""

    model_config = ConfigDict(extra="forbid")

    csv: str = Field(description="The file: the first line names the columns, see docs/worklist.md.")
    dry_run: bool = Field(False, description="Only say what is wrong with it.")


class Imported(BaseModel):
    """What became of a file of orders."""

    orders: int = Field(description="Orders in it.")
    applied: int = Field(description="New or changed ones.")
    unchanged: int = Field(description="Those that were known just so.")


def make_order_router(database: Database, orders: Orders, network: NetworkView, clock: Clock) -> APIRouter:
    """Build the routes under `/orders`."""
    router = APIRouter(tags=["worklist"])
    _reading(router, database)
    hand = Hand(database, orders, network, clock)

    @router.post("/orders", dependencies=[_MANAGE], status_code=201)
    async def add_order(request: Request, caller: Caller, wanted: Added) -> OrderView:
        """Add an order; the same order number again changes that order."""
        tenant = hand.tenant(caller, wanted.site)
        use_of(request).concerns(None, tenant)
        made = added(wanted, hand.origin(caller), tenant)
        return await hand.do(request, caller, made, wanted.model_dump_json())

    @router.post("/orders/import", dependencies=[_MANAGE])
    async def import_orders(request: Request, caller: Caller, wanted: Sheet) -> Imported:
        """Add all orders of a file; if anything is wrong with any line, none of them."""
        return await hand.take_sheet(request, caller, wanted)

    @router.post("/orders/{order_id}/edit", dependencies=[_MANAGE])
    async def edit_order(request: Request, caller: Caller, order_id: int, wanted: Edited) -> OrderView:
        """Change an order; what is left out stays as it is, and null empties it."""
        row = await hand.find(request, caller, order_id)
        await hand.see_step(row, wanted.step, needed=bool(STEP_FIELDS & wanted.model_fields_set))
        site, numbers = await hand.numbers(row)
        made = edited(wanted, hand.origin(caller), row.tenant, site, Number(row.patient, row.issuer), numbers)
        return await hand.do(request, caller, made, wanted.model_dump_json(exclude_unset=True))

    @router.post("/orders/{order_id}/cancel", dependencies=[_MANAGE])
    async def cancel_order(
        request: Request, caller: Caller, order_id: int, wanted: Cancelled | None = None
    ) -> OrderView:
        """Take an order, or one step of it, off all worklists."""
        given = wanted or Cancelled()
        row = await hand.find(request, caller, order_id)
        await hand.see_step(row, given.step, needed=False)
        site, numbers = await hand.numbers(row)
        patient = Number(row.patient, row.issuer)
        action: Literal["discontinue", "cancel"] = "discontinue" if given.discontinue else "cancel"
        made = ordered(action, given.step, hand.origin(caller), row.tenant, site, patient, numbers)
        return await hand.do(request, caller, made, given.model_dump_json())

    return router


#: Fields of an edit that are about a step.
STEP_FIELDS = {"modality", "station", "start", "step_description", "performing_physician", "room"}


def _reading(router: APIRouter, database: Database) -> None:
    @router.get("/orders", dependencies=[_READ])
    async def list_orders(
        caller: Caller,
        limit: Limit = 100,
        before: Annotated[int | None, Query(description="Orders below this id.")] = None,
        state: Annotated[list[State] | None, Query(description="In one of these states only.")] = None,
        site: Annotated[Slug | None, Query(description="Of this site only.")] = None,
        patient: Annotated[str | None, Query(description="Of this Patient ID, and all merged into it.")] = None,
        accession: Annotated[str | None, Query(description="With this accession number.")] = None,
        study: Annotated[str | None, Query(description="With this Study Instance UID.")] = None,
        number: Annotated[str | None, Query(description="With this number of its placer or filler.")] = None,
        day: Annotated[str | None, Query(pattern=r"^\d{8}$", description="That starts on this day, YYYYMMDD.")] = None,
    ) -> OrderPage:
        """List orders, the newest first."""
        wanted = [listing.within(caller)]
        if state:
            wanted.append(table.c.state.in_(state))
        exact = {table.c.site: site, table.c.accession: accession, table.c.study_instance_uid: study}
        wanted += [column == value for column, value in exact.items() if value is not None]
        if number is not None:
            wanted.append((table.c.placer == number) | (table.c.filler == number))
        if patient is not None:
            wanted.append(listing.of_patient(patient))
        if day is not None:
            wanted.append(table.c.start.like(f"{day}%"))
        async with database.reading() as tx:
            rows = await listing.list_orders(tx, wanted, before, limit + 1)
            steps = await listing.items_of(tx, [row.id for row in rows])
        shown = rows[:limit]
        return OrderPage(
            orders=tuple(_view(row, steps) for row in shown), before=shown[-1].id if len(rows) > limit else None
        )

    @router.get("/orders/{order_id}", dependencies=[_READ])
    async def show_order(request: Request, caller: Caller, order_id: int) -> OrderDetail:
        """Show an order, its worklist answer, and all that was said of it."""
        async with database.reading() as tx:
            row = await listing.find_order(tx, caller, order_id)
            if row is not None and row.joined_into is not None:
                row = await listing.find_order(tx, caller, row.joined_into)
            if row is None:
                raise _unknown()
            steps = await listing.items_of(tx, [row.id])
            journal = await listing.journal_of(tx, row.id)
        use_of(request).concerns(row.study_instance_uid, row.tenant)
        return OrderDetail(
            **_view(row, steps).model_dump(),
            attributes=steps[0].attributes if steps else {},
            journal=tuple(
                Said(source=one.source, message=one.message.rpartition(" ")[0], stamp=one.stamp, body=one.body)
                for one in journal
            ),
        )


class Hand:
    """What a person does to orders."""

    def __init__(self, database: Database, orders: Orders, network: NetworkView, clock: Clock) -> None:
        self._database = database
        self._orders = orders
        self._network = network
        self._clock = clock

    def origin(self, caller: Principal, name: str | None = None, part: int = 0) -> Origin:
        """Give the origin of what a caller does now."""
        return Origin(f"hand:{caller.name}", name or uuid4().hex, part, self._clock())

    def tenant(self, caller: Principal, site: str) -> str:
        """Give the tenant of a site in the caller's scope."""
        snapshot = self._network.current
        known = None if snapshot is None else snapshot.definition.sites.get(site)
        if known is None or not caller.sees(known.tenant, site):
            raise Problem(
                422,
                "Not valid",
                f"There is no site {site} in your scope.",
                advice="Name a key of `sites` in the network definition: `kivuko network show` has it.",
            )
        return known.tenant

    async def find(self, request: Request, caller: Principal, order_id: int) -> Row[Any]:
        """Give an order in the caller's scope; what is done is recorded for its study."""
        async with self._database.reading() as tx:
            row = await listing.find_order(tx, caller, order_id)
        if row is None:
            raise _unknown()
        if row.joined_into is not None:
            raise Problem(
                409,
                "It does not fit",
                f"This order is a part of order {row.joined_into}: both numbers are one order's.",
                advice=f"Name order {row.joined_into} instead.",
            )
        use_of(request).concerns(row.study_instance_uid, row.tenant)
        return row

    async def numbers(self, row: Row[Any]) -> tuple[str, dict[str, Number]]:
        """Give by what an order is named."""
        async with self._database.reading() as tx:
            return await listing.numbers_of(tx, row.id, row.site)

    async def see_step(self, row: Row[Any], step: str | None, *, needed: bool) -> None:
        """See that a step is one of the order's, and that one is named where it has to be."""
        async with self._database.reading() as tx:
            known = [one.step_id for one in await listing.items_of(tx, [row.id]) if one.state in _OPEN]
        if step is not None and step not in known:
            said = f"The order has no open step {step}."
        elif step is None and needed and len(known) > 1:
            said = f"The order has {len(known)} open steps."
        else:
            return
        raise Problem(422, "Not valid", said, advice=f"Say which with `step`: {', '.join(known) or 'none is open'}.")

    async def do(self, request: Request, caller: Principal, change: Change, raw: str) -> OrderView:
        """Take one change, and show the order as it is then."""
        [outcome] = (await self._take(change, raw)).outcomes
        if outcome.order_id is None or outcome.result == "refused":
            raise Problem(409, "Refused", f"It was refused: {outcome.reason}.", advice="Mend it, and try again.")
        async with self._database.reading() as tx:
            row = await listing.find_order(tx, caller, outcome.order_id)
            steps = await listing.items_of(tx, [outcome.order_id])
        if row is None:
            raise _unknown()
        use_of(request).concerns(row.study_instance_uid, row.tenant)
        return _view(row, steps)

    async def take_sheet(self, request: Request, caller: Principal, wanted: Sheet) -> Imported:
        """Take a file of orders, once nothing is wrong with any of them."""
        lines, flaws = sheet.read(wanted.csv)
        tenants: dict[str, str] = {}
        for line in lines:
            try:
                tenants[line.form.site] = self.tenant(caller, line.form.site)
            except Problem as problem:
                flaws.append(Flaw(line.number, "site", problem.detail))
        if flaws:
            count = len(flaws)
            raise Problem(
                422,
                "Not valid",
                f"The file has {count} {'problem' if count == 1 else 'problems'}; nothing was imported.",
                advice="Mend what `problems` lists, then import the whole file again.",
                problems=[{"line": one.line, "path": one.column, "message": one.message} for one in flaws[:1000]],
            )
        if wanted.dry_run:
            return Imported(orders=len(lines), applied=0, unchanged=0)
        use_of(request).concerns(None, next(iter(tenants.values())))
        applied = 0
        for start in range(0, len(lines), _AT_ONCE):
            some = lines[start : start + _AT_ONCE]
            taken = await asyncio.gather(*(self._take_line(caller, one, tenants) for one in some))
            applied += sum(not one.repeated and one.outcomes[0].result == "applied" for one in taken)
        return Imported(orders=len(lines), applied=applied, unchanged=len(lines) - applied)

    async def _take_line(self, caller: Principal, line: Line, tenants: Mapping[str, str]) -> Taken:
        raw = line.form.model_dump_json()
        # The same line again is the same message.
        origin = self.origin(caller, hashlib.sha256(raw.encode()).hexdigest())
        return await self._take(added(line.form, origin, tenants[line.form.site]), raw)

    async def _take(self, change: Change, raw: str) -> Taken:
        origin = change.origin
        try:
            return await self._orders.take(
                Received(origin.source, origin.message, raw.encode(), origin.stamp, (change,))
            )
        except NotTakenError as error:
            raise Problem(
                503,
                "Database away",
                "The database did not answer, so nothing was changed.",
                advice="Try again later; /readyz says what is wrong.",
                headers={"Retry-After": "10"},
            ) from error


_OPEN = ("scheduled", "arrived", "started")


def _view(row: Row[Any], steps: Any) -> OrderView:
    names = OrderView.model_fields.keys() - {"steps"}
    return OrderView(
        **{name: getattr(row, name) for name in names},
        steps=tuple(
            StepView(**{name: getattr(one, name) for name in StepView.model_fields})
            for one in steps
            if one.order_id == row.id
        ),
    )


def _unknown() -> Problem:
    return Problem(
        404,
        "Not found",
        "There is no order with this identifier in your scope.",
        advice="List them with GET /v1/worklist/orders.",
    )
