"""SQL of links between studies and orders. Every function works in its caller's transaction."""

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import Row, insert, select, update
from sqlalchemy.ext.asyncio import AsyncSession

from services.worklist.models import orders, studies, study_links


async def study(tx: AsyncSession, study_id: int) -> Row[Any]:
    """Give a study."""
    return (await tx.execute(select(studies).where(studies.c.id == study_id))).one()


async def order(tx: AsyncSession, order_id: int) -> Row[Any]:
    """Give an order."""
    return (await tx.execute(select(orders).where(orders.c.id == order_id))).one()


async def told_orders(tx: AsyncSession, order_ids: Iterable[int]) -> Sequence[Row[Any]]:
    """Give those of orders that are no part of others, and of which something was told."""
    ids = sorted(set(order_ids))
    if not ids:
        return []
    wanted = select(orders).where(orders.c.id.in_(ids), orders.c.joined_into.is_(None)).order_by(orders.c.id)
    return [row for row in await tx.execute(wanted) if row.told]


async def studies_of(tx: AsyncSession, order_id: int) -> Sequence[Row[Any]]:
    """Give the studies of an order."""
    return (await tx.execute(select(studies).where(studies.c.order_id == order_id))).all()


async def unlinked_from(tx: AsyncSession, order_id: int) -> set[str]:
    """Give the studies that a person has taken from an order, and nobody has given back to it."""
    wanted = select(study_links).where(study_links.c.order_id == order_id).order_by(study_links.c.id)
    last = {row.study_instance_uid: row.act for row in await tx.execute(wanted)}
    return {uid for uid, act in last.items() if act == "unlink"}


async def orders_without(tx: AsyncSession, tenant: str, study_uid: str) -> set[int]:
    """Give the orders that a person has taken a study from."""
    wanted = (study_links.c.tenant == tenant) & (study_links.c.study_instance_uid == study_uid)
    rows = await tx.execute(select(study_links).where(wanted).order_by(study_links.c.id))
    last = {row.order_id: row.act for row in rows}
    return {order_id for order_id, act in last.items() if act == "unlink"}


async def free(tx: AsyncSession, study_id: int) -> None:
    """Have a study belong to no order."""
    values = {"order_id": None, "matched_by": None, "contradicts": False}
    await tx.execute(update(studies).where(studies.c.id == study_id).values(**values))


async def note(tx: AsyncSession, row: Mapping[str, Any]) -> None:
    """Write down what a person has said of a link."""
    await tx.execute(insert(study_links).values(**row))


async def note_told(tx: AsyncSession, order_id: int, told: Mapping[str, Any], now: datetime) -> None:
    """Write down what was told of an order last."""
    await tx.execute(update(orders).where(orders.c.id == order_id).values(told=told, changed_at=now))


async def journal(tx: AsyncSession, tenant: str, study_uid: str) -> Sequence[Row[Any]]:
    """Give what people have said of the links of a study, in its order."""
    wanted = (study_links.c.tenant == tenant) & (study_links.c.study_instance_uid == study_uid)
    return (await tx.execute(select(study_links).where(wanted).order_by(study_links.c.id))).all()


async def not_by_hand(tx: AsyncSession, order_id: int) -> list[int]:
    """Give the studies that matching has given to an order."""
    wanted = select(studies.c.id).where(studies.c.order_id == order_id, studies.c.matched_by != "hand")
    return list(await tx.scalars(wanted))


async def move(tx: AsyncSession, part: int, whole: int) -> None:
    """Give what was said of the links of an order that became a part of another to that one."""
    await tx.execute(update(studies).where(studies.c.order_id == part).values(order_id=whole))
    await tx.execute(update(study_links).where(study_links.c.order_id == part).values(order_id=whole))
