"""Deliveries as people and metrics see them. Every function works in the caller's transaction."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, Row, and_, func, or_, select
from sqlalchemy.ext.asyncio import AsyncSession

from services.egress.models import deliveries, items
from services.egress.repository import UNFINISHED


async def count_by_state(tx: AsyncSession) -> dict[str, int]:
    """Count deliveries by state."""
    found = await tx.execute(select(deliveries.c.state, func.count()).group_by(deliveries.c.state))
    return {row[0]: row[1] for row in found}


async def destinations_of(tx: AsyncSession, condition: ColumnElement[bool]) -> set[str]:
    """Name the destinations of deliveries."""
    return set((await tx.execute(select(deliveries.c.destination).where(condition).distinct())).scalars())


async def backlog(tx: AsyncSession, condition: ColumnElement[bool] | None = None) -> dict[str, tuple[int, datetime]]:
    """Give for each destination how many deliveries still have something to send, and the time of the oldest."""
    unsent: list[ColumnElement[bool]] = [deliveries.c.state.in_(UNFINISHED)]
    if condition is not None:
        unsent.append(condition)
    found = await tx.execute(
        select(deliveries.c.destination, func.count(), func.min(deliveries.c.requested_at))
        .where(*unsent, or_(deliveries.c.next_attempt_at.is_not(None), deliveries.c.state == "held"))
        .group_by(deliveries.c.destination)
    )
    return {key: (count, oldest) for key, count, oldest in found}


async def list_deliveries(
    tx: AsyncSession, conditions: Sequence[ColumnElement[bool]], before: tuple[datetime, str] | None, limit: int
) -> Sequence[Row[Any]]:
    """Read deliveries, the youngest first, from a place in the list on."""
    query = select(deliveries).where(*conditions)
    if before is not None:
        at, delivery = before
        query = query.where(
            or_(
                deliveries.c.requested_at < at,
                and_(deliveries.c.requested_at == at, deliveries.c.id < delivery),
            )
        )
    found = await tx.execute(query.order_by(deliveries.c.requested_at.desc(), deliveries.c.id.desc()).limit(limit))
    return found.all()


async def list_items(tx: AsyncSession, delivery_id: str, after: int, limit: int) -> Sequence[Row[Any]]:
    """Read the items of a delivery in the order in which they came."""
    found = await tx.execute(
        select(items).where(items.c.delivery_id == delivery_id, items.c.id > after).order_by(items.c.id).limit(limit)
    )
    return found.all()
