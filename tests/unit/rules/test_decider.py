from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from contracts.definition import Partner
from contracts.routing import RoutingDecided
from services.rules import repository
from tests.unit.rules.scene import (
    CT1,
    PACS,
    SERIES,
    STUDY,
    Scene,
    completed,
    definition,
    instance,
    items,
    make_scene,
    put_headers,
    rule,
    stored,
)

ONE, TWO, THREE = instance(1), instance(2), instance(3)


@pytest.fixture
async def scene(tmp_path: Path) -> AsyncIterator[Scene]:
    made = await make_scene(tmp_path)
    yield made
    await made.database.close()


async def test_an_instance_is_requested_as_it_arrives(scene: Scene) -> None:
    await scene.apply(
        definition(rule("ct", when='instance.Modality == "CT"'), rule("mr", when='instance.Modality == "MR"'))
    )
    await scene.take(stored(instance(1, InstanceNumber=7), TWO, Modality="CT"))
    (request,) = await scene.requested()
    assert (request.destination, request.rules, request.source_node) == ("pacs", ("ct",), "CT1")
    assert (request.network_version, request.study_version, request.expected_count) == (1, None, None)
    assert [item.object_key for item in request.items] == [ONE.object_key, TWO.object_key]
    (decided,) = await scene.decided()
    assert (decided.trigger, decided.instance_count, decided.rules_evaluated) == ("instance", 2, 2)
    (match,) = decided.matches
    assert (match.rule, match.instance_count, match.inputs) == ("ct", 2, {"Modality": "CT"})


async def test_no_match_is_a_decision_too(scene: Scene) -> None:
    await scene.apply(definition(rule("mr", when='instance.Modality == "MR"')))
    await scene.take(stored(ONE, Modality="CT"))
    assert await scene.requested() == []
    (decided,) = await scene.decided()
    assert (decided.matches, decided.rules_evaluated) == ((), 1)


async def test_a_complete_study_closes_the_deliveries_of_both_triggers(scene: Scene) -> None:
    await scene.apply(
        definition(rule("all"), rule("ct", "telerad", "study", when='study.Modality == "CT"', priority="stat"))
    )
    await scene.take(stored(ONE), stored(TWO), completed(ONE, TWO, Modality="CT"))
    closing = {one.destination: one for one in await scene.requested() if one.study_version is not None}
    assert {name: (one.study_version, one.expected_count) for name, one in closing.items()} == {
        "pacs": (1, 2),
        "telerad": (1, 2),
    }
    assert all(len(one.items) == 2 for one in closing.values())
    assert closing["telerad"].priority == "stat"
    assert [one.trigger for one in await scene.decided()] == ["instance", "instance", "study"]


async def test_a_study_that_no_rule_wants_is_decided_and_not_requested(scene: Scene) -> None:
    await scene.apply(definition(rule("mr", trigger="study", when='study.Modality == "MR"')))
    await scene.take(stored(ONE), completed(ONE, Modality="CT"))
    assert await scene.requested() == []
    assert [(one.trigger, one.matches) for one in await scene.decided()] == [("instance", ()), ("study", ())]


async def test_a_complete_study_waits_for_its_instances(scene: Scene) -> None:
    await scene.apply(definition(rule("s", trigger="study")))
    await scene.take(completed(ONE, TWO), stored(TWO))
    assert await scene.requested() == []
    await scene.take(stored(ONE))
    (request,) = await scene.requested()
    assert request.expected_count == 2


async def test_a_repeated_event_changes_nothing(scene: Scene) -> None:
    await scene.apply(definition(rule("i"), rule("s", "telerad", "study")))
    events = (stored(ONE, TWO), completed(ONE, TWO))
    await scene.take(*events)
    before = (await scene.requested(), await scene.decided())
    await scene.take(*events, stored(TWO), *events)
    assert (await scene.requested(), await scene.decided()) == before


async def test_late_instances_do_not_hold_up_the_version_before(scene: Scene) -> None:
    await scene.apply(definition(rule("s", trigger="study")))
    await scene.take(stored(ONE, TWO, THREE), completed(ONE, TWO))
    (request,) = await scene.requested()
    assert (request.study_version, request.expected_count, len(request.items)) == (1, 2, 2)
    await scene.take(completed(ONE, TWO, THREE, version=2))
    assert [(one.study_version, one.expected_count) for one in await scene.requested()] == [(1, 2), (2, 3)]


async def test_a_version_after_a_higher_one_says_nothing(scene: Scene) -> None:
    await scene.apply(definition(rule("s", trigger="study")))
    await scene.take(stored(ONE, TWO), completed(ONE, TWO, version=2), completed(ONE))
    assert [one.study_version for one in await scene.requested()] == [2]
    async with scene.database.reading() as tx:
        assert await repository.count_waiting(tx) == {"decision": 0, "instances": 0}


async def test_without_a_definition_everything_is_kept_until_there_is_one(scene: Scene) -> None:
    await scene.take(stored(ONE), stored(TWO, source=PACS), completed(ONE, TWO))
    assert (await scene.requested(), await scene.decided()) == ([], [])
    await scene.decider.catch_up(scene.database)
    assert await scene.decided() == []
    await scene.apply(definition(rule("i"), rule("s", "telerad", "study")))
    await scene.decider.catch_up(scene.database)
    requests = await scene.requested()
    assert items(requests) == {
        ("pacs", ONE.sop_instance_uid),
        ("telerad", ONE.sop_instance_uid),
        ("telerad", TWO.sop_instance_uid),
    }
    assert {(one.destination, one.expected_count) for one in requests if one.study_version} == {
        ("pacs", 1),
        ("telerad", 2),
    }
    assert [(one.trigger, one.source.node) for one in await scene.decided()] == [
        ("instance", "CT1"),
        ("instance", "PACS"),
        ("study", "CT1"),
    ]
    await scene.decider.catch_up(scene.database)
    assert await scene.requested() == requests


async def test_what_waited_is_decided_when_more_of_the_study_comes(scene: Scene) -> None:
    await scene.take(stored(ONE))
    await scene.apply(definition(rule("i")))
    await scene.take(stored(TWO))
    assert items(await scene.requested()) == {("pacs", ONE.sop_instance_uid), ("pacs", TWO.sop_instance_uid)}


async def test_nothing_goes_back_to_the_node_that_it_came_from(scene: Scene) -> None:
    await scene.apply(definition(rule("i", "both"), rule("s", "both", "study")))
    await scene.take(stored(ONE), stored(TWO, source=PACS), completed(ONE, TWO))
    requests = await scene.requested()
    assert items(requests) == {
        ("pacs", ONE.sop_instance_uid),
        ("telerad", ONE.sop_instance_uid),
        ("telerad", TWO.sop_instance_uid),
    }
    assert {one.destination: one.expected_count for one in requests if one.study_version} == {"pacs": 1, "telerad": 2}
    assert all(one.source_node != "PACS" for one in requests if one.destination == "pacs")
    decided = await scene.decided()
    assert [one.errors for one in decided] == [
        (),
        ("destination `pacs` doesn't get back what came from its own node",),
        ("destination `pacs` doesn't get back what came from its own node",),
    ]


async def test_an_instance_keeps_the_destinations_of_the_version_under_which_it_was_decided(scene: Scene) -> None:
    await scene.apply(definition(rule("i")))
    await scene.take(stored(ONE))
    await scene.apply(definition(rule("i", "telerad")))
    await scene.take(stored(TWO), completed(ONE, TWO))
    requests = await scene.requested()
    assert items(requests) == {("pacs", ONE.sop_instance_uid), ("telerad", TWO.sop_instance_uid)}
    assert {(one.destination, one.expected_count, one.network_version) for one in requests if one.study_version} == {
        ("pacs", 1, 2),
        ("telerad", 1, 2),
    }
    assert [one.network_version for one in await scene.decided()] == [1, 2, 2]


async def test_two_rules_that_name_one_destination_make_one_delivery(scene: Scene) -> None:
    await scene.apply(
        definition(
            rule("slow", "both", "study", priority="bulk", transform="a"),
            rule("fast", "pacs", "study", priority="stat", transform="b"),
        )
    )
    await scene.take(stored(ONE), completed(ONE))
    requests = {one.destination: one for one in await scene.requested()}
    assert (requests["pacs"].priority, requests["pacs"].transform, requests["pacs"].rules) == (
        "stat",
        "b",
        ("slow", "fast"),
    )
    assert (requests["telerad"].priority, requests["telerad"].transform) == ("bulk", "a")
    assert any("different transforms: b is used" in error for one in await scene.decided() for error in one.errors)


async def test_a_transform_that_was_requested_stands(scene: Scene) -> None:
    await scene.apply(definition(rule("i"), rule("s", "pacs", "study", priority="stat", transform="a")))
    await scene.take(stored(ONE), completed(ONE))
    first, closing = await scene.requested()
    assert (first.transform, closing.transform, closing.priority, closing.expected_count) == (None, None, "stat", 1)
    assert any("another transform before" in error for error in (await scene.decided())[-1].errors)


async def test_a_rule_that_fails_loses_nothing(scene: Scene) -> None:
    await scene.apply(definition(rule("broken", "telerad", when='instance.ImageType[5] == "X"'), rule("all")))
    await scene.take(stored(ONE, TWO))
    assert items(await scene.requested()) == {("pacs", ONE.sop_instance_uid), ("pacs", TWO.sop_instance_uid)}
    (decided,) = await scene.decided()
    assert decided.errors == (
        "rule `broken` could not be decided: it asks for a value of a list that has fewer (2 times)",
    )


async def test_a_large_study_is_requested_in_parts_of_which_the_last_closes(scene: Scene) -> None:
    many = [instance(number) for number in range(1, 1102)]
    await scene.apply(definition(rule("s", trigger="study")))
    await scene.take(stored(*many), completed(*many))
    requests = await scene.requested()
    assert [(len(one.items), one.study_version, one.expected_count) for one in requests] == [
        (500, None, None),
        (500, None, None),
        (101, 1, 1101),
    ]
    assert len(items(requests)) == 1101


ECHO_TIME = {"00180081": {"vr": "DS", "keyword": "EchoTime", "Value": [90.0]}}


async def test_an_attribute_that_events_do_not_carry_is_read_from_the_full_header(scene: Scene) -> None:
    await scene.apply(
        definition(
            rule("i", when="instance.EchoTime > 80.0"), rule("s", "telerad", "study", when="study.EchoTime > 80.0")
        )
    )
    put_headers(scene.objects, "headers/1.json.gz", {ONE.sop_instance_uid: ECHO_TIME, TWO.sop_instance_uid: {}})
    await scene.take(stored(ONE, TWO), completed(ONE, TWO))
    assert items(await scene.requested()) == {
        ("pacs", ONE.sop_instance_uid),
        ("telerad", ONE.sop_instance_uid),
        ("telerad", TWO.sop_instance_uid),
    }
    assert [one.errors for one in await scene.decided()] == [(), ()]


async def test_without_the_full_header_the_other_rules_go_on(scene: Scene) -> None:
    await scene.apply(definition(rule("i", "telerad", when="instance.EchoTime > 80.0"), rule("all")))
    scene.objects.put("headers/2.json.gz", b"not gzip")
    await scene.take(stored(ONE), stored(TWO, headers="headers/2.json.gz"))
    assert items(await scene.requested()) == {("pacs", ONE.sop_instance_uid), ("pacs", TWO.sop_instance_uid)}
    assert [one.errors for one in await scene.decided()] == [
        ("the full header can't be read: EchoTime taken as absent",),
        ("the full header can't be read: EchoTime taken as absent",),
    ]


async def test_study_attributes_that_the_event_lacks_come_from_the_instances(scene: Scene) -> None:
    when = 'study.StationName == "A" && "ORIGINAL" in study.ImageType && study.NumberOfStudyRelatedInstances == 2'
    await scene.apply(definition(rule("s", trigger="study", when=when)))
    one = instance(1, StationName="B", ImageType=["DERIVED"])
    two = instance(2, StationName="A", ImageType=["ORIGINAL", "PRIMARY"])
    await scene.take(stored(one, two), completed(one, two))
    assert len(await scene.requested()) == 1


async def test_rules_that_this_release_cannot_read_leave_the_ones_before_in_force(scene: Scene) -> None:
    await scene.apply(definition(rule("i")))
    await scene.take(stored(ONE))
    await scene.apply(definition(rule("i", "telerad", when="instance.Nothing == 1")))
    await scene.take(stored(TWO))
    assert items(await scene.requested()) == {("pacs", ONE.sop_instance_uid), ("pacs", TWO.sop_instance_uid)}
    assert scene.decider.refused() == 2
    await scene.apply(definition(rule("i", "telerad")))
    assert scene.decider.refused() is None


async def test_decisions_are_kept_for_people_who_ask_why(scene: Scene) -> None:
    await scene.apply(definition(rule("i")))
    await scene.take(stored(ONE), completed(ONE))
    async with scene.database.reading() as tx:
        rows: list[Any] = list(await repository.decisions_of(tx, STUDY, 0, 10))
    assert [RoutingDecided.model_validate(row.decided).trigger for row in rows] == ["instance", "study"]
    assert {(row.tenant, row.site) for row in rows} == {("minsabs", "malabo")}
    assert SERIES not in str(rows[0].decided)


@pytest.mark.parametrize("trigger", ["instance", "study"])
async def test_a_partner_is_told_of_its_sites_instances_when_the_study_is_complete(scene: Scene, trigger: str) -> None:
    applied = definition(rule("all", "pacs", trigger, notify=["reader", "none"]))
    partner = {"tenant": "reader", "events": ["study.available"]}
    partners = {"reader": Partner(**partner, sites=("malabo",)), "none": Partner(**partner)}
    await scene.apply(applied.model_copy(update={"partners": partners}))
    elsewhere = CT1.model_copy(update={"site": "bata", "node": "CT2"})
    await scene.take(stored(ONE), stored(TWO, source=elsewhere), completed(ONE, TWO, Modality="CT"))
    closing = {one.destination: one for one in await scene.requested() if one.study_version is not None}
    assert {name: one.expected_count for name, one in closing.items()} == {"pacs": 2, "partner:reader": 1}
    assert [item.sop_instance_uid for item in closing["partner:reader"].items] == [ONE.sop_instance_uid]
    decided = next(one for one in await scene.decided() if one.trigger == "study")
    # No copy is kept for a partner's sake.
    assert decided.destinations == ("pacs",)
    said = [error for one in await scene.decided() for error in one.errors]
    assert any("partner `none` may not get" in each for each in said)
