"""The inbox: which events a queue has processed, so that a repeated one has no effect."""

from datetime import datetime, timedelta
from typing import Any, cast

from sqlalchemy import CursorResult, Table, delete
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.ext.asyncio import AsyncSession

from libs.clock import Clock
from libs.messaging.tables import MessagingTables
from libs.storage.database import Database

#: A repeated event that is older would be taken for a new one; business keys catch it even then.
KEEP = timedelta(days=7)


def insert(tx: AsyncSession, table: Table) -> Any:
    """Begin an INSERT that knows ON CONFLICT, in the dialect of the transaction's database."""
    return (postgresql if tx.get_bind().dialect.name == "postgresql" else sqlite).insert(table)


async def record(tx: AsyncSession, tables: MessagingTables, *, queue: str, source: str, id: str, now: datetime) -> bool:  # noqa: A002 - CloudEvents' name
    """Note that an event is being processed; False when it already was. Two replicas at once wait for each other."""
    statement = insert(tx, tables.inbox).values(queue=queue, source=source, event_id=id, processed_at=now)
    row = await tx.execute(statement.on_conflict_do_nothing().returning(tables.inbox.c.event_id))
    return row.first() is not None


async def prune(database: Database, tables: MessagingTables, clock: Clock, keep: timedelta = KEEP) -> int:
    """Forget events that were processed longer ago than `keep`; return how many."""
    table = tables.inbox
    async with database.transaction() as tx:
        gone = await tx.execute(delete(table).where(table.c.processed_at < clock() - keep))
    return cast("CursorResult[Any]", gone).rowcount
