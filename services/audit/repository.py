"""All SQL of audit."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import reduce
from typing import Any

from sqlalchemy import Select, delete, func, insert, select, tuple_, update
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.ext.asyncio import AsyncSession

from libs.web.principal import Principal
from services.audit.gap import Arrivals
from services.audit.models import gaps, producers, records


@dataclass(frozen=True)
class Record:
    """One event as it was recorded; the fields are the columns of `records`."""

    seq: int
    source: str
    event_id: str
    sequence: int
    type: str
    time: datetime
    recorded_at: datetime
    tenant: str
    site: str | None
    subject: str
    study_instance_uid: str | None
    sha256: str
    body: bytes


@dataclass(frozen=True)
class Filter:
    """Which records are asked for; None leaves a part open."""

    type: str | None = None
    source: str | None = None
    subject: str | None = None
    study_instance_uid: str | None = None
    since: datetime | None = None
    until: datetime | None = None


@dataclass(frozen=True)
class Gap:
    """Numbers of a producer that have not come."""

    source: str
    first: int
    last: int
    since: datetime


async def append(tx: AsyncSession, rows: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Append the records that are not there already, in their order, and give them."""
    event = tuple_(records.c.source, records.c.event_id)
    wanted = {(row["source"], row["event_id"]): row for row in rows}
    found = await tx.execute(select(records.c.source, records.c.event_id).where(event.in_(list(wanted))))
    known = {(row.source, row.event_id) for row in found}
    new = [row for key, row in wanted.items() if key not in known]
    if new:
        await tx.execute(insert(records), new)
    return new


async def count_in(tx: AsyncSession, source: str, numbers: Sequence[int], now: datetime) -> None:
    """Take a producer's numbers in, ascending and each once, and keep the gaps up to date."""
    first, last = numbers[0], numbers[-1]
    if last - first == len(numbers) - 1:
        # Nearly always they are the next ones, which opens and closes no gap.
        expected = (producers.c.source == source, producers.c.next_sequence == first)
        counted = await tx.execute(
            update(producers).where(*expected).values(next_sequence=last + 1).returning(producers.c.source)
        )
        if counted.first() is not None:
            return
    dialect = sqlite if tx.get_bind().dialect.name == "sqlite" else postgresql
    await tx.execute(dialect.insert(producers).values(source=source, next_sequence=1).on_conflict_do_nothing())
    # Locked on PostgreSQL, so that two replicas do not overwrite each other's count.
    next_sequence = await tx.scalar(
        select(producers.c.next_sequence).where(producers.c.source == source).with_for_update()
    )
    rows = await tx.execute(select(gaps.c.first, gaps.c.last, gaps.c.since).where(gaps.c.source == source))
    since = {(row.first, row.last): row.since for row in rows}
    before = Arrivals(next_sequence or 1, tuple(sorted(since)))
    after = reduce(Arrivals.arrived, numbers, before)
    if after.next_sequence != before.next_sequence:
        await tx.execute(
            update(producers).where(producers.c.source == source).values(next_sequence=after.next_sequence)
        )
    closed = since.keys() - set(after.missing)
    opened = sorted(set(after.missing) - since.keys())
    if closed:
        await tx.execute(delete(gaps).where(gaps.c.source == source, gaps.c.first.in_([gap[0] for gap in closed])))
    if opened:
        # What remains of a gap is as old as the gap was.
        ages = [next((since[gap] for gap in closed if gap[0] <= part[0] <= gap[1]), now) for part in opened]
        parts = zip(opened, ages, strict=True)
        await tx.execute(
            insert(gaps),
            [{"source": source, "first": part[0], "last": part[1], "since": age} for part, age in parts],
        )


async def of_study(
    tx: AsyncSession, study_instance_uid: str, reader: Principal, since: datetime | None, limit: int
) -> list[Record]:
    """Give what happened to a study, in order of time, without who looked at it.

    A reader that is limited to sites sees all of a study that one of them sent.
    """
    query = select(records).where(
        records.c.study_instance_uid == study_instance_uid, records.c.type.not_like("kivuko.access.%")
    )
    if reader.tenants is not None:
        query = query.where(records.c.tenant.in_(reader.tenants))
    if reader.sites is not None:
        sent = select(records.c.tenant).where(
            records.c.study_instance_uid == study_instance_uid, records.c.site.in_(reader.sites)
        )
        query = query.where(records.c.tenant.in_(sent))
    if since is not None:
        query = query.where(records.c.time >= since)
    query = query.order_by(records.c.time, records.c.source, records.c.sequence).limit(limit)
    return _records(await tx.execute(query))


async def page(tx: AsyncSession, wanted: Filter, reader: Principal, before: int | None, limit: int) -> list[Record]:
    """Give records, the latest first, below a number."""
    query = _scoped(select(records), reader)
    for column in ("type", "source", "subject", "study_instance_uid"):
        value = getattr(wanted, column)
        if value is not None:
            query = query.where(records.c[column] == value)
    if wanted.since is not None:
        query = query.where(records.c.time >= wanted.since)
    if wanted.until is not None:
        query = query.where(records.c.time < wanted.until)
    if before is not None:
        query = query.where(records.c.seq < before)
    return _records(await tx.execute(query.order_by(records.c.seq.desc()).limit(limit)))


async def one(tx: AsyncSession, seq: int, reader: Principal) -> Record | None:
    """Give a record by its number, if the reader may see it."""
    found = _records(await tx.execute(_scoped(select(records).where(records.c.seq == seq), reader)))
    return found[0] if found else None


async def open_gaps(tx: AsyncSession, before: datetime) -> list[Gap]:
    """Give the gaps that were open already at a time."""
    query = select(gaps).where(gaps.c.since <= before).order_by(gaps.c.source, gaps.c.first)
    return [Gap(**row._mapping) for row in await tx.execute(query)]  # noqa: SLF001 -- public in spite of its name


async def count_missing(tx: AsyncSession, before: datetime) -> dict[str, int]:
    """Count, by producer, the events that were missing already at a time."""
    missing = func.sum(gaps.c.last - gaps.c.first + 1)
    rows = await tx.execute(select(gaps.c.source, missing).where(gaps.c.since <= before).group_by(gaps.c.source))
    return {source: int(count) for source, count in rows}


def _scoped(query: Select[Any], reader: Principal) -> Select[Any]:
    if reader.tenants is not None:
        query = query.where(records.c.tenant.in_(reader.tenants))
    if reader.sites is not None:
        query = query.where(records.c.site.in_(reader.sites))
    return query


def _records(rows: Any) -> list[Record]:
    return [Record(**row._mapping) for row in rows]  # noqa: SLF001 -- public in spite of its name
