"""A transform is tried on a file: by the processes that transform what is sent, and nothing is sent."""

import json
from pathlib import Path
from typing import Any

import pytest
from pydicom import dcmread

from tests.integration.cli.conftest import command
from tests.support.kivuko import Process
from tests.support.synthetic import make_ct

pytestmark = pytest.mark.integration

DEFINITION = """
kivuko: 1
name: Tried
sites: {luba: {name: Luba}}
transforms:
  ids: {set: {IssuerOfPatientID: BATA}, prefix: {PatientID: "BATA-"}}
  research: {deidentify: {profile: basic, project: tb}}
  strict: {map: {Modality: {values: {MR: MR}, otherwise: refuse}}}
"""


@pytest.fixture(scope="module")
def kivuko(tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("transform")
    (folder / "secrets" / "tb").mkdir(parents=True)
    (folder / "secrets" / "tb" / "key").write_text("0123456789abcdef0123456789abcdef")
    process = Process(["up"], folder / "kivuko", {"KIVUKO_EGRESS_SECRETS": str(folder / "secrets")})
    process.start()
    (folder / "definition.yaml").write_text(DEFINITION)
    assert command("apply", str(folder / "definition.yaml"), KIVUKO_HOME=str(process.home)).returncode == 0
    yield process
    process.kill()


@pytest.fixture(scope="module")
def ct(tmp_path_factory: pytest.TempPathFactory) -> Path:
    values: dict[str, Any] = {"PatientName": "Nsue^Teodora", "PatientID": "HGM-4711"}
    return make_ct(tmp_path_factory.mktemp("ct"), **values)


def attempt(kivuko: Process, *arguments: str) -> Any:
    return command("transform", "try", *arguments, KIVUKO_HOME=str(kivuko.home))


def test_each_changed_element_is_shown_before_and_after(kivuko: Process, ct: Path) -> None:
    shown = attempt(kivuko, "ids", str(ct))
    assert shown.returncode == 0, shown.stderr
    [line] = [line for line in shown.stdout.splitlines() if line.startswith("(0010,0020)")]
    assert line.split() == ["(0010,0020)", "PatientID", "HGM-4711", "BATA-HGM-4711"]
    assert "Nothing was sent" in shown.stdout
    document = json.loads(attempt(kivuko, "ids", str(ct), "--json").stdout)
    changed = {each["where"]: (each["before"], each["after"]) for each in document["changes"]}
    assert changed["(0010,0021)"] == (None, "BATA")


def test_what_comes_out_is_written_and_nothing_is_written_over(kivuko: Process, ct: Path, tmp_path: Path) -> None:
    result = tmp_path / "anonymous.dcm"
    document = json.loads(attempt(kivuko, "research", str(ct), "--out", str(result), "--json").stdout)
    made = dcmread(result)
    assert made.SOPInstanceUID == document["sop_instance_uid"]
    assert made.PatientIdentityRemoved == "YES"
    assert b"Nsue" not in result.read_bytes()
    assert result.stat().st_size == document["size"]
    again = attempt(kivuko, "research", str(ct), "--out", str(result))
    assert (again.returncode, "exists" in again.stderr) == (1, True)


@pytest.mark.parametrize(
    ("name", "words"),
    [("strict", "map Modality: the value is none of those"), ("nobody", "No transform in force is called nobody")],
)
def test_what_would_not_be_sent_is_said(kivuko: Process, ct: Path, name: str, words: str) -> None:
    said = attempt(kivuko, name, str(ct))
    assert said.returncode == 1
    assert words in said.stderr


def test_a_file_that_is_no_instance_is_refused(kivuko: Process, tmp_path: Path) -> None:
    (tmp_path / "x.dcm").write_bytes(b"nothing" * 100)
    said = attempt(kivuko, "ids", str(tmp_path / "x.dcm"))
    assert said.returncode == 1
    assert "no Part 10 file" in said.stderr
