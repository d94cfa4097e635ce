"""What a broker promises, on both transports: routing, confirms, redelivery, limits, dead letters, expiry."""

import asyncio
import resource
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from aio_pika.exceptions import AMQPError, PublishError
from faststream.rabbit import RabbitBroker, RabbitExchange
from faststream.rabbit.annotations import RabbitMessage

from contracts.topics import EXCHANGE, SERVICES, TOPICS, dead_letter_queue
from libs.messaging.broker import make_broker
from libs.messaging.bus import Bus, BusUnavailableError
from libs.messaging.death import deaths
from libs.messaging.desk import serve
from libs.messaging.lock import LockedError
from libs.messaging.store import Store
from libs.messaging.topic import matches
from libs.messaging.topology import EVENTS, QueueSpec, declare, declare_queues, delay_queue, service_queues, work_queue
from tests.contract.messaging.station import LADDER, PATIENCE_S, publish

pytestmark = pytest.mark.contract
KEY = "study.completed.v1.default"
QUEUE = "rules.study.completed.v1"
Received = asyncio.Queue[RabbitMessage]


@asynccontextmanager
async def connected(url: str, queues: list[QueueSpec] | None = None) -> AsyncIterator[RabbitBroker]:
    broker = make_broker(url, instance="test")
    try:
        await broker.connect()
        await declare(broker, ladder=LADDER)
        if queues:
            await declare_queues(broker, queues)
        yield broker
    finally:
        await broker.stop()


def receive(broker: RabbitBroker, spec: QueueSpec, prefetch: int = 10) -> Received:
    """Take messages without settling them."""
    received: Received = asyncio.Queue()
    serve(broker, spec, received.put, prefetch)
    return received


async def get(received: Received) -> RabbitMessage:
    return await asyncio.wait_for(received.get(), PATIENCE_S)


def one_queue() -> QueueSpec:
    """Give rules' queue of complete studies."""
    return next(each for each in service_queues("rules") if each.name == "rules.study.completed.v1")


PATTERNS = ["study.#", "#", "*", "study.*.v1", "#.v1.#", "study.completed.v1.#", "*.*", "study", "#.clinic"]
KEYS = [
    "study",
    "study.completed.v1",
    "study.v1",
    "v1",
    "study.completed.v10",
    "a.b",
    "study.completed.v1.t.clinic",
    "a.",
]


async def test_topics_match_alike(broker_url: str) -> None:
    specs = [
        QueueSpec(f"match.{i}", {"x-queue-type": "quorum"}, ((EXCHANGE, each),)) for i, each in enumerate(PATTERNS)
    ]
    catch_all = QueueSpec("match.all", {"x-queue-type": "quorum"}, ((EXCHANGE, "#"),))
    async with connected(broker_url, [*specs, catch_all]) as broker:
        arrived = {spec.name: receive(broker, spec) for spec in specs}
        await broker.start()
        for key in KEYS:
            await publish(broker, key.encode(), key)
        for spec, pattern in zip(specs, PATTERNS, strict=True):
            expected = sorted(key.encode() for key in KEYS if matches(pattern, key))
            found = [await get(arrived[spec.name]) for _ in expected]
            assert sorted(message.body for message in found) == expected, pattern
            assert arrived[spec.name].empty()


async def test_the_whole_table_is_declared_by_whoever_starts_first(broker_url: str) -> None:
    async with connected(broker_url) as broker:
        connection = await broker.connect()
        channel = await connection.channel()
        for topic in TOPICS:
            for service in topic.consumers:
                await channel.declare_queue(topic.queue(service), passive=True)
        for service in SERVICES:
            await channel.declare_queue(dead_letter_queue(service), passive=True)
        await declare(broker, ladder=LADDER)  # again, as the next process does


async def test_what_no_queue_takes_is_an_error(broker_url: str) -> None:
    async with connected(broker_url) as broker:
        with pytest.raises(PublishError):
            await broker.publish(b"x", exchange=None, routing_key="no-such-queue", persist=True)
        await broker.publish(b"x", exchange=EVENTS, routing_key=KEY, persist=True)


async def test_properties_and_header_types_survive(broker_url: str) -> None:
    async with connected(broker_url) as broker:
        received = receive(broker, one_queue())
        await broker.start()
        headers: dict[str, Any] = {
            "traceparent": "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            "number": 2**40,
            "flag": True,
            "table": {"list": [1, "two"]},
        }
        await broker.publish(
            b"\x00\xff", exchange=EVENTS, routing_key=KEY, headers=headers, message_id="m-1", message_type="t",
            content_type="application/cloudevents+json", persist=True,
        )  # fmt: skip
        message = await get(received)
        raw = message.raw_message
        assert (message.body, message.headers) == (b"\x00\xff", headers)
        assert (raw.message_id, raw.type, raw.content_type) == ("m-1", "t", "application/cloudevents+json")
        assert (raw.redelivered, raw.routing_key, raw.exchange) == (False, KEY, EXCHANGE)
        await message.ack()


async def test_no_more_than_the_prefetch_limit_is_unsettled(broker_url: str) -> None:
    async with connected(broker_url) as broker:
        received = receive(broker, one_queue(), prefetch=2)
        await broker.start()
        for number in range(5):
            await publish(broker, b"%d" % number, KEY)
        order = []
        held = [await get(received), await get(received)]
        while held:
            assert received.empty()
            message = held.pop(0)
            order.append(message.body)
            await message.ack()
            if len(order) + len(held) < 5:
                held.append(await get(received))
        assert order == [b"0", b"1", b"2", b"3", b"4"]


async def test_what_comes_back_is_marked_and_dies_after_the_limit(broker_url: str) -> None:
    spec = work_queue("rules", QUEUE, ["study.completed.v1.#"])
    limit = spec.arguments["x-delivery-limit"]
    async with connected(broker_url) as broker:
        received = receive(broker, spec)
        buried = receive(broker, service_queues("rules")[-1])
        await broker.start()
        await publish(broker, b"poison", KEY)
        for delivery in range(limit + 1):
            message = await get(received)
            assert message.raw_message.redelivered is (delivery > 0)
            assert message.headers.get("x-delivery-count", 0) == delivery
            await message.reject(requeue=True)
        grave = await get(buried)
        assert grave.body == b"poison"
        death = deaths(grave.headers)[0]
        assert (death["queue"], death["reason"], death["count"]) == (QUEUE, "delivery_limit", 1)
        assert (death["exchange"], death["routing-keys"]) == (EXCHANGE, [KEY])
        await grave.ack()
        assert received.empty()


async def test_what_is_rejected_is_a_dead_letter(broker_url: str) -> None:
    async with connected(broker_url) as broker:
        received = receive(broker, one_queue())
        buried = receive(broker, service_queues("rules")[-1])
        await broker.start()
        await publish(broker, b"rejected", KEY)
        await (await get(received)).reject(requeue=False)
        grave = await get(buried)
        assert [(each["queue"], each["reason"]) for each in deaths(grave.headers)] == [(QUEUE, "rejected")]
        assert grave.headers["x-first-death-reason"] == "rejected"
        await grave.ack()


async def test_a_rung_gives_back_to_the_queue_that_the_routing_key_names(broker_url: str) -> None:
    async with connected(broker_url) as broker:
        received = receive(broker, one_queue())
        await broker.start()
        for number, seconds in enumerate(LADDER):
            rung = delay_queue(seconds)
            await broker.publish(b"%d" % number, exchange=RabbitExchange(rung.name, declare=False), routing_key=QUEUE)
        for number, seconds in enumerate(LADDER):
            message = await get(received)
            assert message.body == b"%d" % number
            assert message.raw_message.routing_key == QUEUE
            death = deaths(message.headers)[0]
            assert (death["queue"], death["reason"]) == (delay_queue(seconds).name, "expired")
            await message.ack()


async def test_a_message_with_a_time_to_live_of_its_own_expires(broker_url: str) -> None:
    spec = QueueSpec("mortal", work_queue("rules", "mortal", []).arguments, ((EXCHANGE, "mortal"),))
    async with connected(broker_url, [spec]) as broker:
        buried = receive(broker, service_queues("rules")[-1])
        await broker.start()
        await broker.publish(b"x", exchange=EVENTS, routing_key="mortal", expiration=0.05, persist=True)
        grave = await get(buried)
        assert deaths(grave.headers)[0]["original-expiration"] == "50"
        assert grave.raw_message.expiration is None
        await grave.ack()


async def test_messages_outlive_the_brokers_clients(broker_url: str) -> None:
    async with connected(broker_url) as broker:
        await asyncio.gather(*(publish(broker, b"%d" % number, KEY) for number in range(50)))
    async with connected(broker_url) as broker:
        received = receive(broker, one_queue(), prefetch=100)
        await broker.start()
        messages = [await get(received) for _ in range(50)]
        assert sorted(int(message.body) for message in messages) == list(range(50))


async def test_what_waits_when_a_subscriber_starts_is_not_dropped(broker_url: str) -> None:
    # FastStream alone loses sight of messages that arrive before the subscriber calls itself running.
    for _ in range(10):
        async with connected(broker_url) as broker:
            await publish(broker, b"waiting", KEY)
            received = receive(broker, one_queue())
            await broker.start()
            await (await get(received)).ack()


async def test_two_processes_never_share_an_embedded_bus(tmp_path: Path, start_peer: Callable[..., Any]) -> None:
    url = f"sqlite:///{tmp_path / 'bus.db'}"
    peer = start_peer("hold", url, f"sqlite:///{tmp_path / 'db'}", "rules")
    assert peer.line() == "started"
    broker = make_broker(url, instance="second")
    with pytest.raises(LockedError, match=f"in use by process {peer.pid}"):
        await broker.connect()
    peer.kill()
    await broker.connect()
    await broker.stop()


async def test_a_full_disk_is_the_publishers_error_and_the_bus_goes_on_afterwards(tmp_path: Path) -> None:
    async with connected(f"sqlite:///{tmp_path / 'bus.db'}") as broker:
        received = receive(broker, one_queue(), prefetch=1)
        await broker.start()
        await publish(broker, b"before", KEY)
        held = await get(received)
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        written = (tmp_path / "bus.db-wal").stat().st_size
        resource.setrlimit(resource.RLIMIT_FSIZE, (written, hard))  # from here on the file cannot grow
        try:
            with pytest.raises(BusUnavailableError, match="nothing was accepted"):
                await publish(broker, b"x" * 1_000_000, KEY)
            settling = asyncio.create_task(held.ack())
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        await publish(broker, b"after", KEY)
        await asyncio.wait_for(settling, PATIENCE_S)
        message = await get(received)
        assert message.body == b"after"
        await message.ack()


async def test_closing_under_load_neither_hangs_nor_loses(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'bus.db'}"
    confirmed: list[bytes] = []

    async def offer(broker: RabbitBroker, body: bytes) -> None:
        try:
            await publish(broker, body, KEY)
        except (AMQPError, RuntimeError):
            return
        confirmed.append(body)

    async with connected(url) as broker:
        received = receive(broker, one_queue())
        await broker.start()
        offers = [asyncio.create_task(offer(broker, b"%d" % number)) for number in range(300)]
        await get(received)
    await asyncio.gather(*offers)
    async with connected(url) as broker:
        received = receive(broker, one_queue(), prefetch=1000)
        await broker.start()
        found = {(await get(received)).body for _ in confirmed}
        assert set(confirmed) <= found


async def test_the_bus_closes_although_its_disk_is_full(tmp_path: Path) -> None:
    async with connected(f"sqlite:///{tmp_path / 'bus.db'}") as broker:
        received = receive(broker, one_queue(), prefetch=1)
        await broker.start()
        await publish(broker, b"kept", KEY)
        held = await get(received)
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, ((tmp_path / "bus.db-wal").stat().st_size, hard))
        try:
            settling = asyncio.create_task(held.ack())
            await asyncio.wait_for(broker.stop(), PATIENCE_S)
            with pytest.raises((AMQPError, RuntimeError)):
                await asyncio.wait_for(settling, PATIENCE_S)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    async with connected(f"sqlite:///{tmp_path / 'bus.db'}") as broker:
        received = receive(broker, one_queue())
        await broker.start()
        again = await get(received)
        assert (again.body, again.raw_message.redelivered) == (b"kept", True)
        await again.ack()


async def test_one_bad_request_does_not_fail_those_who_share_its_commit(tmp_path: Path) -> None:
    bus = Bus(tmp_path / "bus.db", time.time)
    await bus.open()

    def bad(_store: Store) -> None:
        raise KeyError("a bug")

    outcomes = await asyncio.gather(
        bus.run(lambda store: store.declare_queue("one", {}, passive=False)),
        bus.run(bad),
        bus.run(lambda store: store.declare_queue("two", {}, passive=False)),
        return_exceptions=True,
    )
    assert [type(outcome) for outcome in outcomes] == [int, KeyError, int]
    assert await bus.run(lambda store: store.route("", "two")) == ("two",)
    await bus.close()
