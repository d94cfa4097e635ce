"""What comparing finds of one delivery, written down. Each step is one transaction; nothing is sent because of it."""

from collections.abc import Callable, Sequence
from datetime import datetime

from libs.clock import Clock
from libs.dimse.commitment import Reference
from libs.messaging.outbox import Outbox
from libs.storage.database import Database
from services.egress import questions, report, repository
from services.egress.asking import Asked, Question
from services.egress.confirmation import Sighting, missing
from services.egress.confirmations import PORTION
from services.egress.deliveries import Deliveries


class Comparisons:
    """Writes down what destinations have, and what they do not have any more."""

    def __init__(
        self, database: Database, outbox: Outbox, deliveries: Deliveries, clock: Clock, new_uid: Callable[[], str]
    ) -> None:
        self._database = database
        self._outbox = outbox
        self._deliveries = deliveries
        self._clock = clock
        self._new_uid = new_uid

    async def seen(self, key: str, sighting: Sighting, began: datetime) -> dict[str, int]:
        """Write down what a destination showed of a delivery, asked from `began` on; give the figures."""
        async with self._database.transaction() as tx:
            now = self._clock()
            row = await repository.lock_delivery(tx, key)
            if row is None:
                raise RuntimeError("a delivery vanished while it was compared")
            # What was sent once more meanwhile was not asked for.
            rows = {each.there_uid: each for each in await questions.sent(tx, key) if each.sent_at <= began}
            gone = missing(rows.keys(), sighting)
            if gone is None:
                return {"instances": len(rows), "unknown": len(rows)}
            await questions.find(tx, [each.id for uid, each in rows.items() if uid not in gone], now)
            await questions.lose(tx, [rows[uid].id for uid in gone], now)
            new = sorted(rows[uid].sop_instance_uid for uid in gone if rows[uid].missing_at is None)
            if new:
                fact = report.unconfirmed(row, "query", new, len(rows))
                await self._outbox.emit(tx, fact, subject=row.study_instance_uid, tenant=row.tenant, site=row.site)
            if row.confirm_at is not None:
                await self._deliveries.reconsider(tx, key)
        return {"instances": len(rows), "missing": len(gone)}

    async def ask(self, key: str, node: str) -> list[Question]:
        """Write down requests for commitment to all that was sent of a delivery, only to compare."""
        made = []
        async with self._database.transaction() as tx:
            rows = await questions.sent(tx, key)
            for start in range(0, len(rows), PORTION):
                portion, uid = rows[start : start + PORTION], self._new_uid()
                await questions.make(tx, uid, key, node, portion, self._clock(), compares=True)
                references = tuple(Reference(row.sop_class_uid, row.there_uid) for row in portion)
                made.append(Question(uid, key, references))
        return made

    async def asked(self, key: str, wanted: Sequence[Question], found: Asked) -> dict[str, int]:
        """Write down which requests a destination took; give the figures as far as it has reported."""
        async with self._database.transaction() as tx:
            await questions.taken(tx, found.taken, self._clock())
            uids = [each.transaction_uid for each in wanted]
            await questions.forget(tx, [uid for uid in uids if uid not in found.taken])
            unknown = await questions.unreported(tx, found.taken)
            rows = await questions.sent(tx, key)
        return {
            "instances": len(rows),
            "missing": sum(row.missing_at is not None for row in rows),
            "unknown": unknown,
        }
