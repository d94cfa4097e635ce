"""Until when copies are kept, and what holds them, on the command line."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.cli.conftest import command
from tests.integration.ingest.peer import send
from tests.support.kivuko import Process
from tests.support.process import wait_until
from tests.support.synthetic import make_study, new_uid

pytestmark = pytest.mark.integration
DEFINITION = """
kivuko: 1
name: keeping
sites: {luba: {name: Luba}}
nodes: {CT1: {site: luba, host: 127.0.0.1, may: [store]}}
"""
RETENTION = "retention: [{modality: [CT], keep: 10y}]\n"


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Process]:
    """A Kivuko with one node."""
    process = Process(["up"], tmp_path_factory.mktemp("keeping") / "kivuko", {})
    process.start()
    yield process
    process.kill()


def run(home: Process, *arguments: str) -> str:
    done = command(*arguments, KIVUKO_HOME=str(home.home))
    assert done.returncode == 0, done.stderr
    return done.stdout


def apply(home: Process, definition: str) -> str:
    """Put a definition in force, and wait until ingest works by it; gives what was said."""
    done = home.cli("apply", "-", "--json", stdin=definition)
    assert done.returncode == 0, done.stderr
    version = json.loads(done.stdout)["version"]
    snapshot = home.home / "network-snapshot.json"
    wait_until(lambda: snapshot.exists() and json.loads(snapshot.read_text())["version"] == version, "the definition")
    return done.stdout


def test_the_plan_from_no_retention_to_a_study_that_nobody_else_has(home: Process, tmp_path: Path) -> None:
    apply(home, DEFINITION)
    assert "everything is kept" in run(home, "retention", "plan")
    assert "retention is not in force" not in apply(home, DEFINITION + RETENTION)
    uid = new_uid()
    assert set(send(home.dicom_port, make_study(tmp_path, 2, study_uid=uid))) == {0x0000}

    def held() -> list[str]:
        found = json.loads(run(home, "retention", "plan", "--json"))["studies"]
        return [hold["kind"] for each in found for hold in each["held"]]

    wait_until(lambda: held() == ["nowhere"], "the rules to say that it goes nowhere")
    shown = run(home, "retention", "plan", "--held", "nowhere")
    assert uid in shown
    assert "this is the only copy" in shown
    assert uid not in run(home, "retention", "plan", "--held", "undelivered")
    assert "this is the only copy" in run(home, "study", "show", uid)
    assert "kept until" in run(home, "study", "show", uid)


def test_a_hold_that_there_is_not_is_refused(home: Process) -> None:
    done = command("retention", "plan", "--held", "luck", KIVUKO_HOME=str(home.home))
    assert done.returncode == 1
    assert "held" in done.stderr
