"""The relay: takes events from the outbox to the broker. It leases rows, publishes, and deletes what was confirmed."""

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any
from uuid import uuid4

from aio_pika.exceptions import CONNECTION_EXCEPTIONS, DeliveryError
from faststream.exceptions import IncorrectState
from faststream.rabbit import RabbitBroker, RabbitExchange
from opentelemetry import context, propagate
from sqlalchemy import Row, bindparam, delete, or_, select, update
from sqlalchemy.ext.asyncio import AsyncSession

from libs.clock import Clock
from libs.messaging import inbox
from libs.messaging.listen import DATABASE_AWAY, listen
from libs.messaging.metric import OUTBOX_AGE, PUBLISH_FAILED, PUBLISHED
from libs.messaging.outbox import PENDING, channel
from libs.messaging.tables import MessagingTables
from libs.messaging.topology import EVENTS
from libs.storage.database import Database
from libs.telemetry import log

#: Publications that wait for their confirm at the same time.
IN_FLIGHT = 100
#: How long the broker has to confirm a publication.
CONFIRM_S = 20.0
#: After so long another relay may publish the same rows: longer than any publication takes.
LEASE = timedelta(seconds=60)
#: Nobody puts a row off for longer than this, clocks of relays that differ included; a row that seems to wait longer
#: was written before the clock was put back, and is due.
_FURTHEST = timedelta(seconds=120)
#: Look at least so often while there is something to publish.
BUSY_S = 1.0
#: Look at least so often while there is nothing: commits and notifications wake the relay before.
IDLE_S = 30.0
#: Pauses after the broker or the database was away.
_AWAY_S = (0.5, 1.0, 2.0, 5.0)
#: Longest pause before a message that the broker refused is offered again.
_REFUSED_MAX_S = 60
_PRUNE_S = 3600.0

_LOG = log.get(__name__)


@dataclass
class _Pass:
    confirmed: list[int] = field(default_factory=list)
    refused: list[int] = field(default_factory=list)
    away: list[int] = field(default_factory=list)


class Relay:
    """Publishes what one service has put into its outbox. Several on one PostgreSQL share the work.

    Parameters
    ----------
    database, tables
        Where the outbox is.
    broker
        Connected before `run`.
    clock
        The time in UTC.
    keep
        How long the inbox remembers events.
    """

    def __init__(
        self,
        database: Database,
        broker: RabbitBroker,
        tables: MessagingTables,
        clock: Clock,
        *,
        keep: timedelta = inbox.KEEP,
    ) -> None:
        self._keep = keep
        self._database = database
        self._broker = broker
        self._tables = tables
        self._clock = clock
        self._owner = str(uuid4())
        self._wake = asyncio.Event()
        outbox = tables.outbox
        is_due = or_(outbox.c.available_at <= bindparam("now"), outbox.c.available_at > bindparam("furthest"))
        free = select(outbox.c.id).where(is_due).order_by(outbox.c.id).limit(IN_FLIGHT)
        # Made once: to make a statement takes longer than to run it.
        self._due = select(outbox).where(is_due).order_by(outbox.c.id).limit(IN_FLIGHT)
        chosen = free.with_for_update(skip_locked=True).cte("free")
        self._take = (
            update(outbox)
            .where(outbox.c.id == chosen.c.id)
            .values(available_at=bindparam("until"), leased_by=self._owner)
            .returning(*outbox.c)
        )
        self._delete = delete(outbox).where(outbox.c.id.in_(bindparam("ids", expanding=True)))
        database.on_commit(self._committed)

    async def run(self) -> None:
        """Publish until cancelled."""
        async with asyncio.TaskGroup() as group:
            if self._database.dialect == "postgresql":
                group.create_task(listen(self._database, channel(self._database.service), self._wake.set))
            group.create_task(self._prune())
            await self._publish()

    async def relay_once(self) -> int:
        """Publish what is due now, at most `IN_FLIGHT` messages; return how many were taken.

        Raises
        ------
        ConnectionError
            The broker is away. Nothing is lost: the rows stay.
        SQLAlchemyError
            The database is away. What was published and could not be deleted will be published again.
        """
        done = await self._relay()
        return len(done.confirmed) + len(done.refused)

    async def _relay(self) -> _Pass:
        rows = await self._lease()
        done = _Pass()
        if not rows:
            return done
        try:
            await asyncio.gather(*(self._offer(row, done) for row in rows))
        finally:
            settled = {*done.confirmed, *done.refused}
            await self._settle(done, [row.id for row in rows if row.id not in settled])
        if done.away:
            raise ConnectionError(f"the broker took {len(done.confirmed)} of {len(rows)} messages")
        return done

    async def _publish(self) -> None:
        if self._database.dialect == "sqlite":
            await self._take_back()
        away = 0
        while True:
            self._wake.clear()
            try:
                done = await self._relay()
                # Where all that was taken is published, more may be under way: it is looked for when that was the last.
                pending = bool(done.confirmed and not done.refused) or await self._pending()
                away = 0
            except DATABASE_AWAY as error:
                pause = _AWAY_S[min(away, len(_AWAY_S) - 1)]
                away += 1
                _LOG.warning(
                    "events could not be published and wait", service=self._service, exc_info=error, delay=pause
                )
                await asyncio.sleep(pause)
                continue
            if len(done.confirmed) + len(done.refused) < IN_FLIGHT:
                # Not `wait_for`: on Python 3.11 it swallows a cancellation that comes together with the wake-up.
                with suppress(TimeoutError):
                    async with asyncio.timeout(BUSY_S if pending else IDLE_S):
                        await self._wake.wait()

    @property
    def _service(self) -> str:
        return self._database.service

    def _committed(self, session: AsyncSession) -> None:
        if session.info.get(PENDING):
            self._wake.set()

    async def _lease(self) -> Sequence[Row[Any]]:
        now = self._clock()
        times = {"now": now, "furthest": now + _FURTHEST}
        if self._database.dialect == "sqlite":
            # There is one relay: nobody else can take them.
            async with self._database.reading() as tx:
                return (await tx.execute(self._due, times)).all()
        async with self._database.transaction() as tx:
            leased = await tx.execute(self._take, {**times, "until": now + LEASE})
            return sorted(leased.all(), key=lambda row: int(row.id))

    async def _offer(self, row: Row[Any], done: _Pass) -> None:
        token = context.attach(propagate.extract(row.headers))
        try:
            async with asyncio.timeout(CONFIRM_S):
                await self._broker.publish(
                    row.body,
                    exchange=EVENTS if row.exchange == EVENTS.name else RabbitExchange(row.exchange),
                    routing_key=row.routing_key,
                    message_id=row.message_id,
                    message_type=row.type,
                    content_type=row.content_type,
                    headers=row.headers,
                    persist=True,
                    mandatory=True,
                )
        except DeliveryError as error:
            done.refused.append(row.id)
            self._failed("refused")
            _LOG.error(
                "the broker refused an event; it stays in the outbox and is offered again",
                service=self._service, message_id=row.message_id, routing_key=row.routing_key,
                attempts=row.attempts + 1, reason=type(error).__name__,
            )  # fmt: skip
        except (*CONNECTION_EXCEPTIONS, TimeoutError, IncorrectState) as error:
            done.away.append(row.id)
            self._failed("unavailable")
            _LOG.debug("publication failed", message_id=row.message_id, exc_info=error)
        except Exception as error:  # noqa: BLE001 - one bad message must not stop the others; it is kept, and told
            done.refused.append(row.id)
            self._failed("error")
            _LOG.error("an event cannot be published", message_id=row.message_id, exc_info=error)
        else:
            done.confirmed.append(row.id)
            PUBLISHED.labels(service=self._service, event=row.type or "").inc()
        finally:
            context.detach(token)

    def _failed(self, reason: str) -> None:
        PUBLISH_FAILED.labels(service=self._service, reason=reason).inc()

    async def _settle(self, done: _Pass, unsettled: list[int]) -> None:
        outbox = self._tables.outbox
        now = self._clock()
        async with self._database.transaction() as tx:
            if done.confirmed:
                await tx.execute(self._delete, {"ids": done.confirmed})
            for id_ in done.refused:
                attempts = (await tx.execute(select(outbox.c.attempts).where(outbox.c.id == id_))).scalar_one_or_none()
                await tx.execute(
                    update(outbox)
                    .where(outbox.c.id == id_)
                    .values(attempts=outbox.c.attempts + 1, available_at=now + _refused(attempts or 0), leased_by=None)
                )
            if unsettled:
                await tx.execute(
                    update(outbox).where(outbox.c.id.in_(unsettled)).values(available_at=now, leased_by=None)
                )

    async def _pending(self) -> bool:
        outbox = self._tables.outbox
        async with self._database.reading() as tx:
            first = select(outbox.c.created_at).order_by(outbox.c.id).limit(1)
            oldest: datetime | None = (await tx.execute(first)).scalar_one_or_none()
        age = 0.0 if oldest is None else (self._clock() - _utc(oldest, self._clock())).total_seconds()
        OUTBOX_AGE.labels(service=self._service).set(max(0.0, age))
        return oldest is not None

    async def _take_back(self) -> None:
        """On SQLite there is one relay: what is leased when it starts was leased by a release that leased there too."""
        outbox = self._tables.outbox
        async with self._database.transaction() as tx:
            await tx.execute(
                update(outbox).where(outbox.c.leased_by.is_not(None)).values(available_at=self._clock(), leased_by=None)
            )

    async def _prune(self) -> None:
        while True:
            try:
                count = await inbox.prune(self._database, self._tables, self._clock, self._keep)
                _LOG.debug("inbox pruned", service=self._service, count=count)
            except DATABASE_AWAY as error:
                _LOG.warning("the inbox could not be pruned; tried again later", service=self._service, exc_info=error)
            await asyncio.sleep(_PRUNE_S)


def _refused(attempts: int) -> timedelta:
    return timedelta(seconds=min(2 ** min(attempts, 10), _REFUSED_MAX_S))


def _utc(value: datetime, now: datetime) -> datetime:
    # SQLite gives back times without their offset.
    return value if value.tzinfo is not None else value.replace(tzinfo=now.tzinfo)
