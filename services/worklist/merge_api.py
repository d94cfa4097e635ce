"""HTTP routes of merges of patients: which there are, and undoing one."""

from datetime import datetime
from typing import Annotated

from fastapi import APIRouter, Depends, Query, Request
from pydantic import BaseModel, ConfigDict, Field

from libs.storage.database import Database
from libs.web.permission import requires
from libs.web.principal import Principal, principal
from libs.web.problem import Problem
from libs.web.recording import use_of
from services.worklist import listing
from services.worklist.orders import Orders

Caller = Annotated[Principal, Depends(principal)]


class MergeView(BaseModel):
    """A merge of two patients."""

    id: int
    tenant: str
    kept: str = Field(description="Patient ID that is kept.")
    kept_issuer: str
    kept_site: str = Field(description="Whose own it is, where nobody is said to have issued it.")
    merged: str = Field(description="Patient ID that was given up.")
    merged_issuer: str
    merged_site: str = Field(description="Like `kept_site`.")
    source: str
    merged_at: datetime
    undone_at: datetime | None
    undone_by: str | None
    reason: str | None = Field(description="Why it was undone.")


class MergePage(BaseModel):
    """Merges, the newest first."""

    merges: tuple[MergeView, ...]
    before: int | None = Field(description="Ask with this for the next page; null: there is none.")


class Undo(BaseModel):
    """Why a merge is undone."""

    model_config = ConfigDict(extra="forbid")

    reason: str | None = Field(
        None, max_length=200, pattern=r"^[^\x00-\x1f\x7f]*$", description="Why; without data of patients."
    )


def make_merge_router(database: Database, orders: Orders) -> APIRouter:
    """Build the routes under `/merges`."""
    router = APIRouter(tags=["worklist"])

    @router.get("/merges", dependencies=[requires("orders.read")])
    async def list_merges(
        caller: Caller,
        limit: Annotated[int, Query(ge=1, le=500, description="Merges at most.")] = 100,
        before: Annotated[int | None, Query(description="Merges below this id.")] = None,
        undone: Annotated[bool, Query(description="Those that were undone, too.")] = False,
    ) -> MergePage:
        """List merges of patients, the newest first."""
        async with database.reading() as tx:
            rows = await listing.list_merges(tx, caller, undone=undone, before=before, limit=limit + 1)
        shown = rows[:limit]
        return MergePage(
            merges=tuple(MergeView(**{name: getattr(row, name) for name in MergeView.model_fields}) for row in shown),
            before=shown[-1].id if len(rows) > limit else None,
        )

    @router.post("/merges/{merge_id}/undo", dependencies=[requires("orders.manage")])
    async def undo_merge(request: Request, caller: Caller, merge_id: int, why: Undo | None = None) -> MergeView:
        """Undo a merge: each identifier has again what was said under it."""
        row = await _find(database, caller, merge_id)
        use_of(request).concerns(str(merge_id), row.tenant)
        if not await orders.unmerge(merge_id, row.tenant, caller.name, why.reason if why else None):
            raise Problem(409, "It does not fit", "This merge was undone before.")
        return await _find(database, caller, merge_id)

    return router


async def _find(database: Database, caller: Principal, merge_id: int) -> MergeView:
    async with database.reading() as tx:
        rows = await listing.list_merges(tx, caller, undone=True, before=merge_id + 1, limit=1)
    # A patient whose issuer is known belongs to all sites of a tenant: who sees some only must not take one apart.
    if not rows or rows[0].id != merge_id or caller.sites is not None:
        raise Problem(
            404,
            "Not found",
            "There is no merge with this identifier in your scope.",
            advice="List them with GET /v1/worklist/merges.",
        )
    return MergeView(**{name: getattr(rows[0], name) for name in MergeView.model_fields})
