"""What a person does to orders: found in the person's scope, checked, taken, and shown as it is then."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

from fastapi import Request
from sqlalchemy import Row

from contracts.definition import Definition
from libs.clock import Clock
from libs.snapshot import NetworkView
from libs.storage.database import Database
from libs.web.principal import Principal
from libs.web.problem import Problem
from libs.web.recording import use_of
from services.worklist import advice, likeness, listing
from services.worklist.change import Change, Number, Origin
from services.worklist.form import Said
from services.worklist.order import OPEN
from services.worklist.order_view import OrderView, view
from services.worklist.orders import NotTakenError, Orders, Received, Taken
from services.worklist.sender import stations_of


@dataclass(frozen=True)
class Place:
    """The site that an order is for.

    Attributes
    ----------
    by_modality
        AE titles of its nodes that may ask for a worklist, by modality.
    known
        See `advice.stations`.
    """

    tenant: str
    by_modality: Mapping[str, Sequence[str]]
    known: Mapping[str, str]


class Hand:
    """What people do to orders."""

    def __init__(self, database: Database, orders: Orders, network: NetworkView, clock: Clock) -> None:
        self._database = database
        self._orders = orders
        self._network = network
        self._clock = clock

    def origin(self, caller: Principal, name: str | None = None) -> Origin:
        """Give the origin of what a caller does now."""
        return Origin(f"hand:{caller.name}", name or uuid4().hex, 0, self._clock())

    def place(self, caller: Principal, site: str) -> Place:
        """Give what is known of a site in the caller's scope. Raises Problem."""
        definition = self._definition
        known = None if definition is None else definition.sites.get(site)
        if definition is None or known is None or not caller.sees(known.tenant, site):
            raise Problem(
                422,
                "Not valid",
                f"There is no site {site} in your scope.",
                advice="Name a key of `sites` in the network definition: `kivuko network show` has it.",
            )
        return Place(known.tenant, stations_of(definition, site), advice.stations(definition, known.tenant))

    def stations(self, tenant: str) -> Mapping[str, str]:
        """See `advice.stations`."""
        return {} if self._definition is None else advice.stations(self._definition, tenant)

    @property
    def _definition(self) -> Definition | None:
        return None if self._network.current is None else self._network.current.definition

    async def find(self, request: Request, caller: Principal, order_id: int) -> Row[Any]:
        """Give an order in the caller's scope; what is done is recorded for its study. Raises Problem."""
        async with self._database.reading() as tx:
            row = await listing.find_order(tx, caller, order_id)
        if row is None:
            raise unknown()
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

    async def see_step(self, row: Row[Any], step: str | None, *, needed: bool, closed: bool = False) -> None:
        """See that a step is one of the order's, and that one is named where it has to be. Raises Problem.

        Parameters
        ----------
        closed
            Whether it may be over.
        """
        async with self._database.reading() as tx:
            items = await listing.items_of(tx, [row.id])
        known = [one.step_id for one in items if closed or one.state in OPEN]
        what = "step" if closed else "open step"
        if step is not None and step not in known:
            said = f"The order has no {what} {step}."
        elif step is None and needed and len(known) > 1:
            said = f"The order has {len(known)} {what}s."
        else:
            return
        raise Problem(422, "Not valid", said, advice=f"Say which with `step`: {', '.join(known) or 'none is open'}.")

    async def see_person(self, tenant: str, number: Number, form: Said) -> None:
        """See that a Patient ID is not known as somebody else: all orders of it would get another name.

        Raises
        ------
        Problem
            It is; the text holds no values.
        """
        if (await self.strangers(tenant, {number: form})).get(number):
            raise Problem(
                409,
                "Another patient",
                "This Patient ID is known with another name, birth date or sex.",
                advice="Look with `kivuko worklist list --all --patient ID`. If it is a slip, mend it; if it is the "
                "same person, say so (`--same-patient`): then all open orders of the patient say what this one says.",
            )

    async def strangers(self, tenant: str, said: Mapping[Number, Said]) -> Mapping[Number, Sequence[str]]:
        """Give the fields in which patients are known otherwise; of one that is not known, or known so, none."""
        async with self._database.reading() as tx:
            known = await listing.said_of_patients(tx, tenant, list(said))
        return {
            number: likeness.differences(likeness.of_attributes(attributes), likeness.of_form(said[number]))
            for number, attributes in known.items()
        }

    async def do(self, request: Request, caller: Principal, change: Change, raw: bytes) -> OrderView:
        """Take one change, and show the order as it is then. Raises Problem."""
        [outcome] = (await self.take(change, raw)).outcomes
        if outcome.order_id is None or outcome.result == "refused":
            raise Problem(409, "Refused", f"It was refused: {outcome.reason}.", advice="Mend it, and try again.")
        return await self.show(request, caller, outcome.order_id)

    async def show(self, request: Request, caller: Principal, order_id: int) -> OrderView:
        """Show an order after it was changed."""
        async with self._database.reading() as tx:
            row = await listing.find_order(tx, caller, order_id)
            items = await listing.items_of(tx, [order_id])
        if row is None:
            raise unknown()
        use_of(request).concerns(row.study_instance_uid, row.tenant)
        return view(row, items)

    async def attributes(self, order_id: int, step: str | None) -> Mapping[str, Any]:
        """Give the worklist answer of one step, or of the first that is open."""
        async with self._database.reading() as tx:
            items = await listing.items_of(tx, [order_id])
        those = [one for one in items if (one.state in OPEN if step is None else one.step_id == step)]
        return those[0].attributes if those else {}

    async def take(self, change: Change, raw: bytes) -> Taken:
        """Take one change. Raises Problem where the database is away."""
        origin = change.origin
        try:
            return await self._orders.take(Received(origin.source, origin.message, raw, origin.stamp, (change,)))
        except NotTakenError as error:
            raise Problem(
                503,
                "Database away",
                "The database did not answer, so nothing was changed.",
                advice="Try again later; /readyz says what is wrong.",
                headers={"Retry-After": "10"},
            ) from error


def unknown() -> Problem:
    """Say that there is no such order."""
    return Problem(
        404,
        "Not found",
        "There is no order with this identifier in your scope.",
        advice="List them with GET /v1/worklist/orders, or `kivuko worklist list --all`.",
    )
