"""SQL of forwarding performed procedure steps. Every function works in its caller's transaction."""

from collections.abc import Collection, Sequence
from datetime import datetime, timedelta
from typing import Any, Final

from sqlalchemy import and_, func, or_, select, update
from sqlalchemy.ext.asyncio import AsyncSession

from services.worklist.forward_scu import Letter
from services.worklist.models import mpps, mpps_forwards, mpps_messages

#: Far longer than an association takes: who is alive ends its lease itself.
LEASE: Final = timedelta(minutes=15)
_F = mpps_forwards.c


def _free(replica: str, now: datetime) -> Any:
    return or_(_F.leased_until.is_(None), _F.leased_until <= now, _F.leased_by == replica)


async def waiting(tx: AsyncSession, replica: str, now: datetime) -> dict[str, datetime]:
    """Say when the first step for each node is due that nobody else has in hand."""
    rows = await tx.execute(
        select(_F.node, func.min(_F.due_at)).where(_F.state == "open", _free(replica, now)).group_by(_F.node)
    )
    return {row[0]: row[1] for row in rows}


async def lease(tx: AsyncSession, node: str, replica: str, now: datetime, limit: int) -> list[int]:
    """Take steps that are due for a node; the longest due first."""
    taken = list(
        await tx.scalars(
            select(_F.mpps_id)
            .where(_F.node == node, _F.state == "open", _F.due_at <= now, _free(replica, now))
            .order_by(_F.due_at, _F.mpps_id)
            .limit(limit)
            .with_for_update(skip_locked=True)
        )
    )
    await tx.execute(_those(node, taken).values(leased_by=replica, leased_until=now + LEASE))
    return taken


async def letters(tx: AsyncSession, node: str, mpps_ids: Sequence[int]) -> list[Letter]:
    """Give what a node has not got of these steps."""
    rows = await tx.execute(
        select(mpps.c.id, mpps.c.sop_instance_uid, _F.sent)
        .join(mpps_forwards, _F.mpps_id == mpps.c.id)
        .where(_F.node == node, mpps.c.id.in_(mpps_ids))
    )
    steps = {row.id: row for row in rows}
    said = await tx.execute(
        select(mpps_messages)
        .join(mpps_forwards, _F.mpps_id == mpps_messages.c.mpps_id)
        .where(_F.node == node, mpps_messages.c.mpps_id.in_(mpps_ids), mpps_messages.c.number >= _F.sent)
        .order_by(mpps_messages.c.mpps_id, mpps_messages.c.number)
    )
    messages: dict[int, list[tuple[str, bytes]]] = {mpps_id: [] for mpps_id in steps}
    for row in said:
        messages[row.mpps_id].append((row.transfer_syntax_uid, row.dataset))
    return [
        Letter(mpps_id, steps[mpps_id].sop_instance_uid, steps[mpps_id].sent, tuple(messages[mpps_id]))
        for mpps_id in mpps_ids
        if mpps_id in steps
    ]


async def note_sent(tx: AsyncSession, node: str, mpps_id: int, sent: int, replica: str, now: datetime) -> None:
    """Note how many messages a node has; it is done with the step unless more was said meanwhile."""
    # The same lock as of an N-SET: what it adds is counted here, or finds the step done and opens it again.
    await tx.execute(select(mpps.c.id).where(mpps.c.id == mpps_id).with_for_update())
    count = await tx.scalar(select(func.count()).where(mpps_messages.c.mpps_id == mpps_id))
    state = "done" if sent >= (count or 0) else "open"
    await _note(tx, node, mpps_id, replica, state=state, sent=sent, failures=0, problem=None, due_at=now, now=now)


async def note_failed(
    tx: AsyncSession, node: str, mpps_id: int, sent: int, replica: str, problem: str, due_at: datetime, now: datetime
) -> None:
    """Note that a step is to be tried again."""
    await _note(
        tx, node, mpps_id, replica, sent=sent, failures=_F.failures + 1, problem=problem, due_at=due_at, now=now
    )


async def note_refused(
    tx: AsyncSession, node: str, mpps_id: int, sent: int, replica: str, problem: str, now: datetime
) -> None:
    """Note that a node will never take a step as it is: people must look."""
    await _note(tx, node, mpps_id, replica, state="failed", sent=sent, problem=problem, now=now)


async def give_back(
    tx: AsyncSession, node: str, mpps_ids: Collection[int], replica: str, problem: str, due_at: datetime, now: datetime
) -> None:
    """Give steps back that were not begun."""
    await tx.execute(
        _those(node, mpps_ids)
        .where(_F.leased_by == replica)
        .values(leased_by=None, leased_until=None, problem=problem, due_at=due_at, changed_at=now)
    )


async def failures(tx: AsyncSession, node: str, mpps_ids: Collection[int]) -> dict[int, int]:
    """Say how often each of these steps has failed in a row."""
    rows = await tx.execute(select(_F.mpps_id, _F.failures).where(_F.node == node, _F.mpps_id.in_(mpps_ids)))
    return {row.mpps_id: row.failures for row in rows}


async def again(tx: AsyncSession, mpps_id: int, node: str | None, now: datetime) -> int:
    """Have what people looked at sent again, and what waits sent now; give how many forwards that are."""
    which = and_(_F.mpps_id == mpps_id, _F.state.in_(("failed", "open")))
    if node is not None:
        which = and_(which, _F.node == node)
    changed: Any = await tx.execute(
        update(mpps_forwards).where(which).values(state="open", failures=0, due_at=now, changed_at=now)
    )
    return int(changed.rowcount)


async def counts(tx: AsyncSession) -> dict[tuple[str, str], int]:
    """Count forwards that are not done, by node and state."""
    rows = await tx.execute(
        select(_F.node, _F.state, func.count()).where(_F.state != "done").group_by(_F.node, _F.state)
    )
    return {(node, state): count for node, state, count in rows}


async def _note(tx: AsyncSession, node: str, mpps_id: int, replica: str, now: datetime, **values: Any) -> None:
    await tx.execute(
        _those(node, [mpps_id])
        .where(_F.leased_by == replica)
        .values(leased_by=None, leased_until=None, changed_at=now, **values)
    )


def _those(node: str, mpps_ids: Collection[int]) -> Any:
    return update(mpps_forwards).where(_F.node == node, _F.mpps_id.in_(mpps_ids))
