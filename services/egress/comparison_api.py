"""HTTP routes of comparing what was sent to a destination with what it has."""

from datetime import datetime
from typing import Any

from fastapi import APIRouter
from pydantic import AwareDatetime, BaseModel, Field
from sqlalchemy import Row

from libs.clock import Clock
from libs.storage.database import Database
from libs.web.permission import requires
from libs.web.problem import Problem
from services.egress import comparison_rows, scope
from services.egress.comparer import Comparer
from services.egress.comparison import Span
from services.egress.destination_api import Destinations
from services.egress.models import deliveries as table
from services.egress.reach import Target
from services.egress.scope import Caller

#: How many deliveries with missing instances are named.
_NAMED = 100


class Wanted(BaseModel):
    """What is to be compared."""

    since: AwareDatetime | None = Field(
        None, description="Compare what was sent from then on; a day back, or what the service is set to, if left out."
    )


class Lacking(BaseModel):
    """A delivery of which the destination does not have everything."""

    delivery_id: str
    study_instance_uid: str
    missing: int


class ComparisonView(BaseModel):
    """The last comparison with a destination, and what is missing there in the caller's scope."""

    destination: str
    running: bool
    began_at: datetime | None = Field(description="None: it was never compared.")
    ended_at: datetime | None
    since: datetime | None
    studies: int
    instances: int
    missing: int = Field(description="Instances that it was found not to have by this comparison.")
    unknown: int = Field(description="Instances of which it has not told, or not yet.")
    whole: bool = Field(description="False: there was more than one comparison looks at.")
    problem: str | None
    lacking: list[Lacking] = Field(
        description="Deliveries with instances that it said success for and does not have, whenever that was found."
    )


def make_comparison_router(
    database: Database, destinations: Destinations, comparer: Comparer, clock: Clock
) -> APIRouter:
    """Build the routes."""
    router = APIRouter(tags=["egress"])

    async def view(caller: Caller, key: str) -> ComparisonView:
        await destinations.view(caller, key)
        async with database.reading() as tx:
            row = await comparison_rows.last(tx, key)
            lacking = await comparison_rows.lacking(tx, _NAMED, scope.within(caller), table.c.destination == key)
        return ComparisonView(
            destination=key,
            running=comparison_rows.is_running(row, clock()),
            **_figures(row),
            lacking=[
                Lacking(delivery_id=each.id, study_instance_uid=each.study_instance_uid, missing=each.missing)
                for each in lacking
            ],
        )

    @router.get("/destinations/{key}/comparison", dependencies=[requires("destinations.read")])
    async def show_comparison(caller: Caller, key: str) -> ComparisonView:
        return await view(caller, key)

    @router.post("/destinations/{key}/compare", dependencies=[requires("destinations.test")], status_code=202)
    async def compare_destination(caller: Caller, key: str, wanted: Wanted | None = None) -> ComparisonView:
        await destinations.owned(caller, key)
        if not isinstance(await destinations.seen(caller, key), Target):
            raise Problem(
                409,
                "It can't be asked",
                "It is a folder: what was written to it was synced before it counted as sent.",
                advice="Compare its files with a receipt: kivuko delivery verify RECEIPT --objects FOLDER.",
            )
        now = clock()
        since = None if wanted is None else wanted.since
        # What is being compared already is not begun twice: whoever asks follows that.
        await comparer.begin(key, Span(since or comparer.back(now), now))
        return await view(caller, key)

    return router


def _figures(row: Row[Any] | None) -> dict[str, Any]:
    if row is None:
        return {
            **dict.fromkeys(("began_at", "ended_at", "since", "problem")),
            **dict.fromkeys(("studies", "instances", "missing", "unknown"), 0),
            "whole": True,
        }
    names = ("began_at", "ended_at", "since", "problem", "studies", "instances", "missing", "unknown", "whole")
    return {name: getattr(row, name) for name in names}
