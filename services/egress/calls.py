"""What is known of reaching destinations, and what they accept. Every function works in the caller's transaction."""

from collections.abc import Iterable
from datetime import date, datetime
from typing import Any

from sqlalchemy import Row, and_, bindparam, select, update
from sqlalchemy.ext.asyncio import AsyncSession

from services.egress.backoff import Circuit
from services.egress.delivery import Order
from services.egress.models import contexts, deliveries, destinations, sent
from services.egress.repository import TURN, insert_of

_CIRCUIT = (
    destinations.c.failures,
    destinations.c.retry_at,
    destinations.c.problem,
    destinations.c.paused_at.is_not(None),
    destinations.c.failing_since,
    destinations.c.failed_at,
)
# Made once: to make a statement takes longer than to run it.
_ONE = select(*_CIRCUIT).where(destinations.c.key == bindparam("destination"))
_LOCKED, _FREE = _ONE.with_for_update(), _ONE.with_for_update(skip_locked=True)
_ALL = select(destinations.c.key, *_CIRCUIT)


async def lock_circuit(tx: AsyncSession, key: str, *, wait: bool) -> Circuit | None:
    """Read what is known of a destination and keep others from changing it until the transaction ends.

    Whoever locks a destination and deliveries locks the destination first, so that two never wait for each other.
    Without `wait` it gives None while another transaction has the destination.
    """
    query = _LOCKED if wait else _FREE
    row = (await tx.execute(query, {"destination": key})).one_or_none()
    if row is None:
        await tx.execute(insert_of(tx)(destinations).on_conflict_do_nothing(), [{"key": key}])
        row = (await tx.execute(query, {"destination": key})).one_or_none()
    return None if row is None else Circuit(*row)


async def circuits(tx: AsyncSession) -> dict[str, Circuit]:
    """Read what is known of every destination."""
    found = await tx.execute(_ALL)
    return {key: Circuit(*known) for key, *known in found}


async def reached(tx: AsyncSession, key: str, now: datetime) -> None:
    """Close a destination's circuit; its deliveries wait for nothing but their turn."""
    await tx.execute(
        update(destinations)
        .where(destinations.c.key == key)
        .values(failures=0, retry_at=None, problem=None, reached_at=now, failing_since=None)
    )
    await tx.execute(
        update(deliveries)
        .where(deliveries.c.destination == key, deliveries.c.state == "waiting", deliveries.c.next_attempt_at <= now)
        .values(state="open", reason=None)
    )


async def not_reached(tx: AsyncSession, key: str, circuit: Circuit, now: datetime) -> None:
    """Record a failure of a destination; what was about to go there is shown as waiting, and why."""
    await tx.execute(
        update(destinations)
        .where(destinations.c.key == key)
        .values(
            failures=circuit.failures,
            retry_at=circuit.retry_at,
            problem=circuit.problem,
            failed_at=now,
            failing_since=circuit.failing_since,
        )
    )
    await tx.execute(
        update(deliveries)
        .where(deliveries.c.destination == key, deliveries.c.state == "open", deliveries.c.next_attempt_at.is_not(None))
        .values(state="waiting", reason=circuit.problem)
    )


async def answers(tx: AsyncSession, key: str) -> bool:
    """Tell whether a destination could be reached the last time, and nobody paused it."""
    found = await tx.execute(select(*_CIRCUIT).where(destinations.c.key == key))
    row = found.one_or_none()
    return row is not None and not Circuit(*row).failures and not Circuit(*row).paused


async def waited(tx: AsyncSession, key: str, since: datetime | None) -> bool:
    """Tell whether something was to go to a destination since then, and could have."""
    found = await tx.execute(
        select(deliveries.c.id)
        .where(deliveries.c.destination == key, TURN, deliveries.c.wanted_since <= since)
        .limit(1)
    )
    return found.one_or_none() is not None


async def probe_now(tx: AsyncSession, now: datetime, key: str | None = None) -> None:
    """Let destinations that could not be reached be tried at once: all, or one."""
    which = destinations.c.failures > 0
    await tx.execute(
        update(destinations)
        .where(which if key is None else and_(which, destinations.c.key == key))
        .values(retry_at=now)
    )


def pause_of(row: Row[Any]) -> Order | None:
    """Tell who paused a destination, of a row with the columns `PAUSE`."""
    return None if row.paused_at is None else Order("paused", row.paused_by, row.paused_at, row.paused_why)


async def paused(tx: AsyncSession, key: str) -> Order | None:
    """Tell who paused a destination; none if nobody did."""
    row = (await tx.execute(select(destinations).where(destinations.c.key == key))).one_or_none()
    return None if row is None else pause_of(row)


async def pause(tx: AsyncSession, key: str, by: str, why: str | None, now: datetime) -> None:
    """Let nothing go to a locked destination."""
    values = {"paused_by": by, "paused_at": now, "paused_why": why}
    await tx.execute(update(destinations).where(destinations.c.key == key).values(values))


async def resume(tx: AsyncSession, key: str) -> None:
    """Let things go to a locked destination again. Nobody knows whether it could be reached meanwhile."""
    values = {"paused_by": None, "paused_at": None, "paused_why": None, "failing_since": None}
    await tx.execute(update(destinations).where(destinations.c.key == key).values(values))


async def list_destinations(tx: AsyncSession) -> dict[str, Row[Any]]:
    """Read what is known of every destination that was ever called."""
    return {row.key: row for row in await tx.execute(select(destinations))}


async def accepted(tx: AsyncSession, key: str) -> dict[tuple[str, str], bool]:
    """Tell which pairs of SOP class and transfer syntax a destination has accepted, and which not."""
    found = await tx.execute(
        select(contexts.c.sop_class_uid, contexts.c.transfer_syntax_uid, contexts.c.accepted).where(
            contexts.c.destination == key
        )
    )
    return {(row[0], row[1]): row[2] for row in found}


async def remember(tx: AsyncSession, key: str, answers: Iterable[tuple[tuple[str, str], bool]], now: datetime) -> None:
    """Write down what a destination answered to presentation contexts."""
    rows = [
        {
            "destination": key,
            "sop_class_uid": sop_class,
            "transfer_syntax_uid": syntax,
            "accepted": answer,
            "seen_at": now,
        }
        for (sop_class, syntax), answer in answers
    ]
    if not rows:
        return
    insertion = insert_of(tx)(contexts)
    await tx.execute(
        insertion.on_conflict_do_update(
            index_elements=["destination", "sop_class_uid", "transfer_syntax_uid"],
            set_={"accepted": insertion.excluded.accepted, "seen_at": insertion.excluded.seen_at},
        ),
        rows,
    )


async def wait(tx: AsyncSession, key: str, reason: str) -> None:
    """Show what is due at a destination as waiting, and why."""
    await tx.execute(
        update(deliveries)
        .where(deliveries.c.destination == key, deliveries.c.state == "open", deliveries.c.next_attempt_at.is_not(None))
        .values(state="waiting", reason=reason)
    )


async def count_bytes(tx: AsyncSession, keys: Iterable[str], day: date, count: int) -> None:
    """Count bytes that were sent on a day."""
    insertion = insert_of(tx)(sent)
    for key in keys:
        await tx.execute(
            insertion.on_conflict_do_update(
                index_elements=["key", "day"], set_={"bytes": sent.c.bytes + insertion.excluded.bytes}
            ),
            [{"key": key, "day": day, "bytes": count}],
        )


async def bytes_sent(tx: AsyncSession, key: str, day: date) -> int:
    """Give the bytes that were sent on a day."""
    found = await tx.execute(select(sent.c.bytes).where(sent.c.key == key, sent.c.day == day))
    return int(found.scalar_one_or_none() or 0)
