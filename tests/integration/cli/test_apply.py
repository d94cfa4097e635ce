"""Every kind of problem of a definition is told with its file, line and column, and nothing is applied."""

import json
from pathlib import Path

import pytest

from tests.integration.cli.conftest import Cli

pytestmark = pytest.mark.integration

GOOD = """kivuko: 1
name: Clinic
sites:
  luba: {name: Clinic}
nodes:
  CT1: {site: luba, host: 127.0.0.1, may: [store]}
  ARCHIVE: {site: luba, host: 127.0.0.1, port: 11200}
destinations:
  archive: {node: ARCHIVE}
rules:
  - name: all
    trigger: instance
    when: 'instance.Modality == "CT"'
    deliver: archive
"""
WRONG = {
    "an unknown node": ("{node: ARCHIVE}", "{node: ARCHIV}", 9),
    "an unknown name in a condition": ("instance.Modality", "instance.Modalty", 13),
    "a wrong type in a condition": ('== "CT"', "== 3", 13),
    "a port out of range": ("port: 11200", "port: 112000", 7),
    "an unknown site": ("CT1: {site: luba", "CT1: {site: lubb", 6),
    "a field that does not exist": ("trigger: instance", "triger: instance", 12),
    "clashing nodes": ("  ARCHIVE: {", "  CT2: {aet: CT1, site: luba, host: 127.0.0.1, may: [store]}\n  ARCHIVE: {", 7),
    "no YAML": ("sites:\n", "sites: {\n", 3),
}


@pytest.mark.parametrize("what", WRONG)
def test_a_problem_is_told_with_its_place(cli: Cli, tmp_path: Path, what: str) -> None:
    old, new, line = WRONG[what]
    assert old in GOOD
    file = tmp_path / "clinic.yaml"
    file.write_text(GOOD.replace(old, new))
    done = cli("apply", str(file), "--json")
    assert done.returncode == 1
    assert not done.stdout
    problems = json.loads(done.stderr)["problems"]
    assert problems
    assert all(problem["file"] == "clinic.yaml" and problem["message"] for problem in problems)
    assert what == "no YAML" or line in {problem["line"] for problem in problems}


def test_all_problems_are_told_at_once_to_people(cli: Cli, tmp_path: Path) -> None:
    file = tmp_path / "clinic.yaml"
    file.write_text(GOOD.replace("{node: ARCHIVE}", "{node: ARCHIV}").replace("port: 11200", "port: 112000"))
    done = cli("apply", str(file))
    assert done.returncode == 1
    assert "nothing was applied" in done.stderr
    places = [line.strip().split(": ")[0] for line in done.stderr.splitlines() if "clinic.yaml:" in line]
    assert [place.rpartition(":")[0] for place in places] == ["clinic.yaml:7", "clinic.yaml:9"]


def test_the_good_one_is_good(cli: Cli) -> None:
    assert cli("apply", "-", "--dry-run", stdin=GOOD).returncode == 0
