"""What is tried for too long is parked, once, and people are told; on both databases."""

import asyncio
import json
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import update

from services.egress import metric
from services.egress.models import deliveries
from services.egress.orders import Given
from services.egress.outcome import Verdict
from tests.integration.egress.desk import Desk, closing, desk, instances
from tests.integration.egress.stand import archive

pytestmark = pytest.mark.integration
RETRY, HOLD, RELEASE = Given("retry", "op"), Given("hold", "op"), Given("release", "op")
GIVEN_UP = "tried for 2 days: nothing takes connections there; see its instances, then `kivuko delivery retry`"


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Address of an empty database."""
    if request.param == "sqlite":
        return f"sqlite://{tmp_path / 'db'}"
    address: str = request.getfixturevalue("postgresql").database()
    return address


@pytest.fixture
async def at(tmp_path: Path, url: str) -> AsyncIterator[Desk]:
    async with desk(tmp_path, archive(104, destination={"give-up": "2d"}), url) as made:
        yield made


def alarms() -> float:
    """Give the count of alarms."""
    return float(metric.ALARMS.labels("archive")._value.get())


def alarm_of(capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    """Give the one alarm in the log."""
    lines = [json.loads(line) for line in capsys.readouterr().err.splitlines() if line.startswith("{")]
    (alarm,) = [each for each in lines if each.get("kind") == "alarm"]
    return dict(alarm)


async def wait(at: Desk, **time: float) -> int:
    """Let time pass, and have it looked at; give how many were parked."""
    at.clock.now += timedelta(**time)
    return await at.patience.give_up()


async def key_of(at: Desk) -> str:
    row = await at.egress.delivery()
    assert row is not None
    return str(row.id)


async def test_it_is_parked_once_with_the_reason_and_people_are_alarmed(
    at: Desk, capsys: pytest.CaptureFixture[str]
) -> None:
    before = alarms()
    await at.egress.request(instances(1, 2), **closing(1, 2))
    await at.answer("archive", await at.take("archive", 1))
    await at.fail("archive")
    assert await wait(at, hours=47) == 0
    assert await wait(at, hours=2) == 1
    assert await wait(at, hours=2) == 0
    row = await at.egress.delivery()
    assert row is not None
    assert (row.state, row.reason) == ("failed", GIVEN_UP)
    assert await at.take("archive") == []
    (told,) = await at.egress.events("delivery.failed")
    assert (told["failed_count"], told["sent_count"], told["reason"]) == (1, 1, GIVEN_UP)
    assert [each["status"] for each in told["failures"]] == ["no-turn"]
    assert alarms() == before + 1
    alarm = alarm_of(capsys)
    assert alarm["level"] == "error"
    assert (alarm["delivery"], alarm["destination"], alarm["reason"]) == (row.id, "archive", GIVEN_UP)
    # More of the same version does not wake it, a later one does.
    await at.egress.request(instances(3), closes=False)
    assert await at.state("archive") == "failed"
    assert await at.take("archive") == []
    await at.egress.request(instances(1, 2, 3), **closing(1, 2, 3, version=2))
    assert await at.state("archive") == "open"
    assert await wait(at, hours=47) == 0


async def test_what_was_refused_for_good_alarms_as_well(at: Desk, capsys: pytest.CaptureFixture[str]) -> None:
    before = alarms()
    await at.egress.request(instances(1), **closing(1))
    await at.answer("archive", await at.take("archive"), Verdict.REFUSED)
    assert await at.state("archive") == "failed"
    assert alarms() == before + 1
    alarm = alarm_of(capsys)
    assert "refused for good" in alarm["reason"]
    assert "1.2.3" not in str(alarm).replace(alarm["delivery"], "")


async def test_what_is_under_way_comes_to_its_end_and_counts(at: Desk) -> None:
    await at.egress.request(instances(1, 2), **closing(1, 2))
    under_way = await at.take("archive")
    assert await wait(at, hours=49) == 1
    await at.answer("archive", under_way[:1], ending=None)
    assert await at.state("archive") == "failed"
    await at.answer("archive", under_way[1:])
    assert await at.state("archive") == "done"
    assert len(await at.egress.events("delivery.completed")) == 1
    assert len(await at.egress.events("delivery.failed")) == 1


async def test_a_person_tries_it_again_and_it_has_all_its_time(at: Desk) -> None:
    await at.egress.request(instances(1), **closing(1))
    await wait(at, hours=49)
    assert await at.egress.orders.give(RETRY, [await key_of(at)]) == (1, 1)
    assert await at.state("archive") == "open"
    assert await wait(at, hours=47) == 0
    assert await wait(at, hours=2) == 1
    assert len(await at.egress.events("delivery.failed")) == 2


@pytest.mark.parametrize("kind", ["held", "paused", "blocked"])
async def test_time_in_which_nothing_may_go_does_not_count(at: Desk, kind: str) -> None:
    await at.egress.request(instances(1), **closing(1))
    assert await wait(at, hours=47) == 0
    if kind == "held":
        await at.egress.orders.give(HOLD, [await key_of(at)])
    elif kind == "paused":
        await at.egress.orders.pause("archive", "op", None)
    else:
        await at.egress.apply(archive(104, 2, destination={"give-up": "2d", "transform": "keyed"}))
        await at.egress.deliveries.apply_network()
    assert await at.state("archive") == "held"
    assert await wait(at, days=30) == 0
    if kind == "held":
        await at.egress.orders.give(RELEASE, [await key_of(at)])
    elif kind == "paused":
        await at.egress.orders.resume("archive")
    else:
        await at.egress.apply(archive(104, 3, destination={"give-up": "2d"}))
        await at.egress.deliveries.apply_network()
    assert await at.state("archive") == "open"
    assert await wait(at, hours=47) == 0
    assert await wait(at, hours=2) == 1


async def test_what_waits_for_the_rest_of_its_study_is_not_tried(at: Desk) -> None:
    await at.egress.request(instances(1), closes=False)
    assert await at.send("archive") == 1
    assert await wait(at, days=30) == 0
    # What comes then has all its time.
    await at.egress.request(instances(2), closes=False)
    assert await wait(at, hours=47) == 0


async def test_a_clock_that_was_put_back_prolongs_nothing_without_end(at: Desk) -> None:
    at.clock.now += timedelta(days=3650)
    await at.egress.request(instances(1), **closing(1))
    at.clock.now -= timedelta(days=3650)
    await at.egress.work.follow_clock()
    assert await wait(at, hours=47) == 0
    assert await wait(at, hours=2) == 1


async def test_what_an_earlier_release_left_is_tried_from_now_on(at: Desk) -> None:
    await at.egress.request(instances(1), **closing(1))
    async with at.egress.database.transaction() as tx:
        await tx.execute(update(deliveries).values(wanted_since=None))
    assert await wait(at, days=30) == 0
    assert await wait(at, hours=49) == 1


async def test_many_replicas_park_many_deliveries_once(tmp_path: Path, postgresql: Any) -> None:
    url = postgresql.database()
    known = archive(104, destination={"give-up": "2d"})
    async with desk(tmp_path, known, url) as one, desk(tmp_path, known, url, name="b", clock=one.clock) as two:
        studies = [f"1.2.{number}" for number in range(120)]
        for study in studies:
            await one.egress.request(instances(1, study=study), study=study)
        one.clock.now += timedelta(days=3)
        counts = await asyncio.gather(one.patience.give_up(), two.patience.give_up())
        assert sum(counts) == len(studies)
        assert len(await one.egress.events("delivery.failed")) == len(studies)


async def test_it_stays_parked_after_a_restart(tmp_path: Path, url: str) -> None:
    known = archive(104, destination={"give-up": "2d"})
    async with desk(tmp_path, known, url) as one:
        await one.egress.request(instances(1), **closing(1))
        await one.take("archive")
        assert await wait(one, days=3) == 1
        clock = one.clock
    clock.now += timedelta(minutes=5)
    async with desk(tmp_path, known, url, name="b", clock=clock) as two:
        await two.egress.work.stay()
        await two.egress.deliveries.apply_network()
        assert await two.state("archive") == "failed"
        assert await two.take("archive") == []
        assert await wait(two, days=3) == 0
