"""HTTP routes of ingest."""

from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, Query, Request
from pydantic import BaseModel, Field
from sqlalchemy import Row

from contracts.fact import Source
from contracts.study import FlagKind, Sign
from libs.clock import Clock
from libs.storage.database import Database
from libs.web.permission import requires
from libs.web.principal import Principal, principal
from libs.web.problem import Problem
from libs.web.recording import use_of
from services.ingest import catalog, holdings, retention_api
from services.ingest.quarantine import Quarantine
from services.ingest.quarantine_api import add_routes
from services.ingest.repository import utc
from services.ingest.retention_api import Keeping

Caller = Annotated[Principal, Depends(principal)]
Limit = Annotated[int, Query(ge=1, le=500, description="Entries at most.")]
State = Literal["receiving", "complete", "amending", "expired"]


class Study(BaseModel):
    """One study, without anything that says who the patient is."""

    id: int = Field(description="Place in the list.")
    study_instance_uid: str
    tenant: str
    state: State = Field(
        description="receiving; complete; amending: more arrived after a version was declared; expired: copy gone."
    )
    version: int = Field(description="Last version; 0 before the first.")
    instance_count: int
    series_count: int
    size: int = Field(description="Bytes kept.")
    modalities: tuple[str, ...] = Field(description="Of the last version.")
    flags: int = Field(description="What people should look at, and nobody has yet.")
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


class Flag(BaseModel):
    """Something of a study that a person should look at."""

    id: int
    kind: FlagKind
    fields: tuple[str, ...] = Field(description="DICOM keywords that differ.")
    other_study_instance_uid: str = Field(description="The study that it differs from; its own, if from itself.")
    raised_at: datetime
    cleared_at: datetime | None
    cleared_by: str | None


class StudyDetail(Study):
    """One study with its series and, once it was complete, its attributes."""

    source: Source = Field(description="The first arrival.")
    series: tuple[Series, ...]
    arrivals: dict[str, int] = Field(description="Arrivals by outcome: stored, duplicate, replaced.")
    conflicts: dict[str, int] = Field(description="Arrivals of other content under known UIDs, by what was done.")
    flagged: tuple[Flag, ...] = Field(description="Flags, those that people have cleared included.")
    manifest_key: str | None
    content_hash: str | None
    attributes: dict[str, Any] = Field(description="Attributes of the last version by DICOM keyword.")
    signs: tuple[Sign, ...] = Field(description="What the last version was declared complete on.")
    keeping: Keeping = Field(description="How long the copy is kept.")
    score: float | None = Field(description="How sure that is, from 0 to 1: see docs/assembly.md.")


def make_router(
    database: Database, quarantine: Callable[[], Quarantine], clock: Clock, network: retention_api.InForce
) -> APIRouter:
    """Give the routes of `/v1/ingest`.

    Parameters
    ----------
    quarantine
        Gives the quarantine while ingest runs; raises Problem 503 while it does not.
    network
        Gives the network definition in force.
    """
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
            flags = await catalog.flag_counts(tx, [row.id for row in shown])
        return StudyPage(
            studies=tuple(Study(**_study(row, sizes.get(row.id, 0), flags.get(row.id, 0))) for row in shown),
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
            row = _only(await catalog.find_studies(tx, caller, uid), tenant)
            use_of(request).concerns(uid, row.tenant)
            series = await catalog.series_of(tx, row.id)
            counts = await catalog.arrivals_of(tx, row.id)
            conflicts = await catalog.conflicts_of(tx, row.id)
            flags = await catalog.flags_of(tx, row.id)
            copy = (await holdings.copies(tx, [row]))[row.id]
        return StudyDetail(
            **_study(row, sum(size for _, _, size in series), sum(flag.cleared_at is None for flag in flags)),
            source=Source.model_validate(row.source),
            series=tuple(Series(series_instance_uid=each, instance_count=n, size=size) for each, n, size in series),
            arrivals=counts,
            conflicts=conflicts,
            flagged=tuple(map(_flag, flags)),
            keeping=retention_api.keeping(copy, network()),
            manifest_key=row.manifest_key,
            content_hash=row.version_hash,
            attributes=row.attributes or {},
            signs=tuple(Sign.model_validate(each) for each in row.evidence or ()),
            score=row.score,
        )

    @router.post("/studies/{uid}/flags/{flag}/clear", dependencies=[requires("studies.manage")])
    async def clear_flag(
        request: Request,
        uid: str,
        flag: int,
        caller: Caller,
        tenant: Annotated[str | None, Query(description="Needed only if several tenants have this UID.")] = None,
    ) -> Flag:
        """Say that a person has looked at a flag. It stays on record."""
        async with database.transaction() as tx:
            row = _only(await catalog.find_studies(tx, caller, uid), tenant)
            use_of(request).concerns(uid, row.tenant)
            await catalog.clear_flag(tx, row.id, flag, by=caller.name, at=clock())
            found = [each for each in await catalog.flags_of(tx, row.id) if each.id == flag]
        if not found:
            raise Problem(
                404, "No such flag", "The study has no such flag.", advice="`kivuko study show UID` lists its flags."
            )
        return _flag(found[0])

    add_routes(router, database, quarantine)
    retention_api.add_routes(router, database, network)
    return router


def _only(found: Sequence[Row[Any]], tenant: str | None) -> Row[Any]:
    chosen = [row for row in found if tenant in (None, row.tenant)]
    if not chosen:
        raise Problem(
            404,
            "No such study",
            "There is no study with this UID, or it is not in your scope.",
            advice="GET /v1/ingest/studies lists those that are.",
        )
    if len(chosen) > 1:
        raise Problem(
            409,
            "Several studies",
            "More than one tenant has a study with this UID.",
            advice="Ask again with ?tenant=.",
            tenants=[row.tenant for row in chosen],
        )
    return chosen[0]


def _flag(row: Row[Any]) -> Flag:
    return Flag(
        id=row.id,
        kind=row.kind,
        fields=tuple(row.fields),
        other_study_instance_uid=row.other_study_uid,
        raised_at=utc(row.raised_at),
        cleared_at=None if row.cleared_at is None else utc(row.cleared_at),
        cleared_by=row.cleared_by,
    )


def _study(row: Row[Any], size: int, flags: int) -> dict[str, Any]:
    return {
        "id": row.id,
        "study_instance_uid": row.study_uid,
        "tenant": row.tenant,
        "state": catalog.state_of(row.version, row.due_at, row.expired_at),
        "version": row.version,
        "instance_count": row.instance_count,
        "series_count": row.series_count,
        "size": size,
        "modalities": (row.attributes or {}).get("ModalitiesInStudy", []),
        "flags": flags,
        "sites": row.sites,
        "first_arrival": utc(row.first_arrival),
        "last_arrival": utc(row.last_arrival),
    }
