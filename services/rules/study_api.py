"""HTTP routes of studies as rules know them: those that no rule matched, and their tags."""

from datetime import datetime
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query, Request
from pydantic import BaseModel, Field

from libs.storage.database import Database
from libs.web.permission import requires
from libs.web.principal import Principal, principal
from libs.web.recording import use_of
from services.rules import action_rows
from services.rules.decider import Decider

_AT_ONCE = 100

Caller = Annotated[Principal, Depends(principal)]


class Unmatched(BaseModel):
    """A study of which no rule says where it goes, or that it goes nowhere."""

    id: int
    tenant: str
    site: str | None = Field(description="Site of its first arrival.")
    study_instance_uid: str
    unmatched_at: datetime = Field(description="Since when, UTC.")


class UnmatchedList(BaseModel):
    """A page of them, the oldest first; `next` is the value of `after` for the page after it."""

    studies: list[Unmatched]
    next: int | None


class Tagged(BaseModel):
    """A tag of a study."""

    tenant: str
    name: str
    value: str
    rule: str = Field(description="The rule that set it.")
    set_at: datetime


class TagList(BaseModel):
    """The tags of a study, by name; of each tenant that has a study with this UID."""

    tags: list[Tagged]


class Route(BaseModel):
    """Which studies: one by its StudyInstanceUID, or all that no rule matched."""

    study: str | None = Field(None, max_length=64)


class Routed(BaseModel):
    """Of how many a rule says something now, and of how many none does still."""

    decided: int
    unmatched: int


def make_study_router(database: Database, decider: Decider) -> APIRouter:
    """Build the routes."""
    router = APIRouter(tags=["rules"])

    @router.get("/unmatched", dependencies=[requires("decisions.read")])
    async def list_unmatched(
        caller: Caller,
        after: int = 0,
        limit: Annotated[int, Query(ge=1, le=500)] = 100,
    ) -> UnmatchedList:
        """List studies of which no rule says where they go: they are kept, and go nowhere."""
        async with database.reading() as tx:
            rows = await action_rows.unmatched(tx, after, limit)
        seen = [row for row in rows if caller.sees(row.tenant, row.site)]
        return UnmatchedList(
            studies=[_unmatched(row) for row in seen], next=rows[-1].id if len(rows) == limit else None
        )

    @router.get("/tags", dependencies=[requires("decisions.read")])
    async def list_tags(
        request: Request, caller: Caller, study: Annotated[str, Query(description="StudyInstanceUID.", max_length=64)]
    ) -> TagList:
        """List the tags of a study."""
        async with database.reading() as tx:
            found = [row for row in await action_rows.tagged(tx, study) if caller.sees(row.tenant, row.site)]
        if found:
            use_of(request).concerns(study, found[0].tenant)
        return TagList(
            tags=[
                Tagged(tenant=row.tenant, name=row.name, value=row.value, rule=row.rule, set_at=row.set_at)
                for row in found
            ]
        )

    @router.post("/unmatched/route", dependencies=[requires("deliveries.manage")])
    async def route(given: Route, caller: Caller) -> Routed:
        """Decide by the rules in force on studies that no rule matched before: one, or all."""
        after, done, left = 0, 0, 0
        while True:
            async with database.reading() as tx:
                rows = await action_rows.unmatched(tx, after, _AT_ONCE, given.study)
            for row in rows:
                if not caller.sees(row.tenant, row.site):
                    continue
                async with database.transaction() as tx:
                    matched = await decider.again(tx, row.id)
                done, left = done + matched, left + (not matched)
            if len(rows) < _AT_ONCE:
                return Routed(decided=done, unmatched=left)
            after = rows[-1].id

    return router


def _unmatched(row: Any) -> Unmatched:
    return Unmatched(
        id=row.id,
        tenant=row.tenant,
        site=row.site,
        study_instance_uid=row.study_instance_uid,
        unmatched_at=row.unmatched_at,
    )
