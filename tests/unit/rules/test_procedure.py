"""Rules that a completed procedure step triggers."""

from collections.abc import AsyncIterator
from itertools import permutations
from pathlib import Path

import pytest

from tests.unit.rules.scene import (
    Scene,
    act,
    completed,
    definition,
    instance,
    items,
    make_scene,
    performed,
    rule,
    stored,
)

pytestmark = pytest.mark.unit
ONE, TWO = instance(1), instance(2)
AT_CT = 'procedure.station == "CT1" && procedure.modality == "CT" && procedure.status == "COMPLETED"'


@pytest.fixture
async def scene(tmp_path: Path) -> AsyncIterator[Scene]:
    made = await make_scene(tmp_path)
    yield made
    await made.database.close()


@pytest.mark.parametrize("order", [*permutations(range(3))])
async def test_in_any_order_of_arrival_the_study_goes_where_its_step_sends_it(
    scene: Scene, order: tuple[int, ...]
) -> None:
    await scene.apply(definition(rule("all"), rule("read", "telerad", "procedure", when=AT_CT)))
    events = [stored(ONE, TWO), completed(ONE, TWO), performed()]
    await scene.take(*(events[number] for number in order))
    requests = await scene.requested()
    assert {uid for name, uid in items(requests) if name == "telerad"} == {
        ONE.sop_instance_uid,
        TWO.sop_instance_uid,
    }
    assert [(one.study_version, one.expected_count) for one in requests if one.destination == "telerad"] == [(1, 2)]
    decided = [one for one in await scene.decided() if one.occasion == "procedure"]
    assert [match.rule for one in decided for match in one.matches] == ["read"]
    assert decided[0].matches[0].inputs == {
        "procedure.modality": "CT",
        "procedure.station": "CT1",
        "procedure.status": "COMPLETED",
    }


async def test_a_step_elsewhere_or_none_at_all_sends_it_nowhere(scene: Scene) -> None:
    await scene.apply(definition(rule("all"), rule("read", "telerad", "procedure", when=AT_CT)))
    await scene.take(stored(ONE), completed(ONE), performed(station="CT2"))
    assert {name for name, _ in items(await scene.requested())} == {"pacs"}


async def test_each_step_is_looked_at_by_itself_and_once(scene: Scene) -> None:
    await scene.apply(definition(rule("all"), act("tag", "procedure", when=AT_CT, tag={"ct": "done"})))
    await scene.take(stored(ONE), completed(ONE), performed("1.2.1", station="CT2"), performed("1.2.2"))
    await scene.take(performed("1.2.2"))
    decided = [one for one in await scene.decided() if one.occasion == "procedure"]
    assert [len(one.matches) for one in decided] == [0, 1]


async def test_what_comes_later_goes_there_too(scene: Scene) -> None:
    await scene.apply(definition(rule("all"), rule("read", "telerad", "procedure", when=AT_CT)))
    await scene.take(performed(), stored(ONE), completed(ONE), stored(TWO), completed(ONE, TWO, version=2))
    closing = [one for one in await scene.requested() if one.destination == "telerad"]
    assert [(one.study_version, one.expected_count) for one in closing] == [(1, 1), (2, 2)]


async def test_a_study_that_its_step_sends_somewhere_is_not_one_that_no_rule_matches(scene: Scene) -> None:
    await scene.apply(definition(rule("read", "telerad", "procedure")))
    await scene.take(performed(), stored(ONE), completed(ONE))
    assert [one.unmatched for one in await scene.decided()] == [False, False, False]
