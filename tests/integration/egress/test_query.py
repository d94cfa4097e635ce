"""Where a destination is asked what it has, done means that it shows all of it."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from tests.integration.egress.keeper import Keeper, keeper
from tests.integration.egress.peer import receiver
from tests.integration.egress.stand import Stand, archive, stand
from tests.support.orthanc import Orthanc
from tests.support.synthetic import make_ct, make_study

pytestmark = pytest.mark.integration
QUERY = {"confirm": "query"}


async def until_reason(egress: Stand, words: str) -> None:
    async def told() -> bool:
        row = await egress.delivery()
        return row is not None and words in (row.reason or "")

    await egress.until(told)


@pytest.mark.parametrize("image_level", [True, False])
async def test_what_it_shows_is_confirmed(image_level: bool, tmp_path: Path) -> None:
    with keeper(commits=False) as peer:
        peer.image_level = image_level
        async with stand(tmp_path, archive(peer.port, destination=QUERY)) as egress:
            study = "1.2.3"
            paths = [make_ct(tmp_path, study_uid=study) for _ in range(3)]
            await egress.request(egress.keep(paths), study=study)
            await egress.until_state("done")
            assert all(each.found_at is not None for each in await egress.items())
            assert all(each.committed_at is None for each in await egress.items())


async def test_orthanc_shows_what_it_has(tmp_path: Path) -> None:
    server = Orthanc(tmp_path / "orthanc", settings={"DicomAlwaysAllowFind": True})
    server.start()
    try:
        async with stand(tmp_path, archive(server.dicom_port, destination=QUERY, aet="ORTHANC")) as egress:
            await egress.request(egress.keep(make_study(tmp_path, 4, study_uid="1.2.3")))
            await egress.until_state("done")
            assert all(each.found_at is not None for each in await egress.items())
    finally:
        server.close()


@pytest.mark.parametrize("image_level", [True, False])
async def test_what_it_does_not_show_is_looked_for_again_then_for_people(image_level: bool, tmp_path: Path) -> None:
    now = [datetime(2026, 11, 20, 10, tzinfo=UTC)]
    with keeper(commits=False) as peer:
        peer.image_level = image_level
        async with stand(tmp_path, archive(peer.port, destination=QUERY), clock=lambda: now[0]) as egress:
            kept = egress.keep(make_study(tmp_path, 3, study_uid="1.2.3"))
            lost = kept[0].sop_instance_uid
            forget(peer, lost)
            await egress.request(kept)
            await until_reason(egress, "was not found to have")
            now[0] += timedelta(hours=2)
            await egress.deliveries.apply_network()
            await egress.until_state("failed")
            failed = {each.sop_instance_uid for each in await egress.items() if each.state == "failed"}
            assert lost in failed
            # By their number alone nobody knows which is missing.
            assert len(failed) == (1 if image_level else 3)
            assert {each.status for each in await egress.items() if each.state == "failed"} == {"not-found"}
            assert len(peer.stored) == 3, "nothing is sent again because it does not show"


async def test_more_than_was_sent_proves_nothing(tmp_path: Path) -> None:
    with keeper(commits=False) as peer:
        peer.image_level = False
        peer.has["1.2.3.9"] = ("1.2.3.8", "1.2.3")
        async with stand(tmp_path, archive(peer.port, destination=QUERY)) as egress:
            await egress.request(egress.keep(make_study(tmp_path, 1, study_uid="1.2.3")))
            await until_reason(egress, "proves nothing")
            row = await egress.delivery()
            assert row is not None
            assert row.state == "waiting"
            assert {each.state for each in await egress.items()} == {"sent"}


async def test_a_destination_without_queries_is_shown(tmp_path: Path) -> None:
    with receiver() as peer:
        async with stand(tmp_path, archive(peer.port, destination=QUERY)) as egress:
            await egress.request(egress.keep(make_study(tmp_path, 1, study_uid="1.2.3")))
            await until_reason(egress, "does not offer queries")
            row = await egress.delivery()
            assert row is not None
            assert row.state == "waiting"


def forget(peer: Keeper, uid: str) -> None:
    """Let an archive say success for an instance and not have it."""

    class Leaky(dict[str, tuple[str, str]]):
        def __setitem__(self, key: str, value: tuple[str, str]) -> None:
            if key != uid:
                super().__setitem__(key, value)

    peer.has = Leaky()
