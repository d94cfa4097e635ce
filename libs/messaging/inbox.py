"""The inbox: which events a queue has processed, so that a repeated one has no effect."""

from collections.abc import Collection
from datetime import datetime, timedelta
from typing import Any, cast

from sqlalchemy import CursorResult, Table, delete, tuple_
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.ext.asyncio import AsyncSession

from libs.clock import Clock
from libs.messaging.tables import MessagingTables
from libs.storage.database import Database

#: A repeated event that is older would be taken for a new one; business keys catch it even then.
KEEP = timedelta(days=7)

#: What tells an event from all others: its source and its id there.
Key = tuple[str, str]


def insert(tx: AsyncSession, table: Table) -> Any:
    """Begin an INSERT that knows ON CONFLICT, in the dialect of the transaction's database."""
    return insert_of(tx.get_bind().dialect.name, table)


def insert_of(dialect: str, table: Table) -> Any:
    """Begin an INSERT that knows ON CONFLICT, in a dialect."""
    return (postgresql if dialect == "postgresql" else sqlite).insert(table)


async def record(
    tx: AsyncSession, tables: MessagingTables, *, queue: str, events: Collection[Key], now: datetime
) -> set[Key]:
    """Note that events are being processed; give those that were not yet. Two replicas at once wait for each other."""
    table = tables.inbox
    # In one order, so that two replicas with the same events do not wait for each other crosswise.
    rows = [
        {"queue": queue, "source": source, "event_id": id_, "processed_at": now} for source, id_ in sorted(set(events))
    ]
    statement = insert(tx, table).on_conflict_do_nothing().returning(table.c.source, table.c.event_id)
    return {(row.source, row.event_id) for row in await tx.execute(statement, rows)}


async def forget(tx: AsyncSession, tables: MessagingTables, *, queue: str, events: Collection[Key]) -> None:
    """Take back the note of events that were not processed after all."""
    table = tables.inbox
    await tx.execute(
        delete(table).where(table.c.queue == queue, tuple_(table.c.source, table.c.event_id).in_(list(events)))
    )


async def prune(database: Database, tables: MessagingTables, clock: Clock, keep: timedelta = KEEP) -> int:
    """Forget events that were processed longer ago than `keep`; return how many."""
    table = tables.inbox
    async with database.transaction() as tx:
        gone = await tx.execute(delete(table).where(table.c.processed_at < clock() - keep))
    return cast("CursorResult[Any]", gone).rowcount
