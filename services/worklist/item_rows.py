"""SQL of items as the port reads them: attributes as the text that they are kept as."""

import asyncio
from collections.abc import Callable, Sequence
from typing import Any, Final

from sqlalchemy import ColumnElement, Row, Select, Text, cast, or_, select
from sqlalchemy.ext.asyncio import AsyncSession

from services.worklist import listing
from services.worklist.index import ENDED, SHOWN
from services.worklist.models import counters, items, orders

#: Names that are read at once.
_NAMES: Final = 5000


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


async def of_accession(tx: AsyncSession, accession: str, limit: int) -> Sequence[Row[Any]]:
    """Give the items of orders with an accession number, shown or not, the newest first."""
    ids = select(orders.c.id).where(orders.c.accession == accession)
    return await _newest(tx, items.c.order_id.in_(ids), limit)


async def of_patient(tx: AsyncSession, patient: str, limit: int) -> Sequence[Row[Any]]:
    """Give the items of a patient by identifier, merged ones included, the newest first."""
    return await _newest(tx, items.c.order_id.in_(select(orders.c.id).where(listing.of_patient(patient))), limit)


async def named_like(tx: AsyncSession, is_meant: Callable[[str], bool], limit: int) -> Sequence[Row[Any]]:
    """Give items of patients by name, the newest first. It reads the names of the whole table."""
    name = items.c.attributes[("PatientName", 0)].as_string()
    page = select(items.c.id, name.label("name")).order_by(items.c.id.desc()).limit(_NAMES)
    found: list[int] = []
    rows: Sequence[Row[Any]] = (await tx.execute(page)).all()
    while rows and len(found) < limit:
        found += await asyncio.to_thread(_meant, rows, is_meant)
        rows = (await tx.execute(page.where(items.c.id < rows[-1].id))).all() if len(rows) == _NAMES else ()
    return await _newest(tx, items.c.id.in_(found[:limit]), limit)


def _meant(rows: Sequence[Row[Any]], is_meant: Callable[[str], bool]) -> list[int]:
    return [row.id for row in rows if row.name and is_meant(row.name)]


async def _newest(tx: AsyncSession, condition: ColumnElement[bool], limit: int) -> Sequence[Row[Any]]:
    statement = _items().where(condition).order_by(items.c.start.desc(), items.c.id.desc()).limit(limit)
    rows: Sequence[Row[Any]] = (await tx.execute(statement)).all()
    return rows
