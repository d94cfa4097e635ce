"""HTTP routes of ingest."""

from datetime import datetime
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, Query, Request
from pydantic import BaseModel, Field
from sqlalchemy import Row

from contracts.fact import Source
from contracts.instances import QuarantineReason
from libs.storage.database import Database
from libs.web.permission import requires
from libs.web.principal import Principal, principal
from libs.web.problem import Problem
from libs.web.recording import use_of
from services.ingest import catalog
from services.ingest.repository import utc

Caller = Annotated[Principal, Depends(principal)]
Limit = Annotated[int, Query(ge=1, le=500, description="Entries at most.")]
State = Literal["receiving", "complete", "amending"]


class Study(BaseModel):
    """One study, without anything that says who the patient is."""

    id: int = Field(description="Place in the list.")
    study_instance_uid: str
    tenant: str
    state: State = Field(description="receiving; complete; amending: more arrived after a version was declared.")
    version: int = Field(description="Last version; 0 before the first.")
    instance_count: int
    series_count: int
    size: int = Field(description="Bytes kept.")
    modalities: tuple[str, ...] = Field(description="Of the last version.")
    sites: tuple[str, ...] = Field(description="Sites that sent instances.")
    first_arrival: datetime
    last_arrival: datetime


class StudyPage(BaseModel):
    """Studies, the latest first."""

    studies: tuple[Study, ...]
    before: int | None = Field(description="Ask with this for the next page; null: there is none.")


class Series(BaseModel):
    """One series of a study."""

    series_instance_uid: str
    instance_count: int
    size: int


class StudyDetail(Study):
    """One study with its series and, once it was complete, its attributes."""

    source: Source = Field(description="The first arrival.")
    series: tuple[Series, ...]
    arrivals: dict[str, int] = Field(description="Arrivals by outcome: stored, duplicate.")
    manifest_key: str | None
    content_hash: str | None
    attributes: dict[str, Any] = Field(description="Attributes of the last version by DICOM keyword.")


class Quarantined(BaseModel):
    """One object that was put aside."""

    id: str
    tenant: str
    site: str
    reason: QuarantineReason
    detail: str
    study_instance_uid: str | None
    sop_instance_uid: str | None
    transfer_syntax_uid: str
    source: Source
    object_key: str
    content_hash: str
    size: int
    times: int = Field(description="How often the same bytes arrived.")
    received_at: datetime
    last_received_at: datetime


class QuarantinePage(BaseModel):
    """The quarantine, the latest first."""

    entries: tuple[Quarantined, ...]
    before: str | None = Field(description="Ask with this for the next page; null: there is none.")


def make_router(database: Database) -> APIRouter:
    """Give the routes of `/v1/ingest`."""
    router = APIRouter()

    @router.get("/studies", dependencies=[requires("studies.read")])
    async def list_studies(
        caller: Caller,
        limit: Limit = 50,
        before: Annotated[int | None, Query(ge=1, description="Studies below this place.")] = None,
        tenant: Annotated[str | None, Query(description="Of this tenant only.")] = None,
        site: Annotated[str | None, Query(description="Of this site only.")] = None,
        state: Annotated[State | None, Query(description="In this state only.")] = None,
    ) -> StudyPage:
        """List studies, the latest first."""
        async with database.reading() as tx:
            found = await catalog.list_studies(
                tx, caller, catalog.Page(before, limit + 1), tenant=tenant, site=site, state=state
            )
            shown = found[:limit]
            sizes = await catalog.sizes(tx, [row.id for row in shown])
        return StudyPage(
            studies=tuple(Study(**_study(row, sizes.get(row.id, 0))) for row in shown),
            before=shown[-1].id if len(found) > limit else None,
        )

    @router.get("/studies/{uid}", dependencies=[requires("studies.read")])
    async def show_study(
        request: Request,
        uid: str,
        caller: Caller,
        tenant: Annotated[str | None, Query(description="Needed only if several tenants have this UID.")] = None,
    ) -> StudyDetail:
        """Show one study with its series."""
        async with database.reading() as tx:
            found = [row for row in await catalog.find_studies(tx, caller, uid) if tenant in (None, row.tenant)]
            if not found:
                raise Problem(
                    404,
                    "No such study",
                    "There is no study with this UID, or it is not in your scope.",
                    advice="GET /v1/ingest/studies lists those that are.",
                )
            if len(found) > 1:
                raise Problem(
                    409,
                    "Several studies",
                    "More than one tenant has a study with this UID.",
                    advice="Ask again with ?tenant=.",
                    tenants=[row.tenant for row in found],
                )
            row = found[0]
            use_of(request).concerns(uid, row.tenant)
            series = await catalog.series_of(tx, row.id)
            counts = await catalog.arrivals_of(tx, row.id)
        return StudyDetail(
            **_study(row, sum(size for _, _, size in series)),
            source=Source.model_validate(row.source),
            series=tuple(Series(series_instance_uid=each, instance_count=n, size=size) for each, n, size in series),
            arrivals=counts,
            manifest_key=row.manifest_key,
            content_hash=row.version_hash,
            attributes=row.attributes or {},
        )

    @router.get("/quarantine", dependencies=[requires("quarantine.read")])
    async def list_quarantine(
        caller: Caller,
        limit: Limit = 50,
        before: Annotated[str | None, Query(description="Entries below this id.")] = None,
        reason: Annotated[QuarantineReason | None, Query(description="With this reason only.")] = None,
    ) -> QuarantinePage:
        """List what was kept but not taken into any study, the latest first."""
        async with database.reading() as tx:
            found = await catalog.list_quarantine(tx, caller, before=before, limit=limit + 1, reason=reason)
        shown = found[:limit]
        return QuarantinePage(
            entries=tuple(_quarantined(row) for row in shown), before=shown[-1].id if len(found) > limit else None
        )

    @router.get("/quarantine/{entry}", dependencies=[requires("quarantine.read")])
    async def show_quarantine(request: Request, entry: str, caller: Caller) -> Quarantined:
        """Show one entry of the quarantine."""
        async with database.reading() as tx:
            row = await catalog.show_quarantine(tx, caller, entry)
        if row is None:
            raise Problem(
                404,
                "No such entry",
                "The quarantine has no such entry, or it is not in your scope.",
                advice="GET /v1/ingest/quarantine lists those that are.",
            )
        use_of(request).concerns(entry, row.tenant)
        return _quarantined(row)

    return router


def _study(row: Row[Any], size: int) -> dict[str, Any]:
    return {
        "id": row.id,
        "study_instance_uid": row.study_uid,
        "tenant": row.tenant,
        "state": catalog.state_of(row.version, row.due_at),
        "version": row.version,
        "instance_count": row.instance_count,
        "series_count": row.series_count,
        "size": size,
        "modalities": (row.attributes or {}).get("ModalitiesInStudy", []),
        "sites": row.sites,
        "first_arrival": utc(row.first_arrival),
        "last_arrival": utc(row.last_arrival),
    }


def _quarantined(row: Row[Any]) -> Quarantined:
    return Quarantined(
        id=row.id,
        tenant=row.tenant,
        site=row.site,
        reason=row.reason,
        detail=row.detail,
        study_instance_uid=row.study_uid,
        sop_instance_uid=row.sop_uid,
        transfer_syntax_uid=row.transfer_syntax_uid,
        source=Source.model_validate(row.source),
        object_key=row.object_key,
        content_hash=row.content_hash,
        size=row.size,
        times=row.times,
        received_at=utc(row.received_at),
        last_received_at=utc(row.last_received_at),
    )
