"""A night with the quarantine: from the list to the release, on the command line."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.integration.cli.conftest import Cli, command
from tests.integration.ingest.peer import read, send
from tests.integration.ingest.test_bad_input import send_as
from tests.support.kivuko import Process
from tests.support.process import wait_until
from tests.support.synthetic import make_ct, new_uid

pytestmark = pytest.mark.integration
DEFINITION = """
kivuko: 1
name: night
sites: {luba: {name: Luba}}
nodes: {CT1: {site: luba, host: 127.0.0.1, may: [store]}}
"""


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Process]:
    """A Kivuko with one node."""
    process = Process(["up"], tmp_path_factory.mktemp("night") / "kivuko", {})
    process.start()
    assert process.cli("apply", "-", stdin=DEFINITION).returncode == 0
    snapshot = process.home / "network-snapshot.json"
    wait_until(snapshot.exists, "ingest to hear the definition")
    yield process
    process.kill()


@pytest.fixture
def cli(home: Process) -> Cli:
    """Run commands against it."""

    def run(*arguments: str, stdin: str | None = None) -> Any:
        return command(*arguments, stdin=stdin, KIVUKO_HOME=str(home.home))

    return run


def entries(cli: Cli, *filters: str) -> list[dict[str, Any]]:
    """List the quarantine."""
    done = cli("quarantine", "list", "--json", *filters)
    assert done.returncode == 0, done.stderr
    found: list[dict[str, Any]] = json.loads(done.stdout)["entries"]
    return found


def put_aside(home: Process, cli: Cli, path: Path) -> str:
    """Send a file under another UID than its own; give the entry's id."""
    before = {each["id"] for each in entries(cli, "--all")}
    assert send_as(home.dicom_port, read(path)[1], sop_uid=new_uid()) in (0xA900, 0xC000)
    wait_until(lambda: {each["id"] for each in entries(cli, "--all")} > before, "the entry")
    (new,) = {each["id"] for each in entries(cli, "--all")} - before
    return str(new)


def test_from_the_list_to_the_release(home: Process, cli: Cli, tmp_path: Path) -> None:
    study = new_uid()
    entry = put_aside(home, cli, make_ct(tmp_path, StudyInstanceUID=None, PatientName="Roe^Richard"))
    assert entry in cli("quarantine", "list").stdout
    assert entry in cli("quarantine", "list", "--node", "CT1", "--since", "2020-01-01").stdout
    assert "Nothing is in quarantine" in cli("quarantine", "list", "--node", "MR1").stdout
    shown = cli("quarantine", "show", entry).stdout
    assert "identity-mismatch" in shown
    assert "Roe" not in shown
    assert "Roe^Richard" in cli("quarantine", "show", entry, "--header").stdout

    refused = cli("quarantine", "correct", entry, "--set", "StudyInstanceUID=1..2", "--why", "test")
    assert refused.returncode == 1
    assert "not a valid UID" in refused.stderr
    unclear = cli("quarantine", "release", entry, "--why", "test")
    assert unclear.returncode == 1
    values = ("--set", f"StudyInstanceUID={study}", "--set", "-")
    wanted = ("quarantine", "correct", entry, *values, "--trust", "dataset", "--why", "wrong worklist item")
    assert "would-release" in cli(*wanted, "--dry-run", stdin="PatientName=Doe^Jane\n").stdout
    assert entries(cli)[0]["state"] == "open"
    assert cli(*wanted, stdin="Doe^Jane\n").returncode == 2
    assert cli("quarantine", "release", entry, "--set", "-", "--why", "test", stdin="\n").returncode == 2
    done = cli(*wanted, stdin="PatientName=Doe^Jane\n\nPatientSex=F\n")
    assert done.returncode == 0, done.stderr
    assert "released" in done.stdout
    assert entries(cli) == []
    (kept,) = entries(cli, "--all")
    assert (kept["state"], kept["resolved_by"], kept["resolution"]["reason"]) == (
        "released",
        "local",
        "wrong worklist item",
    )
    assert "Doe" not in json.dumps(kept)
    assert kept["resolution"]["corrected"] == ["PatientName", "PatientSex", "StudyInstanceUID"]
    assert study in cli("study", "list").stdout
    wait_until(lambda: "People released" in _trace(cli, study), "the timeline to tell")


def test_many_by_filter_and_what_is_left(home: Process, cli: Cli, tmp_path: Path) -> None:
    for _ in range(2):
        put_aside(home, cli, make_ct(tmp_path))
    lost = put_aside(home, cli, make_ct(tmp_path, StudyInstanceUID=None))
    both = cli("quarantine", "release", lost, "--node", "CT1", "--why", "test")
    assert both.returncode == 2
    assert cli("quarantine", "release", "--why", "test").returncode == 2
    done = cli("quarantine", "release", "--node", "CT1", "--trust", "dataset", "--why", "new software", "--json")
    assert done.returncode == 1
    outcomes = [each["outcome"] for each in json.loads(done.stdout)["outcomes"]]
    assert sorted(outcomes) == ["refused", "released", "released"]
    assert [each["id"] for each in entries(cli)] == [lost]
    assert cli("quarantine", "discard", lost, "--why", "a phantom", "--delete-bytes").returncode == 0
    assert ", deleted" in cli("quarantine", "show", lost).stdout
    assert cli("quarantine", "show", "nothing").returncode == 1


def test_flags_of_studies(home: Process, cli: Cli, tmp_path: Path) -> None:
    for uid, name in (("1.9.1", "Doe^Jane"), ("1.9.2", "Roe^Jane")):
        assert send(home.dicom_port, [make_ct(tmp_path, study_uid=uid, PatientID="SAME", PatientName=name)]) == [0]
    wait_until(lambda: "flagged" in cli("study", "list").stdout, "the flag")
    (flag,) = json.loads(cli("study", "show", "1.9.1", "--json").stdout)["flagged"]
    assert "1.9.2" in cli("study", "show", "1.9.1").stdout
    assert "cleared by local" in cli("study", "clear-flag", "1.9.1", str(flag["id"])).stdout
    assert "local, " in cli("study", "show", "1.9.1").stdout
    assert cli("study", "clear-flag", "1.9.1", "999").returncode == 1


def _trace(cli: Cli, study: str) -> str:
    return str(cli("study", "trace", study).stdout)
