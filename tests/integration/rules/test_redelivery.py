"""Events of all kinds come again and in any order through RabbitMQ, which goes away in the middle: nothing twice."""

import asyncio
import random
from collections import Counter
from contextlib import AsyncExitStack
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select

from contracts.envelope import CONTENT_TYPE, Event
from contracts.routing import RoutingQuarantined
from contracts.study import StudyTagged
from contracts.topics import BY_TYPE
from libs.clock import utc_now
from libs.messaging.broker import make_broker
from libs.messaging.topology import EVENTS, declare
from services.rules.handlers import register
from services.rules.models import messaging
from tests.support.postgresql import PostgreSQL
from tests.support.rabbitmq import RabbitMQ
from tests.unit.rules.scene import (
    Scene,
    act,
    arrived,
    completed,
    definition,
    health,
    instance,
    items,
    make_scene,
    resolved,
    rule,
    stored,
)

pytestmark = pytest.mark.integration
ODD, SCOUT, THREE, LATE = (instance(number, InstanceNumber=number) for number in range(1, 5))
RULES = definition(
    act("odd", when="instance.InstanceNumber == 1", quarantine="odd"),
    act("scouts", when="instance.InstanceNumber == 2", discard="a scout image", tag={"scout": "yes"}),
    rule("all", hold="30m"),
    rule("whole", "telerad", "study", priority="urgent"),
    rule("late", "telerad", "timer", after="1h", when='study.Tags.scout == "yes" && "pacs" in study.Delivered'),
)


async def replica(stack: AsyncExitStack, scene: Scene, url: str, name: str) -> Any:
    """Start the consumers of rules on a connection of their own."""
    broker = make_broker(url, instance=name)
    register(broker, scene.decider, scene.database, utc_now)
    await broker.connect()
    stack.push_async_callback(broker.stop)
    await declare(broker)
    await broker.start()
    return broker


async def publish(broker: Any, events: list[Event[Any]]) -> None:
    for event in events:
        await broker.publish(
            event.model_dump_json().encode(),
            exchange=EVENTS,
            routing_key=BY_TYPE[event.type].routing_key(event.tenant, event.site),
            persist=True,
            content_type=CONTENT_TYPE,
        )


async def taken(scene: Scene, expected: set[str]) -> None:
    """Return when each event took effect; the test's time limit ends it."""
    while True:
        async with scene.database.reading() as tx:
            if expected <= set(await tx.scalars(select(messaging.inbox.c.event_id))):
                return
        await asyncio.sleep(0.05)


@pytest.mark.parametrize("luck", [1, pytest.param(2, marks=pytest.mark.soak)])
async def test_all_events_again_and_again_in_any_order_while_consumers_and_broker_die(
    rabbitmq: RabbitMQ, postgresql: PostgreSQL, tmp_path: Path, luck: int
) -> None:
    url, choice = rabbitmq.vhost(), random.Random(luck)
    scene = await make_scene(tmp_path, postgresql.database())
    await scene.apply(RULES)
    first = [
        *(stored(one, Modality="CT") for one in (ODD, SCOUT, THREE, LATE)),
        *(completed(ODD, SCOUT, THREE), completed(ODD, SCOUT, THREE, LATE, version=2)),
        *(arrived("pacs", 1), arrived("pacs", 2), health("telerad", healthy=False), health("telerad", healthy=True)),
    ]
    async with AsyncExitStack() as stack:
        stack.push_async_callback(scene.database.close)
        one = await replica(stack, scene, url, "one")
        many = [*first, *choice.sample(first, 6)]
        choice.shuffle(many)
        await publish(one, many[:8])
        # What a consumer has in hand when its connection goes comes again, to it or to another one.
        await one.stop()
        two = await replica(stack, scene, url, "two")
        await publish(two, many[8:])
        await asyncio.to_thread(rabbitmq.stop)
        await asyncio.to_thread(rabbitmq.start)
        await taken(scene, {event.id for event in first})
        (told,) = await scene.emitted(RoutingQuarantined)
        word = resolved(told.quarantine_id)
        three = await replica(stack, scene, url, "three")
        await publish(three, [word, *choice.sample(many, 5), word])
        await taken(scene, {word.id})
    scene = await make_scene(tmp_path / "again", str(scene.database.engine.url.set(drivername="postgresql")))
    await scene.apply(RULES)
    scene.clock.now += timedelta(hours=1)
    assert [await scene.look(), await scene.look()] == [1, 0]
    requests = await scene.requested()
    everything = {each.sop_instance_uid for each in (ODD, THREE, LATE)}
    assert items(requests) == {(where, uid) for where in ("pacs", "telerad") for uid in everything}
    closings = Counter((each.destination, each.study_version, each.expected_count) for each in requests)
    # Once by the version, once by the release, and once by the clock for what that names.
    assert closings["pacs", 2, 3] == 1
    assert closings["telerad", 2, 3] == 2
    assert all(count == 1 for (_, version, whole), count in closings.items() if version and whole != 3)
    assert [each.tags for each in await scene.emitted(StudyTagged)] == [{"scout": "yes"}]
    await scene.database.close()
