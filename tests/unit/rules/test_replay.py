"""Replays of what the service recorded: the same rules change nothing, others give what the service would decide."""

import asyncio
import tempfile
from pathlib import Path
from typing import Any

import pytest
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
from tests.unit.rules.scene import (
    CT1,
    PACS,
    STUDY,
    TENANT,
    completed,
    definition,
    health,
    instance,
    make_scene,
    rule,
    stored,
)

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
    rule("read", "readers"),
    rule("read whole", "readers", "study", priority="urgent"),
    rule("asked", "pacs", when='!destination["telerad"].healthy', priority="bulk"),
)
#: Of these it is not known how the destinations were, if other rules recorded it.
BY_HEALTH = {"read", "read whole", "asked"}
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
    came = draw(st.permutations(FIRST))
    half = draw(st.integers(0, len(came)))
    events = [*batch(came[:half]), *_health(draw, 1), *batch(came[half:]), *_health(draw, 2)]
    events.append(completed(*FIRST, Modality="CT", NumberOfStudyRelatedInstances=4))
    if draw(st.booleans()):
        whole = [*FIRST, *LATE]
        events += [
            *_health(draw, 3),
            *batch(LATE),
            completed(*whole, version=2, Modality="CT", NumberOfStudyRelatedInstances=7),
        ]
    return events


def _health(draw: st.DrawFn, minutes: int) -> list[Event[Any]]:
    """Draw what becomes known of destinations."""
    said = draw(st.dictionaries(st.sampled_from(["pacs", "telerad"]), st.booleans()))
    return [health(name, healthy=healthy, minutes=minutes) for name, healthy in said.items()]


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


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(histories(), definitions(), definitions())
def test_a_replay_gives_what_the_service_decides(events: list[Event[Any]], one: Definition, two: Definition) -> None:
    lives = {under.model_dump_json(): asyncio.run(lived(events, under)) for under in (one, two)}
    for under in (one, two):
        for recorder, recorded in lives.items():
            outcome = replayed(recorded, under)
            if recorder != under.model_dump_json() and BY_HEALTH & {each.name for each in under.rules}:
                assert outcome.unknown <= {"health of destinations"}
                continue
            assert not outcome.unknown
            assert outcome.routes == lives[under.model_dump_json()].routes
            assert not outcome.problems
    first = lives[one.model_dump_json()]
    assert changes(first.routes, replayed(first, one).routes) == []


@pytest.mark.parametrize("trigger", ["instance", "study"])
def test_the_same_rules_change_nothing_where_a_destination_was_away(trigger: str) -> None:
    under = definition(rule("read", "readers", trigger))
    one, two = FIRST[0], FIRST[1]
    events = [health("telerad", healthy=False), stored(one), health("telerad", healthy=True, minutes=1), stored(two)]
    record = asyncio.run(lived([*events, completed(one, two)], under))
    outcome = replayed(record, under)
    assert outcome.routes == record.routes
    assert set(record.routes) == ({"pacs", "telerad"} if trigger == "instance" else {"telerad"})
    assert not outcome.unknown


def test_what_no_rule_asked_is_said_to_be_unknown() -> None:
    record = asyncio.run(lived([stored(FIRST[0]), completed(FIRST[0])], definition(rule("read", "readers"))))
    assert replayed(record, definition(rule("read", "readers", "study"))).unknown == {"health of destinations"}
    record = asyncio.run(lived([stored(FIRST[0]), completed(FIRST[0])], definition(rule("read", "readers", "study"))))
    assert replayed(record, definition(rule("read", "readers"))).unknown == {"health of destinations"}


async def test_an_image_that_is_decided_anew_saw_what_is_known_now(tmp_path: Path) -> None:
    scene = await make_scene(tmp_path)
    await scene.apply(definition(rule("none", when="false", deliver="readers")))
    await scene.take(health("telerad", healthy=False), stored(FIRST[0]), completed(FIRST[0]))
    under = definition(rule("read", "readers"))
    await scene.apply(under)
    await scene.take(health("telerad", healthy=True, minutes=1))
    async with scene.database.transaction() as tx:
        assert await scene.decider.again(tx, 1)
    async with scene.database.reading() as tx:
        (found,) = await history.named(tx, STUDY)
    await scene.database.close()
    record = transcript.from_json(found.record)
    assert [kind.unhealthy for kind in record.versions[-1].kinds] == [frozenset()]
    assert set(record.routes) == {"telerad"} == set(replayed(record, under).routes)
