"""What rules do besides deliveries, on real tables."""

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select

from contracts.delivery import DeliveryHold
from contracts.routing import RoutingQuarantined
from contracts.study import StudyTagged
from services.rules import action_rows, history, repository, transcript
from services.rules.action import effective
from services.rules.models import decisions, studies
from tests.unit.rules.scene import (
    NOW,
    PACS,
    STUDY,
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

pytestmark = pytest.mark.unit
ONE, TWO, THREE = instance(1, InstanceNumber=1), instance(2, InstanceNumber=2), instance(3, InstanceNumber=3)
FIRST = "instance.InstanceNumber == 1"


@pytest.fixture
async def scene(tmp_path: Path) -> AsyncIterator[Scene]:
    made = await make_scene(tmp_path)
    yield made
    await made.database.close()


async def unmatched(scene: Scene) -> bool:
    async with scene.database.reading() as tx:
        return await action_rows.count_unmatched(tx) > 0


async def tags(scene: Scene) -> dict[str, str]:
    async with scene.database.reading() as tx:
        study = await tx.scalar(select(studies.c.id))
        assert study is not None
        return {name: tag.value for name, tag in effective(await action_rows.tags_of(tx, study)).items()}


async def closing(scene: Scene) -> dict[str, tuple[str, int | None]]:
    """Give what closed each delivery last: lane, and number of instances."""
    made = [one for one in await scene.requested() if one.study_version is not None]
    return {one.destination: (one.priority, one.expected_count) for one in made}


async def test_a_rule_that_stops_ends_its_trigger_for_this_object_only(scene: Scene) -> None:
    await scene.apply(
        definition(
            rule("first goes to telerad only", "telerad", when=FIRST, stop=True),
            rule("others"),
            rule("whole", "telerad", "study"),
        )
    )
    await scene.take(stored(ONE, TWO))
    one, two = ONE.sop_instance_uid, TWO.sop_instance_uid
    assert items(await scene.requested()) == {("telerad", one), ("pacs", two)}
    (decided,) = await scene.decided()
    assert [(match.rule, match.stop, match.instance_count) for match in decided.matches] == [
        ("first goes to telerad only", True, 1),
        ("others", False, 1),
    ]
    await scene.take(completed(ONE, TWO))
    assert items(await scene.requested()) >= {("telerad", two)}


async def test_priority_and_hold_without_deliver_are_for_all_that_others_deliver(scene: Scene) -> None:
    await scene.apply(
        definition(
            rule("all"),
            act("haste", "study", when='study.Modality == "CT"', priority="stat"),
            act("not by day", "study", when='study.Modality == "CT"', hold="20:00"),
        )
    )
    await scene.take(stored(ONE, Modality="CT"), completed(ONE, Modality="CT"))
    first, last = await scene.requested()
    assert (first.priority, first.hold) == ("routine", None)
    assert last.priority == "stat"
    assert last.hold == DeliveryHold(rule="not by day", until=datetime(2026, 11, 20, 20, tzinfo=UTC))
    assert last.rules == ("all", "haste", "not by day")


async def test_a_hold_follows_from_the_arrival_and_not_from_when_it_is_decided(scene: Scene) -> None:
    scene.clock.now = NOW + timedelta(days=3)
    await scene.apply(definition(rule("later", hold="30m"), rule("person", "telerad", hold="until-released")))
    await scene.take(stored(TWO, ONE))
    holds = {one.destination: one.hold for one in await scene.requested()}
    assert holds == {
        "pacs": DeliveryHold(rule="later", until=TWO.received_at + timedelta(minutes=30)),
        "telerad": DeliveryHold(rule="person", until=None),
    }


async def test_of_two_rules_the_higher_priority_wins_and_with_it_its_hold(scene: Scene) -> None:
    await scene.apply(definition(rule("night", hold="20:00", priority="bulk"), rule("now", priority="urgent")))
    await scene.take(stored(ONE))
    (one,) = await scene.requested()
    assert (one.priority, one.hold) == ("urgent", None)


async def test_what_is_discarded_goes_nowhere_and_says_why(scene: Scene) -> None:
    await scene.apply(
        definition(
            rule("archive", "telerad", when=FIRST),
            act("scouts", when=FIRST, discard="a scout image", tag={"scout": "yes"}),
            rule("all"),
            rule("whole", "pacs", "study"),
        )
    )
    await scene.take(stored(ONE, TWO), completed(ONE, TWO))
    one, two = ONE.sop_instance_uid, TWO.sop_instance_uid
    # What a rule above has asked for stands.
    assert items(await scene.requested()) == {("telerad", one), ("pacs", two)}
    assert await closing(scene) == {"telerad": ("routine", 1), "pacs": ("routine", 1)}
    decided = (await scene.decided())[0]
    assert [(match.rule, match.discard) for match in decided.matches][:2] == [
        ("archive", None),
        ("scouts", "a scout image"),
    ]
    assert await tags(scene) == {"scout": "yes"}
    assert await scene.emitted(RoutingQuarantined) == []


async def test_a_study_of_which_all_is_discarded_is_not_unmatched(scene: Scene) -> None:
    await scene.apply(definition(act("phantoms", discard="no patient")))
    await scene.take(stored(ONE), completed(ONE))
    assert await scene.requested() == []
    assert not await unmatched(scene)


async def why_nowhere(scene: Scene) -> list[str | None]:
    return [one.discarded for one in await scene.decided() if one.occasion == "study"]


async def test_a_version_of_which_all_is_discarded_says_why_and_one_that_goes_anywhere_does_not(scene: Scene) -> None:
    await scene.apply(
        definition(
            act("scouts", when=FIRST, discard="a scout image"),
            act("tests", "study", when='study.PatientID == "0"', discard="no patient"),
            rule("whole", "pacs", "study"),
        )
    )
    await scene.take(stored(ONE), completed(ONE))
    await scene.take(stored(TWO), completed(ONE, TWO, version=2, PatientID="0"))
    await scene.take(stored(THREE), completed(ONE, TWO, THREE, version=3))
    both = "a scout image (rule `scouts`); no patient (rule `tests`)"
    assert await why_nowhere(scene) == ["a scout image (rule `scouts`)", both, None]


@pytest.mark.parametrize("trigger", ["instance", "study"])
async def test_a_version_that_people_discarded_says_so_and_no_clock_delivers_it(scene: Scene, trigger: str) -> None:
    await scene.apply(
        definition(
            act("look", trigger, quarantine="odd"),
            rule("all", "pacs", trigger),
            rule("late", "telerad", "timer", after="30m"),
        )
    )
    await scene.take(stored(ONE), completed(ONE))
    (told,) = await scene.emitted(RoutingQuarantined)
    assert await why_nowhere(scene) == [None]
    word = resolved(told.quarantine_id, "discarded")
    await scene.take(word, word)
    assert await why_nowhere(scene) == [None, "people discarded what rule `look` put aside"]
    assert (await scene.decided())[-1].destinations == ()
    scene.clock.now += timedelta(hours=1)
    await scene.look()
    assert await scene.requested() == []
    # More of it is asked about anew, and nothing is said of that.
    await scene.take(stored(TWO), completed(ONE, TWO, version=2))
    assert await why_nowhere(scene) == [None, "people discarded what rule `look` put aside", None]


async def test_what_went_ahead_is_no_discarded_version(scene: Scene) -> None:
    await scene.apply(
        definition(rule("first", "telerad", when=FIRST), act("tests", "study", discard="no patient"), rule("all"))
    )
    await scene.take(stored(ONE, TWO), completed(ONE, TWO))
    assert await why_nowhere(scene) == [None]


async def test_people_are_told_again_only_of_more_than_they_were_told_of(scene: Scene) -> None:
    await scene.apply(definition(act("odd", when="instance.InstanceNumber < 3", quarantine="odd"), rule("all")))
    await scene.take(stored(ONE), stored(ONE), stored(THREE))
    assert [one.instance_count for one in await scene.emitted(RoutingQuarantined)] == [1]
    async with scene.database.transaction() as tx:
        study = await repository.lock_study(tx, 1)
        # As many, or fewer, of the version that was told or an earlier one: nobody hears of it again.
        assert await action_rows.open_aside(tx, study, "odd", 1, None, NOW) is None
        key = await action_rows.open_aside(tx, study, "odd", 1, 1, NOW)
        assert key is not None
        assert await action_rows.open_aside(tx, study, "odd", 1, 1, NOW) is None
        assert await action_rows.open_aside(tx, study, "odd", 0, 1, NOW) is None
        assert await action_rows.open_aside(tx, study, "odd", 2, 1, NOW) == key
        # A later version is another thing, of however many it is.
        assert await action_rows.open_aside(tx, study, "odd", 1, 2, NOW) == key
        assert await action_rows.open_aside(tx, study, "odd", 2, 2, NOW) is None


@pytest.mark.parametrize("late", [False, True])
async def test_what_is_put_aside_waits_for_a_person_and_then_goes_like_the_rest(scene: Scene, *, late: bool) -> None:
    await scene.apply(
        definition(
            act("look", when=FIRST, quarantine="looks like a phantom"), rule("all"), rule("w", "telerad", "study")
        )
    )
    await scene.take(stored(ONE, TWO), completed(ONE, TWO))
    one, two = ONE.sop_instance_uid, TWO.sop_instance_uid
    assert items(await scene.requested()) == {("pacs", two), ("telerad", two)}
    (told,) = await scene.emitted(RoutingQuarantined)
    assert (told.rule, told.reason, told.instance_count, told.size) == ("look", "looks like a phantom", 1, ONE.size)
    # The same once more tells nobody anything.
    await scene.take(stored(ONE, TWO), completed(ONE, TWO))
    assert len(await scene.emitted(RoutingQuarantined)) == 1
    if late:
        await scene.take(stored(THREE), completed(ONE, TWO, THREE, version=2))
    await scene.take(resolved(told.quarantine_id), resolved(told.quarantine_id), resolved("of ingest itself"))
    async with scene.database.reading() as tx:
        (known,) = await history.named(tx, STUDY)
    # So that it can be told why it goes somewhere now.
    assert transcript.from_json(known.record).versions[-1].lifted == {"look"}
    count = 3 if late else 2
    assert await closing(scene) == {"pacs": ("routine", count), "telerad": ("routine", count)}
    assert {("pacs", one), ("telerad", one)} <= items(await scene.requested())
    # Other content of it is not put aside again: a person has looked at this study.
    again = instance(1, InstanceNumber=1).model_copy(
        update={"content_hash": "f" * 64, "received_at": NOW + timedelta(1)}
    )
    await scene.take(stored(again))
    assert len(await scene.emitted(RoutingQuarantined)) == 1


async def test_a_study_that_is_put_aside_as_a_whole(scene: Scene) -> None:
    await scene.apply(
        definition(
            rule("first", "telerad", when=FIRST),
            act("vip", "study", when='study.PatientID == "7"', quarantine="ask the head of department"),
            rule("whole", "pacs", "study"),
        )
    )
    await scene.take(stored(ONE, TWO), completed(ONE, TWO, PatientID="7"))
    assert await closing(scene) == {"telerad": ("routine", 1)}
    (told,) = await scene.emitted(RoutingQuarantined)
    assert told.instance_count == 2
    assert not await unmatched(scene)
    await scene.take(resolved(told.quarantine_id))
    assert await closing(scene) == {"telerad": ("routine", 1), "pacs": ("routine", 2)}


async def test_what_a_person_discarded_stays_where_it_is_and_more_of_it_is_asked_about_anew(scene: Scene) -> None:
    await scene.apply(definition(act("look", quarantine="odd"), rule("all")))
    await scene.take(stored(ONE))
    (told,) = await scene.emitted(RoutingQuarantined)
    await scene.take(resolved(told.quarantine_id, "discarded"), stored(ONE), completed(ONE))
    assert await scene.requested() == []
    await scene.take(stored(TWO))
    assert [one.instance_count for one in await scene.emitted(RoutingQuarantined)] == [1, 2]


async def test_tags_are_set_once_told_once_and_read_by_later_rules(scene: Scene) -> None:
    await scene.apply(
        definition(
            act("low", when=FIRST, tag={"dose": "low", "seen": "yes"}),
            act("high", tag={"dose": "high"}),
            act("study", "study", tag={"dose": "measured"}),
        )
    )
    await scene.take(stored(TWO))
    assert await tags(scene) == {"dose": "high"}
    # Whichever came first, the rule that stands first wins.
    await scene.take(stored(ONE), stored(ONE))
    assert await tags(scene) == {"dose": "low", "seen": "yes"}
    # A later trigger knows more.
    await scene.take(completed(ONE, TWO))
    assert await tags(scene) == {"dose": "measured", "seen": "yes"}
    assert [one.tags for one in await scene.emitted(StudyTagged)] == [
        {"dose": "high"},
        {"dose": "low", "seen": "yes"},
        {"dose": "measured"},
    ]


async def test_tags_of_a_series_are_read_by_the_rules_of_its_study_and_none_reads_what_comes_after_it(
    scene: Scene,
) -> None:
    await scene.apply(
        definition(
            act("series", "series", when='series.SeriesInstanceUID == "1.2.3.4"', tag={"body": "head", "seen": "s"}),
            rule("heads", "pacs", "study", when='study.Tags.body == "head" && study.Tags.seen == "s"'),
            act("study", "study", tag={"seen": "study", "done": "yes"}),
            rule("again", "telerad", "study", when='"done" in study.Tags'),
            rule("more", "telerad", "amended", when='study.Tags.done == "yes" && study.Tags.seen == "study"'),
        )
    )
    await scene.take(stored(ONE), completed(ONE))
    assert {one.destination for one in await scene.requested()} == {"pacs"}
    assert await tags(scene) == {"body": "head", "seen": "study", "done": "yes"}
    # The version before has set `done`, and whether there was one must not matter.
    await scene.take(stored(TWO), completed(ONE, TWO, version=2))
    matched = {one.occasion: [match.rule for match in one.matches] for one in await scene.decided()}
    assert matched == {"instance": [], "series": ["series"], "study": ["heads", "study"], "amended": ["more"]}


async def test_a_study_that_nothing_matches_is_visible_until_a_rule_does(scene: Scene) -> None:
    await scene.apply(definition(rule("ct", when='instance.Modality == "CT"'), act("t", "study", tag={"a": "b"})))
    await scene.take(stored(ONE, Modality="MR"), completed(ONE, Modality="MR"))
    assert await unmatched(scene), "a tag sends it nowhere"
    assert [one.unmatched for one in await scene.decided()] == [False, True]
    await scene.take(stored(TWO, Modality="CT"), completed(ONE, TWO, version=2, Modality="CT"))
    assert not await unmatched(scene)


async def test_what_came_from_its_own_destination_is_not_unmatched(scene: Scene) -> None:
    await scene.apply(definition(rule("all")))
    await scene.take(stored(ONE, source=PACS), completed(ONE))
    assert await scene.requested() == []
    assert not await unmatched(scene)


async def test_a_series_is_decided_with_its_study_and_an_amendment_only_with_a_later_version(scene: Scene) -> None:
    other = instance(9, InstanceNumber=9).model_copy(update={"series_instance_uid": "1.2.3.5"})
    await scene.apply(
        definition(
            rule("series", "pacs", "series", when='series.SeriesInstanceUID == "1.2.3.5"'),
            rule("late", "telerad", "amended"),
            rule("whole", "pacs", "study", when="study.Modality == 'CT'"),
        )
    )
    await scene.take(stored(ONE, other))
    assert await scene.requested() == []
    await scene.take(completed(ONE, other))
    assert items(await scene.requested()) == {("pacs", other.sop_instance_uid)}
    await scene.take(stored(TWO), completed(ONE, TWO, other, version=2))
    assert await closing(scene) == {"pacs": ("routine", 1), "telerad": ("routine", 3)}
    occasions = [(one.trigger, one.occasion, one.study_version) for one in await scene.decided()]
    assert occasions == [
        ("instance", "instance", None),
        ("study", "series", 1),
        ("study", "study", 1),
        ("instance", "instance", None),
        ("study", "series", 2),
        ("study", "study", 2),
        ("study", "amended", 2),
    ]


async def test_a_timer_looks_once_after_its_time_and_asks_only_for_what_it_names(scene: Scene) -> None:
    await scene.apply(
        definition(
            rule("all"),
            rule("late", "telerad", "timer", after="30m", when='!("pacs" in study.Delivered)', priority="stat"),
        )
    )
    await scene.take(stored(ONE), completed(ONE))
    scene.clock.now += timedelta(minutes=29)
    assert await scene.look() == 0
    scene.clock.now += timedelta(minutes=1)
    before = len(await scene.requested())
    assert await scene.look() == 1
    (made,) = (await scene.requested())[before:]
    assert (made.destination, made.priority, made.study_version) == ("telerad", "stat", 1)
    assert (await scene.decided())[-1].destinations == ("pacs", "telerad")
    assert await scene.look() == 0


async def test_a_timer_whose_time_has_not_come_ends_nothing(scene: Scene) -> None:
    late = rule("late", "telerad", "timer", after="2h", stop=True)
    await scene.apply(definition(late, rule("soon", "pacs", "timer", after="30m")))
    await scene.take(stored(ONE), completed(ONE))
    scene.clock.now += timedelta(minutes=31)
    assert await scene.look() == 1
    assert {one.destination for one in await scene.requested()} == {"pacs"}


async def test_a_timer_sees_what_was_delivered(scene: Scene) -> None:
    await scene.apply(
        definition(rule("all"), rule("late", "telerad", "timer", after="30m", when='!("pacs" in study.Delivered)'))
    )
    await scene.take(stored(ONE), completed(ONE), arrived("pacs"))
    scene.clock.now += timedelta(minutes=30)
    assert await scene.look() == 1
    assert {one.destination for one in await scene.requested()} == {"pacs"}
    # A later version is not there yet.
    await scene.take(stored(TWO), completed(ONE, TWO, version=2))
    scene.clock.now += timedelta(minutes=30)
    assert await scene.look() == 1
    assert {one.destination for one in await scene.requested()} == {"pacs", "telerad"}


async def test_a_timer_looks_again_until_it_has_matched_or_a_week_is_over(scene: Scene) -> None:
    await scene.apply(
        definition(rule("all"), rule("again", "telerad", "timer", every="1h", when='"telerad" in study.Delivered'))
    )
    await scene.take(stored(ONE), completed(ONE))
    looked = 0
    for _ in range(24 * 7 + 5):
        scene.clock.now += timedelta(hours=1)
        looked += await scene.look()
    assert looked == 24 * 7
    await scene.take(stored(TWO), completed(ONE, TWO, version=2), arrived("telerad", 2))
    scene.clock.now += timedelta(hours=1)
    assert await scene.look() == 1
    scene.clock.now += timedelta(hours=1)
    assert await scene.look() == 0


async def test_the_first_healthy_member_gets_it_and_the_decision_says_what_was_known(scene: Scene) -> None:
    await scene.apply(definition(rule("read", "readers")))
    await scene.take(stored(ONE))
    await scene.take(health("telerad", healthy=False, minutes=5), health("telerad", healthy=True, minutes=3))
    await scene.take(stored(TWO))
    await scene.take(health("pacs", healthy=False), stored(THREE))
    assert [one.destination for one in await scene.requested()] == ["telerad", "pacs", "telerad"]
    assert [one.unhealthy for one in await scene.decided()] == [(), ("telerad",), ("pacs", "telerad")]


async def test_a_decision_keeps_what_it_saw_and_equal_inputs_have_an_equal_hash(scene: Scene) -> None:
    await scene.apply(definition(rule("ct", when='instance.Modality == "CT" && source.site == "malabo"')))
    await scene.take(stored(ONE, Modality="CT"), stored(TWO, Modality="CT"), stored(THREE, Modality="MR"))
    async with scene.database.reading() as tx:
        rows = (await tx.execute(select(decisions).order_by(decisions.c.id))).all()
    kept: list[dict[str, Any]] = [row.inputs for row in rows]
    assert kept[0]["seen"] == [{"instance": {"Modality": "CT"}}]
    assert (kept[0]["source"]["node"], kept[0]["at"]) == ("CT1", NOW.isoformat())
    hashes = [row.inputs_hash for row in rows]
    assert hashes[0] == hashes[1] != hashes[2]
    assert hashes == [one.inputs_hash for one in await scene.decided()]
    assert {row.occasion for row in rows} == {"instance"}
    assert (await scene.decided())[0].study_instance_uid == STUDY
