"""Deliveries to a folder, from the request to the event."""

from pathlib import Path

import pytest

from contracts.definition import Snapshot
from services.egress.filing import WRITTEN
from tests.integration.egress.stand import TENANT, network, stand
from tests.support.synthetic import make_study

pytestmark = pytest.mark.integration


def research(path: Path) -> Snapshot:
    return network(1, {"research": {"folder": str(path)}}, {})


async def test_a_study_is_delivered_to_a_folder(tmp_path: Path) -> None:
    folder = tmp_path / "research"
    folder.mkdir()
    paths = make_study(tmp_path, 5)
    async with stand(tmp_path, research(folder)) as egress:
        wanted = egress.keep(paths)
        await egress.request(wanted, destination="research")
        await egress.until_state("done", destination="research")
        assert {each.status for each in await egress.items()} == {WRITTEN}
        [said] = await egress.events("delivery.completed")
    assert said["instance_count"] == 5
    assert {path.name: path.read_bytes() for path in (folder / TENANT / "1.2.3").iterdir()} == {
        f"{item.sop_instance_uid}.dcm": path.read_bytes() for item, path in zip(wanted, paths, strict=True)
    }


async def test_a_folder_that_is_away_is_waited_for(tmp_path: Path) -> None:
    folder = tmp_path / "research"
    async with stand(tmp_path, research(folder)) as egress:
        await egress.request(egress.keep(make_study(tmp_path, 3)), destination="research")
        row = await egress.until_state("waiting", destination="research")
        assert "mount its disk" in row.reason
        folder.mkdir()
        await egress.until_state("done", destination="research")
    assert len(list(folder.rglob("*.dcm"))) == 3
