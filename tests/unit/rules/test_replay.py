"""Replays of what the service recorded: the same rules change nothing, others give what the service would decide."""

import asyncio
import tempfile
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from contracts.definition import Definition
from contracts.envelope import Event
from contracts.instances import StoredInstance
from libs.definition.ruleset import RuleSet
from services.rules import history, transcript
from services.rules.chronicle import Record
from services.rules.findings import changes
from services.rules.simulation import Outcome, Simulation
from tests.unit.rules.scene import CT1, PACS, STUDY, TENANT, completed, definition, instance, make_scene, rule, stored

FIRST = [instance(number, InstanceNumber=number, Rows=512 * (number % 2 + 1)) for number in range(1, 5)]
LATE = [instance(number + 100, InstanceNumber=number, Rows=1024) for number in range(5, 8)]
FROM_PACS = {FIRST[3].sop_instance_uid}

#: Rules that people write, of every trigger and action that history can tell of.
POOL = (
    rule("all"),
    rule("large", "telerad", when="instance.Rows >= 1024", priority="stat"),
    rule("numbered", "telerad", when="instance.InstanceNumber > 2"),
    rule("ct", "both", "study", when='study.Modality == "CT"', priority="urgent"),
    rule("small study", "telerad", "study", when="study.NumberOfStudyRelatedInstances < 5", transform="anon"),
    rule("amended", "telerad", "amended", when='study.Modality == "CT"'),
    rule("series", "telerad", "series", when="series.Rows >= 512"),
    rule("tag", "telerad", "study", when='study.Tags["size"] == "large"'),
    rule("night", "telerad", "study", hold="20:00"),
    {"name": "told", "trigger": "study", "notify": ["near", "far"]},
    {"name": "tagged", "trigger": "instance", "tag": {"size": "large"}, "when": "instance.Rows >= 1024"},
    {"name": "hurry", "trigger": "study", "priority": "stat", "when": 'study.Modality == "CT"'},
    {"name": "rest", "trigger": "study", "discard": "not for us", "when": 'study.Modality == "MR"'},
    {"name": "few", "trigger": "instance", "quarantine": "look", "when": "instance.Rows < 512"},
    rule("last", "pacs", "study", stop=True),
    rule("never", "telerad", "study"),
)
#: One may have what the site sends, the other not.
PARTNERS = {
    name: {"tenant": name, "events": ["study.available"], "sites": sites}
    for name, sites in (("near", ["malabo"]), ("far", []))
}


def batch(instances: list[StoredInstance]) -> list[Event[Any]]:
    """Write batches of one source each."""
    own = [one for one in instances if one.sop_instance_uid not in FROM_PACS]
    back = [one for one in instances if one.sop_instance_uid in FROM_PACS]
    return [stored(*part, source=source, Modality="CT") for part, source in ((own, CT1), (back, PACS)) if part]


@st.composite
def definitions(draw: st.DrawFn) -> Definition:
    """Draw some of the rules, in any order."""
    rules = draw(st.lists(st.sampled_from(POOL), unique_by=lambda one: one["name"], max_size=8))
    made = definition(*rules).model_dump(by_alias=True, exclude_defaults=True)
    return Definition.model_validate(
        {**made, "transforms": {"anon": {"remove": ["PatientName"]}}, "partners": PARTNERS}
    )


@st.composite
def histories(draw: st.DrawFn) -> list[Event[Any]]:
    """Draw the arrival of a study, perhaps amended."""
    events = [*batch(draw(st.permutations(FIRST))), completed(*FIRST, Modality="CT", NumberOfStudyRelatedInstances=4)]
    if draw(st.booleans()):
        whole = [*FIRST, *LATE]
        events += [*batch(LATE), completed(*whole, version=2, Modality="CT", NumberOfStudyRelatedInstances=7)]
    return events


async def lived(events: list[Event[Any]], under: Definition) -> Record:
    """Have the service decide on the events; give what it recorded."""
    with tempfile.TemporaryDirectory() as folder:
        scene = await make_scene(Path(folder))
        await scene.apply(under)
        await scene.take(*events)
        async with scene.database.reading() as tx:
            found = await history.named(tx, STUDY)
        await scene.database.close()
        assert [one.tenant for one in found] == [TENANT]
        return transcript.from_json(found[0].record)


def replayed(record: Record, under: Definition) -> Outcome:
    return Simulation(RuleSet(under)).outcome(TENANT, record)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(histories(), definitions(), definitions())
def test_a_replay_gives_what_the_service_decides(events: list[Event[Any]], one: Definition, two: Definition) -> None:
    lives = {under.model_dump_json(): asyncio.run(lived(events, under)) for under in (one, two)}
    for under in (one, two):
        for recorded in lives.values():
            outcome = replayed(recorded, under)
            assert outcome.routes == lives[under.model_dump_json()].routes
            assert not outcome.problems
    first = lives[one.model_dump_json()]
    assert changes(first.routes, replayed(first, one).routes) == []
