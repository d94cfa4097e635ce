"""Decisions on both databases, and by several replicas at the same time."""

import asyncio
from pathlib import Path

import pytest

from services.rules.models import metadata
from tests.support.postgresql import PostgreSQL
from tests.support.schema import assert_migrated
from tests.unit.rules.scene import Scene, completed, definition, instance, items, make_scene, rule, stored

pytestmark = pytest.mark.integration

MANY = [instance(number) for number in range(1, 7)]


async def test_revisions_make_the_tables_of_the_metadata(database_url: str) -> None:
    await assert_migrated(database_url, "rules", metadata)


async def test_a_study_is_decided_on_both_databases(scene: Scene) -> None:
    one, two, three, *_ = MANY
    await scene.take(stored(one), stored(one, two))
    await scene.apply(definition(rule("i"), rule("s", "telerad", "study", when='study.Modality == "CT"')))
    await scene.decider.catch_up(scene.database)
    await scene.take(
        completed(one, two, Modality="CT"), stored(three), completed(one, two, three, version=2, Modality="CT")
    )
    requests = await scene.requested()
    assert items(requests) == {
        (name, each.sop_instance_uid) for name in ("pacs", "telerad") for each in (one, two, three)
    }
    assert [(one.destination, one.study_version, one.expected_count) for one in requests if one.study_version] == [
        ("pacs", 1, 2),
        ("telerad", 1, 2),
        ("pacs", 2, 3),
        ("telerad", 2, 3),
    ]
    assert [one.trigger for one in await scene.decided()] == ["instance", "study", "instance", "study"]


async def test_a_transaction_that_fails_leaves_nothing(scene: Scene) -> None:
    await scene.apply(definition(rule("i")))

    async def die() -> None:
        async with scene.database.transaction() as tx:
            await scene.handle(stored(*MANY), tx)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await die()
    assert await scene.requested() == []
    await scene.take(stored(*MANY))
    assert len(items(await scene.requested())) == len(MANY)


async def test_replicas_that_hear_of_one_study_at_the_same_time_close_it_once(
    postgresql: PostgreSQL, tmp_path: Path
) -> None:
    url = postgresql.database()
    replicas = [await make_scene(tmp_path / name, url) for name in ("a", "b", "c")]
    for replica in replicas:
        await replica.apply(definition(rule("i"), rule("s", "telerad", "study")))
    events = [*(stored(one) for one in MANY), completed(*MANY), completed(*MANY), stored(*MANY)]
    await asyncio.gather(*(replicas[number % 3].take(event) for number, event in enumerate(events)))
    requests = await replicas[0].requested()
    closing = [one for one in requests if one.study_version is not None]
    assert sorted((one.destination, one.expected_count, len(one.items)) for one in closing) == [
        ("pacs", 6, 6),
        ("telerad", 6, 6),
    ]
    assert {uid for name, uid in items(requests) if name == "telerad"} == {one.sop_instance_uid for one in MANY}
    for replica in replicas:
        await replica.database.close()
