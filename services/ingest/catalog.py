"""What is shown of studies and of the quarantine: all SQL of ingest's read side."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, Row, and_, false, func, or_, select
from sqlalchemy.ext.asyncio import AsyncSession

from libs.web.principal import Principal
from services.ingest.models import arrivals, instances, quarantine, studies


@dataclass(frozen=True)
class Page:
    """Which part of a list: below a row, and how many rows at most."""

    before: int | None
    limit: int


async def list_studies(
    tx: AsyncSession, caller: Principal, page: Page, *, tenant: str | None, site: str | None, state: str | None
) -> list[Row[Any]]:
    """List studies in the caller's scope, the latest first arrival first; each with the sum of its sizes."""
    # Sites are a list in JSON, which the two databases search differently: few studies have many, so it is done here.
    wanted: list[ColumnElement[bool]] = []
    if caller.tenants is not None:
        wanted.append(studies.c.tenant.in_(caller.tenants) if caller.tenants else false())
    if tenant is not None:
        wanted.append(studies.c.tenant == tenant)
    if state == "receiving":
        wanted.append(studies.c.version == 0)
    elif state == "complete":
        wanted.append(and_(studies.c.version > 0, studies.c.due_at.is_(None)))
    elif state == "amending":
        wanted.append(and_(studies.c.version > 0, studies.c.due_at.is_not(None)))
    found: list[Row[Any]] = []
    before = page.before
    while len(found) < page.limit:
        below = [] if before is None else [studies.c.id < before]
        rows = (
            await tx.execute(select(studies).where(*wanted, *below).order_by(studies.c.id.desc()).limit(page.limit))
        ).all()
        if not rows:
            break
        before = rows[-1].id
        found += [
            row for row in rows if caller.sees_study(row.tenant, row.sites) and (site is None or site in row.sites)
        ]
    return found[: page.limit]


async def sizes(tx: AsyncSession, study_ids: Sequence[int]) -> dict[int, int]:
    """Give the bytes kept for each study."""
    rows = await tx.execute(
        select(instances.c.study_id, func.sum(instances.c.size))
        .where(instances.c.study_id.in_(study_ids))
        .group_by(instances.c.study_id)
    )
    return {study_id: int(size) for study_id, size in rows}


async def find_studies(tx: AsyncSession, caller: Principal, study_uid: str) -> list[Row[Any]]:
    """Give the studies with this UID in the caller's scope: one for each tenant that has it."""
    rows = await tx.execute(select(studies).where(studies.c.study_uid == study_uid).order_by(studies.c.tenant))
    return [row for row in rows if caller.sees_study(row.tenant, row.sites)]


async def series_of(tx: AsyncSession, study_id: int) -> list[tuple[str, int, int]]:
    """List a study's series: UID, number of instances, bytes."""
    rows = await tx.execute(
        select(instances.c.series_uid, func.count(), func.sum(instances.c.size))
        .where(instances.c.study_id == study_id)
        .group_by(instances.c.series_uid)
        .order_by(instances.c.series_uid)
    )
    return [(uid, int(count), int(size)) for uid, count, size in rows]


async def arrivals_of(tx: AsyncSession, study_id: int) -> dict[str, int]:
    """Count a study's arrivals by outcome."""
    rows = await tx.execute(
        select(arrivals.c.outcome, func.count()).where(arrivals.c.study_id == study_id).group_by(arrivals.c.outcome)
    )
    return {outcome: int(count) for outcome, count in rows}


async def list_quarantine(
    tx: AsyncSession, caller: Principal, *, before: str | None, limit: int, reason: str | None
) -> list[Row[Any]]:
    """List the quarantine in the caller's scope, the latest first."""
    wanted = _in_scope(caller)
    if before is not None:
        wanted.append(quarantine.c.id < before)
    if reason is not None:
        wanted.append(quarantine.c.reason == reason)
    rows = await tx.execute(select(quarantine).where(*wanted).order_by(quarantine.c.id.desc()).limit(limit))
    return list(rows)


async def show_quarantine(tx: AsyncSession, caller: Principal, entry_id: str) -> Row[Any] | None:
    """Give one entry of the quarantine, if it is in the caller's scope."""
    return (await tx.execute(select(quarantine).where(quarantine.c.id == entry_id, *_in_scope(caller)))).first()


def state_of(version: int, due_at: datetime | None) -> str:
    """Name the state of a study: see docs/states-study.md."""
    if version == 0:
        return "receiving"
    return "complete" if due_at is None else "amending"


def _in_scope(caller: Principal) -> list[ColumnElement[bool]]:
    wanted: list[ColumnElement[bool]] = []
    if caller.tenants is not None:
        wanted.append(or_(false(), quarantine.c.tenant.in_(caller.tenants)))
    if caller.sites is not None:
        wanted.append(or_(false(), quarantine.c.site.in_(caller.sites)))
    return wanted
