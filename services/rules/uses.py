"""When each rule last matched: noted in memory and written down every few seconds, so that no decision waits for it.

Decisions of all replicas would wait for each other at one row for each rule. A crash loses seconds of what is looked at
in days.
"""

import asyncio
from collections.abc import Collection
from datetime import datetime
from typing import Any, Final

from sqlalchemy import bindparam, delete, or_, select, update
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.ext.asyncio import AsyncSession

from libs.definition.lint import Use
from libs.messaging.listen import DATABASE_AWAY
from libs.storage.database import Database
from libs.telemetry import log
from services.rules.models import uses

_LOG = log.get(__name__)
_EVERY_S: Final = 5.0
_INSERTS: Final[dict[str, Any]] = {"sqlite": sqlite.insert, "postgresql": postgresql.insert}
_MATCHED: Final = (
    update(uses)
    .where(uses.c.rule == bindparam("name"), or_(uses.c.matched_at.is_(None), uses.c.matched_at < bindparam("at")))
    .values(matched_at=bindparam("at"))
)


class Uses:
    """What matched lately, and is not written down yet."""

    def __init__(self) -> None:
        self._matched: dict[str, datetime] = {}

    def note(self, rule: str, at: datetime) -> None:
        """Note that a rule matched."""
        self._matched[rule] = at

    async def write(self, database: Database) -> None:
        """Write down what was noted; what can't be written is noted still."""
        noted, self._matched = self._matched, {}
        if not noted:
            return
        try:
            async with database.transaction() as tx:
                connection = await tx.connection()
                # In one order, so that replicas do not wait for each other crosswise.
                await connection.execute(_MATCHED, [{"name": rule, "at": noted[rule]} for rule in sorted(noted)])
        except BaseException:
            self._matched = {**noted, **self._matched}
            raise

    async def run(self, database: Database) -> None:
        """Write every few seconds, until cancelled."""
        while True:
            await asyncio.sleep(_EVERY_S)
            try:
                await self.write(database)
            except DATABASE_AWAY:
                _LOG.warning("when rules matched can't be written down, trying again", exc_info=True)


async def in_force(tx: AsyncSession, rules: Collection[str], now: datetime) -> None:
    """Note which rules are in force: what is new is so from now on, what is gone is forgotten."""
    known = set(await tx.scalars(select(uses.c.rule)))
    new = [{"rule": rule, "since": now} for rule in sorted(set(rules) - known)]
    if new:
        await tx.execute(_INSERTS[tx.get_bind().dialect.name](uses).on_conflict_do_nothing(), new)
    for gone in sorted(known - set(rules)):
        await tx.execute(delete(uses).where(uses.c.rule == gone))


async def known(tx: AsyncSession) -> dict[str, Use]:
    """Give what is known of the use of rules, by name."""
    return {row.rule: Use(row.since, row.matched_at) for row in await tx.execute(select(uses))}
