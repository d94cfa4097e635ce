"""What destinations confirm: asked for, written down, and what follows from it. Each step is one transaction."""

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any, Final

from sqlalchemy import Row
from sqlalchemy.ext.asyncio import AsyncSession

from contracts.commitment import CommitmentReported, Committed, NotCommitted
from libs.clock import Clock
from libs.dimse.commitment import Reference
from libs.messaging.outbox import Outbox
from libs.storage.database import Database
from libs.telemetry import log
from services.egress import metric, questions, report, repository
from services.egress.asking import Asked, Question
from services.egress.backoff import Backoff, Random
from services.egress.confirmation import NOT_FOUND, Next, Patience, Sighting, missed, missing
from services.egress.deliveries import Deliveries
from services.egress.finding import Looked
from services.egress.joint import anew
from services.egress.settings import EgressSettings

#: Instances in one request; requests in one association, unless a single delivery needs more.
PORTION: Final = 500
_REQUESTS: Final = 20
#: How long whoever is about to ask may be about it, before it is asked anew by whoever comes.
_ABOUT_IT: Final = timedelta(minutes=5)
#: An archive that reports later than this is not waited for: it has been asked again meanwhile.
_FORGOTTEN: Final = timedelta(days=30)
_log = log.get(__name__)


class Confirmations:
    """What destinations have confirmed.

    Parameters
    ----------
    database, outbox, deliveries, settings
        Of egress.
    clock, random
        The time in UTC; a number in [0, 1) for jitter.
    new_uid
        Makes identifiers that were never used before.
    """

    def __init__(
        self,
        database: Database,
        outbox: Outbox,
        deliveries: Deliveries,
        settings: EgressSettings,
        *,
        clock: Clock,
        random: Random,
        new_uid: Callable[[], str],
    ) -> None:
        self._database = database
        self._outbox = outbox
        self._deliveries = deliveries
        self._settings = settings
        self._clock = clock
        self._random = random
        self._new_uid = new_uid
        self._patience = Patience(settings.confirm_again, max(settings.confirm_again, settings.confirm_cap))
        self._backoff = Backoff(settings.backoff_first, settings.backoff_cap)
        self._looking = Backoff(settings.backoff_first, settings.confirm_again)
        self._given = timedelta(seconds=settings.confirm_again)

    async def adopt(self) -> None:
        """Take over what an earlier run was about to ask, where no other replica can be."""
        if self._database.dialect == "sqlite":
            async with self._database.transaction() as tx:
                await questions.resume(tx, self._clock())

    async def due(self) -> dict[str, datetime]:
        """Tell for each destination that is to confirm something when it is to be asked first."""
        now = self._clock()
        async with self._database.reading() as tx:
            return await questions.due_destinations(tx, now, self._patience.out_of_reach(now))

    async def claim(self, destination: str, node: str) -> list[Question]:
        """Write down what a destination is to be asked now; no other replica asks for it meanwhile."""
        made: list[Question] = []
        async with self._database.transaction() as tx:
            now = self._clock()
            latest = self._patience.out_of_reach(now)
            for row in await questions.lock_due(tx, destination, now, latest, _REQUESTS):
                if len(made) >= _REQUESTS:
                    break
                made += await self._questions(tx, row.id, node, now)
                await questions.forget_before(tx, row.id, now - _FORGOTTEN)
                await repository.update_delivery(tx, row.id, confirm_at=now + _ABOUT_IT)
        return made

    async def _questions(self, tx: AsyncSession, key: str, node: str, now: datetime) -> list[Question]:
        rows = await questions.uncommitted(tx, key)
        made = []
        for start in range(0, len(rows), PORTION):
            portion = rows[start : start + PORTION]
            uid = self._new_uid()
            await questions.make(tx, uid, key, node, portion, now)
            references = tuple(Reference(row.sop_class_uid, row.there_uid) for row in portion)
            made.append(Question(uid, key, references))
        return made

    async def claim_studies(self, destination: str) -> dict[str, str]:
        """Take deliveries in hand of which a destination is to show now what it has; give their studies by delivery."""
        async with self._database.transaction() as tx:
            now = self._clock()
            rows = await questions.lock_due(tx, destination, now, self._patience.out_of_reach(now), _REQUESTS)
            for row in rows:
                await repository.update_delivery(tx, row.id, confirm_at=now + _ABOUT_IT)
            there = await questions.studies_there(tx, [row.id for row in rows])
        return {row.id: there.get(row.id, row.study_instance_uid) for row in rows}

    async def looked(self, studies: Mapping[str, str], found: Looked, began: datetime, again_at: datetime) -> None:
        """Write down what a destination was seen to have, and what it was not, when it was asked from `began` on."""
        for key, study in sorted(studies.items()):
            async with self._database.transaction() as tx:
                now = self._clock()
                row = await repository.lock_delivery(tx, key)
                if row is None or row.confirm_at is None:
                    continue
                if study not in found.sightings:
                    await self._schedule(tx, row, found.problem, again_at, now)
                    continue
                problem = await self._see(tx, row, found.sightings[study], began)
                asks = row.confirm_asks + 1
                # What was just sent may take moments to show; an archive that works through the night, hours.
                at = now + timedelta(seconds=self._looking.ceiling(asks))
                values = {"confirm_asks": asks, "confirm_at": at, "confirm_problem": problem}
                await repository.update_delivery(tx, key, **values)
                await self._deliveries.reconsider(tx, key)

    async def _see(self, tx: AsyncSession, row: Row[Any], sighting: Sighting, began: datetime) -> str | None:
        """Write down what is there, and what has not shown for too long; say why nothing follows, where that is so."""
        now = self._clock()
        # What was sent once more meanwhile was not asked for.
        rows = {each.there_uid: each for each in await questions.sent(tx, row.id) if each.sent_at <= began}
        gone = missing(rows.keys(), sighting)
        if gone is None:
            return f"it tells no instances, and that it has {sighting.number} of the study proves nothing"
        there = [each.id for uid, each in rows.items() if uid not in gone]
        await questions.find(tx, there, now)
        metric.CONFIRMED.labels(row.destination, "found").inc(len(there))
        for uid in gone:
            if rows[uid].found_at is None and rows[uid].sent_at <= now - self._given:
                reason = "The destination said success for it, and does not show it when it is asked what it has."
                await questions.miss(tx, rows[uid].id, state="failed", status=NOT_FOUND, reason=reason, missing_at=now)
        return None

    async def asked(self, wanted: Sequence[Question], found: Asked, again_at: datetime) -> None:
        """Write down what became of requests; where it went wrong, all is asked again at `again_at`."""
        problems: dict[str, str | None] = {}
        for each in wanted:
            uid = each.transaction_uid
            problem = None if uid in found.taken else found.refused.get(uid, found.problem)
            problems[each.delivery_id] = problem or problems.get(each.delivery_id)
        async with self._database.transaction() as tx:
            now = self._clock()
            rows = {key: await repository.lock_delivery(tx, key) for key in sorted(problems)}
            await questions.taken(tx, found.taken, now)
            await questions.forget(tx, found.refused)
            for key, row in rows.items():
                # One that was reported meanwhile may need nothing more.
                if row is not None and row.confirm_at is not None:
                    await self._schedule(tx, row, problems[key], again_at, now)

    async def _schedule(
        self, tx: AsyncSession, row: Row[Any], problem: str | None, again_at: datetime, now: datetime
    ) -> None:
        if problem is None:
            asks = row.confirm_asks + 1
            values = {"confirm_asks": asks, "confirm_at": self._patience.again(asks, now), "confirm_problem": None}
        else:
            values = {"confirm_at": again_at, "confirm_problem": problem}
        await repository.update_delivery(tx, row.id, **values)
        await self._deliveries.reconsider(tx, row.id)

    async def reported_here(self, said: CommitmentReported) -> None:
        """Take a report that came on the association of the request, and tell of it."""
        async with self._database.transaction() as tx:
            row = await self._take(tx, said)
            if row is not None:
                await self._outbox.emit(tx, said, subject=row.study_instance_uid, tenant=row.tenant, site=row.site)

    async def reported(self, tx: AsyncSession, said: CommitmentReported) -> None:
        """Take a report that came elsewhere, in the consumer's transaction."""
        await self._take(tx, said)

    async def _take(self, tx: AsyncSession, said: CommitmentReported) -> Row[Any] | None:
        """Write a report down; give its delivery, if it is about one and comes from its destination's node."""
        asking = await questions.question(tx, said.transaction_uid)
        if asking is None:
            _log.warning("a report of storage commitment is about nothing that is asked for", node=said.node)
            return None
        if asking.node != said.node:
            _log.warning(
                "a report of storage commitment came from another node than was asked: it changes nothing",
                node=said.node,
                delivery=asking.delivery_id,
            )
            return None
        row = await repository.lock_delivery(tx, asking.delivery_id)
        if row is None:
            raise RuntimeError("a delivery vanished while its destination confirmed it")
        # After the lock: of two reports at once, the second sees what the first changed.
        known = await questions.instances(tx, asking)
        failed = [known[each.sop_instance_uid] for each in said.failed if _fits(each, known)]
        failures = {each.sop_instance_uid: each.failure_reason for each in said.failed}
        committed = [
            known[each.sop_instance_uid].id
            for each in said.committed
            if _fits(each, known) and each.sop_instance_uid not in failures
        ]
        strangers = len(said.committed) + len(said.failed) - len(committed) - len(failed)
        if strangers:
            _log.warning(
                "a report of storage commitment names instances that were not asked for, or were sent once more since",
                delivery=row.id,
                count=strangers,
            )
        now = self._clock()
        if asking.compares:
            await self._lose(tx, row, [item for item in failed if not item.superseded], now)
        else:
            for item in failed:
                await self._miss(tx, row, item, failures[item.there_uid], now)
        await questions.answered(tx, asking, [item.id for item in failed])
        await questions.commit(tx, committed, now)
        await questions.answered(tx, asking, committed)
        metric.CONFIRMED.labels(row.destination, "committed").inc(len(committed))
        metric.CONFIRMED.labels(row.destination, "refused").inc(len(failed))
        await self._deliveries.reconsider(tx, row.id)
        return row

    async def _lose(self, tx: AsyncSession, row: Row[Any], gone: Sequence[Row[Any]], now: datetime) -> None:
        """Write down what a destination does not have any more; what is new of it is told."""
        new = [item.sop_instance_uid for item in gone if item.missing_at is None]
        await questions.lose(tx, [item.id for item in gone], now)
        if new:
            fact = report.unconfirmed(row, "commitment", new, len(await questions.sent(tx, row.id)))
            await self._outbox.emit(tx, fact, subject=row.study_instance_uid, tenant=row.tenant, site=row.site)
            _log.error(
                "a destination does not have what it said success for",
                destination=row.destination,
                delivery=row.id,
                count=len(new),
            )

    async def _miss(self, tx: AsyncSession, row: Row[Any], item: Row[Any], failure_reason: int, now: datetime) -> None:
        """Write down that an instance is not committed to, and what follows."""
        if item.superseded or item.committed_at is not None:
            # Asked for again since, and that answer counts; or said to be safe by the same archive already.
            _log.warning("a failure of storage commitment is out of date: it changes nothing", delivery=row.id)
            return
        miss = missed(failure_reason, item.misses + 1, self._settings.misses)
        _log.warning("a destination does not commit itself to an instance", delivery=row.id, reason=miss.reason)
        if miss.follows is Next.ASK:
            # When it would be asked again anyway: at once would be without end.
            return
        values: dict[str, Any] = {"misses": item.misses + 1, "reason": miss.reason}
        if miss.follows is Next.SEND:
            due = self._backoff.after(item.misses + 1, now, self._random)
            values |= {"state": "pending", "next_attempt_at": due, "found_at": None}
            # However long it waited for its confirmation: it is tried from now on.
            await repository.update_delivery(tx, row.id, **anew(now))
        else:
            values |= {"state": "failed", "status": miss.status, "found_at": None}
        await questions.miss(tx, item.id, **values)


def _fits(each: Committed | NotCommitted, known: Mapping[str, Row[Any]]) -> bool:
    row = known.get(each.sop_instance_uid)
    return row is not None and row.sop_class_uid == each.sop_class_uid
