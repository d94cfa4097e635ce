"""When rules matched last, on each database."""

from datetime import timedelta

import pytest

from libs.definition.lint import Use
from services.rules import uses
from services.rules.uses import Uses
from tests.unit.rules.scene import NOW, Scene, completed, definition, instance, rule, stored

pytestmark = pytest.mark.integration

LATER = NOW + timedelta(days=1)


async def known(scene: Scene) -> dict[str, Use]:
    async with scene.database.reading() as tx:
        return await uses.known(tx)


async def test_decisions_are_noted_and_written_down(scene: Scene) -> None:
    await scene.apply(definition(rule("all"), rule("mr", "telerad", "study", when='study.Modality == "MR"')))
    async with scene.database.transaction() as tx:
        await uses.in_force(tx, ["all", "mr"], NOW)
    await scene.take(stored(instance(1), Modality="CT"), completed(instance(1), Modality="CT"))
    assert (await known(scene))["all"] == Use(NOW, None)
    await scene.decider.uses.write(scene.database)
    found = await known(scene)
    assert found["all"].matched == scene.clock()
    assert found["mr"] == Use(NOW, None)


async def test_the_latest_time_stands_whichever_replica_writes_last(scene: Scene) -> None:
    async with scene.database.transaction() as tx:
        await uses.in_force(tx, ["all"], NOW)
    for at in (LATER, NOW):
        replica = Uses()
        replica.note("all", at)
        replica.note("gone", at)
        await replica.write(scene.database)
    assert await known(scene) == {"all": Use(NOW, LATER)}


async def test_a_rule_that_stays_keeps_its_times_and_one_that_comes_back_begins_anew(scene: Scene) -> None:
    for at, names in ((NOW, ["all", "other"]), (LATER, ["all", "new"]), (LATER, ["other", "all"])):
        async with scene.database.transaction() as tx:
            await uses.in_force(tx, names, at)
    assert await known(scene) == {"all": Use(NOW, None), "other": Use(LATER, None)}


async def test_what_could_not_be_written_is_written_the_next_time(scene: Scene) -> None:
    async with scene.database.transaction() as tx:
        await uses.in_force(tx, ["all"], NOW)
    replica = Uses()
    replica.note("all", LATER.replace(tzinfo=None))  # which no table takes
    with pytest.raises(Exception, match="offset"):
        await replica.write(scene.database)
    assert (await known(scene))["all"].matched is None
    replica.note("all", LATER)
    await replica.write(scene.database)
    assert (await known(scene))["all"].matched == LATER
