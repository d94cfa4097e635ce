"""Lets rules look at studies when it is time."""

import asyncio
from typing import Final

from libs.clock import Clock
from libs.messaging.listen import DATABASE_AWAY
from libs.storage.database import Database
from libs.storage.objects import StoreUnavailableError
from libs.telemetry import log
from libs.telemetry.trace import attached, study_context, tracer
from services.rules import action_rows, metric
from services.rules.decider import Decider

_LOG = log.get(__name__)
_TRACER = tracer(__name__)
#: Between two looks at the clock, in seconds.
_EVERY: Final = 5.0
_AT_ONCE: Final = 100


class Timers:
    """The clock of rules. Any number of replicas may look at once: each study is locked while a rule looks at it."""

    def __init__(self, decider: Decider, database: Database, clock: Clock) -> None:
        self._decider = decider
        self._database = database
        self._clock = clock

    async def run(self) -> None:
        """Look every few seconds, until cancelled."""
        while True:
            try:
                await self.look()
            except DATABASE_AWAY:
                _LOG.exception("timers can't be read, trying again")
            await asyncio.sleep(_EVERY)

    async def look(self) -> int:
        """Let every rule look that is due; give how many did. What fails is due still, and tried again."""
        if self._decider.in_force() is None:
            return 0
        now, looked, last = self._clock(), 0, 0
        while True:
            async with self._database.reading() as tx:
                due = await action_rows.due_timers(tx, now, last, _AT_ONCE)
            for row in due:
                with (
                    attached(study_context(row.tenant, row.study_instance_uid)),
                    _TRACER.start_as_current_span("look because it is time"),
                ):
                    looked += await self._look(row.study_id, row.id, row.study_instance_uid)
            if len(due) < _AT_ONCE:
                return looked
            last = due[-1].id

    async def _look(self, study_id: int, timer: int, study_uid: str) -> bool:
        try:
            async with self._database.transaction() as tx:
                await self._decider.look(tx, study_id, timer, self._clock())
        except DATABASE_AWAY:
            raise
        except StoreUnavailableError:
            _LOG.warning("a rule can't look at a study while the object store is away", study_uid=study_uid)
        except Exception as error:  # noqa: BLE001 - it is due still and tried again; the others must go on
            metric.TIMERS.labels(outcome="failed").inc()
            _LOG.error("a rule could not look at a study", study_uid=study_uid, error=type(error).__name__)
        else:
            return True
        return False
