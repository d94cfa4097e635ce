"""SQL of what replicas tell each other: what each has in hand, and what it acknowledged from the object store."""

from collections.abc import Iterable, Sequence
from datetime import datetime

from sqlalchemy import delete, exists, select, update
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.ext.asyncio import AsyncSession

from services.ingest.arrival import Entry
from services.ingest.models import open_work, received

#: In the table `open_work`: the replica itself is alive. No study has this name.
_ALIVE = ("", "")


async def declare_open(tx: AsyncSession, replica: str, work: Iterable[tuple[str, str]], now: datetime) -> None:
    """Say to the other replicas that this one lives and which studies it has in hand, in place of what it said before.

    It touches rows of its own alone, which nobody else changes, and so never waits for an indexer.
    """
    await tx.execute(delete(open_work).where(open_work.c.replica == replica))
    rows = [
        {"replica": replica, "tenant": tenant, "study_uid": uid, "renewed_at": now}
        for tenant, uid in (_ALIVE, *sorted(set(work) - {_ALIVE}))
    ]
    await tx.execute(open_work.insert(), rows)


async def expect(tx: AsyncSession, entries: Sequence[Entry], replica: str, now: datetime) -> None:
    """Record that objects are about to be acknowledged from the object store."""
    rows = [
        {
            "id": entry.arrival.id,
            "replica": replica,
            "tenant": entry.arrival.tenant,
            "study_uid": entry.study_uid,
            "object_key": entry.object_key,
            "renewed_at": now,
        }
        for entry in entries
    ]
    dialect = postgresql if tx.get_bind().dialect.name == "postgresql" else sqlite
    await tx.execute(dialect.insert(received).on_conflict_do_nothing(), rows)


async def expected(tx: AsyncSession, replica: str) -> list[tuple[str, str]]:
    """List what this replica has acknowledged and not indexed: pairs of arrival and object key."""
    rows = await tx.execute(
        select(received.c.id, received.c.object_key).where(received.c.replica == replica).order_by(received.c.id)
    )
    return [(arrival, key) for arrival, key in rows]


async def hold(tx: AsyncSession, arrival_id: str, replica: str) -> bool:
    """Keep a record of this replica as it is until the end of the transaction; False if there is none any more."""
    found = await tx.scalar(
        select(received.c.id).where(received.c.id == arrival_id, received.c.replica == replica).with_for_update()
    )
    return found is not None


async def forget(tx: AsyncSession, arrival_ids: Sequence[str]) -> None:
    """Take back `expect`: the senders were told a failure, or nothing, and there are no such objects."""
    await tx.execute(delete(received).where(received.c.id.in_(arrival_ids)))


async def take_over(tx: AsyncSession, replica: str, *, silent_since: datetime, limit: int, now: datetime) -> int:
    """Make what silent replicas have acknowledged this replica's own; give how many there were, at most `limit`.

    What another replica has locked is left for another time: two that do this never wait for each other.
    """
    alive = exists().where(
        open_work.c.replica == received.c.replica,
        open_work.c.tenant == _ALIVE[0],
        open_work.c.study_uid == _ALIVE[1],
        open_work.c.renewed_at >= silent_since,
    )
    rows = await tx.scalars(
        select(received.c.id)
        .where(received.c.renewed_at < silent_since, received.c.replica != replica, ~alive)
        .order_by(received.c.id)
        .limit(limit)
        .with_for_update(skip_locked=True)
    )
    found = list(rows)
    if found:
        await tx.execute(update(received).where(received.c.id.in_(found)).values(replica=replica, renewed_at=now))
    return len(found)
