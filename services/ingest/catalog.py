"""What is shown of studies and of the quarantine: all SQL of ingest's read side."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, Row, and_, false, func, or_, select, update
from sqlalchemy.ext.asyncio import AsyncSession

from libs.web.principal import Principal
from services.ingest.models import arrivals, conflicts, flags, instances, quarantine, studies


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
        wanted.append(and_(studies.c.version > 0, studies.c.due_at.is_(None), studies.c.expired_at.is_(None)))
    elif state == "amending":
        wanted.append(and_(studies.c.version > 0, studies.c.due_at.is_not(None)))
    elif state == "expired":
        wanted.append(studies.c.expired_at.is_not(None))
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


async def flags_of(tx: AsyncSession, study_id: int) -> list[Row[Any]]:
    """List what people should look at in a study, cleared flags too."""
    return list(await tx.execute(select(flags).where(flags.c.study_id == study_id).order_by(flags.c.id)))


async def clear_flag(tx: AsyncSession, study_id: int, flag_id: int, *, by: str, at: datetime) -> None:
    """Note that a person has looked; who was first stays on record."""
    await tx.execute(
        update(flags)
        .where(flags.c.id == flag_id, flags.c.study_id == study_id, flags.c.cleared_at.is_(None))
        .values(cleared_at=at, cleared_by=by)
    )


async def flag_counts(tx: AsyncSession, study_ids: Sequence[int]) -> dict[int, int]:
    """Count the flags of each study that nobody has cleared."""
    rows = await tx.execute(
        select(flags.c.study_id, func.count())
        .where(flags.c.study_id.in_(study_ids), flags.c.cleared_at.is_(None))
        .group_by(flags.c.study_id)
    )
    return {study_id: int(count) for study_id, count in rows}


async def conflicts_of(tx: AsyncSession, study_id: int) -> dict[str, int]:
    """Count the arrivals of other content under UIDs of a study, by what was done."""
    rows = await tx.execute(
        select(conflicts.c.policy, func.count()).where(conflicts.c.study_id == study_id).group_by(conflicts.c.policy)
    )
    return {policy: int(count) for policy, count in rows}


async def arrivals_of(tx: AsyncSession, study_id: int) -> dict[str, int]:
    """Count a study's arrivals by outcome."""
    rows = await tx.execute(
        select(arrivals.c.outcome, func.count()).where(arrivals.c.study_id == study_id).group_by(arrivals.c.outcome)
    )
    return {outcome: int(count) for outcome, count in rows}


@dataclass(frozen=True)
class Which:
    """Entries of the quarantine that someone asks for; None and empty leave everything in."""

    ids: tuple[str, ...] = ()
    states: tuple[str, ...] = ()
    reason: str | None = None
    tenant: str | None = None
    site: str | None = None
    node: str | None = None
    since: datetime | None = None


async def list_quarantine(
    tx: AsyncSession, caller: Principal, which: Which, *, before: str | None, limit: int
) -> list[Row[Any]]:
    """List the quarantine in the caller's scope, the latest first."""
    wanted = _in_scope(caller)
    column = quarantine.c
    if before is not None:
        wanted.append(column.id < before)
    if which.ids:
        wanted.append(column.id.in_(which.ids))
    if which.states:
        wanted.append(column.state.in_(which.states))
    if which.node is not None:
        wanted.append(column.source["node"].as_string() == which.node)
    if which.since is not None:
        wanted.append(column.last_received_at >= which.since)
    for name in ("reason", "tenant", "site"):
        if getattr(which, name) is not None:
            wanted.append(column[name] == getattr(which, name))
    rows = await tx.execute(select(quarantine).where(*wanted).order_by(quarantine.c.id.desc()).limit(limit))
    return list(rows)


async def show_quarantine(tx: AsyncSession, caller: Principal, entry_id: str) -> Row[Any] | None:
    """Give one entry of the quarantine, if it is in the caller's scope."""
    return (await tx.execute(select(quarantine).where(quarantine.c.id == entry_id, *_in_scope(caller)))).first()


async def quarantine_states(tx: AsyncSession, ids: Sequence[str]) -> dict[str, tuple[str, Any]]:
    """Give state and resolution of entries."""
    rows = await tx.execute(
        select(quarantine.c.id, quarantine.c.state, quarantine.c.resolution).where(quarantine.c.id.in_(ids))
    )
    return {row.id: (row.state, row.resolution) for row in rows}


def state_of(version: int, due_at: datetime | None, expired_at: datetime | None) -> str:
    """Name the state of a study: see docs/states-study.md."""
    if expired_at is not None:
        return "expired"
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
