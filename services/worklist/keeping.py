"""How long what was received is kept as it came: after that its bytes go, and what became of it stays."""

import asyncio
from datetime import timedelta
from typing import Final

from sqlalchemy import LargeBinary, func, literal, select, update

from libs.clock import Clock
from libs.messaging.listen import DATABASE_AWAY
from libs.storage.database import Database
from libs.telemetry import log
from services.worklist import metric
from services.worklist.models import messages

_LOG = log.get(__name__)
#: Messages of one transaction: intake waits for none of these for long.
_SLICE: Final = 200
_EVERY: Final = 600.0


class Keeping:
    """Removes the bytes of messages that are older than so many days; who, when, answer, warnings and orders stay.

    A message that comes again is known by its digest all the same, and answered as it was.
    """

    def __init__(self, database: Database, clock: Clock, *, days: float) -> None:
        self._database = database
        self._clock = clock
        self._days = days

    async def run(self) -> None:
        """Remove what is due, until cancelled."""
        while True:
            try:
                await self.remove()
            except DATABASE_AWAY as error:
                metric.FAILURES.labels(kind="retry").inc()
                _LOG.warning("old messages are not removed for now", reason=type(error).__name__)
            await asyncio.sleep(_EVERY)

    async def remove(self) -> int:
        """Remove the bytes of all messages that are old enough, slice by slice; give how many."""
        before = self._clock() - timedelta(days=self._days)
        due = (
            select(messages.c.id)
            .where(messages.c.removed_size.is_(None), messages.c.received_at < before)
            .order_by(messages.c.received_at)
            .limit(_SLICE)
        )
        removed, ids = 0, [0] * _SLICE
        while len(ids) == _SLICE:
            async with self._database.transaction() as tx:
                ids = list(await tx.scalars(due))
                if ids:
                    # Another replica may have removed some of them meanwhile.
                    mine = messages.c.id.in_(ids) & messages.c.removed_size.is_(None)
                    values = {"removed_size": func.length(messages.c.raw), "raw": literal(b"", LargeBinary)}
                    await tx.execute(update(messages).where(mine).values(values))
            removed += len(ids)
        if removed:
            _LOG.info("the bytes of old messages were removed", count=removed)
        return removed
