"""Events in transactions: parse, note in the inbox, handle, commit, acknowledge; a failure goes by the ladder."""

import asyncio
import re
from collections.abc import Awaitable, Callable, Sequence
from functools import cache
from itertools import count
from typing import Any, Final, TypeVar

from faststream.rabbit import RabbitBroker
from faststream.rabbit.annotations import RabbitMessage
from pydantic import ValidationError
from sqlalchemy.ext.asyncio import AsyncSession

from contracts.envelope import Event
from contracts.fact import Fact
from contracts.topics import BY_MODEL, BY_TYPE, Topic, all_events_queue
from libs.clock import Clock
from libs.messaging.batch import TOGETHER, Batches, process_span
from libs.messaging.desk import Desk, Receiver, serve
from libs.messaging.failure import Refuse
from libs.messaging.ladder import LADDER, next_delay
from libs.messaging.tables import MessagingTables
from libs.messaging.topology import replica, work_queue
from libs.messaging.verdict import invalid, judge
from libs.storage.database import Database
from libs.telemetry import log

FactT = TypeVar("FactT", bound=Fact)
# Quoted where they are used: pydantic's generic models do not keep their parameters for `typing`.
Handler = Callable[[Event[FactT], AsyncSession], Awaitable[None]]
HandlerOfAll = Callable[[Event[Any], bytes, AsyncSession], Awaitable[None]]
HandlerOfReplica = Callable[[Event[FactT]], Awaitable[None]]

#: Messages that a consumer holds unsettled at most: a batch in work, and the next one.
PREFETCH = 2 * TOGETHER

#: Where an envelope names its type, mostly; what stands there is only tried first.
_TYPE: Final = re.compile(rb'"type":"([a-z0-9.-]+)"')
_ENVELOPE: Final = 1000

_LOG = log.get(__name__)


def consume(
    broker: RabbitBroker,
    service: str,
    model: type[FactT],
    database: Database,
    tables: MessagingTables,
    clock: Clock,
    *,
    ladder: Sequence[float] = LADDER,
    prefetch: int = PREFETCH,
    linger: float = 0.0,
) -> "Callable[[Handler[FactT]], Handler[FactT]]":
    """Let a function handle the events of one type: `handler(event, tx)`.

    The handler runs in a transaction that commits before the event is acknowledged. Events that are ready at the same
    time share one; where one of them fails, nothing of it stands, and each is handled again alone. An event that was
    processed before is acknowledged without calling it. It raises `Retry`, `Refuse`, or anything else, which counts as
    `Retry`. With `linger` an event waits so many seconds for others, where nobody waits for what is made of it.

    Raises
    ------
    ValueError
        The table of topics does not name the service as a consumer.
    """
    topic = BY_MODEL[model]
    spec = work_queue(service, topic.queue(service), [topic.pattern])
    desk = Desk(broker, service, spec.name, ladder)

    def register(handler: "Handler[FactT]") -> "Handler[FactT]":
        async def handle(body: bytes, tx: AsyncSession, event: Event[Any]) -> None:
            del body
            await handler(event, tx)

        serve(
            broker,
            spec,
            _transactional(
                desk, _parser(topic), Batches(spec.name, handle, desk.close, database, tables, clock, linger=linger)
            ),
            prefetch,
        )
        return handler

    return register


def consume_all(
    broker: RabbitBroker,
    service: str,
    database: Database,
    tables: MessagingTables,
    clock: Clock,
    *,
    ladder: Sequence[float] = LADDER,
    prefetch: int = PREFETCH,
    linger: float = 0.0,
) -> Callable[[HandlerOfAll], HandlerOfAll]:
    """Let a function handle every event, also of types that this release does not know: `handler(event, raw, tx)`.

    `raw` is the event as its producer wrote it, byte by byte. See `consume` for the rest.
    """
    spec = work_queue(service, all_events_queue(service), ["#"])
    desk = Desk(broker, service, spec.name, ladder)

    def register(handler: HandlerOfAll) -> HandlerOfAll:
        async def handle(body: bytes, tx: AsyncSession, event: Event[Any]) -> None:
            await handler(event, body, tx)

        serve(
            broker,
            spec,
            _transactional(
                desk, parse_any, Batches(spec.name, handle, desk.close, database, tables, clock, linger=linger)
            ),
            prefetch,
        )
        return handler

    return register


def consume_replica(
    broker: RabbitBroker,
    service: str,
    model: type[FactT],
    *,
    instance: str,
    ladder: Sequence[float] = LADDER,
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
) -> "Callable[[HandlerOfReplica[FactT]], HandlerOfReplica[FactT]]":
    """Let a function hear the events of one type on every replica: `handler(event)`. It may be called again.

    There is no transaction and no inbox. A failure waits here and not in the broker's ladder: the queue of a replica
    that has gone for good would leave the ladder with messages that nobody takes.
    """
    topic = BY_MODEL[model]
    if not topic.every_replica:
        raise ValueError(f"{topic.name} is not for every replica: see contracts/topics.py")
    spec = replica(service, instance, topic)
    desk = Desk(broker, service, spec.name, ())

    def register(handler: "HandlerOfReplica[FactT]") -> "HandlerOfReplica[FactT]":
        parse = _parser(topic)

        async def receive(message: RabbitMessage) -> None:
            for failures in count(1):
                try:
                    event = parse(message.body)
                    with process_span(event, spec.name):
                        await handler(event)
                except Exception as error:  # noqa: BLE001 - judged, logged, and tried again or buried
                    verdict = judge(error)
                    delay = None if verdict.final else next_delay(failures, ladder)
                    if delay is None:
                        return await desk.fail(message, verdict)
                    _LOG.warning(
                        "event failed on this replica and will be tried again",
                        service=service, queue=spec.name, attempt=failures, reason=verdict.reason, delay=delay,
                    )  # fmt: skip
                    await sleep(delay)
                else:
                    return await desk.settle(message, "processed")
            raise AssertionError("count() does not end")

        serve(broker, spec, receive, PREFETCH)
        return handler

    return register


def parse_any(body: bytes) -> Event[Any]:
    """Read an event of any type; the data of an unknown type is left out.

    Raises
    ------
    Refuse
        It is no event.
    """
    likely = _TYPE.search(body, 0, _ENVELOPE)
    if likely is not None and (topic := BY_TYPE.get(likely[1].decode())) is not None:
        try:
            return _parser(topic)(body)
        except Refuse:
            pass  # told below, where it is not only likely
    try:
        unknown = Event[Fact].model_validate_json(body)
    except ValidationError as error:
        raise Refuse(invalid(error)) from None
    known = BY_TYPE.get(unknown.type)
    return unknown if known is None else _parser(known)(body)


@cache
def _parser(topic: Topic) -> Callable[[bytes], Event[Any]]:
    envelope: type[Event[Any]] = Event[topic.model]  # type: ignore[name-defined] # pydantic makes the class now

    def parse(body: bytes) -> Event[Any]:
        try:
            event = envelope.model_validate_json(body)
        except ValidationError as error:
            raise Refuse(invalid(error)) from None
        if event.type != topic.type:
            raise Refuse(f"an event of another type than {topic.type} in the queue of {topic.name}")
        return event

    return parse


def _transactional(desk: Desk, parse: Callable[[bytes], Event[Any]], batches: Batches) -> Receiver:
    async def receive(message: RabbitMessage) -> None:
        try:
            event = parse(message.body)
        except Refuse as refusal:
            return await desk.fail(message, judge(refusal))
        return await batches.process(message, event)

    return receive
