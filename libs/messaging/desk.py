"""Taking messages from one queue, and handing over those that failed."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

from aio_pika.exceptions import CONNECTION_EXCEPTIONS
from faststream import AckPolicy
from faststream.rabbit import Channel, ExchangeType, RabbitBroker, RabbitExchange
from faststream.rabbit.annotations import RabbitMessage

from contracts.topics import dead_letter_queue
from libs.messaging.ladder import attempt, delay_name, failed, next_delay, patient_delay
from libs.messaging.metric import CONSUMED
from libs.messaging.topology import DEAD_LETTERS, QueueSpec
from libs.messaging.verdict import Verdict
from libs.telemetry import log

Receiver = Callable[[RabbitMessage], Awaitable[None]]

#: How long the broker has to confirm that it took a failed event over, in seconds.
CONFIRM_S = 30.0
_LOG = log.get(__name__)


@dataclass(frozen=True)
class Desk:
    """Where the events of one queue are worked off, and what becomes of each.

    Attributes
    ----------
    broker
        Takes over what failed.
    service, queue
        Whose queue it is.
    ladder
        Waits after each failure, in seconds.
    """

    broker: RabbitBroker
    service: str
    queue: str
    ladder: Sequence[float]

    async def close(self, message: RabbitMessage, outcome: str | Verdict) -> None:
        """Acknowledge an event, or hand it over with the verdict on its failure."""
        await (self.fail(message, outcome) if isinstance(outcome, Verdict) else self.settle(message, outcome))

    async def settle(self, message: RabbitMessage, outcome: str) -> None:
        """Acknowledge an event."""
        CONSUMED.labels(service=self.service, queue=self.queue, outcome=outcome).inc()
        await message.ack()

    async def fail(self, message: RabbitMessage, verdict: Verdict) -> None:
        """Hand a failed event over to the ladder or to the dead letters, and only then acknowledge it."""
        failures = attempt(message.headers) + (0 if verdict.ours else 1)
        delay = patient_delay(self.ladder) if verdict.ours else next_delay(failures, self.ladder)
        if verdict.final:
            delay = None
        _LOG.warning(
            "event became a dead letter" if delay is None else "event failed and will be tried again",
            service=self.service, queue=self.queue, message_id=message.message_id,
            attempt=failures, reason=verdict.reason, delay=delay,
        )  # fmt: skip
        raw = message.raw_message
        headers = failed(
            message.headers, failures=failures, reason=verdict.reason, queue=self.queue, message_id=raw.message_id
        )
        try:
            async with asyncio.timeout(CONFIRM_S):
                await self.broker.publish(
                    message.body,
                    exchange=DEAD_LETTERS if delay is None else _delay_exchange(delay),
                    routing_key=dead_letter_queue(self.service) if delay is None else self.queue,
                    headers=headers,
                    # aiormq tells returned messages apart by this: it must not be shared by two that are under way.
                    message_id=str(uuid4()),
                    message_type=raw.type,
                    content_type=message.content_type,
                    persist=True,
                )
        except Exception as error:  # noqa: BLE001 - whatever it was, the broker still has the event and must keep it
            _LOG.error("failed event could not be handed over; the broker keeps it", queue=self.queue, exc_info=error)
            CONSUMED.labels(service=self.service, queue=self.queue, outcome="returned").inc()
            await message.reject(requeue=True)
            return
        await self.settle(message, "dead" if delay is None else "retried")


def serve(broker: RabbitBroker, spec: QueueSpec, receive: Receiver, prefetch: int) -> None:
    """Have `receive` called for each message of a queue, at most `prefetch` at a time. It settles them itself."""

    async def whole(message: RabbitMessage) -> Any:
        return message

    @broker.subscriber(
        spec.faststream(),
        spec.exchange,
        channel=Channel(prefetch_count=prefetch, publisher_confirms=True, on_return_raises=True),
        ack_policy=AckPolicy.MANUAL,
        decoder=whole,
        no_reply=True,
        title=spec.name,
        include_in_schema=False,
    )
    async def subscriber(message: RabbitMessage) -> None:
        try:
            await receive(message)
        except Exception as error:  # noqa: BLE001 - FastStream would swallow it, and the message would stay unsettled
            _LOG.error("message could not be settled and comes again", queue=spec.name, exc_info=error)
            with suppress(*CONNECTION_EXCEPTIONS):  # where the connection was lost, the broker delivers again by itself
                await message.raw_message.reject(requeue=True)


def _delay_exchange(seconds: float) -> RabbitExchange:
    return RabbitExchange(delay_name(seconds), type=ExchangeType.TOPIC)
