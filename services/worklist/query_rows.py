"""SQL of recorded queries. Every function works in its caller's transaction."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import CursorResult, Row, delete, func, insert, select, update
from sqlalchemy.ext.asyncio import AsyncSession

from services.worklist.models import queries


async def save(tx: AsyncSession, values: Mapping[str, Any]) -> int:
    """Write a query; gives its identifier."""
    found: int = (await tx.execute(insert(queries).values(**values).returning(queries.c.id))).scalar_one()
    return found


async def repeated(tx: AsyncSession, query_id: int, values: Mapping[str, Any]) -> bool:
    """Count a query once more; false if its row has gone."""
    statement = update(queries).where(queries.c.id == query_id).values(times=queries.c.times + 1, **values)
    done: CursorResult[Any] = await tx.execute(statement)  # type: ignore[assignment] # an UPDATE has a row count
    return done.rowcount == 1


async def listed(
    tx: AsyncSession, *, node: str | None = None, calling_aet: str | None = None, before: int | None, limit: int
) -> Sequence[Row[Any]]:
    """Give recorded queries, the newest first."""
    statement = select(queries).order_by(queries.c.id.desc()).limit(limit)
    if node is not None:
        statement = statement.where(queries.c.node == node)
    if calling_aet is not None:
        statement = statement.where(queries.c.calling_aet == calling_aet)
    if before is not None:
        statement = statement.where(queries.c.id < before)
    return (await tx.execute(statement)).all()


async def one(tx: AsyncSession, query_id: int) -> Row[Any] | None:
    """Give a recorded query."""
    return (await tx.execute(select(queries).where(queries.c.id == query_id))).one_or_none()


async def prune(tx: AsyncSession, before: datetime, a_node: int) -> None:
    """Forget queries that came before a time, and of each node all but the newest."""
    await tx.execute(delete(queries).where(queries.c.at < before))
    place = func.row_number().over(partition_by=(queries.c.tenant, queries.c.node), order_by=queries.c.id.desc())
    ranked = select(queries.c.id, place.label("place")).subquery()
    await tx.execute(delete(queries).where(queries.c.id.in_(select(ranked.c.id).where(ranked.c.place > a_node))))
