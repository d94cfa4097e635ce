"""Deliveries and their items: what changes them. Every function works in the caller's transaction."""

from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import (
    ColumnElement,
    Row,
    String,
    Table,
    and_,
    bindparam,
    case,
    exists,
    func,
    insert,
    not_,
    or_,
    select,
    update,
)
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.ext.asyncio import AsyncSession

from contracts.delivery import DeliveryItem
from contracts.manifest import set_hash
from services.egress.delivery import Closing, Request, State, Tally
from services.egress.hold import noted
from services.egress.models import deliveries, destinations, items, workers
from services.egress.outcome import Outcome, Standing

UNFINISHED: tuple[State, ...] = ("open", "waiting", "held")
#: Items that are still to be sent; a rule's transform changes some of them on the way.
SENDABLE = and_(items.c.state == "pending", items.c.current)
#: Deliveries of which something has not arrived.
UNSENT = exists().where(items.c.delivery_id == deliveries.c.id, items.c.state != "sent", items.c.current)
#: Deliveries that may be sent when they are due.
TURN = deliveries.c.state.in_(("open", "waiting"))
#: Who let nothing go to a destination, since when, and why.
PAUSE = (destinations.c.paused_by, destinations.c.paused_at, destinations.c.paused_why)
#: What an item is that is to be sent again: what was said of it before it was, counts no more.
AFRESH: dict[str, Any] = {
    "state": "pending",
    "refusals": 0,
    "misses": 0,
    "committed_at": None,
    "found_at": None,
    "missing_at": None,
}
_IDENTITY = ("delivery_id", "sop_instance_uid", "content_hash", "transform")
# Made once: to make a statement takes longer than to run it. The pause comes with the delivery, for it is asked at each
# answer.
_DELIVERY = (
    select(
        deliveries,
        *(
            select(column).where(destinations.c.key == deliveries.c.destination).scalar_subquery().label(column.name)
            for column in PAUSE
        ),
    )
    .where(deliveries.c.id == bindparam("delivery"))
    .with_for_update()
)
_TALLY = select(
    func.count(items.c.sop_instance_uid.distinct()),
    func.count().filter(SENDABLE),
    func.min(items.c.next_attempt_at).filter(and_(SENDABLE, items.c.leased_by.is_(None))),
    func.count().filter(and_(items.c.state == "pending", items.c.transform != "")),
    func.count().filter(items.c.state == "sent"),
    func.count().filter(items.c.state == "failed"),
    func.coalesce(func.sum(items.c.size).filter(items.c.state == "sent"), 0),
    func.count().filter(and_(items.c.state == "sent", items.c.committed_at.is_not(None))),
    func.count().filter(
        and_(items.c.state == "sent", or_(items.c.committed_at.is_not(None), items.c.found_at.is_not(None)))
    ),
).where(items.c.delivery_id == bindparam("delivery"), items.c.current)
_DUE = (
    select(
        deliveries.c.destination,
        func.min(deliveries.c.next_attempt_at),
        func.min(deliveries.c.lane).filter(deliveries.c.next_attempt_at <= bindparam("now")),
    )
    .where(TURN, deliveries.c.next_attempt_at.is_not(None))
    .group_by(deliveries.c.destination)
)


async def ensure_delivery(tx: AsyncSession, **values: Any) -> None:
    """Insert a delivery unless it is there."""
    await _insert_new(tx, deliveries, [values])


async def destinations_of(tx: AsyncSession, keys: Iterable[str]) -> set[str]:
    """Name the destinations of deliveries."""
    found = await tx.execute(select(deliveries.c.destination).where(deliveries.c.id.in_(list(keys))).distinct())
    return set(found.scalars())


async def lock_delivery(tx: AsyncSession, delivery_id: str) -> Row[Any] | None:
    """Read a delivery and the pause of its destination, and keep others from changing it until the transaction ends."""
    return (await tx.execute(_DELIVERY, {"delivery": delivery_id})).one_or_none()


async def read_delivery(tx: AsyncSession, delivery_id: str) -> Row[Any] | None:
    """Read a delivery."""
    return (await tx.execute(select(deliveries).where(deliveries.c.id == delivery_id))).one_or_none()


async def lock_fitting(tx: AsyncSession, delivery_id: str, condition: ColumnElement[bool]) -> bool:
    """Lock a delivery if something is true of it; tell whether it is."""
    query = select(deliveries.c.id).where(deliveries.c.id == delivery_id, condition).with_for_update()
    return (await tx.execute(query)).one_or_none() is not None


async def update_delivery(tx: AsyncSession, delivery_id: str, **values: Any) -> None:
    """Change columns of a delivery."""
    await tx.execute(update(deliveries).where(deliveries.c.id == delivery_id).values(**values))


async def add_items(
    tx: AsyncSession,
    delivery_id: str,
    wanted: Iterable[DeliveryItem],
    now: datetime,
    *,
    own: bool = True,
    **decided: Any,
) -> None:
    """Insert the items that are not there yet, due at once; of several contents of an instance the latest counts.

    What is not `own` was asked for by the name of another destination. `decided` are the columns of what is done to it.
    """
    asked = list(wanted)
    insertion = insert_of(tx)(items)
    due = AFRESH | {"next_attempt_at": now}
    taken = {name: insertion.excluded[name] for name in ("object_key", "size", "received_at")}
    for came_round in sorted({item.came_round for item in asked}):
        values = due
        if came_round:
            # What went round between sites stays as it is where it has arrived.
            there = and_(items.c.state == "sent", items.c.current, items.c.missing_at.is_(None))
            values = {name: case((there, items.c[name]), else_=value) for name, value in due.items()}
        rows = [
            {
                "delivery_id": delivery_id,
                **decided,
                "state": "pending",
                "next_attempt_at": now,
                "own": own,
                **item.model_dump(exclude={"came_round"}),
            }
            for item in asked
            if item.came_round == came_round
        ]
        # The same request again has the same time. A later one: another content was current, and this one is once more.
        await tx.execute(
            insertion.on_conflict_do_update(
                index_elements=_IDENTITY,
                set_=values | taken,
                where=items.c.received_at < insertion.excluded.received_at,
            ),
            rows,
        )
    if asked:
        await _choose(tx, delivery_id, [item.sop_instance_uid for item in asked])


async def _choose(tx: AsyncSession, delivery_id: str, uids: Sequence[str]) -> None:
    mine = and_(items.c.delivery_id == delivery_id, items.c.sop_instance_uid.in_(uids))
    several = (
        select(items.c.sop_instance_uid)
        .where(mine)
        .group_by(items.c.sop_instance_uid)
        .having(func.count(items.c.content_hash.distinct()) > 1)
    )
    rows = (
        await tx.execute(
            select(items.c.id, items.c.sop_instance_uid, items.c.content_hash, items.c.received_at).where(
                mine, items.c.sop_instance_uid.in_(several)
            )
        )
    ).all()
    last: dict[str, tuple[bool, Any, str]] = {}
    for row in rows:
        last[row.sop_instance_uid] = max(last.get(row.sop_instance_uid, _place(row)), _place(row))
    for current in (True, False):
        chosen = [row.id for row in rows if (last[row.sop_instance_uid] == _place(row)) == current]
        if chosen:
            await tx.execute(update(items).where(items.c.id.in_(chosen)).values(current=current))


def _place(row: Any) -> tuple[bool, Any, str]:
    # One without a time is from a release that gave none, so it was there before.
    return row.received_at is not None, row.received_at or "", row.content_hash


async def tally(tx: AsyncSession, delivery_id: str) -> Tally:
    """Count the items of a delivery."""
    counts = await tx.execute(_TALLY, {"delivery": delivery_id})
    instances, due, next_attempt_at, blocked, sent_count, failed, size, committed, found = counts.one()
    return Tally(instances, due, next_attempt_at, blocked, sent_count, failed, int(size), committed, found)


async def set_hash_of(tx: AsyncSession, delivery_id: str) -> str:
    """Hash the set of a delivery's instances, as the request that closes it does."""
    found = await tx.execute(
        select(items.c.sop_instance_uid, items.c.content_hash).where(
            items.c.delivery_id == delivery_id, items.c.current
        )
    )
    return set_hash((row.sop_instance_uid, row.content_hash) for row in found)


async def furthest(tx: AsyncSession) -> datetime | None:
    """Give the time furthest ahead that anything waits for, or until which a worker counts as alive."""
    columns = (
        deliveries.c.next_attempt_at,
        deliveries.c.wanted_since,
        workers.c.alive_until,
        destinations.c.retry_at,
        destinations.c.failing_since,
    )
    found = [(await tx.execute(select(func.max(column)))).scalar_one() for column in columns]
    return max((time for time in found if time is not None), default=None)


async def follow_clock(tx: AsyncSession, now: datetime, latest: datetime) -> None:
    """Make due what waits for a time after `latest`, and end such leases: the clock was put back."""
    for table, column in (
        (destinations, destinations.c.retry_at),
        (destinations, destinations.c.failing_since),
        (deliveries, deliveries.c.wanted_since),
        (deliveries, deliveries.c.next_attempt_at),
        (workers, workers.c.alive_until),
        (items, items.c.next_attempt_at),
    ):
        await tx.execute(update(table).where(column > latest).values({column.name: now}))


async def untimed(tx: AsyncSession, key: str) -> bool:
    """Tell whether there are deliveries to a destination of which nobody noted since when they are tried."""
    found = await tx.execute(select(deliveries.c.id).where(_untimed(key)).limit(1))
    return found.one_or_none() is not None


async def note_times(tx: AsyncSession, key: str, now: datetime) -> None:
    """Note that they are tried since now."""
    await tx.execute(update(deliveries).where(_untimed(key)).values(wanted_since=now))


def _untimed(key: str) -> ColumnElement[bool]:
    return and_(deliveries.c.destination == key, TURN, deliveries.c.wanted_since.is_(None))


async def due_destinations(tx: AsyncSession, now: datetime) -> dict[str, tuple[datetime, int | None]]:
    """Tell for each destination with instances that nobody has in hand when the first of them is due.

    With it goes the most urgent lane of those that are due now, none if none is.
    """
    return {key: (first, lane) for key, first, lane in await tx.execute(_DUE, {"now": now})}


async def stopped(tx: AsyncSession, keys: Iterable[str]) -> set[str]:
    """Name those of the deliveries of which nothing may begin: somebody ordered it, or something keeps them."""
    found = await tx.execute(select(deliveries.c.id).where(deliveries.c.id.in_(list(keys)), not_(TURN)))
    return set(found.scalars())


async def identities(tx: AsyncSession, ids: Iterable[int]) -> dict[int, tuple[str, str]]:
    """Tell delivery and content hash of items; those that are not there are left out."""
    found = await tx.execute(
        select(items.c.id, items.c.delivery_id, items.c.content_hash).where(items.c.id.in_(list(ids)))
    )
    return {row.id: (row.delivery_id, row.content_hash) for row in found}


async def standings(tx: AsyncSession, ids: Iterable[int]) -> dict[int, tuple[Standing, str | None]]:
    """Read where items stand, and their last status."""
    found = await tx.execute(
        select(
            items.c.id, items.c.state, items.c.attempts, items.c.refusals, items.c.next_attempt_at, items.c.status
        ).where(items.c.id.in_(list(ids)))
    )
    return {row.id: (Standing(row.state, row.attempts, row.refusals, row.next_attempt_at), row.status) for row in found}


async def record(tx: AsyncSession, outcomes: Iterable[tuple[Outcome, Standing]], now: datetime, worker: str) -> None:
    """Write outcomes of a worker, and end its leases.

    An item that was answered with success stays sent, whatever is said later. Of an item that the worker does not hold
    any more only a success counts: another has it in hand.
    """
    rows = [
        {
            "item": outcome.item,
            "new_state": standing.state,
            "new_status": outcome.status,
            "new_reason": outcome.reason or None,
            "new_attempts": standing.attempts,
            "new_refusals": standing.refusals,
            "due": standing.next_attempt_at,
            "sent": now if standing.state == "sent" else None,
        }
        for outcome, standing in outcomes
    ]
    if rows:
        await tx.execute(
            update(items)
            .where(
                items.c.id == bindparam("item"),
                items.c.state != "sent",
                or_(items.c.leased_by == worker, bindparam("new_state", type_=String) == "sent"),
            )
            .values(
                state=bindparam("new_state"),
                status=bindparam("new_status"),
                reason=bindparam("new_reason"),
                attempts=bindparam("new_attempts"),
                refusals=bindparam("new_refusals"),
                next_attempt_at=bindparam("due"),
                sent_at=bindparam("sent"),
                leased_by=None,
            ),
            rows,
        )


async def retry_items(tx: AsyncSession, delivery_id: str, now: datetime) -> int:
    """Make every unsent item due at once with all its attempts before it; give their number."""
    result: Any = await tx.execute(
        update(items)
        .where(items.c.delivery_id == delivery_id, items.c.state != "sent", items.c.current)
        .values(**AFRESH, next_attempt_at=now)
    )
    return int(result.rowcount)


async def resend_missing(tx: AsyncSession, delivery_id: str, now: datetime) -> int:
    """Make every instance due at once that the destination was seen not to have; give their number."""
    result: Any = await tx.execute(
        update(items)
        .where(items.c.delivery_id == delivery_id, items.c.missing_at.is_not(None), items.c.current)
        .values(**AFRESH, next_attempt_at=now)
    )
    return int(result.rowcount)


async def unsent_items(tx: AsyncSession, delivery_id: str, limit: int) -> Sequence[Row[Any]]:
    """Read the first items that have not arrived, those first that were refused for good."""
    found = await tx.execute(
        select(items)
        .where(items.c.delivery_id == delivery_id, items.c.state != "sent", items.c.current)
        .order_by(items.c.state, items.c.id)
        .limit(limit)
    )
    return found.all()


async def unfinished_destinations(tx: AsyncSession) -> list[str]:
    """Name the destinations that something is still to go to."""
    found = await tx.execute(select(deliveries.c.destination).where(deliveries.c.state.in_(UNFINISHED)).distinct())
    return list(found.scalars())


async def hold(tx: AsyncSession, key: str, reason: str) -> None:
    """Hold what is to go to a destination, but for what is under way and what a person ordered."""
    await tx.execute(
        update(deliveries)
        .where(
            deliveries.c.destination == key,
            deliveries.c.state.in_(UNFINISHED),
            deliveries.c.next_attempt_at.is_not(None),
            deliveries.c.ordered.is_(None),
        )
        .values(state="held", reason=reason)
    )


async def release(tx: AsyncSession, key: str, now: datetime) -> None:
    """Let what was held for a destination go, but for what a person holds. It is tried from now on."""
    await tx.execute(
        update(deliveries)
        .where(
            deliveries.c.destination == key,
            deliveries.c.state == "held",
            deliveries.c.next_attempt_at.is_not(None),
            deliveries.c.ordered.is_(None),
            not_(kept_back(now)),
        )
        .values(state="open", reason=None, wanted_since=now)
    )


def kept_back(now: datetime) -> ColumnElement[bool]:
    """Tell which deliveries a rule holds back."""
    lasts = or_(deliveries.c.hold_until.is_(None), deliveries.c.hold_until > now)
    return and_(deliveries.c.hold_rule.is_not(None), not_(deliveries.c.hold_off), lasts)


def hold_over(now: datetime) -> ColumnElement[bool]:
    """Tell which deliveries are held still though the time for which a rule held them is over."""
    return and_(deliveries.c.hold_until <= now, deliveries.c.state == "held")


async def held_by_rules(tx: AsyncSession, key: str, now: datetime) -> list[str]:
    """Name the deliveries to a destination that a rule holds back, and nobody else."""
    held = (deliveries.c.destination == key, deliveries.c.state == "held", deliveries.c.ordered.is_(None))
    return list(await tx.scalars(select(deliveries.c.id).where(*held, kept_back(now)).order_by(deliveries.c.id)))


async def held_sent(tx: AsyncSession, key: str, after: str, limit: int) -> list[str]:
    """Name deliveries with nothing that could be sent: they wait for a transform, for a person, or to be confirmed."""
    found = await tx.execute(
        select(deliveries.c.id)
        .where(
            deliveries.c.destination == key,
            or_(deliveries.c.state == "held", deliveries.c.confirm_at.is_not(None)),
            deliveries.c.next_attempt_at.is_(None),
            deliveries.c.id > after,
        )
        .order_by(deliveries.c.id)
        .limit(limit)
    )
    return list(found.scalars())


def request_of(row: Row[Any]) -> Request:
    """Give what the requests so far say of a delivery."""
    closing = None if row.study_version is None else Closing(row.study_version, row.expected_count, row.expected_hash)
    return Request(row.lane, (row.requested_at, row.source_node), row.network_version, closing, noted(row))


async def _insert_new(tx: AsyncSession, table: Table, rows: list[dict[str, Any]]) -> None:
    """Insert rows whose unique keys are not there yet."""
    await tx.execute(insert_of(tx)(table).on_conflict_do_nothing(), rows)


def insert_of(tx: AsyncSession) -> Any:
    """Give the INSERT of the database in use, which knows what to do with a row that is there already."""
    return {"sqlite": sqlite.insert, "postgresql": postgresql.insert}.get(tx.get_bind().dialect.name, insert)
