"""What FastStream asks of aio-pika's connection, channel, exchange and queue, answered by the embedded bus."""

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from datetime import timedelta
from itertools import count
from typing import Any
from uuid import uuid4

from aio_pika import IncomingMessage
from aio_pika.abc import AbstractMessage
from aio_pika.exceptions import AMQPConnectionError, ChannelInvalidStateError, ChannelNotFoundEntity, PublishError
from aiormq.abc import DeliveredMessage
from pamqp import commands as spec
from pamqp.header import ContentHeader

from libs.messaging.bus import Bus
from libs.messaging.store import Claimed, NotDeclaredError, Store, pack
from libs.telemetry import log

_LOG = log.get(__name__)
Callback = Callable[[IncomingMessage], Awaitable[Any]]
#: How many messages a consumer without a prefetch limit holds at most.
_UNLIMITED = 1000
#: RabbitMQ's direct reply-to: a pseudo queue that nobody declares.
_REPLY_TO = "amq.rabbitmq.reply-to"


class EmbeddedConnection:
    """Stands for `aio_pika.RobustConnection`."""

    #: Tells aio-pika's messages that `basic.nack` is understood.
    basic_nack = True

    def __init__(self, bus: Bus) -> None:
        self.bus = bus
        self.connected = asyncio.Event()
        self.close_callbacks: set[Any] = set()
        self.reconnect_callbacks: set[Any] = set()
        self._channels: list[EmbeddedChannel] = []

    async def connect(self) -> None:
        """Open the bus."""
        await self.bus.open()
        self.connected.set()

    @property
    def is_closed(self) -> bool:
        """Whether the bus takes nothing any more."""
        return not self.bus.is_open

    async def channel(
        self, channel_number: int | None = None, *, publisher_confirms: bool = True, on_return_raises: bool = False
    ) -> "EmbeddedChannel":
        """Open a channel. Every publication is confirmed, whatever is asked."""
        _ = channel_number, publisher_confirms
        opened = EmbeddedChannel(self, strict=on_return_raises)
        self._channels.append(opened)
        return opened

    async def close(self, exc: BaseException | None = None) -> None:
        """Close all channels, then the bus. What cannot be written now is not waited for: it stays as it is."""
        self.bus.lose_patience()
        for channel in self._channels:
            await channel.close(exc)
        self.connected.clear()
        await self.bus.close()


class EmbeddedChannel:
    """Stands for `aio_pika.RobustChannel`, and for the aiormq channel that a message is settled on."""

    def __init__(self, connection: EmbeddedConnection, *, strict: bool) -> None:
        self.connection = connection
        self.bus = connection.bus
        self.strict = strict
        self.prefetch = 0
        self.is_closed = False
        self.default_exchange = EmbeddedExchange(self, "")
        self.consumers: dict[str, Consumer] = {}
        self.holders: dict[int, Consumer] = {}
        self._tags = count(1)

    async def set_qos(self, prefetch_count: int = 0, *, global_: bool = False, **_: Any) -> None:
        """Limit what each consumer of this channel holds unsettled."""
        if global_:
            raise NotImplementedError("the embedded transport limits each consumer, not the channel as a whole")
        self.prefetch = prefetch_count

    async def close(self, exc: BaseException | None = None) -> None:
        """Stop the consumers and give back what they hold."""
        _ = exc
        if self.is_closed:
            return
        self.is_closed = True
        for consumer in self.consumers.values():
            consumer.stop()
        for consumer in self.consumers.values():
            await consumer.finished()
        self.consumers.clear()
        held, self.holders = list(self.holders), {}
        if not held:
            return
        try:
            await self.bus.run(lambda store: store.give_back(held), patient=True)
        except AMQPConnectionError as error:
            _LOG.warning("messages wait until the bus opens again", count=len(held), exc_info=error)

    async def declare_exchange(
        self,
        name: str,
        type: str = "direct",  # noqa: A002 - aio-pika's name
        *,
        passive: bool = False,
        **_: Any,
    ) -> "EmbeddedExchange":
        """Declare an exchange of type topic, direct or fanout."""
        kind = str(getattr(type, "value", type))
        if kind not in ("topic", "direct", "fanout"):
            raise NotImplementedError(f"the embedded transport has no exchanges of type {kind}")
        await self._declaring(lambda store: store.declare_exchange(name, kind, passive=passive))
        return EmbeddedExchange(self, name)

    async def declare_queue(
        self, name: str, *, passive: bool = False, arguments: dict[str, Any] | None = None, **_: Any
    ) -> "EmbeddedQueue":
        """Declare a queue; every queue is durable."""
        if name == _REPLY_TO:
            return EmbeddedQueue(self, name, 0)
        ready = await self._declaring(lambda store: store.declare_queue(name, arguments or {}, passive=passive))
        return EmbeddedQueue(self, name, ready)

    async def basic_ack(self, delivery_tag: int, *, multiple: bool = False) -> None:
        """Settle a message: it is gone when this returns."""
        ids = self._release(delivery_tag, multiple=multiple)
        await self._settling(ids, lambda store: store.settle(ids))

    async def basic_nack(self, delivery_tag: int, *, multiple: bool = False, requeue: bool = True) -> None:
        """Give a message back, or send it to the dead letters."""
        ids = self._release(delivery_tag, multiple=multiple)
        await self._settling(ids, lambda store: store.give_back(ids) if requeue else store.reject(ids))

    async def basic_reject(self, delivery_tag: int, *, requeue: bool = False) -> None:
        """Give a message back, or send it to the dead letters."""
        await self.basic_nack(delivery_tag, requeue=requeue)

    def next_tag(self) -> str:
        """Name the next consumer."""
        return f"ctag{next(self._tags)}"

    def _release(self, delivery_tag: int, *, multiple: bool) -> list[int]:
        if self.is_closed:
            raise ChannelInvalidStateError("the channel is closed: the message will be delivered again")
        wanted = [tag for tag in self.holders if tag <= delivery_tag] if multiple else [delivery_tag]
        if delivery_tag not in self.holders:
            raise ChannelInvalidStateError(f"delivery {delivery_tag} is not open on this channel")
        return wanted

    async def _settling(self, ids: list[int], operation: Callable[[Store], None]) -> None:
        await self.bus.run(operation, patient=True)
        for id_ in ids:
            holder = self.holders.pop(id_, None)
            if holder is not None:
                holder.settled()

    async def _declaring(self, operation: Callable[[Store], Any]) -> Any:
        try:
            return await self.bus.run(operation)
        except NotDeclaredError as error:
            raise ChannelNotFoundEntity(str(error)) from error


class EmbeddedExchange:
    """Stands for `aio_pika.RobustExchange`."""

    def __init__(self, channel: EmbeddedChannel, name: str) -> None:
        self._channel = channel
        self.name = name

    async def publish(
        self,
        message: AbstractMessage,
        routing_key: str,
        *,
        mandatory: bool = True,
        immediate: bool = False,
        timeout: float | timedelta | None = None,  # noqa: ASYNC109 - aio-pika's signature
    ) -> spec.Basic.Ack:
        """Publish; the message is on stable storage when this returns.

        Raises
        ------
        PublishError
            No queue takes the message.
        libs.messaging.bus.BusUnavailableError
            The bus cannot be written: the message was not taken.
        """
        _ = immediate, timeout
        if self._channel.is_closed:
            raise ChannelInvalidStateError("the channel is closed: nothing was published")
        properties = message.properties
        properties.message_id = properties.message_id or uuid4().hex  # as RabbitMQ's client does
        header = ContentHeader(0, len(message.body), properties)
        ttl_ms = int(properties.expiration) if properties.expiration else None
        packed = pack(header)
        try:
            taken = await self._channel.bus.run(
                lambda store: store.publish(self.name, routing_key, packed, message.body, ttl_ms)
            )
        except NotDeclaredError as error:
            raise ChannelNotFoundEntity(str(error)) from error
        if taken == 0 and mandatory and self._channel.strict:
            frame = spec.Basic.Return(312, "NO_ROUTE", self.name, routing_key)
            raise PublishError(DeliveredMessage(frame, header, b"", self._channel), frame)  # type: ignore[arg-type] # stands for aiormq's channel
        return spec.Basic.Ack()

    async def bind(self, exchange: Any, routing_key: str = "", **_: Any) -> None:
        """Refuse: nothing here binds exchanges to each other."""
        raise NotImplementedError(f"the embedded transport cannot bind {self.name} to {exchange} ({routing_key})")


class EmbeddedQueue:
    """Stands for `aio_pika.RobustQueue`."""

    def __init__(self, channel: EmbeddedChannel, name: str, ready: int) -> None:
        self.channel = channel
        self.name = name
        self.declaration_result = spec.Queue.DeclareOk(name, ready, 0)

    async def bind(self, exchange: EmbeddedExchange | str, routing_key: str = "", **_: Any) -> None:
        """Bind the queue to an exchange."""
        source = exchange if isinstance(exchange, str) else exchange.name
        try:
            await self.channel.bus.run(lambda store: store.bind(source, routing_key, self.name))
        except NotDeclaredError as error:
            raise ChannelNotFoundEntity(str(error)) from error

    async def consume(self, callback: Callback, *, no_ack: bool = False, **_: Any) -> str:
        """Start a consumer and return its tag."""
        tag = self.channel.next_tag()
        self.channel.consumers[tag] = Consumer(self.channel, self.name, tag, callback, no_ack=no_ack)
        return tag

    async def cancel(self, consumer_tag: str, **_: Any) -> None:
        """Stop a consumer; what it holds can still be settled."""
        consumer = self.channel.consumers.get(consumer_tag)
        if consumer is not None:
            consumer.stop()


class Consumer:
    """Takes messages from one queue as long as it holds fewer than the prefetch limit."""

    def __init__(self, channel: EmbeddedChannel, queue: str, tag: str, callback: Callback, *, no_ack: bool) -> None:
        self._channel = channel
        self._bus = channel.bus
        self._queue = queue
        self._tag = tag
        self._callback = callback
        self._no_ack = no_ack
        self._room = channel.prefetch or _UNLIMITED
        self._stopped = False
        self._wake = asyncio.Event()
        self._wake.set()
        self._handlers: set[asyncio.Task[None]] = set()
        self._bus.watch(queue, self._wake.set)
        self._loop = asyncio.create_task(self._run())

    def stop(self) -> None:
        """Take no more messages. Handlers that have begun go on."""
        self._stopped = True
        self._bus.unwatch(self._queue, self._wake.set)
        self._wake.set()

    async def finished(self) -> None:
        """Return when a stopped consumer has given back what it was about to take."""
        await asyncio.wait({self._loop})

    def settled(self) -> None:
        """Make room for one more message."""
        self._room += 1
        self._wake.set()

    async def _run(self) -> None:
        try:
            while not self._stopped:
                await self._wake.wait()
                self._wake.clear()
                while self._room > 0 and not self._stopped:
                    room = self._room
                    claimed = await self._bus.run(lambda store, room=room: store.claim(self._queue, room), patient=True)  # type: ignore[misc] # bound now
                    if not claimed:
                        break
                    await self._take(claimed)
        except AMQPConnectionError as error:  # the bus is closing: what was claimed meanwhile comes again
            _LOG.debug("the bus closed under a consumer", queue=self._queue, exc_info=error)

    async def _take(self, claimed: Iterable[Claimed]) -> None:
        messages = list(claimed)
        if self._stopped:
            ids = [message.id for message in messages]
            await self._bus.run(lambda store: store.unclaim(ids), patient=True)
            return
        for message in messages:
            if not self._no_ack:
                self._room -= 1
                self._channel.holders[message.id] = self
            handler = asyncio.create_task(self._handle(message))
            self._handlers.add(handler)
            handler.add_done_callback(self._handlers.discard)

    async def _handle(self, message: Claimed) -> None:
        if self._no_ack:
            await self._bus.run(lambda store: store.settle([message.id]), patient=True)
        redelivered = message.deliveries > 1
        properties = message.header.properties
        if redelivered:
            properties.headers = {**(properties.headers or {}), "x-delivery-count": message.deliveries - 1}
        deliver = spec.Basic.Deliver(self._tag, message.id, redelivered, message.exchange, message.routing_key)
        delivered = DeliveredMessage(deliver, message.header, message.body, self._channel)  # type: ignore[arg-type] # stands for aiormq's channel
        await self._callback(IncomingMessage(delivered, no_ack=self._no_ack))
