"""Other content under a known UID as a new version, by policy or released: who has the old one gets the new one."""

import json
from io import BytesIO
from pathlib import Path

import pydicom
import pytest

from tests.conftest import StoreScpFactory
from tests.e2e.conftest import definition
from tests.support.dcmtk import StoreScp, storescu
from tests.support.kivuko import System
from tests.support.orthanc import Orthanc
from tests.support.process import wait_until
from tests.support.synthetic import make_ct, new_uid

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(400)]


def described(archive: StoreScp) -> dict[str, str]:
    """Give the Series Description of each instance that the archive has."""
    found = (pydicom.dcmread(path, stop_before_pixels=True) for path in archive.files())
    return {str(each.SOPInstanceUID): str(each.SeriesDescription) for each in found}


def read(orthanc: Orthanc) -> dict[str, str]:
    """Give the same of the reader."""
    found = (pydicom.dcmread(BytesIO(orthanc.file(each)), stop_before_pixels=True) for each in orthanc.instances())
    return {str(each.SOPInstanceUID): str(each.SeriesDescription) for each in found}


def done(system: System, study: str, version: int) -> set[str]:
    """Name the destinations that have a version of the study in full."""
    entries = [entry for entry in system.timeline(study) if entry["event"] == "delivery.completed.v1"]
    return {entry["details"]["destination"] for entry in entries if entry["details"]["study_version"] == version}


def test_a_new_version_and_a_released_one_reach_whoever_has_the_study(
    system: System, storescp: StoreScpFactory, orthanc: Orthanc, tmp_path: Path
) -> None:
    archive = storescp(aet="ARCHIVE")
    network = json.loads(definition(archive, orthanc))
    network["nodes"]["STORESCU"]["same-uid"] = "new-version"
    system.apply(json.dumps(network))
    study, series = new_uid(), new_uid()
    uids = [new_uid(), new_uid()]
    made = []
    for number, uid in enumerate([*uids, uids[0], uids[1]]):
        folder, said = tmp_path / str(number), f"content {number}"
        folder.mkdir()
        made.append(make_ct(folder, study_uid=study, series_uid=series, sop_uid=uid, SeriesDescription=said))

    assert storescu(system.dicom_port, made[:2]).returncode == 0
    wait_until(lambda: done(system, study, 1) == {"archive", "reader"}, "both deliveries of version 1", 120)
    assert storescu(system.dicom_port, [made[2]]).returncode == 0
    wait_until(lambda: done(system, study, 2) == {"archive", "reader"}, "both deliveries of version 2", 120)
    assert described(archive) == read(orthanc) == {uids[0]: "content 2", uids[1]: "content 1"}

    network["nodes"]["STORESCU"]["same-uid"] = "quarantine"
    system.apply(json.dumps(network))
    assert storescu(system.dicom_port, [made[3]]).returncode == 0
    ingest = system.of("ingest")
    wait_until(lambda: bool(ingest.get("/v1/ingest/quarantine")["entries"]), "the entry of the quarantine")
    (entry,) = ingest.get("/v1/ingest/quarantine")["entries"]
    released = ingest.cli("quarantine", "release", entry["id"], "--replace", "--why", "the scanner was right")
    assert released.returncode == 0, released.stderr
    wait_until(lambda: done(system, study, 3) == {"archive", "reader"}, "both deliveries of version 3", 120)
    assert described(archive) == read(orthanc) == {uids[0]: "content 2", uids[1]: "content 3"}
    events = [found["event"] for found in system.timeline(study)]
    assert events.count("instances.conflicted.v1") == 3
    assert "instances.resolved.v1" in events
