"""What is asked of network while its database is away, or holds what this release can't read."""

from pathlib import Path

import pytest
from sqlalchemy import update

from libs.clock import utc_now
from libs.messaging.broker import make_broker
from libs.service import Platform
from libs.settings import Settings
from libs.snapshot import NetworkView, SnapshotUnavailableError
from libs.storage.database import Database
from libs.storage.objects import open_store
from libs.web.access import AccessUnavailableError
from services.network import repository
from services.network.app import build
from services.network.models import versions
from tests.integration.network.conftest import SERVICE_TOKEN, Network
from tests.support.port import free_port

pytestmark = pytest.mark.integration

CLINIC = (Path(__file__).parents[3] / "docs" / "examples" / "clinic.yaml").read_text()


@pytest.fixture(params=["no tables", "no server"])
def away(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return {
        "no tables": f"sqlite:///{tmp_path}",
        "no server": f"postgresql://kivuko:secret@127.0.0.1:{free_port()}/kivuko",
    }[request.param]


async def test_whoever_asks_learns_that_it_is_away_and_keeps_what_it_has(away: str, tmp_path: Path) -> None:
    database = Database(away, "network")
    with pytest.raises(SnapshotUnavailableError, match="does not answer") as caught:
        await repository.current_snapshot(database)
    assert "secret" not in str(caught.value)
    with pytest.raises(AccessUnavailableError, match="does not answer"):
        await repository.access_list(database)
    view = NetworkView(lambda: repository.current_snapshot(database), tmp_path / "kept.json")
    assert not await view.refresh()
    await database.close()


async def test_the_service_is_not_ready_while_its_database_is_away(away: str, tmp_path: Path) -> None:
    database = Database(away, "network")
    platform = Platform(
        settings=Settings(home=tmp_path),
        broker=make_broker(f"sqlite:///{tmp_path}/bus.db", instance="test"),
        objects=open_store(f"file://{tmp_path}/objects"),
        network=NetworkView(lambda: repository.current_snapshot(database), tmp_path / "kept.json"),
        clock=utc_now,
        database=lambda _: database,
    )
    service = build(platform)
    assert (service.name, service.database) == ("network", database)
    with pytest.raises(SnapshotUnavailableError):
        await service.checks["database"]()
    await database.close()


async def test_a_definition_of_another_release_is_refused_until_one_is_applied_that_fits(network: Network) -> None:
    await network.apply(CLINIC)
    async with network.database.transaction() as tx:
        await tx.execute(update(versions).values(definition={"kivuko": 7}))
    async with network.as_holder_of(SERVICE_TOKEN) as service:
        answer = await service.get("/v1/network/snapshot")
    assert answer.status_code == 503
    assert "kivuko apply" in answer.json()["detail"]
    # The very same text, and yet it is applied: what is in force can't be read.
    body = (await network.apply(CLINIC)).json()
    assert (body["applied"], body["version"]) == (True, 2)
    assert (await network.local.get("/v1/network/snapshot")).status_code == 200
