"""What is told of a study that comes while it is sent, and when its delivery is done; on both databases."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from services.egress.outcome import Verdict
from tests.integration.egress.desk import Desk, closing, desk, instances
from tests.integration.egress.stand import archive

pytestmark = pytest.mark.integration


@pytest.fixture(params=["sqlite", "postgresql"])
async def at(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Desk]:
    """A replica on an empty database."""
    url = f"sqlite://{tmp_path / 'db'}"
    if request.param == "postgresql":
        url = request.getfixturevalue("postgresql").database()
    async with desk(tmp_path, archive(104), url) as made:
        yield made


async def told(at: Desk) -> list[tuple[int, int, int]]:
    """List the attempts that were told of: number, how many arrived, how many did not."""
    found = await at.egress.events("delivery.attempted")
    return [(each["attempt"], each["sent_count"], each["failed_count"]) for each in found]


async def test_while_more_of_a_study_comes_nothing_is_told_until_the_association_ends(at: Desk) -> None:
    for number in (1, 2):
        await at.egress.request(instances(number), closes=False)
        await at.answer("archive", await at.take("archive"), ending=None)
    assert await told(at) == []
    await at.answer("archive", [])
    assert await told(at) == [(1, 2, 0)]
    assert await at.state("archive") == "open"
    await at.egress.request([], **closing(1, 2))
    assert await at.state("archive") == "done"


async def test_it_is_done_with_the_last_answer_though_the_association_goes_on(at: Desk) -> None:
    await at.egress.request(instances(1, 2), closes=False)
    parcels = await at.take("archive")
    # Nobody knew when they were taken in hand that these are all.
    await at.egress.request([], **closing(1, 2))
    await at.answer("archive", parcels[:1], ending=None)
    assert await at.state("archive") == "open"
    await at.answer("archive", parcels[1:], ending=None)
    assert await at.state("archive") == "done"
    assert await told(at) == []
    await at.answer("archive", [])
    assert await told(at) == [(1, 2, 0)]


async def test_a_whole_study_and_one_that_is_refused_are_told_at_once(at: Desk) -> None:
    await at.egress.request(instances(1), **closing(1))
    await at.answer("archive", await at.take("archive"), ending=None)
    assert (await at.state("archive"), await told(at)) == ("done", [(1, 1, 0)])
    await at.egress.request(instances(1, study="1.2.4"), study="1.2.4", closes=False)
    await at.answer("archive", await at.take("archive"), Verdict.REFUSED, ending=None)
    assert (await at.state("archive", "1.2.4"), await told(at)) == ("failed", [(1, 1, 0), (1, 0, 1)])
