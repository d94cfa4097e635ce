"""HTTP routes of links between studies and orders: a person's word, and taking it back."""

from datetime import datetime
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, Query, Request
from pydantic import BaseModel, ConfigDict, Field
from sqlalchemy import Row, select

from libs.storage.database import Database
from libs.web.permission import requires
from libs.web.principal import Principal, principal
from libs.web.problem import Problem
from libs.web.recording import use_of
from services.worklist import link_rows, listing
from services.worklist.hand import unknown
from services.worklist.linking import LinkError, Linking
from services.worklist.models import studies

Caller = Annotated[Principal, Depends(principal)]
Tenant = Annotated[str | None, Query(description="Of the study, where several tenants have one with this UID.")]


class Why(BaseModel):
    """Why a link is made or taken back."""

    model_config = ConfigDict(extra="forbid")

    reason: str = Field(
        min_length=1, max_length=200, pattern=r"^[^\x00-\x1f\x7f]*$", description="Why; without data of patients."
    )


class Linked(Why):
    """To which order a study belongs, and why."""

    order: int = Field(description="Id of the order.")


class Word(BaseModel):
    """What a person has said of a study's link."""

    act: Literal["link", "unlink"]
    order_id: int
    who: str
    reason: str
    at: datetime
    matched_by: str | None = Field(description="How the study had been matched before.")


class StudyView(BaseModel):
    """A study, its order, and what people have said of that."""

    tenant: str
    site: str | None
    study_instance_uid: str
    accession: str
    patient: str
    modality: str
    first_seen_at: datetime
    completed_at: datetime | None
    order_id: int | None
    matched_by: str | None = Field(description="study-uid, accession, patient, or hand.")
    contradicts: bool = Field(description="The study and its order name different patients.")
    journal: tuple[Word, ...]
    others: tuple[str, ...] = Field(description="Other studies of the same order.")


def make_linking_router(database: Database, linking: Linking) -> APIRouter:
    """Build the routes under `/studies`."""
    router = APIRouter(tags=["worklist"])

    @router.get("/studies/{study}", dependencies=[requires("orders.read")])
    async def show_study(request: Request, caller: Caller, study: str, tenant: Tenant = None) -> StudyView:
        """Show a study, its order, and what people have said of that."""
        row = await _find(database, caller, study, tenant)
        use_of(request).concerns(study, row.tenant)
        return await _view(database, row)

    @router.post("/studies/{study}/link", dependencies=[requires("orders.manage")])
    async def link(request: Request, caller: Caller, study: str, wanted: Linked, tenant: Tenant = None) -> StudyView:
        """Have a study belong to an order, as a person has found; the same again changes nothing."""
        row = await _find(database, caller, study, tenant)
        use_of(request).concerns(study, row.tenant)
        async with database.reading() as tx:
            order = await listing.find_order(tx, caller, wanted.order)
        if order is None:
            raise unknown()
        try:
            await linking.link(row.id, order.id, caller.name, wanted.reason)
        except LinkError as error:
            raise _refused(error) from error
        return await _view(database, row)

    @router.post("/studies/{study}/unlink", dependencies=[requires("orders.manage")])
    async def unlink(request: Request, caller: Caller, study: str, wanted: Why, tenant: Tenant = None) -> StudyView:
        """Take a study from its order; it is not matched with that one again unless a person links it."""
        row = await _find(database, caller, study, tenant)
        use_of(request).concerns(study, row.tenant)
        try:
            await linking.unlink(row.id, caller.name, wanted.reason)
        except LinkError as error:
            raise _refused(error) from error
        return await _view(database, row)

    return router


async def _find(database: Database, caller: Principal, uid: str, tenant: str | None) -> Row[Any]:
    """Find a study in the caller's scope. Raises Problem."""
    wanted = [studies.c.study_instance_uid == uid, listing.within(caller, studies)]
    if tenant is not None:
        wanted.append(studies.c.tenant == tenant)
    async with database.reading() as tx:
        rows = (await tx.execute(select(studies).where(*wanted))).all()
    if not rows:
        raise Problem(
            404,
            "Not found",
            "There is no study with this UID in your scope.",
            advice="A study is known here once it is complete: `kivuko worklist unmatched` and `kivuko study list`.",
        )
    if len(rows) > 1:
        of = ", ".join(sorted(row.tenant for row in rows))
        raise Problem(409, "Several studies", f"Several tenants have this study: {of}.", advice="Say which: `tenant`.")
    return rows[0]


async def _view(database: Database, found: Row[Any]) -> StudyView:
    async with database.reading() as tx:
        row = await link_rows.study(tx, found.id)
        journal = await link_rows.journal(tx, row.tenant, row.study_instance_uid)
        others = [] if row.order_id is None else await link_rows.studies_of(tx, row.order_id)
    return StudyView(
        **{name: getattr(row, name) for name in StudyView.model_fields.keys() - {"journal", "others"}},
        journal=tuple(Word.model_validate(one, from_attributes=True) for one in journal),
        others=tuple(sorted(one.study_instance_uid for one in others if one.id != row.id)),
    )


def _refused(error: LinkError) -> Problem:
    return Problem(409, "It does not fit", str(error), advice=error.advice)
