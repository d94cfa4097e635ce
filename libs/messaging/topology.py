"""Exchanges and queues of the broker, derived from `contracts/topics.py` and from nothing else."""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from aio_pika import ExchangeType
from aio_pika.exceptions import ChannelPreconditionFailed
from faststream.rabbit import ExchangeType as FastStreamExchangeType
from faststream.rabbit import QueueType, RabbitBroker, RabbitExchange, RabbitQueue

from contracts.topics import (
    DEAD_LETTER_EXCHANGE,
    EXCHANGE,
    SERVICES,
    TAKES_ALL,
    TOPICS,
    Topic,
    all_events_queue,
    dead_letter_queue,
    replica_queue,
)
from libs.messaging.ladder import LADDER, delay_name

EVENTS = RabbitExchange(EXCHANGE, type=FastStreamExchangeType.TOPIC)
DEAD_LETTERS = RabbitExchange(DEAD_LETTER_EXCHANGE, type=FastStreamExchangeType.DIRECT)
#: Deliveries after the first that a message may have before it counts as poison. Each end of a process counts against
#: all that it held: power that is cut again and again must not make dead letters of innocent events.
DELIVERY_LIMIT = 10
#: What takes dead letters must never give them up: more deliveries than there will ever be.
_NO_LIMIT = 2**31 - 1
#: RabbitMQ removes the queue of a replica that has been away for so long.
_REPLICA_EXPIRES_MS = 3_600_000


class TopologyError(Exception):
    """The broker already has a queue or exchange of this name with other settings."""

    safe_to_log = True


@dataclass(frozen=True)
class QueueSpec:
    """One queue: its name, its arguments, and its bindings as pairs of exchange and pattern."""

    name: str
    arguments: dict[str, Any]
    bindings: tuple[tuple[str, str], ...] = ()

    @property
    def exchange(self) -> RabbitExchange:
        """The exchange of the first binding."""
        return DEAD_LETTERS if self.bindings[0][0] == DEAD_LETTER_EXCHANGE else EVENTS

    def faststream(self) -> RabbitQueue:
        """Give the queue as FastStream wants it, to be bound with its first binding."""
        arguments = {name: value for name, value in self.arguments.items() if name != "x-queue-type"}
        # FastStream's TypedDict of arguments cannot be had from a dictionary.
        queue: RabbitQueue = RabbitQueue(  # type: ignore[call-overload]
            self.name, QueueType.QUORUM, durable=True, arguments=arguments, routing_key=self.bindings[0][1]
        )
        return queue


def work_queue(service: str, name: str, patterns: Iterable[str], delivery_limit: int = DELIVERY_LIMIT) -> QueueSpec:
    """Describe a queue of events that one service works off."""
    dead = dead_letter_queue(service)
    return QueueSpec(name, _quorum(delivery_limit, DEAD_LETTER_EXCHANGE, dead), tuple((EXCHANGE, p) for p in patterns))


def service_queues(service: str) -> list[QueueSpec]:
    """Describe the queues of a service, except those of single replicas."""
    queues = [
        work_queue(service, topic.queue(service), [topic.pattern]) for topic in TOPICS if service in topic.consumers
    ]
    if service in TAKES_ALL:
        queues.append(work_queue(service, all_events_queue(service), ["#"]))
    return [*queues, dead_queue(service)]


def replayable(queue: str) -> bool:
    """Tell whether a queue is one of the table's: what died in another one has nowhere to go back to."""
    names = {topic.queue(service) for topic in TOPICS for service in topic.consumers}
    return queue in names | {all_events_queue(service) for service in TAKES_ALL}


def dead_queue(service: str) -> QueueSpec:
    """Describe the queue that takes what a service could not handle."""
    name = dead_letter_queue(service)
    return QueueSpec(name, _quorum(_NO_LIMIT, DEAD_LETTER_EXCHANGE, name), ((DEAD_LETTER_EXCHANGE, name),))


def replica(service: str, instance: str, topic: Topic) -> QueueSpec:
    """Describe the queue on which one replica hears one topic."""
    name = f"{replica_queue(service, instance)}.{topic.name}"
    arguments = _quorum(DELIVERY_LIMIT, DEAD_LETTER_EXCHANGE, dead_letter_queue(service))
    return QueueSpec(name, arguments | {"x-expires": _REPLICA_EXPIRES_MS}, ((EXCHANGE, topic.pattern),))


def delay_queue(seconds: float) -> QueueSpec:
    """Describe one rung of the ladder: messages wait in it and go back to the queue that their routing key names."""
    name = delay_name(seconds)
    arguments = _quorum(_NO_LIMIT, "", None) | {"x-message-ttl": round(seconds * 1000)}
    return QueueSpec(name, arguments, ((name, "#"),))


async def declare(broker: RabbitBroker, services: Collection[str] = SERVICES, ladder: Sequence[float] = LADDER) -> None:
    """Declare exchanges, the ladder, and the queues of the services; safe to repeat.

    Every process declares the queues of all services: an event that is published before its consumer has ever started
    waits for it.

    Raises
    ------
    TopologyError
        The broker has one of them with other settings.
    """
    await declare_queues(
        broker,
        [
            *(delay_queue(seconds) for seconds in ladder),
            *(queue for service in services for queue in service_queues(service)),
        ],
    )


async def declare_queues(broker: RabbitBroker, queues: Sequence[QueueSpec]) -> None:
    """Declare the two exchanges, and queues with their bindings; see `declare`."""
    # A channel of its own: FastStream remembers a queue on the channel that declared it first, and would consume on
    # that one instead of the one with the subscriber's prefetch limit.
    connection = await broker.connect()
    channel = await connection.channel()
    name = EXCHANGE
    try:
        kinds = {EXCHANGE: ExchangeType.TOPIC, DEAD_LETTER_EXCHANGE: ExchangeType.DIRECT}
        for queue in queues:
            kinds |= {exchange: ExchangeType.TOPIC for exchange, _ in queue.bindings if exchange not in kinds}
        for name, kind in kinds.items():
            await channel.declare_exchange(name, kind, durable=True)
        for queue in queues:
            name = queue.name
            declared = await channel.declare_queue(name, durable=True, arguments=queue.arguments)
            for exchange, pattern in queue.bindings:
                await declared.bind(exchange, routing_key=pattern)
    except ChannelPreconditionFailed as error:
        raise TopologyError(
            f"The broker has {name} with other settings than this release wants ({error}). Let its consumers empty it, "
            f"delete it (`rabbitmqctl delete_queue {name}`), and start again; it will be declared anew."
        ) from error
    finally:
        await channel.close()


def _quorum(delivery_limit: int, dead_exchange: str, dead_routing_key: str | None) -> dict[str, Any]:
    arguments: dict[str, Any] = {
        "x-queue-type": "quorum",
        "x-delivery-limit": delivery_limit,
        "x-dead-letter-exchange": dead_exchange,
        # A message leaves the queue only when the dead-letter queue has it; that needs reject-publish.
        "x-dead-letter-strategy": "at-least-once",
        "x-overflow": "reject-publish",
    }
    return arguments if dead_routing_key is None else arguments | {"x-dead-letter-routing-key": dead_routing_key}
