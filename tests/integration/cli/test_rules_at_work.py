"""What rules do besides delivering, in a whole Kivuko, as people see it on the command line."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.integration.ingest.peer import send
from tests.support.kivuko import Process
from tests.support.process import wait_until
from tests.support.synthetic import make_ct, new_uid

pytestmark = pytest.mark.integration
RULES = """
  - name: phantoms
    trigger: instance
    when: instance.PatientID.startsWith("PHANTOM")
    quarantine: looks like a phantom
  - name: research waits
    trigger: instance
    when: instance.PatientID.startsWith("R-")
    deliver: archive
    hold: until-released
  - {name: known, trigger: instance, when: '!instance.PatientID.startsWith("X-")', deliver: archive, tag: {seen: early}}
"""
MORE = """
  - {name: the others, trigger: study, when: 'study.PatientID.startsWith("X-")', deliver: archive, priority: urgent}
"""


def definition(folder: Path, rules: str) -> str:
    return f"""
kivuko: 1
name: at work
assembly: {{quiet: 1s}}
sites: {{luba: {{name: Luba}}}}
nodes: {{CT1: {{site: luba, host: 127.0.0.1, may: [store]}}}}
destinations: {{archive: {{folder: {folder}}}}}
rules:{rules}"""


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where deliveries arrive."""
    folder = tmp_path_factory.mktemp("archive")
    folder.chmod(0o777)
    return folder


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory, archive: Path) -> Iterator[Process]:
    """A Kivuko with these rules."""
    process = Process(["up"], tmp_path_factory.mktemp("work") / "kivuko", {})
    process.start()
    applied = process.cli("apply", "-", stdin=definition(archive, RULES))
    assert applied.returncode == 0, applied.stdout + applied.stderr
    wait_until((process.home / "network-snapshot.json").exists, "ingest to hear the definition")
    yield process
    process.kill()


def send_study(home: Process, folder: Path, patient: str) -> str:
    study = new_uid()
    path = make_ct(folder, StudyInstanceUID=study, PatientID=patient)
    assert send(home.dicom_port, [path]) == [0x0000]
    return study


def arrived(archive: Path, study: str) -> bool:
    return any(study.encode() in path.read_bytes() for path in archive.rglob("*") if path.is_file())


def answer(home: Process, *command: str) -> Any:
    done = home.cli(*command, "--json")
    assert done.returncode == 0, done.stdout + done.stderr
    return json.loads(done.stdout)


def deliveries(home: Process, study: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = answer(home, "delivery", "list", "--study", study)["deliveries"]
    return found


def trace(home: Process, study: str) -> str:
    return home.cli("study", "trace", study).stdout


def test_what_a_rule_puts_aside_goes_once_a_person_releases_it(home: Process, archive: Path, tmp_path: Path) -> None:
    study = send_study(home, tmp_path, "PHANTOM 1")

    def entries() -> list[dict[str, Any]]:
        return [one for one in answer(home, "quarantine", "list")["entries"] if one["study_instance_uid"] == study]

    wait_until(lambda: bool(entries()), "the entry of the quarantine")
    (entry,) = entries()
    assert (entry["reason"], entry["times"], entry["state"]) == ("rule", 1, "open")
    assert "looks like a phantom" in entry["detail"]
    assert deliveries(home, study) == []
    refused = home.cli("quarantine", "correct", entry["id"], "--set", "PatientID=X", "--why", "test")
    assert refused.returncode == 1
    assert "in its study already" in refused.stderr + refused.stdout
    assert home.cli("quarantine", "discard", entry["id"], "--why", "no", "--delete-bytes").returncode == 1
    done = home.cli("quarantine", "release", entry["id"], "--why", "it is a patient")
    assert done.returncode == 0, done.stdout + done.stderr
    wait_until(lambda: arrived(archive, study), "the study to arrive")
    assert entries() == []
    wait_until(lambda: "put 1 instance aside" in trace(home, study), "the timeline to tell")


def test_what_a_rule_holds_says_so_and_goes_once_a_person_releases_it(
    home: Process, archive: Path, tmp_path: Path
) -> None:
    study = send_study(home, tmp_path, "R-1")
    wait_until(lambda: [one["state"] for one in deliveries(home, study)] == ["held"], "the delivery to be held")
    (delivery,) = deliveries(home, study)
    assert "held by the rule `research waits` until a person releases it" in delivery["reason"]
    assert home.cli("delivery", "release", delivery["id"]).returncode == 0
    wait_until(lambda: arrived(archive, study), "the study to arrive")
    assert home.get("/v1/rules/tags", study=study)["tags"][0] | {"set_at": None} == {
        "tenant": "default",
        "name": "seen",
        "value": "early",
        "rule": "known",
        "set_at": None,
    }
    assert "seen=early" in home.cli("study", "show", study).stdout


def test_a_study_that_no_rule_matches_is_listed_and_decided_by_a_new_rule(
    home: Process, archive: Path, tmp_path: Path
) -> None:
    study = send_study(home, tmp_path, "X-1")

    def unmatched() -> list[str]:
        return [one["study_instance_uid"] for one in answer(home, "rule", "unmatched")["studies"]]

    wait_until(lambda: unmatched() == [study], "the study to be listed")
    assert study in home.cli("rule", "unmatched").stdout
    assert home.cli("rule", "route").returncode == 2
    applied = home.cli("apply", "-", stdin=definition(archive, RULES + MORE))
    assert applied.returncode == 0, applied.stdout + applied.stderr

    def routed() -> bool:
        # The rules hear of the new definition a moment later.
        answer(home, "rule", "route", "--all")
        return unmatched() == []

    wait_until(routed, "the new rule to count")
    wait_until(lambda: arrived(archive, study), "the study to arrive")
    assert deliveries(home, study)[0]["priority"] == "urgent"
    assert "No rule says where the study goes" in trace(home, study)
