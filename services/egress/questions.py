"""Requests for storage commitment, and what reports say of their instances. Every function works in the caller's tx."""

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, Row, and_, delete, exists, func, or_, select, update
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import aliased

from services.egress.models import asked, deliveries, items, questions, transformed

#: Deliveries that were answered with success and are to be confirmed.
WAITING = and_(deliveries.c.state == "waiting", deliveries.c.confirm_at.is_not(None))
#: Instances that their destination said success for, as they are to be now.
SENT = and_(items.c.state == "sent", items.c.current)
#: SOP Instance UID by which the destination knows an instance: a transform may have changed it.
_THERE = func.coalesce(transformed.c.sop_instance_uid, items.c.sop_instance_uid).label("there_uid")
_AS_SENT = select(items, _THERE).outerjoin_from(items, transformed, transformed.c.item == items.c.id)


def _is_due(now: datetime, out_of_reach: datetime) -> ColumnElement[bool]:
    # What waits for a time further ahead than anything does was written before the clock was put back.
    return or_(deliveries.c.confirm_at <= now, deliveries.c.confirm_at > out_of_reach)


async def due_destinations(tx: AsyncSession, now: datetime, out_of_reach: datetime) -> dict[str, datetime]:
    """Tell for each destination that is to confirm something when it is to be asked first."""
    found = await tx.execute(
        select(deliveries.c.destination, func.min(deliveries.c.confirm_at))
        .where(WAITING, deliveries.c.confirm_at <= out_of_reach)
        .group_by(deliveries.c.destination)
    )
    first = {row[0]: row[1] for row in found}
    late = await tx.execute(
        select(deliveries.c.destination).where(WAITING, deliveries.c.confirm_at > out_of_reach).distinct()
    )
    return first | dict.fromkeys(late.scalars(), now)


async def lock_due(
    tx: AsyncSession, destination: str, now: datetime, out_of_reach: datetime, limit: int
) -> Sequence[Row[Any]]:
    """Lock deliveries of which a destination is to be asked now, those first that have waited longest."""
    found = await tx.execute(
        select(deliveries)
        .where(deliveries.c.destination == destination, WAITING, _is_due(now, out_of_reach))
        .order_by(deliveries.c.confirm_at, deliveries.c.id)
        .limit(limit)
        .with_for_update(skip_locked=True)
    )
    return found.all()


async def uncommitted(tx: AsyncSession, delivery_id: str) -> Sequence[Row[Any]]:
    """Read the sent instances of a delivery that its destination has not committed itself to."""
    found = await tx.execute(
        _AS_SENT.where(items.c.delivery_id == delivery_id, SENT, items.c.committed_at.is_(None)).order_by(items.c.id)
    )
    return found.all()


async def sent(tx: AsyncSession, delivery_id: str) -> Sequence[Row[Any]]:
    """Read the instances of a delivery that its destination said success for."""
    found = await tx.execute(_AS_SENT.where(items.c.delivery_id == delivery_id, SENT).order_by(items.c.id))
    return found.all()


async def studies_there(tx: AsyncSession, keys: Iterable[str]) -> dict[str, str]:
    """Tell by which Study Instance UID destinations know deliveries, of those whose study a transform has changed."""
    found = await tx.execute(
        select(items.c.delivery_id, func.max(transformed.c.study_instance_uid))
        .join_from(transformed, items, transformed.c.item == items.c.id)
        .where(items.c.delivery_id.in_(list(keys)), SENT)
        .group_by(items.c.delivery_id)
    )
    return {row[0]: row[1] for row in found}


async def make(
    tx: AsyncSession,
    transaction_uid: str,
    delivery_id: str,
    node: str,
    rows: Sequence[Row[Any]],
    now: datetime,
    *,
    compares: bool = False,
) -> None:
    """Write down a request for these instances, before the destination hears of it."""
    await tx.execute(
        questions.insert().values(
            transaction_uid=transaction_uid, delivery_id=delivery_id, node=node, made_at=now, compares=compares
        )
    )
    await tx.execute(
        asked.insert(),
        [{"transaction_uid": transaction_uid, "item": row.id, "attempt": row.attempts} for row in rows],
    )


async def unreported(tx: AsyncSession, transaction_uids: Iterable[str]) -> int:
    """Count the instances of requests that are not reported yet."""
    chosen = asked.c.transaction_uid.in_(list(transaction_uids))
    return int((await tx.execute(select(func.count()).where(chosen))).scalar_one())


async def taken(tx: AsyncSession, transaction_uids: Iterable[str], now: datetime) -> None:
    """Note that the destination took requests."""
    await tx.execute(
        update(questions).where(questions.c.transaction_uid.in_(list(transaction_uids))).values(asked_at=now)
    )


async def forget(tx: AsyncSession, transaction_uids: Iterable[str]) -> None:
    """Forget requests: what is reported about them changes nothing any more."""
    chosen = list(transaction_uids)
    await tx.execute(delete(asked).where(asked.c.transaction_uid.in_(chosen)))
    await tx.execute(delete(questions).where(questions.c.transaction_uid.in_(chosen)))


async def forget_before(tx: AsyncSession, delivery_id: str, before: datetime) -> None:
    """Forget the requests of a delivery that are older."""
    found = await tx.execute(
        select(questions.c.transaction_uid).where(questions.c.delivery_id == delivery_id, questions.c.made_at < before)
    )
    await forget(tx, found.scalars())


async def question(tx: AsyncSession, transaction_uid: str) -> Row[Any] | None:
    """Read a request; none if there is none that is not reported in full."""
    found = await tx.execute(select(questions).where(questions.c.transaction_uid == transaction_uid))
    return found.one_or_none()


async def instances(tx: AsyncSession, asking: Row[Any]) -> Mapping[str, Row[Any]]:
    """Read the instances of a request that still are as they were asked for, by their UID at the destination.

    `superseded` of a row tells whether a later request asks for it, too.
    """
    other, later = aliased(asked), aliased(questions)
    superseded = exists().where(
        other.c.item == items.c.id,
        other.c.transaction_uid == later.c.transaction_uid,
        later.c.compares == asking.compares,
        later.c.made_at > asking.made_at,
    )
    found = await tx.execute(
        _AS_SENT.add_columns(superseded.label("superseded"))
        .join(asked, asked.c.item == items.c.id)
        .where(
            asked.c.transaction_uid == asking.transaction_uid,
            items.c.state == "sent",
            items.c.attempts == asked.c.attempt,
        )
    )
    return {row.there_uid: row for row in found}


async def commit(tx: AsyncSession, ids: Sequence[int], now: datetime) -> None:
    """Write down that the destination committed itself to instances; no request needs to tell so any more."""
    await tx.execute(update(items).where(items.c.id.in_(ids), items.c.committed_at.is_(None)).values(committed_at=now))
    await tx.execute(update(items).where(items.c.id.in_(ids)).values(missing_at=None))
    await tx.execute(delete(asked).where(asked.c.item.in_(ids)))


async def answered(tx: AsyncSession, asking: Row[Any], ids: Sequence[int]) -> None:
    """Take reported instances out of a request, and forget the requests of its delivery that are reported in full."""
    await tx.execute(delete(asked).where(asked.c.transaction_uid == asking.transaction_uid, asked.c.item.in_(ids)))
    empty = ~exists().where(asked.c.transaction_uid == questions.c.transaction_uid)
    await tx.execute(delete(questions).where(questions.c.delivery_id == asking.delivery_id, empty))


async def miss(tx: AsyncSession, item: int, **values: Any) -> None:
    """Write down what follows for an instance that the destination does not commit itself to."""
    await tx.execute(update(items).where(items.c.id == item).values(**values))


async def lose(tx: AsyncSession, ids: Sequence[int], now: datetime) -> None:
    """Write down that the destination was seen not to have instances that it said success for."""
    await tx.execute(
        update(items)
        .where(items.c.id.in_(ids))
        .values(missing_at=func.coalesce(items.c.missing_at, now), found_at=None)
    )


async def find(tx: AsyncSession, ids: Sequence[int], now: datetime) -> None:
    """Write down that the destination was seen to have instances."""
    # The first time counts: what is shown every night is no news, and a receipt stays what it is.
    await tx.execute(
        update(items).where(items.c.id.in_(ids)).values(found_at=func.coalesce(items.c.found_at, now), missing_at=None)
    )


async def resume(tx: AsyncSession, now: datetime) -> None:
    """Have asked anew at once what was about to be asked. Only for a process that knows that it is alone."""
    unasked = exists().where(
        questions.c.delivery_id == deliveries.c.id, questions.c.asked_at.is_(None), ~questions.c.compares
    )
    await tx.execute(update(deliveries).where(WAITING, unasked).values(confirm_at=now))
