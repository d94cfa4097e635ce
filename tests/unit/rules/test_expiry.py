"""What comes again after the copy of a study expired is decided as a version of its own, in any order of events."""

import asyncio
import tempfile
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import select

from contracts.envelope import Event
from contracts.fact import Source
from contracts.instances import StoredInstance
from contracts.manifest import set_hash
from contracts.routing import RoutingQuarantined
from services.rules import action_rows
from services.rules.models import completions, instances
from tests.unit.rules.scene import (
    CT1,
    PACS,
    Scene,
    act,
    completed,
    definition,
    expired,
    instance,
    items,
    make_scene,
    resolved,
    rule,
    stored,
)

pytestmark = pytest.mark.unit
RULES = (rule("all"), rule("complete ones", "telerad", "study"))
ONE, TWO, LATE = instance(1, Modality="CT"), instance(2, Modality="CT"), instance(9, Modality="CT")
#: The same content, received once more.
AGAIN = ONE.model_copy(update={"received_at": LATE.received_at + timedelta(days=9), "object_key": "again.dcm"})
#: What a replica had in its spool all the time: received before the others, indexed after their copy expired.
STRAGGLER = instance(3, Modality="CT").model_copy(update={"received_at": ONE.received_at - timedelta(days=1)})
BEFORE = [stored(ONE, after_version=0), stored(TWO, after_version=0), completed(ONE, TWO)]


def identity(one: StoredInstance) -> tuple[str, str]:
    return one.sop_instance_uid, one.content_hash


async def scene_after(folder: Path, events: list[Event[Any]]) -> Scene:
    scene = await make_scene(folder)
    await scene.apply(definition(*RULES))
    await scene.take(*BEFORE, *events)
    return scene


@st.composite
def after(draw: st.DrawFn) -> tuple[list[StoredInstance], list[Event[Any]]]:
    """Draw what came after the expiry, in any order, with what was there before repeated."""
    came = draw(st.lists(st.sampled_from([AGAIN, LATE, STRAGGLER]), min_size=1, unique_by=lambda one: one.object_key))
    new = [stored(one, after_version=1) for one in came]
    events = [expired(ONE, TWO), *new, completed(*came, version=2)]
    again = draw(st.lists(st.sampled_from([*events, *BEFORE]), max_size=4))
    return came, draw(st.permutations([*events, *again]))


async def outcome(events: list[Event[Any]]) -> tuple[list[Any], list[Any]]:
    with tempfile.TemporaryDirectory() as folder:
        scene = await scene_after(Path(folder), events)
        found = await scene.requested(), await scene.decided()
        await scene.database.close()
        return found


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(after())
def test_what_came_again_is_a_version_of_its_own_and_every_destination_keeps_what_it_had(
    drawn: tuple[list[StoredInstance], list[Event[Any]]],
) -> None:
    came, events = drawn
    requests, decisions = asyncio.run(outcome(events))
    closing = {one.destination: one for one in requests if one.study_version == 2}
    assert set(closing) == {"pacs", "telerad"}
    whole = {identity(one) for one in (ONE, TWO, *came)}
    for request in closing.values():
        assert {(one.sop_instance_uid, one.content_hash) for one in request.items} == set(map(identity, came))
        assert (request.expected_count, request.expected_hash) == (len(whole), set_hash(whole))
    assert items(requests) >= {("pacs", one.sop_instance_uid) for one in came}
    (decided,) = [one for one in decisions if one.study_version == 2]
    assert decided.destinations == ("pacs", "telerad")
    assert decided.instance_count == len(came)


@pytest.mark.parametrize(("source", "round_again"), [(PACS, True), (CT1, False)])
async def test_what_comes_again_from_another_node_came_round_and_stays_so(
    tmp_path: Path, source: Source, round_again: bool
) -> None:
    rules = (rule("all", "telerad"), rule("whole", "telerad", "study"))
    scene = await make_scene(tmp_path)
    await scene.apply(definition(*rules))
    again = [stored(AGAIN, after_version=1, source=source), completed(AGAIN, version=2)]
    await scene.take(*BEFORE, expired(ONE, TWO), *again, *again)
    requests = await scene.requested()
    came = {one.study_version: [item.came_round for item in one.items] for one in requests if one.study_version}
    assert came == {1: [False, False], 2: [round_again]}
    notes = [error for one in await scene.decided() for error in one.errors]
    assert notes == ["destination `telerad` doesn't get again what it has of what came round"] * (2 * round_again)
    # Once more from where it came first: a person there wants it sent.
    last = AGAIN.model_copy(update={"received_at": AGAIN.received_at + timedelta(days=9)})
    await scene.take(expired(AGAIN, version=2), stored(last, after_version=2, source=CT1), completed(last, version=3))
    (closing,) = [one for one in await scene.requested() if one.study_version == 3]
    assert [item.came_round for item in closing.items] == [False]
    await scene.database.close()


async def test_the_attributes_of_an_expired_copy_are_forgotten(tmp_path: Path) -> None:
    scene = await scene_after(tmp_path, [expired(ONE, TWO)])
    async with scene.database.reading() as tx:
        assert [row.attributes for row in await tx.execute(select(instances))] == [{}, {}]
        assert [row.completed for row in await tx.execute(select(completions))] == [{}]
    await scene.database.close()


async def test_a_batch_that_does_not_say_what_it_came_after_counts(tmp_path: Path) -> None:
    """A release before this one indexes beside it while a cluster is upgraded."""
    scene = await scene_after(tmp_path, [stored(LATE), expired(ONE, TWO), stored(LATE), completed(LATE, version=2)])
    (closing,) = [one for one in await scene.requested() if (one.study_version, one.destination) == (2, "pacs")]
    assert [one.sop_instance_uid for one in closing.items] == [LATE.sop_instance_uid]
    assert closing.expected_count == len((ONE, TWO, LATE))
    await scene.database.close()


async def test_an_instance_decision_does_not_say_where_everything_goes(tmp_path: Path) -> None:
    scene = await scene_after(tmp_path, [])
    said = {one.trigger: one.destinations for one in await scene.decided()}
    assert said == {"instance": None, "study": ("pacs", "telerad")}
    await scene.database.close()


async def unmatched(scene: Scene) -> bool:
    async with scene.database.reading() as tx:
        return await action_rows.count_unmatched(tx) == 1


async def route(scene: Scene) -> bool:
    """Do what `kivuko rule route` has done for a study."""
    async with scene.database.transaction() as tx:
        return await scene.decider.again(tx, 1)


async def test_what_expired_unmatched_is_not_routed_again_and_what_comes_later_is(tmp_path: Path) -> None:
    scene = await make_scene(tmp_path)
    await scene.apply(definition(rule("none", when='instance.Modality == "MR"')))
    await scene.take(*BEFORE)
    assert await unmatched(scene)
    await scene.take(expired(ONE, TWO))
    assert not await unmatched(scene), "of a copy that is gone nobody has to say where it goes"
    await scene.apply(definition(*RULES))
    assert await route(scene)
    assert await scene.requested() == []
    await scene.apply(definition(rule("none", when='instance.Modality == "MR"')))
    new = [stored(LATE, after_version=1), completed(LATE, version=2)]
    # Whatever comes once more takes back nothing of that the new version is unmatched.
    await scene.take(*new, expired(ONE, TWO), *BEFORE, *new)
    assert await unmatched(scene)
    await scene.apply(definition(*RULES))
    assert await route(scene)
    assert not await unmatched(scene)
    assert items(await scene.requested()) == {(where, LATE.sop_instance_uid) for where in ("pacs", "telerad")}
    closing = {one.destination: (one.study_version, one.expected_count) for one in await scene.requested()}
    assert closing == {"pacs": (2, 1), "telerad": (2, 1)}
    await scene.database.close()


@pytest.mark.parametrize("trigger", ["instance", "study"])
async def test_what_is_released_after_its_copy_expired_goes_nowhere_and_stops_nothing(
    tmp_path: Path, trigger: str
) -> None:
    scene = await make_scene(tmp_path)
    first = f'{trigger}.SOPInstanceUID == "{ONE.sop_instance_uid}"'
    await scene.apply(definition(act("odd", trigger, when=first, quarantine="odd"), *RULES))
    await scene.take(*BEFORE)
    (told,) = await scene.emitted(RoutingQuarantined)
    before = await scene.requested()
    await scene.take(expired(ONE, TWO), resolved(told.quarantine_id))
    assert await scene.requested() == before
    await scene.take(stored(LATE, after_version=1), completed(LATE, version=2))
    assert {("pacs", LATE.sop_instance_uid), ("telerad", LATE.sop_instance_uid)} <= items(await scene.requested())
    await scene.database.close()


async def test_a_version_that_comes_after_its_expiry_is_not_kept(tmp_path: Path) -> None:
    scene = await make_scene(tmp_path)
    await scene.apply(definition(*RULES))
    await scene.take(expired(ONE, TWO), completed(ONE, TWO))
    async with scene.database.reading() as tx:
        assert (await tx.execute(select(completions))).all() == []
    await scene.database.close()
