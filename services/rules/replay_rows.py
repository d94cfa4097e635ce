"""All SQL of replays. Every function works in its caller's transaction."""

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any, Final

from sqlalchemy import Row, delete, insert, select, update
from sqlalchemy.ext.asyncio import AsyncSession

from services.rules.models import replays

#: A replay whose process has said nothing for so long is over.
SILENCE: Final = timedelta(seconds=60)


async def begin(tx: AsyncSession, values: dict[str, Any], now: datetime) -> Row[Any] | None:
    """Note a new replay; give the one that is running instead, if any, and note nothing."""
    running = (await tx.execute(select(replays).where(replays.c.state == "running").with_for_update())).all()
    for row in running:
        if row.alive_at > now - SILENCE:
            return row
        await end(tx, row.id, "failed", "the process that ran it ended")
    await tx.execute(insert(replays), values)
    return None


async def find(tx: AsyncSession, replay: str) -> Row[Any] | None:
    """Give one."""
    return (await tx.execute(select(replays).where(replays.c.id == replay))).one_or_none()


async def latest(tx: AsyncSession, limit: int, skip: int = 0) -> Sequence[Row[Any]]:
    """Give the latest ones, the newest first."""
    statement = select(replays).order_by(replays.c.asked_at.desc(), replays.c.id).limit(limit).offset(skip)
    return (await tx.execute(statement)).all()


async def progress(tx: AsyncSession, replay: str, done: int, total: int, now: datetime) -> bool:
    """Note how far it is; tell whether it is still wanted."""
    values = {"studies_done": done, "studies_total": total, "alive_at": now}
    statement = update(replays).where(replays.c.id == replay, replays.c.state == "running").values(values)
    return bool((await tx.execute(statement)).rowcount)  # type: ignore[attr-defined]  # an UPDATE has it


async def end(
    tx: AsyncSession, replay: str, state: str, problem: str | None = None, results: str | None = None
) -> bool:
    """Note that it is over; tell whether it was not before."""
    values = {"state": state, "problem": problem, "results": results}
    statement = update(replays).where(replays.c.id == replay, replays.c.state == "running").values(values)
    return bool((await tx.execute(statement)).rowcount)  # type: ignore[attr-defined]  # an UPDATE has it


async def forget(tx: AsyncSession, replay: str) -> None:
    """Remove one."""
    await tx.execute(delete(replays).where(replays.c.id == replay))
