"""SQL of items as the port reads them: attributes as the text that they are kept as."""

from collections.abc import Sequence
from typing import Any

from sqlalchemy import Row, Select, Text, cast, or_, select
from sqlalchemy.ext.asyncio import AsyncSession

from services.worklist.index import ENDED, SHOWN
from services.worklist.models import counters, items


async def newest_revision(tx: AsyncSession) -> int:
    """Give the revision up to which everything can be seen; 0 before the first."""
    found: int | None = await tx.scalar(select(counters.c.value).where(counters.c.name == "revision"))
    return found or 0


async def shown(tx: AsyncSession, after: int, until: int, limit: int) -> Sequence[Row[Any]]:
    """Give items that are on worklists, in the order of their revisions, from after one to another."""
    statement = _items().where(
        items.c.revision > after,
        items.c.revision <= until,
        items.c.state.in_(SHOWN),
        or_(items.c.performed.is_(None), items.c.performed.not_in(ENDED)),
    )
    rows: Sequence[Row[Any]] = (await tx.execute(statement.order_by(items.c.revision).limit(limit))).all()
    return rows


async def changed(tx: AsyncSession, after: int, limit: int) -> Sequence[Row[Any]]:
    """Give items that were changed after a revision, shown or not, in the order of their revisions."""
    statement = _items().where(items.c.revision > after).order_by(items.c.revision).limit(limit)
    rows: Sequence[Row[Any]] = (await tx.execute(statement)).all()
    return rows


def _items() -> Select[Any]:
    return select(
        items.c.id,
        items.c.tenant,
        items.c.site,
        items.c.order_id,
        items.c.state,
        items.c.performed,
        items.c.start,
        items.c.revision,
        items.c.changed_at,
        cast(items.c.attributes, Text).label("text"),
    )
