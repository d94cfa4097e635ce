"""All SQL of what rules recorded of studies. Every function works in its caller's transaction."""

import gzip
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from sqlalchemy import Insert, Select, bindparam, delete, func, select, tuple_
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.ext.asyncio import AsyncSession

from contracts.definition import Definition
from services.rules import transcript
from services.rules.chronicle import Record
from services.rules.models import definitions, history, studies

#: Rows that are removed by one statement.
_PRUNED: Final = 500
_INSERTS: Final[dict[str, Any]] = {"sqlite": sqlite.insert, "postgresql": postgresql.insert}


def _keep(begin: Any) -> Insert:
    statement = begin(history)
    kept: Insert = statement.on_conflict_do_update(
        index_elements=["study_id"],
        set_={"decided_at": statement.excluded.decided_at, "record": statement.excluded.record},
    )
    return kept


_KEEP: Final = {name: _keep(begin) for name, begin in _INSERTS.items()}
#: Place in the history: time of the decision, row of the study.
Place = tuple[datetime, int]
_at: Final = tuple_(history.c.decided_at, history.c.study_id)
_RECORDED: Final[Select[Any]] = select(
    history.c.study_id,
    studies.c.tenant,
    studies.c.study_instance_uid,
    studies.c.site,
    history.c.decided_at,
    history.c.record,
    studies.c.expired_version,
).join(studies, studies.c.id == history.c.study_id)
_RECORD: Final[Select[Any]] = select(history.c.record).where(history.c.study_id == bindparam("study"))


@dataclass(frozen=True)
class Recorded:
    """A study and what is recorded of it.

    Attributes
    ----------
    study_id
        Its row.
    tenant, study_instance_uid, site
        Which study, and the site that sent it first.
    decided_at
        When its last version was decided.
    record
        As `transcript.as_json` wrote it.
    expired_version
        Last version whose copy expired.
    """

    study_id: int
    tenant: str
    study_instance_uid: str
    site: str | None
    decided_at: datetime
    record: dict[str, Any]
    expired_version: int


async def keep(tx: AsyncSession, study_id: int, decided_at: datetime, made: Record) -> None:
    """Keep what is recorded of a study, in the place of what was before."""
    values = {"study_id": study_id, "decided_at": decided_at, "record": transcript.as_json(made)}
    await tx.execute(_KEEP[tx.get_bind().dialect.name], values)


async def record_of(tx: AsyncSession, study_id: int) -> Record | None:
    """Give what is recorded of a study."""
    found = await tx.scalar(_RECORD, {"study": study_id})
    return None if found is None else transcript.from_json(found)


async def named(tx: AsyncSession, study_instance_uid: str) -> list[Recorded]:
    """Give what is recorded of the studies of this UID, one of each tenant at most."""
    rows = await tx.execute(
        _RECORDED.where(studies.c.study_instance_uid == study_instance_uid).order_by(studies.c.tenant)
    )
    return [Recorded(*row) for row in rows]


async def page(tx: AsyncSession, after: Place, until: Place, limit: int) -> list[Recorded]:
    """Give the studies behind one place up to another, in the order of their decision."""
    rows = await tx.execute(
        _RECORDED.where(_at > _place(after), _at <= _place(until))
        .order_by(history.c.decided_at, history.c.study_id)
        .limit(limit)
    )
    return [Recorded(*row) for row in rows]


def _place(place: Place) -> Any:
    return tuple_(bindparam(None, place[0], history.c.decided_at.type), bindparam(None, place[1]))


async def step(tx: AsyncSession, after: Place, until: datetime, count: int) -> tuple[Place, int] | None:
    """Find the place that lies so many studies further on, or the last one before a time; and how many that are."""
    inner = (
        select(history.c.decided_at, history.c.study_id)
        .where(_at > _place(after), history.c.decided_at < until)
        .order_by(history.c.decided_at, history.c.study_id)
        .limit(count)
        .subquery()
    )
    last = (
        select(inner.c.decided_at, inner.c.study_id, select(func.count()).select_from(inner).scalar_subquery())
        .order_by(inner.c.decided_at.desc(), inner.c.study_id.desc())
        .limit(1)
    )
    row = (await tx.execute(last)).one_or_none()
    return None if row is None else ((row[0], row[1]), row[2])


async def count(tx: AsyncSession, since: datetime, until: datetime) -> int:
    """Count the studies that were decided from one time up to another."""
    rows = select(func.count()).select_from(history).where(history.c.decided_at >= since, history.c.decided_at < until)
    return await tx.scalar(rows) or 0


async def prune(tx: AsyncSession, before: datetime) -> int:
    """Remove some of what was decided before a time; give how many. None are left when it gives 0."""
    old = select(history.c.study_id).where(history.c.decided_at < before).limit(_PRUNED)
    return (await tx.execute(delete(history).where(history.c.study_id.in_(old.scalar_subquery())))).rowcount  # type: ignore[attr-defined,no-any-return]  # a DELETE has it


async def keep_definition(tx: AsyncSession, version: int, definition: Definition) -> None:
    """Keep a definition that studies are decided under; one that is kept stays as it is."""
    document = gzip.compress(definition.model_dump_json(by_alias=True).encode())
    statement = _INSERTS[tx.get_bind().dialect.name](definitions).on_conflict_do_nothing()
    await tx.execute(statement, {"version": version, "document": document})


async def ensure_definition(tx: AsyncSession, version: int, definition: Definition) -> None:
    """Keep a definition, if it is not kept yet: to look is cheaper than to write it."""
    if await tx.scalar(select(definitions.c.version).where(definitions.c.version == version)) is None:
        await keep_definition(tx, version, definition)


async def definition_of(tx: AsyncSession, version: int) -> bytes | None:
    """Give the JSON of a definition that was kept."""
    found = await tx.scalar(select(definitions.c.document).where(definitions.c.version == version))
    return None if found is None else gzip.decompress(found)
