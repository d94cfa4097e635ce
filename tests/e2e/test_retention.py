"""A copy goes once the archive has it, and never before; the audit tells of it."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import StoreScpFactory
from tests.e2e.conftest import PROFILES, definition, make_system
from tests.support.dcmtk import storescu
from tests.support.kivuko import System
from tests.support.port import free_port
from tests.support.process import wait_until
from tests.support.synthetic import make_ct, make_study, new_uid

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(300)]


@pytest.fixture(params=PROFILES)
def often(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[System]:
    """A Kivuko that looks for copies all the time."""
    made = make_system(request, request.param, tmp_path, {"KIVUKO_INGEST_RETENTION_SECONDS": "0.2"})
    try:
        made.start()
        yield made
    finally:
        made.kill()


def kept(system: System) -> dict[str, int]:
    """Give the instances that are kept of each study."""
    return {study["study_instance_uid"]: study["instance_count"] for study in system.studies()}


def told(system: System, uid: str) -> list[str]:
    """Give the events that the audit knows of a study."""
    return [entry["event"] for entry in system.timeline(uid)]


def test_a_copy_goes_when_the_archive_has_it_and_stays_while_it_has_not(
    often: System, storescp: StoreScpFactory, tmp_path: Path
) -> None:
    archive = storescp(aet="ARCHIVE")
    network = json.loads(definition(archive))
    network["nodes"]["LOST"] = {"site": "luba", "host": "127.0.0.1", "port": free_port()}
    network["destinations"]["lost"] = {"node": "LOST"}
    network["rules"] = [
        {"name": "MR", "trigger": "instance", "when": 'instance.Modality == "MR"', "deliver": "lost"},
        {"name": "all", "trigger": "study", "deliver": "archive"},
    ]
    network["retention"] = [{"keep": "1s"}]
    often.apply(json.dumps(network))
    owed, delivered = new_uid(), new_uid()
    sets = {
        owed: make_study(tmp_path, 2, study_uid=owed, Modality="MR"),
        delivered: make_study(tmp_path, 3, study_uid=delivered),
    }
    for uid, paths in sets.items():
        sent = storescu(often.dicom_port, paths)
        assert sent.returncode == 0, sent.stdout + sent.stderr
        wait_until(lambda uid=uid: "delivery.completed.v1" in told(often, uid), f"{uid} at the archive", 90)  # type: ignore[misc]

    wait_until(lambda: "study.expired.v1" in told(often, delivered), "the copy to go", 60)
    assert kept(often) == {owed: 2, delivered: 0}
    (entry,) = [entry for entry in often.timeline(delivered) if entry["event"] == "study.expired.v1"]
    assert entry["details"]["destinations"] == ["archive"]
    assert "archive has it" in entry["sentence"]
    assert len(archive.files()) == 5
    assert "study.expired.v1" not in told(often, owed)

    late = make_ct(tmp_path, study_uid=delivered)
    assert storescu(often.dicom_port, [late]).returncode == 0
    wait_until(lambda: len(archive.files()) == 6, "what came after the copy went at the archive", 60)
    wait_until(lambda: told(often, delivered).count("delivery.completed.v1") == 2, "its version delivered", 60)
    wait_until(lambda: told(often, delivered).count("study.expired.v1") == 2, "it to go too", 60)
    assert kept(often) == {owed: 2, delivered: 0}
