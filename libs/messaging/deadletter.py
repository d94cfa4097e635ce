"""Dead letters: taken from the broker into the service's own table, listed, shown, and replayed."""

import asyncio
import base64
import hashlib
import json
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from uuid import uuid4

from faststream.rabbit import RabbitBroker
from faststream.rabbit.annotations import RabbitMessage
from sqlalchemy import Row, select, update

from libs.clock import Clock
from libs.messaging import ladder, outbox
from libs.messaging.death import deaths, without_broker_headers
from libs.messaging.desk import serve
from libs.messaging.inbox import insert
from libs.messaging.metric import DEAD
from libs.messaging.tables import MessagingTables
from libs.messaging.topology import dead_queue, replayable
from libs.storage.database import Database
from libs.telemetry import log

_LOG = log.get(__name__)
_PREFETCH = 10
_ATTEMPTS_MAX = 2**15 - 1


class ReplayError(Exception):
    """A dead letter cannot be replayed."""

    safe_to_log = True


@dataclass(frozen=True)
class DeadLetter:
    """One message that could not be processed.

    Attributes
    ----------
    id
        Number of the row.
    queue
        Work queue that it failed in, and to which a replay sends it.
    message_id, source, type, subject, tenant
        From the event, where it can be read.
    reason
        Why it failed last.
    attempts
        How often it was tried.
    deaths
        The broker's own record, as in the header `x-death`.
    headers
        Headers that it was published with.
    content_type, body
        The message as it is; the body may be anything.
    died_at, replayed_at
        When it was taken here, and when it was sent back, UTC.
    """

    id: int
    queue: str
    message_id: str | None
    source: str | None
    type: str | None
    subject: str | None
    tenant: str | None
    reason: str
    attempts: int
    deaths: list[dict[str, Any]]
    headers: dict[str, Any]
    content_type: str
    body: bytes
    died_at: datetime
    replayed_at: datetime | None


class DeadLetters:
    """The dead letters of one service."""

    def __init__(self, database: Database, tables: MessagingTables, clock: Clock) -> None:
        self._database = database
        self._tables = tables
        self._clock = clock

    async def list(self, limit: int = 50, before: int | None = None) -> "list[DeadLetter]":
        """Give the latest dead letters, those with an id below `before`."""
        table = self._tables.dead_letter
        statement = select(table).order_by(table.c.id.desc()).limit(limit)
        if before is not None:
            statement = statement.where(table.c.id < before)
        async with self._database.reading() as tx:
            return [_read(row) for row in (await tx.execute(statement)).all()]

    async def show(self, id: int) -> DeadLetter | None:  # noqa: A002 - the row's name for it
        """Give one dead letter."""
        table = self._tables.dead_letter
        async with self._database.reading() as tx:
            row = (await tx.execute(select(table).where(table.c.id == id))).first()
        return None if row is None else _read(row)

    async def replay(self, ids: Sequence[int]) -> int:
        """Send dead letters back to the queues that they came from, and return how many. On error none is sent.

        What was replayed before is left alone.

        Raises
        ------
        ReplayError
            One of them came from a queue that there is no more.
        """
        table = self._tables.dead_letter
        async with self._database.transaction() as tx:
            now = self._clock()
            taken = await tx.execute(
                update(table)
                .where(table.c.id.in_(ids), table.c.replayed_at.is_(None))
                .values(replayed_at=now)
                .returning(*table.c)
            )
            rows = sorted(taken.all(), key=lambda row: int(row.id))
            for row in rows:
                if not replayable(row.queue):
                    raise ReplayError(
                        f"Dead letter {row.id} came from {row.queue or 'an unknown queue'}, which this release "
                        f"does not have: it cannot be replayed. It stays here; nothing was replayed."
                    )
            if rows:
                messages = [_again(row) for row in rows]
                await outbox.put(tx, self._tables, self._clock, self._database.service, messages)
        return len(rows)


def _again(row: Row[Any]) -> outbox.Message:
    return outbox.Message(
        message_id=str(uuid4()),
        exchange="",
        routing_key=row.queue,
        type=row.type,
        content_type=row.content_type,
        headers=ladder.fresh(row.headers) | {ladder.REPLAY: str(row.id)},
        body=row.body,
    )


def take_dead_letters(
    broker: RabbitBroker,
    service: str,
    database: Database,
    tables: MessagingTables,
    clock: Clock,
    *,
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
) -> None:
    """Take the service's dead letters from its queue into its table, from when the broker starts."""

    async def receive(message: RabbitMessage) -> None:
        for delay in ladder.LADDER:
            try:
                values = _write(message, clock())
                async with database.transaction() as tx:
                    row = insert(tx, tables.dead_letter).values(**values).on_conflict_do_nothing()
                    new = (await tx.execute(row.returning(tables.dead_letter.c.id))).first() is not None
            except Exception as error:  # noqa: BLE001 - whatever is wrong, a dead letter is kept and tried again slowly
                _LOG.error("a dead letter could not be kept; tried again", service=service, exc_info=error, delay=delay)
                await sleep(delay)
            else:
                if new:
                    _tell(service, values)
                return await message.ack()
        return await message.reject(requeue=True)

    serve(broker, dead_queue(service), receive, _PREFETCH)


def _tell(service: str, values: Mapping[str, Any]) -> None:
    queue = values["queue"] if replayable(values["queue"]) else "other"
    DEAD.labels(service=service, queue=queue).inc()
    _LOG.error(
        "dead letter: look at it with `kivuko dead show`",
        service=service, queue=queue, type=values["type"], reason=values["reason"],
    )  # fmt: skip


def _write(message: RabbitMessage, now: datetime) -> dict[str, Any]:
    headers = dict(message.headers)
    died = deaths(headers)
    queue = str(headers.get(ladder.QUEUE) or (died[0].get("queue", "") if died else ""))
    event = _event(message.body)
    replay = str(headers.get(ladder.REPLAY, ""))
    tried = ladder.attempt(headers) or sum(int(each.get("count", 1)) for each in died)
    return {
        "fingerprint": hashlib.sha256(b"\0".join((queue.encode(), replay.encode(), message.body))).hexdigest(),
        "queue": _text(queue, 128),
        "message_id": _text(event.get("id") or headers.get(ladder.MESSAGE_ID) or message.raw_message.message_id, 64),
        "source": _text(event.get("source"), 128),
        "type": _text(event.get("type"), 128),
        "subject": _text(event.get("subject"), 255),
        "tenant": _text(event.get("tenant"), 63),
        "reason": _text(headers.get(ladder.REASON), 2000) or _reason(died),
        "attempts": min(tried, _ATTEMPTS_MAX),
        "deaths": _plain(died),
        "headers": _plain(without_broker_headers(headers)),
        "content_type": _text(message.content_type, 128) or "application/octet-stream",
        "body": message.body,
        "died_at": now,
    }


def _reason(died: Sequence[Mapping[str, Any]]) -> str:
    why = died[0].get("reason") if died else None
    if why == "delivery_limit":
        return (
            "Delivered several times and never answered: the process ended, or lost the broker, while it worked on it."
        )
    return f"The broker gave it up: {why or 'no reason given'}."


def _event(body: bytes) -> dict[str, Any]:
    try:
        found = json.loads(body)
    except ValueError:  # not JSON, or not even text
        return {}
    return found if isinstance(found, dict) else {}


def _text(value: object, length: int) -> str | None:
    # PostgreSQL's text takes no NUL, and surrogates cannot be encoded.
    if not isinstance(value, str):
        return None
    return value.replace("\0", "").encode("utf-8", "replace").decode("utf-8")[:length]


def _plain(value: Any) -> Any:
    """Turn headers into JSON; AMQP has bytes, times and decimals besides."""
    match value:
        case None | bool() | int() | float():
            return value
        case Mapping():
            return {_text(str(name), 255): _plain(each) for name, each in value.items()}
        case list() | tuple():
            return [_plain(each) for each in value]
        case _:
            return _text(base64.b64encode(value).decode() if isinstance(value, bytes) else str(value), 10_000)


def _read(row: Row[Any]) -> DeadLetter:
    values = dict(row._mapping)  # noqa: SLF001 - SQLAlchemy's documented name
    del values["fingerprint"]
    for name in ("died_at", "replayed_at"):
        if values[name] is not None and values[name].tzinfo is None:  # SQLite gives back times without their offset
            values[name] = values[name].replace(tzinfo=UTC)
    return DeadLetter(**values)
