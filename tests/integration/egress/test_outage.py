"""A destination that is down for two days, of a clock that is passed in, and comes back."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from sqlalchemy import select

from services.egress.backoff import Backoff
from services.egress.models import destinations
from tests.integration.egress.stand import QUICK, Stand, archive, stand
from tests.support.link import Link
from tests.support.misbehaving import Destination
from tests.support.synthetic import make_study

pytestmark = pytest.mark.integration
_BEGAN = datetime(2026, 11, 20, 10, tzinfo=UTC)
_OUTAGE = timedelta(hours=48)
#: Every two hours a study is handed in, the priorities in turn.
_PRIORITIES = ("routine", "bulk", "stat", "high")
_LANES = {"stat": 0, "high": 1, "routine": 2, "bulk": 3}
_STUDIES, _A_STUDY = 24, 3


class Simulated:
    """A clock that goes on when it is told to."""

    def __init__(self) -> None:
        self.now = _BEGAN

    def __call__(self) -> datetime:
        return self.now


def probes(backoff: Backoff, shortening: float) -> int:
    """Count the probes in the outage where chance shortens each wait to this part of it."""
    count, at = 0, 0.0
    while at < _OUTAGE.total_seconds():
        count += 1
        at += backoff.ceiling(count) * shortening
    return count


async def circuit(egress: Stand) -> tuple[int, datetime]:
    """Read failures in a row and when the next probe is due."""
    async with egress.database.reading() as tx:
        row = (await tx.execute(select(destinations))).one()
    return row.failures, row.retry_at


async def fails_again(egress: Stand, clock: Simulated) -> int:
    """Let the clock go on to the next probe, and have it fail; give the failures so far."""
    before, retry_at = await circuit(egress)
    clock.now = max(clock.now, retry_at)
    egress.sender._wake.set()

    async def failed() -> bool:
        return (await circuit(egress))[0] > before

    await egress.until(failed)
    return (await circuit(egress))[0]


# The first as in production.
@pytest.mark.parametrize(("associations", "cap"), [(1, 900), (3, 3600)])
async def test_after_two_days_everything_arrives_once_the_most_urgent_first(
    tmp_path: Path, associations: int, cap: int
) -> None:
    backoff, clock = Backoff(first=2, cap=cap), Simulated()
    settings = QUICK.model_copy(update={"backoff_first": backoff.first, "backoff_cap": backoff.cap, "hold": 16})
    lanes: dict[str, int] = {}
    with Destination() as destination, Link(destination.port, rate=1e9, rtt=0) as link:
        link.cut("reset")
        snapshot = archive(link.port, destination={"associations": associations})
        async with stand(tmp_path, snapshot, settings, clock=clock) as egress:
            failures = studies = 0
            while clock.now - _BEGAN < _OUTAGE:
                while studies < _STUDIES and clock.now - _BEGAN >= studies * timedelta(hours=2):
                    paths = make_study(tmp_path, _A_STUDY)
                    priority = _PRIORITIES[studies % len(_PRIORITIES)]
                    lanes |= {path.stem: _LANES[priority] for path in paths}
                    await egress.request(egress.keep(paths), study=f"1.2.{studies}", priority=priority)
                    studies += 1
                    if not failures:
                        await egress.until_state("waiting", study="1.2.0")
                failures = await fails_again(egress, clock)
            assert studies == _STUDIES
            assert probes(backoff, 1.0) <= failures <= probes(backoff, 0.5) + 1
            waiting = [await egress.delivery(f"1.2.{number}") for number in range(_STUDIES)]
            assert {row.state for row in waiting if row is not None} == {"waiting"}
            assert str(link.port) in str(waiting[-1] and waiting[-1].reason)
            assert destination.record.met == []

            link.mend()
            _, clock.now = await circuit(egress)
            egress.sender._wake.set()
            for number in range(_STUDIES):
                await egress.until_state("done", study=f"1.2.{number}")
            completed = await egress.events("delivery.completed")

    record = destination.record
    assert record.counts() == dict.fromkeys(lanes, 1)
    assert record.violations == []
    assert sorted(told["study_instance_uid"] for told in completed) == sorted(f"1.2.{n}" for n in range(_STUDIES))
    # No stampede: never more than it allows, and not one for each delivery.
    assert record.most <= associations
    assert len(record.met) < _STUDIES
    assert lanes[record.received[0].sop_uid] == 0
    for met in record.met:
        in_turn = [lanes[each.sop_uid] for each in record.received if each.association == met.number]
        assert in_turn == sorted(in_turn)
    if associations == 1:
        assert [lanes[each.sop_uid] for each in record.received] == sorted(lanes.values())
