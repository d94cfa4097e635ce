"""Events come in any order and any number of times; what is requested in the end is always the same."""

import asyncio
import tempfile
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from contracts.delivery import DeliveryRequested
from contracts.envelope import Event
from contracts.instances import StoredInstance
from tests.unit.rules.scene import CT1, NOW, PACS, act, completed, definition, instance, items, make_scene, rule, stored

RULES = (
    act("scouts", when="instance.InstanceNumber == 7", discard="a scout image", tag={"scout": "yes"}),
    rule("two is for nobody else", when="instance.InstanceNumber == 2", stop=True),
    rule("all"),
    rule("late ones", "telerad", when="instance.InstanceNumber > 3", hold="30m"),
    rule("ct", "both", "study", when='study.Modality == "CT"', hold="20:00"),
    act("haste", "study", when='study.Modality == "CT"', priority="urgent"),
    act("series", "series", tag={"series": "seen"}),
    rule("amended", "telerad", "amended", hold="until-released"),
    rule("tagged", "telerad", "amended", when='study.Tags.scout == "yes" && study.Tags.series == "seen"'),
)
FIRST = [instance(number, InstanceNumber=number) for number in range(1, 5)]
LATE = [instance(number, InstanceNumber=number) for number in range(5, 8)]
FROM_PACS = {FIRST[3].sop_instance_uid}


def batch(instances: list[StoredInstance]) -> list[Event[Any]]:
    """Write batches of one source each."""
    own = [one for one in instances if one.sop_instance_uid not in FROM_PACS]
    back = [one for one in instances if one.sop_instance_uid in FROM_PACS]
    return [stored(*part, source=source, Modality="CT") for part, source in ((own, CT1), (back, PACS)) if part]


@st.composite
def histories(draw: st.DrawFn) -> list[Event[Any] | None]:
    """Draw events about a study and an amendment, with None where the definition comes into force."""
    everything = draw(st.permutations(FIRST + LATE))
    events: list[Event[Any] | None] = []
    while everything:
        size = draw(st.integers(1, len(everything)))
        events += batch(list(everything[:size]))
        everything = everything[size:]
    events += [completed(*FIRST, Modality="CT"), completed(*FIRST, *LATE, version=2, Modality="CT")]
    again = draw(st.lists(st.sampled_from(events), max_size=5))
    return draw(st.permutations([*events, *again, None]))


async def outcome(history: list[Event[Any] | None]) -> list[DeliveryRequested]:
    with tempfile.TemporaryDirectory() as folder:
        scene = await make_scene(Path(folder))
        for event in history:
            if event is None:
                await scene.apply(definition(*RULES))
                await scene.decider.catch_up(scene.database)
            else:
                await scene.take(event)
        requests = await scene.requested()
        await scene.database.close()
        return requests


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(histories())
def test_any_order_and_repetition_gives_the_same_requests_and_one_closing(history: list[Event[Any] | None]) -> None:
    requests = asyncio.run(outcome(history))
    # The last one is discarded.
    everyone = {one.sop_instance_uid for one in (FIRST + LATE)[:-1]}
    assert items(requests) == {
        *(("pacs", uid) for uid in everyone - FROM_PACS),
        *(("telerad", uid) for uid in everyone),
    }
    final = [one for one in requests if one.study_version == 2]
    assert {one.destination: (one.expected_count, len(one.items)) for one in final} == {
        "pacs": (5, 5),
        "telerad": (6, 6),
    }
    assert len(final) == 2
    # Whether or not the version before was decided, and what it tagged.
    assert ["tagged" in one.rules for one in final] == [one.destination == "telerad" for one in final]
    earlier = [one for one in requests if one.study_version == 1]
    assert {one.destination: (one.expected_count, len(one.items)) for one in earlier} in (
        {},
        {"pacs": (3, 3), "telerad": (4, 4)},
    )
    assert len(earlier) == len({one.destination for one in earlier})
    assert all(one.priority == "urgent" for one in final)
    # The longest hold counts, whichever rule was looked at first: of the amended study that of a person.
    ends = {one.destination: one.hold and one.hold.until for one in final}
    assert ends == {"pacs": NOW.replace(hour=20, minute=0), "telerad": None}
    assert {one.destination: one.hold is not None for one in final} == {"pacs": True, "telerad": True}
