"""A whole Kivuko and an archive that commits itself: done means committed, and what goes missing there is seen."""

import json
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.integration.cli.conftest import command
from tests.integration.ingest.peer import send
from tests.support.kivuko import Process
from tests.support.orthanc import Orthanc
from tests.support.process import wait_until
from tests.support.synthetic import make_study, new_uid

pytestmark = pytest.mark.integration


def definition(port: int) -> str:
    archive = {"site": "clinic", "host": "127.0.0.1", "aet": "ORTHANC", "port": port, "commit": True}
    return json.dumps(
        {
            "kivuko": 1,
            "name": "One clinic",
            "sites": {"clinic": {"name": "Clinic"}},
            "nodes": {"CT1": {"site": "clinic", "host": "127.0.0.1", "may": ["store"]}, "ARCHIVE": archive},
            "destinations": {"archive": {"node": "ARCHIVE", "confirm": "commit"}},
            "rules": [{"name": "all", "trigger": "instance", "deliver": ["archive"]}],
        }
    )


@dataclass
class Clinic:
    """A Kivuko and its archive."""

    kivuko: Process
    archive: Orthanc

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return command(*arguments, KIVUKO_HOME=str(self.kivuko.home))

    def answer(self, *arguments: str, code: int = 0) -> Any:
        done = self.run(*arguments, "--json")
        assert done.returncode == code, done.stderr
        return json.loads(done.stdout)


@pytest.fixture
def clinic(tmp_path: Path) -> Iterator[Clinic]:
    kivuko = Process(["up"], tmp_path / "kivuko", {"KIVUKO_EGRESS_COMMIT_WAIT": "0.2"})
    archive = None
    try:
        kivuko.start()
        ours = {"AET": "KIVUKO", "Host": "127.0.0.1", "Port": kivuko.dicom_port, "AllowStorageCommitment": True}
        archive = Orthanc(
            tmp_path / "orthanc", settings={"DicomModalities": {"kivuko": ours}, "DicomAlwaysAllowFind": True}
        )
        archive.start()
        done = kivuko.cli("apply", "-", stdin=definition(archive.dicom_port))
        assert done.returncode == 0, done.stderr
        assert "not in force" not in done.stdout
        wait_until((kivuko.home / "network-snapshot.json").exists, "the definition to be in force")
        yield Clinic(kivuko, archive)
    finally:
        kivuko.kill()
        if archive is not None:
            archive.close()


def test_what_is_committed_is_done_and_what_goes_missing_is_seen_and_sent_again(clinic: Clinic, tmp_path: Path) -> None:
    study = new_uid()
    assert set(send(clinic.kivuko.dicom_port, make_study(tmp_path, 3, study_uid=study))) == {0x0000}

    def state() -> str:
        found = clinic.answer("delivery", "list", "--study", study)["deliveries"]
        return str(found[0]["state"]) if found else ""

    wait_until(lambda: state() == "done", "the archive to commit itself", 120)
    key = clinic.answer("delivery", "list", "--study", study)["deliveries"][0]["id"]
    shown = clinic.run("delivery", "show", key).stdout
    assert "3 committed to" in shown
    assert "storage commitment" in shown
    receipt = tmp_path / "receipt.json"
    assert clinic.run("delivery", "receipt", key, "-o", str(receipt)).returncode == 0
    items = json.loads(receipt.read_text())["receipt"]["items"]
    assert all("committed_at" in item for item in items)
    assert "committed itself to it" in clinic.run("delivery", "verify", str(receipt)).stdout

    whole = clinic.answer("destination", "compare", "archive")
    assert (whole["running"], whole["instances"], whole["missing"], whole["problem"]) == (False, 3, 0, None)
    httpx.delete(f"{clinic.archive.http_url}/instances/{clinic.archive.instances()[0]}").raise_for_status()
    lacking = clinic.answer("destination", "compare", "archive", "--since", "2020-01-01", code=1)
    assert (lacking["missing"], [each["delivery_id"] for each in lacking["lacking"]]) == (1, [key])
    told = clinic.run("destination", "compare", "archive")
    assert told.returncode == 1
    assert "kivuko delivery retry --missing --destination archive" in told.stdout
    assert "does not have 1 instance" in clinic.run("destination", "show", "archive").stdout
    assert "--missing" in clinic.run("delivery", "show", key).stdout
    refused = clinic.run("delivery", "receipt", key, "-o", str(tmp_path / "other.json"))
    assert refused.returncode == 1
    assert "not to be there any more" in refused.stderr
    assert len(clinic.archive.instances()) == 2, "nothing is sent because of it"

    again = clinic.answer("delivery", "retry", "--missing", "--destination", "archive", "--yes")
    assert (again["deliveries"], again["instances"]) == (1, 1)
    wait_until(lambda: len(clinic.archive.instances()) == 3 and state() == "done", "it to be there again", 120)
    assert clinic.answer("destination", "compare", "archive")["missing"] == 0
    assert clinic.run("delivery", "receipt", key, "-o", str(tmp_path / "new.json")).returncode == 0
