"""Deliveries as people and metrics see them. Every function works in the caller's transaction."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, Row, and_, func, or_, select
from sqlalchemy.ext.asyncio import AsyncSession

from services.egress.forecast import JUST_NOW, LATELY, Flow, Queue, chosen
from services.egress.models import deliveries, items, places
from services.egress.repository import UNFINISHED

#: More reasons than so many nobody reads.
_REASONS = 20


async def count_by_state(tx: AsyncSession) -> dict[str, int]:
    """Count deliveries by state."""
    found = await tx.execute(select(deliveries.c.state, func.count()).group_by(deliveries.c.state))
    return {row[0]: row[1] for row in found}


async def destinations_of(tx: AsyncSession, condition: ColumnElement[bool]) -> set[str]:
    """Name the destinations of deliveries."""
    return set((await tx.execute(select(deliveries.c.destination).where(condition).distinct())).scalars())


async def queues(tx: AsyncSession, conditions: Sequence[ColumnElement[bool]] = ()) -> dict[str, Queue]:
    """Give for each destination what is not sent yet, of the deliveries of which something is true."""
    held = deliveries.c.state == "held"
    key = deliveries.c.id.distinct()
    unsent = [deliveries.c.state.in_(UNFINISHED), items.c.state == "pending", items.c.current, *conditions]
    found = await tx.execute(
        select(
            deliveries.c.destination,
            func.count(key),
            func.count(),
            func.sum(items.c.size),
            func.count(key).filter(held),
            func.coalesce(func.sum(items.c.size).filter(held), 0),
            func.min(deliveries.c.requested_at),
        )
        .join_from(deliveries, items)
        .where(*unsent)
        .group_by(deliveries.c.destination)
    )
    return {
        name: Queue(count, instances, int(size), stuck, int(stuck_size), oldest)
        for name, count, instances, size, stuck, stuck_size, oldest in found
    }


async def flows(tx: AsyncSession, now: datetime) -> dict[str, Flow]:
    """Give for each destination what arrived there lately."""
    just_now = items.c.sent_at > now - JUST_NOW
    figures = (func.count(), func.sum(items.c.size), func.min(items.c.sent_at))
    found = await tx.execute(
        select(deliveries.c.destination, *figures, *(figure.filter(just_now) for figure in figures))
        .join_from(items, deliveries)
        .where(items.c.sent_at > now - LATELY)
        .group_by(deliveries.c.destination)
    )
    return {
        name: chosen(Flow(few, int(few_size), last) if few else None, Flow(count, int(size), first))
        for name, count, size, first, few, few_size, last in found
    }


async def standstills(tx: AsyncSession, conditions: Sequence[ColumnElement[bool]]) -> list[tuple[str, str | None, int]]:
    """Count deliveries that are not done by their state and by what keeps them, the most first."""
    number = func.count()
    found = await tx.execute(
        select(deliveries.c.state, deliveries.c.reason, number)
        .where(deliveries.c.state.not_in(("done", "cancelled", "diverted")), *conditions)
        .group_by(deliveries.c.state, deliveries.c.reason)
        .order_by(number.desc())
        .limit(_REASONS)
    )
    return [(state, reason, count) for state, reason, count in found]


async def needed(tx: AsyncSession, destination: str) -> dict[tuple[str, str], int]:
    """Count what is not sent yet to a destination by SOP class and transfer syntax."""
    pair = (items.c.sop_class_uid, items.c.transfer_syntax_uid)
    found = await tx.execute(
        select(*pair, func.count())
        .join_from(deliveries, items)
        .where(
            deliveries.c.destination == destination,
            deliveries.c.state.in_((*UNFINISHED, "failed")),
            items.c.state != "sent",
            items.c.current,
        )
        .group_by(*pair)
    )
    return {(sop_class, syntax): count for sop_class, syntax, count in found}


async def associations(tx: AsyncSession, destination: str) -> int:
    """Count the associations that replicas have with a destination, or are about to have."""
    found = await tx.execute(
        select(func.coalesce(func.sum(places.c.number), 0)).where(places.c.destination == destination)
    )
    return int(found.scalar_one())


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


async def keys_by_state(tx: AsyncSession, conditions: Sequence[ColumnElement[bool]]) -> dict[str, list[str]]:
    """Name the deliveries of which something is true, by their state."""
    found: dict[str, list[str]] = {}
    for key, state in await tx.execute(select(deliveries.c.id, deliveries.c.state).where(*conditions)):
        found.setdefault(state, []).append(key)
    return found


async def keys(tx: AsyncSession, condition: ColumnElement[bool], after: str, limit: int) -> list[str]:
    """Name deliveries of which something is true, in the order of their identifiers from one on."""
    return [key for key, _ in await sources_of(tx, condition, after, limit)]


async def sources_of(
    tx: AsyncSession, condition: ColumnElement[bool], after: str, limit: int
) -> Sequence[tuple[str, str]]:
    """Name such deliveries, each with the node that sent its study."""
    found = await tx.execute(
        select(deliveries.c.id, deliveries.c.source_node)
        .where(condition, deliveries.c.id > after)
        .order_by(deliveries.c.id)
        .limit(limit)
    )
    return [(row.id, row.source_node) for row in found]


async def list_items(tx: AsyncSession, delivery_id: str, after: int, limit: int) -> Sequence[Row[Any]]:
    """Read the items of a delivery in the order in which they came."""
    found = await tx.execute(
        select(items).where(items.c.delivery_id == delivery_id, items.c.id > after).order_by(items.c.id).limit(limit)
    )
    return found.all()
