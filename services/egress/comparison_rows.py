"""What comparing with destinations found. Every function works in the caller's transaction."""

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any, Final

from sqlalchemy import ColumnElement, Row, and_, exists, func, or_, select, update
from sqlalchemy.ext.asyncio import AsyncSession

from services.egress.comparison import Last, Span
from services.egress.models import comparisons, deliveries, items
from services.egress.questions import SENT, studies_there
from services.egress.repository import insert_of

#: A worker that has written nothing down for so long is dead.
SILENT: Final = timedelta(minutes=10)
#: Instances that their destination was seen not to have.
LOST = and_(SENT, items.c.missing_at.is_not(None))
#: Deliveries with such instances.
LACKING = exists().where(items.c.delivery_id == deliveries.c.id, LOST)


async def last(tx: AsyncSession, destination: str) -> Row[Any] | None:
    """Read the last comparison with a destination."""
    return (await tx.execute(select(comparisons).where(comparisons.c.destination == destination))).one_or_none()


def known(row: Row[Any] | None) -> Last | None:
    """Give what counts for the time of the next."""
    if row is None:
        return None
    return Last(row.began_at, row.ended_at is not None and row.problem is None, row.covered_until)


def is_running(row: Row[Any] | None, now: datetime) -> bool:
    """Tell whether somebody is about a comparison."""
    return row is not None and row.worker is not None and row.touched_at > now - SILENT


async def begin(
    tx: AsyncSession, destination: str, worker: str, span: Span, now: datetime, before: datetime | None
) -> bool:
    """Begin a comparison, unless somebody is about one, or one began after `before` (the last that is known of)."""
    values = {
        "worker": worker,
        "began_at": now,
        "touched_at": now,
        "ended_at": None,
        "since": span.since,
        "until": span.until,
        "problem": None,
        "whole": True,
        **dict.fromkeys(("studies", "instances", "missing", "unknown"), 0),
    }
    free = and_(
        or_(comparisons.c.worker.is_(None), comparisons.c.touched_at <= now - SILENT),
        comparisons.c.began_at <= (now if before is None else before),
    )
    insertion = insert_of(tx)(comparisons).values(destination=destination, **values)
    begun = insertion.on_conflict_do_update(index_elements=["destination"], set_=values, where=free).returning(
        comparisons.c.destination
    )
    return (await tx.execute(begun)).one_or_none() is not None


async def studies(tx: AsyncSession, destination: str, span: Span, after: str, limit: int) -> Sequence[tuple[str, str]]:
    """Name deliveries of which something was sent in a span, and their studies."""
    within = exists().where(
        items.c.delivery_id == deliveries.c.id, SENT, items.c.sent_at >= span.since, items.c.sent_at < span.until
    )
    found = await tx.execute(
        select(deliveries.c.id, deliveries.c.study_instance_uid)
        .where(deliveries.c.destination == destination, deliveries.c.id > after, within)
        .order_by(deliveries.c.id)
        .limit(limit)
    )
    rows = found.all()
    there = await studies_there(tx, [row.id for row in rows])
    return [(row.id, there.get(row.id, row.study_instance_uid)) for row in rows]


async def note(tx: AsyncSession, destination: str, worker: str, now: datetime, **more: int) -> bool:
    """Add to the figures of a comparison; False if another worker has taken it over."""
    added = {name: comparisons.c[name] + count for name, count in more.items()}
    result: Any = await tx.execute(
        update(comparisons)
        .where(comparisons.c.destination == destination, comparisons.c.worker == worker)
        .values(touched_at=now, **added)
    )
    return bool(result.rowcount)


async def end(
    tx: AsyncSession, destination: str, worker: str, now: datetime, problem: str | None, *, whole: bool
) -> None:
    """End a comparison."""
    mine = and_(comparisons.c.destination == destination, comparisons.c.worker == worker)
    if problem is None:
        joins = or_(comparisons.c.covered_until.is_(None), comparisons.c.covered_until >= comparisons.c.since)
        await tx.execute(update(comparisons).where(mine, joins).values(covered_until=comparisons.c.until))
    await tx.execute(
        update(comparisons).where(mine).values(worker=None, ended_at=now, touched_at=now, problem=problem, whole=whole)
    )


async def missing(tx: AsyncSession, *conditions: ColumnElement[bool]) -> dict[str, int]:
    """Count for each destination the instances that it was seen not to have."""
    found = await tx.execute(
        select(deliveries.c.destination, func.count())
        .join_from(items, deliveries)
        .where(LOST, *conditions)
        .group_by(deliveries.c.destination)
    )
    return {row[0]: row[1] for row in found}


async def lacking(tx: AsyncSession, limit: int, *conditions: ColumnElement[bool]) -> Sequence[Row[Any]]:
    """Name deliveries with missing instances, and how many: those first that were found last."""
    found = await tx.execute(
        select(deliveries.c.id, deliveries.c.study_instance_uid, func.count().label("missing"))
        .join_from(items, deliveries)
        .where(LOST, *conditions)
        .group_by(deliveries.c.id, deliveries.c.study_instance_uid)
        .order_by(func.max(items.c.missing_at).desc(), deliveries.c.id)
        .limit(limit)
    )
    return found.all()
