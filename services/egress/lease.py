"""Who has what in hand: instances that a worker leased, and its places at destinations. In the caller's transaction.

A lease has no end of its own. Its worker says from time to time that it is alive; what a worker held that has not said
so in time is free again.
"""

from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import Row, and_, bindparam, delete, func, or_, select, update
from sqlalchemy.ext.asyncio import AsyncSession

from services.egress.budget import startable
from services.egress.fairness import Group
from services.egress.models import deliveries, items, places, transformed, workers
from services.egress.repository import SENDABLE, TURN, insert_of

# Made once: to make a statement takes longer than to run it.
_ITS = items.c.delivery_id == bindparam("delivery")
_FIRST_DUE = (
    select(func.min(items.c.next_attempt_at)).where(_ITS, SENDABLE, items.c.leased_by.is_(None)).scalar_subquery()
)
_MAKE_DUE = update(deliveries).where(deliveries.c.id == bindparam("delivery")).values(next_attempt_at=_FIRST_DUE)
_NOTE_ATTEMPT = _MAKE_DUE.values(state="open", reason=None, attempts=bindparam("number"))
_DUE = and_(deliveries.c.destination == bindparam("to"), TURN, deliveries.c.next_attempt_at <= bindparam("now"))
_GROUPS = (
    select(deliveries.c.lane, deliveries.c.tenant, deliveries.c.source_node, func.min(deliveries.c.requested_at))
    .where(_DUE)
    .group_by(deliveries.c.lane, deliveries.c.tenant, deliveries.c.source_node)
    .order_by(deliveries.c.lane)
)
_OLDEST = (
    select(deliveries)
    .where(
        _DUE,
        deliveries.c.lane == bindparam("its_lane"),
        deliveries.c.tenant == bindparam("owner"),
        deliveries.c.source_node == bindparam("source"),
    )
    .order_by(deliveries.c.requested_at, deliveries.c.id)
    .limit(1)
    .with_for_update(skip_locked=True)
)
_FREE = (
    select(items, transformed.c.version.label("made_version"))
    .outerjoin_from(items, transformed, transformed.c.item == items.c.id)
    .where(_ITS, SENDABLE, items.c.leased_by.is_(None), items.c.next_attempt_at <= bindparam("now"))
    .order_by(items.c.attempts, items.c.id)
    .limit(bindparam("most"))
)
_LEASE = (
    update(items)
    .where(items.c.id.in_(bindparam("ids", expanding=True)))
    .values(leased_by=bindparam("worker"), wanted=None)
)


async def enter(tx: AsyncSession, worker: str, until: datetime) -> None:
    """Make a worker known."""
    await tx.execute(insert_of(tx)(workers).on_conflict_do_nothing(), [{"name": worker, "alive_until": until}])


async def keep_alive(tx: AsyncSession, worker: str, until: datetime) -> bool:
    """Keep all leases of a worker for longer; False if it was taken for dead and has none any more."""
    result: Any = await tx.execute(update(workers).where(workers.c.name == worker).values(alive_until=until))
    return bool(result.rowcount)


async def free_dead(tx: AsyncSession, now: datetime) -> int:
    """Free what workers held that did not say in time that they are alive; give the number of instances."""
    dead = list(
        (await tx.execute(select(workers.c.name).where(workers.c.alive_until <= now).with_for_update())).scalars()
    )
    return await _bury(tx, dead) if dead else 0


async def free_all(tx: AsyncSession) -> int:
    """Free everything. Only for a process that knows that it is alone."""
    found = await tx.execute(select(items.c.leased_by).where(items.c.leased_by.is_not(None)).distinct())
    known = await tx.execute(select(workers.c.name))
    return await _bury(tx, [*found.scalars(), *known.scalars()])


async def _bury(tx: AsyncSession, dead: Sequence[str]) -> int:
    held = items.c.leased_by.in_(dead)
    orphaned = list((await tx.execute(select(items.c.delivery_id).where(held).distinct())).scalars())
    result: Any = await tx.execute(update(items).where(held).values(leased_by=None))
    for key in sorted(orphaned):
        await make_due(tx, key)
    await tx.execute(delete(places).where(places.c.worker.in_(dead)))
    await tx.execute(delete(workers).where(workers.c.name.in_(dead)))
    return int(result.rowcount)


async def make_due(tx: AsyncSession, delivery_id: str) -> None:
    """Note when the first instance of a delivery that nobody has in hand is due."""
    await tx.execute(_MAKE_DUE, {"delivery": delivery_id})


async def note_attempt(tx: AsyncSession, delivery_id: str, attempts: int) -> None:
    """Note which attempt takes instances of a delivery in hand, and when the first of the others is due."""
    await tx.execute(_NOTE_ATTEMPT, {"delivery": delivery_id, "number": attempts})


async def groups(tx: AsyncSession, destination: str, now: datetime) -> list[tuple[int, Group[None]]]:
    """Tell who waits for a destination, by lane, the most urgent first: each source node of each tenant once."""
    found = await tx.execute(_GROUPS, {"to": destination, "now": now})
    return [(lane, Group(tenant, source, since, 1, None)) for lane, tenant, source, since in found]


async def lock_oldest(
    tx: AsyncSession, destination: str, lane: int, group: Group[None], now: datetime
) -> Row[Any] | None:
    """Lock the oldest due delivery of a group that no other transaction has."""
    values = {"to": destination, "its_lane": lane, "owner": group.tenant, "source": group.source, "now": now}
    return (await tx.execute(_OLDEST, values)).one_or_none()


async def take(
    tx: AsyncSession, delivery_id: str, worker: str, now: datetime, limit: int, left: int | None = None
) -> Sequence[Row[Any]]:
    """Lease instances of a locked delivery; those that were tried least first, so that one bad is in nobody's way.

    `left` are the bytes of today's budget; none: no end.
    """
    rows = (await tx.execute(_FREE, {"delivery": delivery_id, "now": now, "most": limit})).all()
    rows = rows[: startable((row.size for row in rows), left)]
    if rows:
        await tx.execute(_LEASE, {"ids": [row.id for row in rows], "worker": worker})
    return rows


async def give_back(tx: AsyncSession, worker: str, ids: Iterable[int]) -> None:
    """End leases of a worker."""
    chosen = list(ids)
    if chosen:
        await tx.execute(
            update(items).where(items.c.id.in_(chosen), items.c.leased_by == worker).values(leased_by=None)
        )


async def take_place(
    tx: AsyncSession, destination: str, worker: str, most: int, alone: Sequence[str], now: datetime
) -> bool:
    """Take a place for one more association, unless all workers together have as many. The destination is locked.

    `alone` names what only one worker at a time may use: a place is taken there, too.
    """
    alive = and_(places.c.worker == workers.c.name, or_(workers.c.alive_until > now, workers.c.name == worker))
    found = await tx.execute(
        select(func.coalesce(func.sum(places.c.number), 0))
        .select_from(places.join(workers, alive))
        .where(places.c.destination == destination)
    )
    if int(found.scalar_one()) >= most:
        return False
    keys = list(dict.fromkeys((destination, *alone)))
    # Of two who take places at once, the one who writes second sees the other's.
    insertion = insert_of(tx)(places)
    for key in keys:
        await tx.execute(
            insertion.on_conflict_do_update(
                index_elements=["destination", "worker"], set_={"number": places.c.number + 1}
            ),
            [{"destination": key, "worker": worker, "number": 1}],
        )
    others = await tx.execute(
        select(func.count())
        .select_from(places.join(workers, alive))
        .where(places.c.destination.in_(alone), places.c.worker != worker, places.c.number > 0)
    )
    if others.scalar_one():
        await leave_places(tx, keys, worker)
        return False
    return True


async def leave_places(tx: AsyncSession, keys: Iterable[str], worker: str) -> None:
    """Give places back, one at each of these."""
    for key in keys:
        mine = and_(places.c.destination == key, places.c.worker == worker)
        await tx.execute(update(places).where(mine, places.c.number > 0).values(number=places.c.number - 1))
