"""HTTP routes of retention: what would go, when, and what is kept and why. Nothing here removes anything."""

from collections.abc import Callable
from datetime import datetime
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query
from pydantic import BaseModel, Field
from sqlalchemy import Row

from contracts.definition import Snapshot
from libs.storage.database import Database
from libs.web.permission import requires
from libs.web.principal import Principal, principal
from services.ingest import holdings
from services.ingest.repository import utc
from services.ingest.retention import Copy, HoldKind, judge

Caller = Annotated[Principal, Depends(principal)]
#: Gives the network definition in force.
InForce = Callable[[], Snapshot | None]


class Held(BaseModel):
    """One reason to keep a copy whatever its keep time is."""

    kind: HoldKind
    detail: str


class Keeping(BaseModel):
    """How long the copy of a study is kept."""

    keep: int | None = Field(description="Its keep time in seconds; null: without an end.")
    until: datetime | None = Field(description="When that is over; null: never.")
    held: tuple[Held, ...] = Field(description="What keeps it besides; it goes only when there is nothing.")
    destinations: tuple[str, ...] = Field(description="Destinations that have its last version.")


class Planned(Keeping):
    """A study whose copy is kept."""

    study_instance_uid: str
    tenant: str
    version: int
    instance_count: int
    size: int
    last_arrival: datetime


class Plan(BaseModel):
    """What retention makes of the copies that are kept, the oldest last arrival first."""

    in_force: bool = Field(description="Whether the network definition has `retention`; without it everything is kept.")
    network_version: int | None = Field(description="Version of the definition in force.")
    studies: tuple[Planned, ...]
    after: int | None = Field(description="Ask with this for the next page; null: there is none.")


def keeping(copy: Copy, network: Snapshot | None) -> Keeping:
    """Say how long a copy is kept under the definition in force."""
    verdict = judge(copy, () if network is None else network.definition.retention)
    return Keeping(
        keep=verdict.keep,
        until=verdict.until,
        held=tuple(Held(kind=each.kind, detail=each.detail) for each in verdict.holds),
        destinations=verdict.destinations,
    )


def add_routes(router: APIRouter, database: Database, network: InForce) -> None:
    """Add the routes of retention to those of ingest."""

    @router.get("/retention", dependencies=[requires("studies.read")])
    async def plan(
        caller: Caller,
        limit: Annotated[int, Query(ge=1, le=500, description="Studies at most.")] = 50,
        after: Annotated[int | None, Query(ge=1, description="Those behind this one.")] = None,
        held: Annotated[HoldKind | None, Query(description="Only what is held for this.")] = None,
    ) -> Plan:
        """Show which copies go when, and which are held for what, without removing any."""
        snapshot = network()
        shown: list[tuple[Row[Any], Keeping]] = []
        more = True
        async with database.reading() as tx:
            place = None if after is None else await holdings.place_of(tx, after)
            while more and len(shown) <= limit:
                rows = await holdings.kept(tx, place, limit)
                more = len(rows) == limit
                if rows:
                    place = rows[-1].last_arrival, rows[-1].id
                seen = [row for row in rows if caller.sees_study(row.tenant, row.sites)]
                copies = await holdings.copies(tx, seen)
                judged = [(row, keeping(copies[row.id], snapshot)) for row in seen]
                shown += [each for each in judged if held is None or any(hold.kind == held for hold in each[1].held)]
        page = shown[:limit]
        return Plan(
            in_force=snapshot is not None and bool(snapshot.definition.retention),
            network_version=None if snapshot is None else snapshot.version,
            studies=tuple(_planned(row, found) for row, found in page),
            after=page[-1][0].id if len(shown) > limit else None,
        )


def _planned(row: Row[Any], found: Keeping) -> Planned:
    return Planned(
        **found.model_dump(),
        study_instance_uid=row.study_uid,
        tenant=row.tenant,
        version=row.version,
        instance_count=row.instance_count,
        size=row.size,
        last_arrival=utc(row.last_arrival),
    )
