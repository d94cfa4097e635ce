"""What rules hold back, on both databases: until a time, or until a person releases it."""

from collections.abc import AsyncIterator
from datetime import datetime, timedelta
from itertools import permutations
from pathlib import Path
from typing import Any

import pytest

from contracts.delivery import DeliveryHold
from services.egress.orders import Given
from tests.integration.egress.desk import Desk, closing, desk, instances
from tests.integration.egress.stand import archive

pytestmark = pytest.mark.integration
NIGHT, PERSON = "2026-11-20T19:00:00+00:00", None


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Address of an empty database."""
    if request.param == "sqlite":
        return f"sqlite://{tmp_path / 'db'}"
    address: str = request.getfixturevalue("postgresql").database()
    return address


@pytest.fixture
async def at(tmp_path: Path, url: str) -> AsyncIterator[Desk]:
    """A replica with the destination `archive`."""
    async with desk(tmp_path, archive(11200), url) as made:
        yield made


def hold(until: str | None, rule: str = "by night") -> dict[str, Any]:
    return {"hold": DeliveryHold(rule=rule, until=None if until is None else datetime.fromisoformat(until))}


async def key_of(at: Desk) -> str:
    row = await at.egress.delivery("1.2.3")
    assert row is not None
    return str(row.id)


async def reason_of(at: Desk) -> str:
    row = await at.egress.delivery("1.2.3")
    assert row is not None
    return str(row.reason)


async def test_it_goes_when_its_time_has_come_and_says_why_not_before(at: Desk) -> None:
    await at.egress.request(instances(1, 2), **closing(1, 2), **hold(NIGHT))
    assert await at.state("archive") == "held"
    assert await reason_of(at) == "held by the rule `by night` until 2026-11-20 19:00 UTC"
    assert await at.take("archive") == []
    # Neither a definition nor giving up concerns it: nobody has tried it yet.
    await at.egress.apply(archive(11200, 2))
    at.clock.now += timedelta(hours=8, minutes=59)
    assert (await at.patience.end_holds(), await at.patience.give_up()) == (0, 0)
    assert await at.state("archive") == "held"
    at.clock.now += timedelta(minutes=1)
    assert await at.patience.end_holds() == 1
    assert await at.send("archive") == 2
    assert await at.state("archive") == "done"
    assert await at.patience.end_holds() == 0


async def test_it_waits_for_a_person_and_what_is_released_is_not_held_again(at: Desk) -> None:
    await at.egress.request(instances(1), **closing(1), **hold(PERSON))
    assert "until a person releases it" in await reason_of(at)
    at.clock.now += timedelta(days=400)
    assert (await at.patience.end_holds(), await at.take("archive")) == (0, [])
    assert await at.egress.orders.give(Given("release", "op"), [await key_of(at)]) == (1, 0)
    assert await at.send("archive") == 1
    assert await at.state("archive") == "done"
    # The same once more, and a later version by the same rule: a person has let it go.
    await at.egress.request(instances(1), **closing(1), **hold(PERSON))
    await at.egress.request(instances(1, 2), **closing(1, 2, version=2), **hold(PERSON))
    assert await at.send("archive") == 1
    assert await at.state("archive") == "done"


async def test_a_release_by_a_person_who_held_it_takes_back_no_later_rule(at: Desk) -> None:
    await at.egress.request(instances(1), closes=False)
    key = await key_of(at)
    assert await at.egress.orders.give(Given("hold", "op"), [key]) == (1, 0)
    assert await at.egress.orders.give(Given("release", "op"), [key]) == (1, 0)
    await at.egress.request(instances(1), **closing(1), **hold(PERSON))
    assert await at.state("archive") == "held"


@pytest.mark.parametrize("order", list(permutations(range(3))))
async def test_of_several_requests_in_any_order_the_highest_lane_and_then_the_longest_hold_count(
    at: Desk, order: tuple[int, ...]
) -> None:
    said: list[dict[str, Any]] = [
        {"priority": "urgent", **hold("2026-11-20T12:00:00+00:00", "short")},
        {"priority": "routine", **hold(PERSON, "for a person")},
        {"priority": "urgent", **closing(1), **hold(NIGHT)},
    ]
    for position in order:
        await at.egress.request(instances(1), **{"closes": False} | said[position])
        await at.egress.request(instances(1), **{"closes": False} | said[position])
    assert await reason_of(at) == "held by the rule `by night` until 2026-11-20 19:00 UTC"
    await at.egress.request(instances(1), **closing(1), priority="stat")
    assert await at.send("archive") == 1
    assert await at.state("archive") == "done"


async def test_a_pause_comes_before_a_hold_and_does_not_end_it(at: Desk) -> None:
    await at.egress.request(instances(1), **closing(1), **hold(NIGHT))
    await at.egress.orders.pause("archive", "op", None)
    assert "paused" in await reason_of(at)
    await at.egress.orders.resume("archive")
    assert await reason_of(at) == "held by the rule `by night` until 2026-11-20 19:00 UTC"
    assert await at.take("archive") == []
    told = [(one["healthy"], one["problem"]) for one in await at.egress.events("destination.changed")]
    assert told == [(False, "paused by op"), (True, None)]


async def test_health_is_told_when_it_changes_and_only_then(at: Desk) -> None:
    await at.egress.request(instances(1, 2), **closing(1, 2))
    await at.fail("archive", 200)
    at.clock.now += timedelta(seconds=200)
    await at.send("archive")
    told = [
        (one["destination"], one["healthy"], one["problem"]) for one in await at.egress.events("destination.changed")
    ]
    assert told == [("archive", False, "nothing takes connections there"), ("archive", True, None)]
