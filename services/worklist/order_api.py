"""HTTP routes of orders: what people see of them, and what they add, change and cancel by hand."""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query, Request
from pydantic import BaseModel, ConfigDict, Field

from contracts.fact import Slug
from libs.clock import Clock
from libs.snapshot import NetworkView
from libs.storage.database import Database
from libs.web.permission import requires
from libs.web.principal import Principal, principal
from libs.web.recording import use_of
from services.worklist import advice, form, listing
from services.worklist.change import Action, Number
from services.worklist.form import Added, Edited, added, edited, ordered
from services.worklist.hand import Hand, unknown
from services.worklist.models import orders as table
from services.worklist.order import OPEN, State
from services.worklist.order_sheet import Imported, Importing, Sheet
from services.worklist.order_view import Came, OrderDetail, OrderPage, OrderView, Said, view
from services.worklist.orders import Orders

Caller = Annotated[Principal, Depends(principal)]
Limit = Annotated[int, Query(ge=1, le=500, description="Orders at most.")]
SamePatient = Annotated[
    bool, Query(description="A Patient ID that is known with another name, birth date or sex is the same person.")
]
_READ, _MANAGE = requires("orders.read"), requires("orders.manage")
#: Fields of an edit that are about a step.
STEP_FIELDS = {"modality", "station", "start", "step_description", "performing_physician", "room"}


class Why(BaseModel):
    """Which step, and why."""

    model_config = ConfigDict(extra="forbid")

    step: str | None = Field(None, max_length=64, description="Only this step.")
    reason: str | None = Field(
        None, max_length=200, pattern=r"^[^\x00-\x1f\x7f]*$", description="Why; without data of patients."
    )


class Cancelled(Why):
    """Why an order is given up."""

    discontinue: bool = Field(False, description="It was begun, and is not brought to its end.")


def make_order_router(database: Database, orders: Orders, network: NetworkView, clock: Clock) -> APIRouter:
    """Build the routes under `/orders`."""
    router = APIRouter(tags=["worklist"])
    _reading(router, database)
    hand = Hand(database, orders, network, clock)
    _writing(router, hand)
    _ending(router, hand)
    importing = Importing(database, hand)

    @router.post("/orders/import", dependencies=[_MANAGE])
    async def import_orders(request: Request, caller: Caller, wanted: Sheet) -> Imported:
        """Add all orders of a file; if anything is wrong with any line, none of them."""
        return await importing.take(request, caller, wanted)

    return router


def _writing(router: APIRouter, hand: Hand) -> None:
    @router.post("/orders", dependencies=[_MANAGE], status_code=201)
    async def add_order(
        request: Request, caller: Caller, wanted: Added, *, same_patient: SamePatient = False
    ) -> OrderView:
        """Add an order; the same order number again changes that order."""
        place = hand.place(caller, wanted.site)
        use_of(request).concerns(None, place.tenant)
        if not same_patient:
            await hand.see_person(place.tenant, form.patient_of(wanted), wanted)
        made = added(wanted, hand.origin(caller), place.tenant, place.by_modality.get(wanted.modality, ()))
        shown = await hand.do(request, caller, made, form.content(wanted))
        return _with(shown, advice.of_new(wanted, place.known))

    @router.post("/orders/{order_id}/edit", dependencies=[_MANAGE])
    async def edit_order(
        request: Request, caller: Caller, order_id: int, wanted: Edited, *, same_patient: SamePatient = False
    ) -> OrderView:
        """Change an order; what is left out stays as it is, and null empties it."""
        row = await hand.find(request, caller, order_id)
        await hand.see_step(row, wanted.step, needed=bool(STEP_FIELDS & wanted.model_fields_set))
        site, numbers = await hand.numbers(row)
        made = edited(
            wanted, hand.origin(caller), row.tenant, site, Number(row.patient, row.issuer, row.patient_site), numbers
        )
        if wanted.patient_id is not None and not same_patient:
            await hand.see_person(row.tenant, made.patient, wanted)
        shown = await hand.do(request, caller, made, wanted.model_dump_json(exclude_unset=True).encode())
        after = await hand.attributes(shown.id, wanted.step)
        said = advice.of_edit(wanted, after, hand.stations(row.tenant))
        if shown.state not in OPEN:
            said.append(f"the order is {shown.state}: modalities do not see it until it is reopened")
        return _with(shown, said)


def _ending(router: APIRouter, hand: Hand) -> None:
    async def act(
        action: Action, request: Request, caller: Principal, order_id: int, why: Why, *, closed: bool
    ) -> OrderView:
        row = await hand.find(request, caller, order_id)
        await hand.see_step(row, why.step, needed=False, closed=closed)
        site, numbers = await hand.numbers(row)
        patient = Number(row.patient, row.issuer, row.patient_site)
        made = ordered(action, why.step, hand.origin(caller), row.tenant, site, patient, numbers, why.reason or "")
        return await hand.do(request, caller, made, why.model_dump_json().encode())

    @router.post("/orders/{order_id}/cancel", dependencies=[_MANAGE])
    async def cancel_order(
        request: Request, caller: Caller, order_id: int, wanted: Cancelled | None = None
    ) -> OrderView:
        """Take an order, or one step of it, off all worklists."""
        given = wanted or Cancelled()
        action: Action = "discontinue" if given.discontinue else "cancel"
        return await act(action, request, caller, order_id, given, closed=False)

    @router.post("/orders/{order_id}/reopen", dependencies=[_MANAGE])
    async def reopen_order(request: Request, caller: Caller, order_id: int, wanted: Why | None = None) -> OrderView:
        """Put an order, or one step of it, on worklists again that was cancelled or otherwise over."""
        shown = await act("schedule", request, caller, order_id, wanted or Why(), closed=True)
        over = [step.step_id for step in shown.steps if step.performed in ("completed", "discontinued")]
        said = "a modality has reported a step as performed: it stays off worklists"
        return _with(shown, [said] if over else [])


def _with(shown: OrderView, said: list[str]) -> OrderView:
    return shown.model_copy(update={"warnings": tuple(dict.fromkeys((*said, *shown.warnings)))})


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
            orders=tuple(view(row, steps) for row in shown), before=shown[-1].id if len(rows) > limit else None
        )

    @router.get("/orders/{order_id}", dependencies=[_READ])
    async def show_order(request: Request, caller: Caller, order_id: int) -> OrderDetail:
        """Show an order, its worklist answer, and all that was said of it."""
        async with database.reading() as tx:
            row = await listing.find_order(tx, caller, order_id)
            if row is not None and row.joined_into is not None:
                row = await listing.find_order(tx, caller, row.joined_into)
            if row is None:
                raise unknown()
            steps = await listing.items_of(tx, [row.id])
            journal = await listing.journal_of(tx, row.id)
            studies = await listing.studies_of(tx, row.id)
        use_of(request).concerns(row.study_instance_uid, row.tenant)
        return OrderDetail(
            **view(row, steps).model_dump(),
            attributes=_first_shown(steps),
            studies=tuple(Came.model_validate(study, from_attributes=True) for study in studies),
            journal=tuple(
                Said(source=one.source, message=one.message.rpartition(" ")[0], stamp=one.stamp, body=one.body)
                for one in journal
            ),
        )


def _first_shown(steps: Sequence[Any]) -> Mapping[str, Any]:
    """Give the dataset of the first step that is not over, else of the first."""
    those = [step for step in steps if step.state in OPEN] or list(steps)
    return those[0].attributes if those else {}
