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
from services.rules.models import completions, instances
from tests.unit.rules.scene import (
    CT1,
    PACS,
    Scene,
    completed,
    definition,
    expired,
    instance,
    items,
    make_scene,
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


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
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
