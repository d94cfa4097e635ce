"""A destination that stays out of reach: what waits for it goes to its alternate, whole and once; on both databases."""

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from contracts.definition import Snapshot
from services.egress.patience import Patience
from tests.integration.egress.peer import receiver
from tests.integration.egress.stand import QUICK, Stand, network, stand
from tests.support.port import free_port
from tests.support.synthetic import make_ct, make_study

pytestmark = pytest.mark.integration
AFTER = 900.0
SETTINGS = QUICK.model_copy(update={"backoff_first": 200.0, "backoff_cap": 200.0})


class Simulated:
    """A clock that goes on when it is told to."""

    def __init__(self) -> None:
        self.now = datetime(2026, 11, 20, 10, tzinfo=UTC)

    def __call__(self) -> datetime:
        return self.now


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Address of an empty database."""
    if request.param == "sqlite":
        return f"sqlite://{tmp_path / 'db'}"
    address: str = request.getfixturevalue("postgresql").database()
    return address


def pair(port: int, other: int, version: int = 1, *, x: dict[str, Any] | None = None, **y: Any) -> Snapshot:
    """Make a definition with `x`, and `y` as its alternate."""
    destinations = {"x": {"node": "X", "failover": "y"} | (x or {}), "y": {"node": "Y"} | y}
    return network(version, destinations, {"X": {"port": port}, "Y": {"port": other}, "CT1": {}})


def patience(egress: Stand) -> Patience:
    """Make what sees to long waits, of this replica."""
    return Patience(egress.database, egress.deliveries, egress.network, SETTINGS, egress.deliveries._clock)


async def fail_for(egress: Stand, clock: Simulated, seconds: float, destination: str = "x") -> None:
    """Let the clock go on from probe to probe, which all fail, for so long or until the next one."""
    until = clock.now + timedelta(seconds=seconds)
    while clock.now < until:
        before = await egress.destination(destination)
        clock.now = max(clock.now, before.retry_at)
        egress.sender._wake.set()

        async def failed(count: int = before.failures) -> bool:
            return bool((await egress.destination(destination)).failures > count)

        await egress.until(failed)


async def down(egress: Stand, clock: Simulated, seconds: float = AFTER + 100, study: str = "1.2.3") -> None:
    """Wait until a study waits for `x`, and let that last."""
    await egress.until_state("waiting", study=study, destination="x")
    await fail_for(egress, clock, seconds)


async def test_what_waits_arrives_once_at_the_alternate_and_later_studies_where_they_belong(
    tmp_path: Path, url: str
) -> None:
    port, clock = free_port(), Simulated()
    with receiver() as other:
        async with stand(tmp_path, pair(port, other.port), SETTINGS, database_url=url, clock=clock) as egress:
            paths = make_study(tmp_path, 5)
            await egress.request(egress.keep(paths), destination="x", priority="stat")
            await down(egress, clock, AFTER / 2)
            assert await patience(egress).fail_over() == 0
            await fail_for(egress, clock, AFTER / 2)
            assert await patience(egress).fail_over() == 1
            assert await patience(egress).fail_over() == 0
            done = await egress.until_state("done", destination="y")
            gone = await egress.until_state("diverted", destination="x")
            assert (done.lane, done.source_node, done.expected_count) == (0, "CT1", 5)
            assert gone.diverted_to == "y"
            assert gone.reason.startswith("sent to y instead since 2026-11-20")
            assert str(port) in gone.reason
            assert sorted(other.received) == sorted(path.stem for path in paths)
            told = await egress.events("delivery.diverted")
            assert [(each["destination"], each["instead"], each.get("arrived_version")) for each in told] == [
                ("x", "y", None),
                ("x", "y", 1),
            ]
            assert [each["destination"] for each in await egress.events("delivery.completed")] == ["y"]

            with receiver(port=port) as peer:
                clock.now += timedelta(hours=2)
                late = make_ct(tmp_path)
                await egress.request(egress.keep([late]), study="1.2.4", destination="x")
                await egress.until_state("done", study="1.2.4", destination="x")
                assert peer.received == [late.stem]
            assert len(other.received) == 5
