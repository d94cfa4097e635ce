"""Deliveries that are changed on the way: with real workers, from the request to what the destination has."""

import asyncio
import hashlib
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from pydicom import dcmread
from sqlalchemy import select

from contracts.definition import Snapshot
from libs.dicom import part10
from services.egress.models import transformed
from services.egress.orders import Given
from services.egress.outcome import NO_SECRET, TRANSFORM
from services.egress.settings import EgressSettings
from services.egress.transforms.job import Done, Job
from services.egress.transforms.pseudonym import Key
from services.egress.transforms.workers import Workers
from tests.integration.egress.peer import receiver
from tests.integration.egress.stand import QUICK, TENANT, Stand, network, stand
from tests.support.synthetic import make_study

pytestmark = pytest.mark.integration

RESEARCH = {"deidentify": {"profile": "basic", "options": ["shift-dates"], "project": "tb"}}
WHO: dict[str, Any] = {
    "PatientName": "Nsue^Teodora",
    "PatientID": "HGM-4711",
    "StudyDate": "20261103",
    "AccessionNumber": "ACC-8155",
}


@pytest.fixture
def secrets(tmp_path: Path) -> Path:
    (tmp_path / "secrets" / "tb").mkdir(parents=True)
    (tmp_path / "secrets" / "tb" / "key").write_text("0123456789abcdef0123456789abcdef\n")
    return tmp_path / "secrets"


def to_folder(path: Path, transform: str | None, transforms: dict[str, Any], version: int = 1) -> Snapshot:
    path.mkdir(exist_ok=True)
    made = network(version, {"archive": {"folder": str(path)} | ({"transform": transform} if transform else {})}, {})
    return with_transforms(made, transforms)


def with_transforms(made: Snapshot, transforms: dict[str, Any]) -> Snapshot:
    said = made.definition.model_dump(mode="json", by_alias=True, exclude_defaults=True) | {"transforms": transforms}
    return Snapshot(version=made.version, document_hash="0" * 64, definition=type(made.definition).model_validate(said))


async def made_of(egress: Stand) -> dict[int, Any]:
    async with egress.database.reading() as tx:
        return {row.item: row for row in await tx.execute(select(transformed))}


async def test_what_a_destination_gets_is_deidentified(tmp_path: Path, secrets: Path) -> None:
    folder = tmp_path / "research"
    async with stand(tmp_path, to_folder(folder, "research", {"research": RESEARCH}), secrets=secrets) as egress:
        wanted = egress.keep(make_study(tmp_path, 3, **WHO))
        await egress.request(wanted)
        await egress.until_state("done")
        made = await made_of(egress)
        items = {item.id: item for item in await egress.items()}
        # What was made is gone as soon as it has arrived.
        assert not [path for path in (tmp_path / "transforms-a").rglob("*") if path.is_file()]
    files = sorted(folder.rglob("*.dcm"))
    assert len(files) == 3
    names = " ".join(str(path.relative_to(folder)) for path in files)
    assert not any(each.sop_instance_uid in names for each in wanted)
    assert len({path.parent for path in files}) == 1
    for path in files:
        assert not any(word.encode() in path.read_bytes() for word in ("Nsue", "HGM-4711", "20261103", "ACC-8155"))
        assert dcmread(path).PatientIdentityRemoved == "YES"
        # Keyed for the tenant whose study it is.
        key = Key((secrets / "tb" / "key").read_bytes().strip(), TENANT)
        assert str(dcmread(path).PatientID) == key.text("patient", "", WHO["PatientID"])
    # What was sent is on record, beside what is kept.
    assert made.keys() == items.keys()
    on_disk = {path.stem: path.read_bytes() for path in files}
    for row in made.values():
        content = on_disk[row.sop_instance_uid]
        _, offset = part10.decode(BytesIO(content))
        assert (hashlib.sha256(content[offset:]).hexdigest(), len(content)) == (row.content_hash, row.size)
        assert row.content_hash != items[row.item].content_hash


async def test_the_rules_transform_comes_first_and_the_destinations_always_after_it(tmp_path: Path) -> None:
    transforms = {"rule": {"prefix": {"PatientID": "R-"}}, "own": {"prefix": {"PatientID": "D-"}}}
    folder = tmp_path / "there"
    async with stand(tmp_path, to_folder(folder, "own", transforms)) as egress:
        [one, other] = egress.keep(make_study(tmp_path, 2, **WHO))
        await egress.request([one], transform="rule", closes=False)
        await egress.request([other], expected=2)
        await egress.until_state("done")
    found = {path.stem: str(dcmread(path).PatientID) for path in folder.rglob("*.dcm")}
    assert found == {one.sop_instance_uid: "D-R-HGM-4711", other.sop_instance_uid: "D-HGM-4711"}


async def test_an_association_carries_what_was_made(tmp_path: Path) -> None:
    transforms = {"ids": {"set": {"IssuerOfPatientID": "BATA"}}, "small": {"transfer-syntax": "rle"}}
    with receiver() as peer:
        made = network(1, {"archive": {"node": "PACS", "transform": "ids"}}, {"PACS": {"port": peer.port}})
        async with stand(tmp_path, with_transforms(made, transforms)) as egress:
            wanted = egress.keep(make_study(tmp_path, 4, **WHO))
            await egress.request(wanted)
            row = await egress.until_state("done")
            assert row.attempts == 1
    assert sorted(peer.received) == sorted(each.sop_instance_uid for each in wanted)


async def test_what_cannot_be_changed_is_parked_and_never_sent_as_it_is(tmp_path: Path) -> None:
    transforms = {"own": {"map": {"Modality": {"values": {"MR": "MR"}, "otherwise": "refuse"}}}}
    folder = tmp_path / "there"
    async with stand(tmp_path, to_folder(folder, "own", transforms)) as egress:
        await egress.request(egress.keep(make_study(tmp_path, 2, **WHO)))
        row = await egress.until_state("failed")
        items = await egress.items()
        assert {(item.status, item.state) for item in items} == {(TRANSFORM, "failed")}
        assert "map Modality" in items[0].reason
        assert "CT" not in items[0].reason
        assert "try again" in str(row.reason)
        assert list(folder.rglob("*.dcm")) == []
        await egress.apply(to_folder(folder, "own", {"own": {"prefix": {"PatientID": "D-"}}}, 2))
        await egress.orders.give(Given("retry", "test"), [row.id])
        await egress.until_state("done")
    assert len(list(folder.rglob("*.dcm"))) == 2


async def test_without_its_secret_a_destination_gets_nothing(
    tmp_path: Path, secrets: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "research"
    snapshot = to_folder(folder, "research", {"research": RESEARCH})
    (secrets / "tb" / "key").rename(tmp_path / "key")
    async with stand(tmp_path, snapshot, secrets=secrets) as egress:
        await egress.request(egress.keep(make_study(tmp_path, 2, **WHO)))
        row = await egress.until_state("held")
        assert "secret tb" in str(row.reason)
        assert list(folder.rglob("*.dcm")) == []
        await egress.awaited.look()
        assert (await egress.until_state("held")).reason == row.reason
        (tmp_path / "key").rename(secrets / "tb" / "key")
        # Nothing is applied, nobody orders anything.
        await egress.awaited.look()
        await egress.until_state("done")
    alarms = [line for line in capsys.readouterr().err.splitlines() if '"alarm"' in line]
    assert ["secret tb" in line for line in alarms] == [True]


async def test_a_secret_that_goes_away_stops_what_needs_it(tmp_path: Path, secrets: Path) -> None:
    folder = tmp_path / "research"
    async with stand(tmp_path, to_folder(folder, "research", {"research": RESEARCH}), secrets=secrets) as egress:
        await egress.awaited.look()
        (secrets / "tb" / "key").rename(tmp_path / "key")
        await egress.request(egress.keep(make_study(tmp_path, 1, **WHO)))
        await egress.awaited.look()
        await egress.until_state("held")
        (tmp_path / "key").rename(secrets / "tb" / "key")
        await egress.awaited.look()
        await egress.until_state("done")


async def test_what_a_rule_s_transform_lacks_a_secret_for_goes_on_by_itself_once_it_is_there(
    tmp_path: Path, secrets: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """However long the next attempt is away."""
    settings = EgressSettings(**{**QUICK.model_dump(), "backoff_first": 900, "backoff_cap": 900})
    folder = tmp_path / "there"
    (secrets / "tb" / "key").rename(tmp_path / "key")
    async with stand(tmp_path, to_folder(folder, None, {"research": RESEARCH}), settings, secrets=secrets) as egress:
        [plain, changed] = egress.keep(make_study(tmp_path, 2, **WHO))
        await egress.request([plain], closes=False)
        await egress.request([changed], transform="research", expected=2)
        await egress.until_state("waiting")
        [lacking] = [item for item in await egress.items() if item.state == "pending"]
        assert (lacking.status, "secret tb" in lacking.reason) == (NO_SECRET, True)
        for _ in range(2):
            await egress.awaited.look()
        assert [path.stem for path in folder.rglob("*.dcm")] == [plain.sop_instance_uid]
        (tmp_path / "key").rename(secrets / "tb" / "key")
        await egress.awaited.look()
        await egress.until_state("done")
    alarms = [line for line in capsys.readouterr().err.splitlines() if '"alarm"' in line]
    assert ["secret tb" in line for line in alarms] == [True]
    assert len(list(folder.rglob("*.dcm"))) == 2


async def test_a_rules_transform_that_nobody_knows_parks_what_it_was_for(tmp_path: Path) -> None:
    folder = tmp_path / "there"
    async with stand(tmp_path, to_folder(folder, None, {})) as egress:
        [plain, changed] = egress.keep(make_study(tmp_path, 2, **WHO))
        await egress.request([plain], closes=False)
        await egress.request([changed], transform="gone", expected=2)
        await egress.until_state("failed")
        reasons = {item.sop_instance_uid: item.reason for item in await egress.items()}
    assert "the transform gone is not in the network definition any more" in str(reasons[changed.sop_instance_uid])
    assert [path.stem for path in folder.rglob("*.dcm")] == [plain.sop_instance_uid]


async def test_a_worker_that_takes_too_long_is_replaced(tmp_path: Path) -> None:
    """A file that is done in time goes all the same; of the other one people are told after a few attempts."""
    settings = EgressSettings(**{**QUICK.model_dump(), "transform_seconds": 0.001})
    folder = tmp_path / "there"
    async with stand(tmp_path, to_folder(folder, "own", {"own": {"prefix": {"PatientID": "D-"}}}), settings) as egress:
        await egress.request(egress.keep(make_study(tmp_path, 1, **WHO)))
        await egress.until_state("failed")
        [item] = await egress.items()
        assert "took longer than 0.001 s" in item.reason
        assert item.refusals == settings.refusals
    assert list(folder.rglob("*.dcm")) == []
    assert list((tmp_path / "transforms-a").rglob("*")) == []


async def test_while_what_it_must_change_cannot_be_read_the_destination_rests(tmp_path: Path) -> None:
    folder = tmp_path / "there"
    async with stand(tmp_path, to_folder(folder, "own", {"own": {"prefix": {"PatientID": "D-"}}})) as egress:
        wanted = egress.keep(make_study(tmp_path, 2, **WHO))
        (tmp_path / "objects").rename(tmp_path / "unplugged")
        await egress.request(wanted)

        async def rests() -> bool:
            found = await egress.delivery()
            return found is not None and "is its disk mounted?" in (found.reason or "")

        await egress.until(rests)
        (tmp_path / "unplugged").rename(tmp_path / "objects")
        await egress.until_state("done")
    assert len(list(folder.rglob("*.dcm"))) == 2


async def test_one_at_which_a_transform_breaks_off_holds_up_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    good, bad = make_study(tmp_path, 2, **WHO)
    do = Workers.do

    async def breaking_off(self: Workers, job: Job) -> Done:
        if bad.stem.encode() in await asyncio.to_thread(Path(job.source).read_bytes):
            raise ZeroDivisionError
        return await do(self, job)

    monkeypatch.setattr(Workers, "do", breaking_off)
    folder = tmp_path / "there"
    async with stand(tmp_path, to_folder(folder, "own", {"own": {"prefix": {"PatientID": "D-"}}})) as egress:
        await egress.request(egress.keep([bad, good]))
        await egress.until_state("failed")
        found = {item.sop_instance_uid: item for item in await egress.items()}
        assert found[good.stem].state == "sent"
        assert "broke off inside Kivuko (ZeroDivisionError)" in found[bad.stem].reason
    assert len(list(folder.rglob("*.dcm"))) == 1


async def test_the_same_instance_becomes_the_same_file_each_time(tmp_path: Path, secrets: Path) -> None:
    paths = make_study(tmp_path, 2, **WHO)
    found = []
    for name in ("one", "two"):
        folder = tmp_path / name
        (tmp_path / f"home-{name}").mkdir()
        snapshot = to_folder(folder, "research", {"research": RESEARCH})
        async with stand(tmp_path / f"home-{name}", snapshot, secrets=secrets) as egress:
            await egress.request(egress.keep(paths))
            await egress.until_state("done")
        found.append({path.relative_to(folder): path.read_bytes() for path in folder.rglob("*.dcm")})
    assert found[0] == found[1]
    assert {path.parts[0] for path in found[0]} == {TENANT}
