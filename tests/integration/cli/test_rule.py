"""`kivuko rule` against a Kivuko with one study."""

import csv
import json
from pathlib import Path

import pytest

from tests.integration.cli.conftest import Clinic, command
from tests.support.process import wait_until
from tests.support.synthetic import make_study, new_uid

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def decided(clinic: Clinic) -> Clinic:
    """The same, once its study is decided as a whole."""
    wait_until(lambda: clinic.run("rule", "explain", clinic.study).returncode == 0, "the study to be decided", 90)
    return clinic


@pytest.fixture(scope="module")
def proposal(clinic: Clinic) -> Path:
    """A definition that also sends what has three instances to the web, at once, and no more to `away`."""
    made = json.loads(clinic.run("network", "show", "--json").stdout)["text"]
    definition = json.loads(made)
    definition["rules"] = [
        {"name": "all", "trigger": "instance", "deliver": "archive"},
        {
            "name": "three",
            "trigger": "study",
            "when": 'study.NumberOfStudyRelatedInstances == 3 && study.Modality == "CT"',
            "deliver": "web",
            "priority": "stat",
        },
        {"name": "mr", "trigger": "study", "when": 'study.Modality == "MR"', "deliver": "web"},
    ]
    file = clinic.folder / "proposed.yaml"
    file.write_text(json.dumps(definition))
    return file


def test_list_shows_the_rules_in_force(clinic: Clinic) -> None:
    found = clinic.answer("rule", "list")
    assert [(one["position"], one["rule"]["name"]) for one in found["rules"]] == [(1, "all")]
    shown = clinic.run("rule", "list")
    assert "deliver archive, away" in shown.stdout
    assert "always" in shown.stdout


def test_explain_says_of_each_rule_whether_it_matched(decided: Clinic) -> None:
    found = decided.answer("rule", "explain", decided.study)
    assert [(one["rule"], one["matched"], one["instances"], one["of"]) for one in found["rules"]] == [
        ("all", True, 3, 3)
    ]
    assert {(one["destination"], one["instances"]) for one in found["routes"]} == {("archive", 3), ("away", 3)}
    assert found["decided_under"] == found["explained_under"]
    shown = decided.run("rule", "explain", decided.study, "--in-force")
    assert "archive" in shown.stdout


def test_explain_of_an_unknown_study_says_what_to_do(clinic: Clinic) -> None:
    done = clinic.run("rule", "explain", "1.2.3.4")
    assert done.returncode == 1
    assert "kivuko study show" in done.stderr


def test_files_are_tried_on_the_rules_in_force_and_on_others(clinic: Clinic, proposal: Path, tmp_path: Path) -> None:
    files = make_study(tmp_path, 3, study_uid=new_uid())
    live = clinic.answer("rule", "test", *map(str, files), "--from", "CT1")
    assert [one["destination"] for one in live["studies"][0]["routes"]] == ["archive", "away"]
    (study,) = clinic.answer("rule", "test", str(tmp_path), "--with", str(proposal), "--from", "CT1")["studies"]
    assert [(one["destination"], one["priority"]) for one in study["routes"]] == [
        ("archive", "routine"),
        ("web", "stat"),
    ]
    assert {one["rule"]: one["matched"] for one in study["rules"]} == {"all": True, "three": True, "mr": False}
    shown = clinic.run("rule", "test", str(tmp_path), "--with", str(proposal))
    assert shown.returncode == 0, shown.stderr
    assert '"CT"' in shown.stdout


def test_a_file_that_is_none_is_told_and_the_others_are_tried(clinic: Clinic, tmp_path: Path) -> None:
    make_study(tmp_path, 1, study_uid=new_uid())
    (tmp_path / "notes.txt").write_text("nothing")
    done = clinic.run("rule", "test", str(tmp_path), "--json")
    assert done.returncode == 1
    found = json.loads(done.stdout)
    assert len(found["studies"]) == 1
    assert [Path(one["file"]).name for one in found["unreadable"]] == ["notes.txt"]


def test_a_wrong_proposal_is_refused_with_its_lines(clinic: Clinic, proposal: Path, tmp_path: Path) -> None:
    wrong = tmp_path / "wrong.yaml"
    wrong.write_text(proposal.read_text().replace("study.Modality ==", "study.Modalty =="))
    for words in (("test", str(tmp_path)), ("replay",)):
        done = clinic.run("rule", *words, "--with", str(wrong))
        assert done.returncode == 1
        assert "did you mean `Modality`?" in done.stderr


def test_replay_shows_what_would_change(decided: Clinic, proposal: Path, tmp_path: Path) -> None:
    files = {name: tmp_path / f"replay.{name}" for name in ("csv", "hours", "html")}
    options = [word for name, file in files.items() for word in (f"--{name}", str(file))]
    found = decided.answer("rule", "replay", "--since", "1d", "--with", str(proposal), *options)
    assert found["state"] == "done"
    report = found["report"]
    assert (report["studies"], report["changed_studies"]) == (1, 1)
    assert {(one["destination"], one["change"]) for one in report["changes"]} == {("away", "lost"), ("web", "gained")}
    with files["csv"].open(newline="") as file:
        (row,) = csv.DictReader(file)
    assert (row["study"], row["before"], row["after"]) == (decided.study, "archive away", "archive web")
    assert files["hours"].read_text().startswith("hour,destination,bytes_before,bytes_after\n")
    page = files["html"].read_text()
    assert "<svg" in page
    assert "http" not in page
    shown = decided.run("rule", "replay", "--with", str(proposal))
    assert "1 of 1 studies would go another way" in shown.stdout


def test_replay_of_the_rules_in_force_changes_nothing(decided: Clinic, tmp_path: Path) -> None:
    same = tmp_path / "same.yaml"
    same.write_text(json.loads(decided.run("network", "show", "--json").stdout)["text"])
    for against in ("recorded", "in-force"):
        found = decided.answer("rule", "replay", "--with", str(same), "--against", against)
        assert (found["report"]["studies"], found["report"]["changed_studies"]) == (1, 0)


def test_a_time_that_is_none_is_refused(clinic: Clinic, proposal: Path) -> None:
    done = clinic.run("rule", "replay", "--since", "yesterday", "--with", str(proposal))
    assert done.returncode == 2
    assert "30d" in done.stderr


def test_help_says_where_to_begin() -> None:
    assert "kivuko rule replay --since 30d" in command("rule", "replay", "--help").stdout
