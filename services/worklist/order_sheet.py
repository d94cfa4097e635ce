"""Orders of a CSV file: all of them, or none."""

import asyncio
import hashlib
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Final, TypeAlias

from fastapi import Request
from pydantic import BaseModel, ConfigDict, Field

from libs.storage.database import Database
from libs.web.principal import Principal
from libs.web.problem import Problem
from libs.web.recording import use_of
from services.worklist import advice, form, listing, required, sheet
from services.worklist.change import Number
from services.worklist.form import Said
from services.worklist.hand import Hand, Place
from services.worklist.item import scope
from services.worklist.sheet import Dates, Flaw, Line

#: Lines that are on their way at a time: they share transactions.
_AT_ONCE: Final = 64
_AWAY: Final = 503
#: Flaws and warnings that are told at most.
_MOST_TOLD: Final = 1000
#: Tenant of an order, its own number, and within what that is unique.
_Key: TypeAlias = tuple[str, str, str]
#: What the control identifier of a line begins with.
_FILE: Final = "file:"


class Sheet(BaseModel):
    """A file of orders."""

    model_config = ConfigDict(extra="forbid")

    csv: str = Field(description="The file: the first line names the columns, see docs/worklist.md.")
    dry_run: bool = Field(False, description="Only say what is wrong with it.")
    dates: Dates = Field("iso", description="How dates are written besides 2026-11-21.")
    same_patient: bool = Field(
        False, description="A Patient ID that is known with another name, birth date or sex is the same person."
    )


class Odd(BaseModel):
    """What should be looked at once more in a line."""

    line: int
    message: str


class Imported(BaseModel):
    """What became of a file of orders."""

    orders: int = Field(description="Orders in it.")
    applied: int = Field(description="New or changed ones.")
    unchanged: int = Field(description="Those that were known just so.")
    warnings: tuple[Odd, ...] = Field((), description="What is odd about them, the first 1000.")


class Importing:
    """Takes files of orders."""

    def __init__(self, database: Database, hand: Hand) -> None:
        self._database = database
        self._hand = hand

    async def take(self, request: Request, caller: Principal, wanted: Sheet) -> Imported:
        """Take a file of orders, once nothing is wrong with any of them. Raises Problem."""
        lines, flaws = await asyncio.to_thread(sheet.read, wanted.csv, wanted.dates)
        places: dict[str, Place] = {}
        for line in lines:
            site = line.form.site
            if site not in places:
                try:
                    places[site] = self._hand.place(caller, site)
                except Problem as problem:
                    flaws.append(Flaw(line.number, "site", problem.detail))
        if not flaws and not wanted.same_patient:
            flaws += await self._strangers(lines, places)
        if flaws:
            count = len(flaws)
            raise Problem(
                422,
                "Not valid",
                f"The file has {count} {'problem' if count == 1 else 'problems'}; nothing was imported.",
                advice="Mend what `problems` lists, then import the whole file again.",
                problems=[{"line": one.line, "path": one.column, "message": one.message} for one in flaws[:_MOST_TOLD]],
            )
        warnings = _odd(lines, places)
        if wanted.dry_run:
            return Imported(orders=len(lines), applied=0, unchanged=0, warnings=warnings)
        tenants = {place.tenant for place in places.values()}
        use_of(request).concerns(None, next(iter(tenants)))
        applied = 0
        for start in range(0, len(lines), _AT_ONCE):
            some = lines[start : start + _AT_ONCE]
            before = await self._before(some, places)
            taking = (self._line(caller, one, places[one.form.site], before) for one in some)
            taken = await asyncio.gather(*taking, return_exceptions=True)
            away = next((one for one in taken if isinstance(one, BaseException)), None)
            if isinstance(away, Problem) and away.status == _AWAY:
                raise _begun(away, start) from away
            if away is not None:
                raise away
            applied += sum(one is True for one in taken)
        return Imported(orders=len(lines), applied=applied, unchanged=len(lines) - applied, warnings=warnings)

    async def _strangers(self, lines: Sequence[Line], places: Mapping[str, Place]) -> list[Flaw]:
        """Find lines whose Patient ID is known as somebody else."""
        by_tenant: dict[str, dict[Number, Line]] = defaultdict(dict)
        for line in lines:
            by_tenant[places[line.form.site].tenant].setdefault(form.patient_of(line.form), line)
        flaws = []
        for tenant, those in by_tenant.items():
            forms: dict[Number, Said] = {number: line.form for number, line in those.items()}
            for number, fields in (await self._hand.strangers(tenant, forms)).items():
                said = "is another one than is known of this patient_id: mend it, or say that it is the same patient"
                flaws += [Flaw(those[number].number, field, said) for field in fields]
        return sorted(flaws, key=lambda flaw: flaw.line)

    async def _before(self, lines: Sequence[Line], places: Mapping[str, Place]) -> Mapping[_Key, Sequence[str]]:
        """Give, by the own number of an order, the control identifiers under which files said it, in their order."""
        wanted = {_key(line, places[line.form.site]) for line in lines}
        async with self._database.reading() as tx:
            return await listing.messages_of_placers(tx, wanted, _FILE)

    async def _line(self, caller: Principal, line: Line, place: Place, before: Mapping[_Key, Sequence[str]]) -> bool:
        """Take one line; tell whether it says anything new.

        What the last file said of an order is not said again: people may have changed the order since.
        """
        raw = form.content(line.form)
        control_id = _FILE + hashlib.sha256(raw).hexdigest()[:32]
        said = before.get(_key(line, place), ())
        if said and said[-1].startswith(control_id):
            return False
        # The same as two files ago is said anew.
        name = f"{control_id}:{len(said)}" if said else control_id
        change = form.added(
            line.form, self._hand.origin(caller, name), place.tenant, place.by_modality.get(line.form.modality, ())
        )
        taken = await self._hand.take(change, raw)
        return not taken.repeated and taken.outcomes[0].result == "applied"


def _begun(away: Problem, orders: int) -> Problem:
    return Problem(
        away.status,
        away.title,
        f"The database did not answer after {orders} orders of the file.",
        advice="Import the same file again, later: what was imported counts once. /readyz says what is wrong.",
        headers=away.headers,
    )


def _key(line: Line, place: Place) -> _Key:
    number = form.own_number(line.form)
    return place.tenant, number.value, scope(number, line.form.site)


def _odd(lines: Sequence[Line], places: Mapping[str, Place]) -> tuple[Odd, ...]:
    found: list[Odd] = []
    for line in lines:
        place = places[line.form.site]
        messages = advice.of_new(line.form, place.known)
        if line.form.station is None and not place.by_modality.get(line.form.modality):
            messages.append(required.NO_STATION)
        found += [Odd(line=line.number, message=message) for message in messages]
        if len(found) >= _MOST_TOLD:
            break
    return tuple(found[:_MOST_TOLD])
