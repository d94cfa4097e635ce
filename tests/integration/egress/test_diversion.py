"""What becomes of deliveries that go elsewhere, step by step, on both databases."""

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from contracts.definition import Snapshot
from services.egress.orders import Given
from services.egress.outcome import Verdict
from tests.integration.egress.desk import Desk, closing, desk, instances
from tests.integration.egress.stand import network

pytestmark = pytest.mark.integration
RETRY = Given("retry", "op")


def definition(version: int = 1, **changes: dict[str, Any]) -> Snapshot:
    """Make a definition in which `x` fails over to `y`, and `y` to `z`."""
    destinations: dict[str, dict[str, Any]] = {
        "x": {"node": "X", "failover": "y"},
        "y": {"node": "Y", "failover": "z"},
        "z": {"node": "Z"},
    }
    for key, change in changes.items():
        destinations[key] |= change
    nodes: dict[str, dict[str, Any]] = {key: {"port": 104} for key in ("X", "Y", "Z", "CT1")}
    return network(version, destinations, nodes)


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Address of an empty database."""
    if request.param == "sqlite":
        return f"sqlite://{tmp_path / 'db'}"
    address: str = request.getfixturevalue("postgresql").database()
    return address


@pytest.fixture
async def at(tmp_path: Path, url: str) -> AsyncIterator[Desk]:
    async with desk(tmp_path, definition(), url) as made:
        yield made


async def test_a_study_that_streams_is_handed_on_and_closed_where_it_went(at: Desk) -> None:
    await at.egress.request(instances(1), destination="x", closes=False)
    await at.fail("x", 1000)
    assert await at.patience.fail_over() == 1
    assert (await at.state("x"), await at.state("y")) == ("diverted", "open")
    await at.egress.request(instances(2), destination="x", closes=False, priority="stat")
    assert await at.send("y") == 2
    assert await at.state("y") == "open"
    await at.egress.request(instances(3), destination="x", closes=False)
    await at.egress.request([], destination="x", **closing(1, 2, 3))
    assert await at.state("y") == "open"
    assert await at.send("y") == 1
    assert (await at.state("x"), await at.state("y")) == ("diverted", "done")
    row = await at.egress.delivery(destination="y")
    assert row is not None
    assert (row.lane, row.study_version, row.expected_count) == (0, 1, 3)
    assert await at.take("x") == []


async def test_a_later_version_goes_with_it_while_it_is_away_and_to_it_when_it_is_back(at: Desk) -> None:
    await at.egress.request(instances(1), destination="x", **closing(1))
    await at.fail("x", 1000)
    await at.patience.fail_over()
    assert await at.send("y") == 1
    await at.egress.request(instances(1, 2), destination="x", **closing(1, 2, version=2))
    assert (await at.state("x"), await at.state("y")) == ("diverted", "open")
    assert await at.send("y") == 1
    assert await at.state("y") == "done"
    # Another study finds out that it is back.
    await at.egress.request(instances(9, study="1.2.9"), study="1.2.9", destination="x")
    at.clock.now += timedelta(seconds=200)
    assert await at.send("x") == 1
    await at.egress.request(instances(1, 2, 3), destination="x", **closing(1, 2, 3, version=3))
    assert (await at.state("x"), await at.state("y")) == ("open", "done")
    assert await at.send("x") == 3
    assert await at.state("x") == "done"
    told = await at.egress.events("delivery.diverted")
    assert [each.get("arrived_version") for each in told] == [None, 1, 2]


async def test_what_goes_there_anyway_is_one_delivery_with_all_of_both(at: Desk) -> None:
    await at.egress.request(instances(1, 2), destination="x", **closing(1, 2))
    await at.egress.request(instances(2), destination="y", closes=False)
    assert await at.send("y") == 1
    await at.fail("x", 1000)
    await at.patience.fail_over()
    assert await at.send("y") == 1
    # All of x is there, and what y was to get by itself is not closed.
    assert await at.state("y") == "open"
    assert [each.get("arrived_version") for each in await at.egress.events("delivery.diverted")] == [None]
    await at.egress.request(instances(2, 3), destination="y", **closing(2, 3))
    assert await at.state("y") == "open"
    assert await at.send("y") == 1
    row = await at.egress.delivery(destination="y")
    assert row is not None
    assert (row.state, row.expected_count) == ("done", 3)
    assert [each.get("arrived_version") for each in await at.egress.events("delivery.diverted")] == [None, 1]


async def test_what_is_done_opens_again_for_what_is_diverted_to_it(at: Desk) -> None:
    await at.egress.request(instances(1), destination="y", **closing(1))
    assert await at.send("y") == 1
    await at.egress.request(instances(1, 2), destination="x", **closing(1, 2))
    await at.fail("x", 1000)
    await at.patience.fail_over()
    assert await at.state("y") == "open"
    assert await at.send("y") == 1
    assert await at.state("y") == "done"
    assert [each.get("arrived_version") for each in await at.egress.events("delivery.diverted")] == [None, 1]
    # Of its own version that was said before.
    assert len(await at.egress.events("delivery.completed")) == 1


async def test_it_goes_on_to_the_next_and_past_one_that_is_away_as_well(at: Desk) -> None:
    await at.egress.request(instances(1), destination="x", **closing(1))
    await at.fail("x", 1000)
    await at.patience.fail_over()
    await at.fail("y", 1000)
    assert await at.patience.fail_over() == 1
    assert [await at.state(each) for each in "xyz"] == ["diverted", "diverted", "open"]
    await at.egress.request(instances(1, 2), destination="x", **closing(1, 2, version=2))
    # Another study is not sent on by way of y.
    await at.egress.request(instances(9, study="1.2.9"), study="1.2.9", destination="x")
    await at.fail("x")
    assert await at.patience.fail_over() == 1
    assert await at.state("y", "1.2.9") is None
    assert await at.send("z") == 3
    assert [await at.state(each) for each in "xyz"] == ["diverted", "diverted", "done"]
    told = [each for each in await at.egress.events("delivery.diverted") if each["study_instance_uid"] == "1.2.3"]
    assert [(each["destination"], each["instead"], each.get("arrived_version")) for each in told] == [
        ("x", "y", None),
        ("y", "z", None),
        ("y", "z", 2),
        ("x", "z", 2),
    ]


async def test_two_that_stand_in_for_each_other_do_not_send_in_a_circle(tmp_path: Path, url: str) -> None:
    async with desk(tmp_path, definition(y={"failover": "x"}), url) as at:
        await at.egress.request(instances(1), destination="x", **closing(1))
        await at.fail("x", 1000)
        await at.patience.fail_over()
        await at.fail("y", 1000)
        # Both are away: it stays where it is.
        assert await at.patience.fail_over() == 0
        await at.egress.request(instances(9, study="1.2.9"), study="1.2.9", destination="x")
        at.clock.now += timedelta(seconds=200)
        await at.send("x")
        await at.fail("y")
        assert await at.patience.fail_over() == 1
        assert (await at.state("x"), await at.state("y")) == ("open", "cancelled")
        assert await at.send("x") == 1
        assert await at.state("x") == "done"


async def test_what_was_under_way_still_counts_and_it_stays_diverted(at: Desk) -> None:
    await at.egress.request(instances(1, 2), destination="x", **closing(1, 2))
    under_way = await at.take("x", 1)
    await at.fail("x", 1000)
    await at.patience.fail_over()
    await at.answer("x", under_way)
    row = await at.egress.delivery(destination="x")
    assert row is not None
    mine = [each for each in await at.egress.items() if each.delivery_id == row.id]
    assert sorted(each.state for each in mine) == ["pending", "sent"]
    assert all(each.leased_by is None for each in mine)
    assert row.state == "diverted"
    assert await at.send("y") == 2


@pytest.mark.parametrize("why", ["paused", "window", "transform", "source", "alternate paused", "alternate blocked"])
async def test_nothing_is_diverted_that_must_not_be(tmp_path: Path, url: str, why: str) -> None:
    changes: dict[str, dict[str, Any]] = {"y": {"failover": None}}
    if why == "window":
        changes["x"] = {"window": "12:00-13:00"}
    if why == "source":
        changes["y"] = {"node": "CT1", "failover": None}
    async with desk(tmp_path, definition(x=changes.get("x", {}), y=changes["y"]), url) as at:
        await at.egress.request(instances(1), destination="x", **closing(1))
        await at.fail("x", 1000)
        if why == "paused":
            await at.egress.orders.pause("x", "op", None)
        if why == "alternate paused":
            await at.egress.orders.pause("y", "op", None)
        if why == "transform":
            await at.egress.apply(definition(2, x={"transform": "lossless"}, y={"failover": None}))
            await at.egress.deliveries.apply_network()
        if why == "alternate blocked":
            await at.egress.apply(definition(2, y={"transform": "keyed", "failover": None}))
            await at.egress.deliveries.apply_network()
        assert await at.patience.fail_over() == 0
        assert await at.state("y") is None


async def test_a_pause_and_a_time_in_which_nobody_tried_are_not_time_out_of_reach(at: Desk) -> None:
    await at.egress.request(instances(1), destination="x", **closing(1))
    await at.fail("x", 800)
    await at.egress.orders.pause("x", "op", None)
    at.clock.now += timedelta(days=1)
    await at.egress.orders.resume("x")
    await at.fail("x", 800)
    assert await at.patience.fail_over() == 0
    # This service does not run for a day, and the machine over there is still starting when it is back.
    at.clock.now += timedelta(days=1)
    await at.fail("x", 800)
    assert await at.patience.fail_over() == 0
    await at.fail("x", 200)
    assert await at.patience.fail_over() == 1


async def test_while_it_is_known_to_be_away_a_new_study_waits_for_one_probe_only(at: Desk) -> None:
    await at.egress.request(instances(1), destination="x", **closing(1))
    await at.fail("x", 1000)
    await at.patience.fail_over()
    at.clock.now += timedelta(hours=5)
    await at.egress.request(instances(9, study="1.2.9"), study="1.2.9", destination="x")
    assert await at.patience.fail_over() == 0
    await at.fail("x")
    assert await at.patience.fail_over() == 1


async def test_a_person_has_it_sent_to_its_own_destination_after_all(at: Desk) -> None:
    await at.egress.request(instances(1, 2), destination="x", **closing(1, 2))
    await at.fail("x", 1000)
    await at.patience.fail_over()
    row = await at.egress.delivery(destination="x")
    assert row is not None
    assert await at.egress.orders.give(Given("hold", "op"), [row.id]) == (0, 0)
    assert await at.egress.orders.give(Given("cancel", "op"), [row.id]) == (0, 0)
    assert await at.egress.orders.give(RETRY, [row.id]) == (1, 2)
    assert (await at.state("x"), await at.state("y")) == ("open", "cancelled")
    # Nor does it go away again.
    await at.fail("x", 1000)
    assert await at.patience.fail_over() == 0
    at.clock.now += timedelta(seconds=200)
    parcels = [*await at.take("x"), *await at.take("x")]
    await at.answer("x", parcels)
    assert await at.send("x") == 1
    assert (await at.state("x"), await at.state("y")) == ("done", "cancelled")


@pytest.mark.parametrize("state", ["waiting", "held", "failed", "cancelled"])
async def test_a_person_has_it_sent_elsewhere(at: Desk, state: str) -> None:
    await at.egress.request(instances(1, 2), destination="x", **closing(1, 2))
    row = await at.egress.delivery(destination="x")
    assert row is not None
    if state == "waiting":
        await at.fail("x")
    elif state == "failed":
        await at.answer("x", await at.take("x", 1), Verdict.SENT)
        await at.answer("x", await at.take("x"), Verdict.REFUSED)
    else:
        await at.egress.orders.give(Given("hold" if state == "held" else "cancel", "op"), [row.id])
    assert await at.state("x") == state
    redirect = Given("redirect", "op", "the other one is nearer", to="z")
    assert await at.egress.orders.give(redirect, [row.id]) == (1, 0)
    assert await at.egress.orders.give(redirect, [row.id]) == (0, 0)
    assert (await at.state("x"), await at.state("z")) == ("diverted", "open")
    assert await at.send("z") == 2
    assert await at.state("z") == "done"
    # It stays there, with what comes later, though x is in reach: a person wanted it.
    await at.egress.request(instances(1, 2, 3), destination="x", **closing(1, 2, 3, version=2))
    assert (await at.state("x"), await at.state("z")) == ("diverted", "open")
    told = await at.egress.events("delivery.diverted")
    assert (told[0]["actor"], told[0]["reason"]) == ("op", "the other one is nearer")


async def test_a_person_is_not_let_around_a_transform_either(tmp_path: Path, url: str) -> None:
    async with desk(tmp_path, definition(x={"transform": "keyed"}), url) as at:
        await at.egress.request(instances(1), destination="x", **closing(1))
        row = await at.egress.delivery(destination="x")
        assert row is not None
        assert await at.egress.orders.give(Given("redirect", "op", to="z"), [row.id]) == (0, 0)
        assert (await at.state("x"), await at.state("z")) == ("held", None)


async def test_what_is_carried_for_another_does_not_get_around_its_transform_later(tmp_path: Path, url: str) -> None:
    """The alternate had the same transform when it took over, and has it no more."""
    both: dict[str, Any] = {"transform": "lossless"}
    async with desk(tmp_path, definition(x=both, y=both | {"failover": None}), url) as at:
        await at.egress.request(instances(1), destination="x", **closing(1))
        await at.fail("x", 1000)
        assert await at.patience.fail_over() == 1
        assert await at.state("y") == "open"
        await at.egress.apply(definition(2, x=both, y={"failover": None}))
        await at.egress.deliveries.apply_network()
        assert await at.take("y") == []
        row = await at.egress.delivery(destination="y")
        assert row is not None
        assert row.state == "held"
        assert "has not the transform lossless of x" in row.reason
        await at.egress.apply(definition(3, x=both, y=both | {"failover": None}))
        await at.egress.deliveries.apply_network()
        assert len(await at.take("y")) == 1


async def test_a_lane_that_a_person_chose_stays(at: Desk) -> None:
    await at.egress.request(instances(1), destination="x", closes=False, priority="high")
    row = await at.egress.delivery(destination="x")
    assert row is not None
    assert await at.egress.orders.give(Given("change", "op", "late", priority="bulk"), [row.id]) == (1, 0)
    await at.egress.request(instances(2), destination="x", priority="stat", **closing(1, 2))
    row = await at.egress.delivery(destination="x")
    assert row is not None
    assert row.lane == 3
    told = await at.egress.events("delivery.changed")
    assert [(each["priority"], each["actor"], each["reason"]) for each in told] == [("bulk", "op", "late")]


async def test_replicas_divert_it_once(tmp_path: Path, postgresql: Any) -> None:
    url = postgresql.database()
    async with desk(tmp_path, definition(), url) as one, desk(tmp_path, definition(), url, name="b") as two:
        two.clock.now = one.clock.now
        studies = [f"1.2.{number}" for number in range(12)]
        for study in studies:
            await one.egress.request(instances(1, study=study), study=study, destination="x")
        await one.fail("x", 1000)
        two.clock.now = one.clock.now
        counts = await asyncio.gather(one.patience.fail_over(), two.patience.fail_over())
        assert sum(counts) == len(studies)
        assert len(await one.egress.events("delivery.diverted")) == len(studies)
        assert await one.send("y") == len(studies)
