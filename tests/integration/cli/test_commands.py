"""Each command against a Kivuko that runs: what it prints, and its exit code."""

import json
import os
import stat
import subprocess
from pathlib import Path
from typing import Any

import pytest
from pydicom.data import get_testdata_file

from tests.integration.cli.conftest import Cli, definition
from tests.support.dcmtk import storescu
from tests.support.kivuko import Process
from tests.support.process import wait_until

pytestmark = pytest.mark.integration


def answer(done: subprocess.CompletedProcess[str]) -> Any:
    """Read the JSON that a command printed, after it succeeded."""
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.fixture(scope="session")
def applied(cli: Cli, closed_port: int, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Put two versions of a definition in force, from a file and from standard input; give the second answer."""
    file = tmp_path_factory.mktemp("definition") / "one.yaml"
    file.write_text(definition(closed_port))
    first = cli("apply", str(file))
    assert first.returncode == 0, first.stderr
    assert "Version 1 is in force." in first.stdout
    assert "+ nodes.SCANNER" in first.stdout
    found: dict[str, Any] = answer(cli("apply", "-", "--json", stdin=definition(closed_port, "[bold]Clinic[/]")))
    return found


def test_apply_tells_what_it_changed(applied: dict[str, Any]) -> None:
    assert applied["applied"] is True
    assert applied["version"] == 2
    assert {change["path"] for change in applied["changes"]} == {"name", "sites.clinic.name"}


@pytest.mark.usefixtures("applied")
def test_a_dry_run_changes_nothing_and_names_are_shown_as_they_are(cli: Cli, closed_port: int) -> None:
    done = cli("apply", "-", "--dry-run", stdin=definition(closed_port, "[red]x"))
    assert done.returncode == 0
    assert '~ name: "[bold]Clinic[/]" -> "[red]x"' in done.stdout
    assert "Nothing was applied" in done.stdout
    assert "\x1b" not in done.stdout
    assert answer(cli("network", "show", "--json"))["version"] == 2


@pytest.mark.usefixtures("applied")
def test_network_show_history_and_rollback(cli: Cli, closed_port: int) -> None:
    assert cli("network", "show", "1").stdout == definition(closed_port)
    rolled = cli("network", "rollback", "1")
    assert rolled.returncode == 0
    assert "Version 3 is in force; it says what version 1 said." in rolled.stdout
    lines = cli("network", "history").stdout.splitlines()
    assert [line.split()[0] for line in lines[2:]] == ["3", "2", "1"]
    assert "as version 1" in lines[2]
    refused = cli("network", "rollback", "99")
    assert refused.returncode == 1
    assert "There is no version 99" in refused.stderr
    assert "kivuko network history" in refused.stderr
    assert not refused.stdout


@pytest.mark.usefixtures("applied")
def test_a_study_is_listed_and_followed(cli: Cli, running: Process) -> None:
    path = Path(get_testdata_file("CT_small.dcm") or "")
    assert storescu(running.dicom_port, [path], calling="SCANNER").returncode == 0
    uid = "1.3.6.1.4.1.5962.1.2.1.20040119072730.12322"
    wait_until(lambda: answer(cli("study", "list", "--json"))["studies"] != [], "the study to be indexed")
    (study,) = answer(cli("study", "list", "--json"))["studies"]
    assert study["study_instance_uid"] == uid
    assert uid in cli("study", "list").stdout
    wait_until(lambda: "made durable" in cli("study", "trace", uid).stdout, "the arrival to be recorded")
    entries = answer(cli("study", "trace", uid, "--json"))["entries"]
    assert entries[0]["service"] == "ingest"
    assert "Nothing is recorded of this study" in cli("study", "trace", "1.2.3").stdout


def test_a_token_lets_in_by_http_and_no_longer_once_revoked(cli: Cli, running: Process) -> None:
    created = answer(cli("token", "create", "night shift", "--role", "viewer", "--days", "2", "--json"))
    remote = {"KIVUKO_URL": running.http, "KIVUKO_TOKEN": created["token"]}
    assert answer(cli("study", "list", "--json", **remote))["studies"] is not None
    forbidden = cli("token", "list", **remote)
    assert forbidden.returncode == 4
    assert not forbidden.stdout
    listed = cli("token", "list")
    assert f"{created['id']}  night shift  viewer  all" in listed.stdout
    assert created["token"] not in listed.stdout
    assert "is revoked" in cli("token", "revoke", created["id"]).stdout
    wait_until(lambda: cli("study", "list", **remote).returncode == 4, "the token to be refused")
    again = cli("token", "revoke", created["id"], "--json")
    assert again.returncode == 1
    assert json.loads(again.stderr)["status"] == 404


def test_a_name_that_is_taken_is_refused(cli: Cli) -> None:
    assert cli("token", "create", "twin", "--role", "auditor").returncode == 0
    refused = cli("token", "create", "twin", "--role", "auditor")
    assert refused.returncode == 1
    assert "The name twin is in use." in refused.stderr


@pytest.mark.parametrize(
    ("env", "code", "said"),
    [
        ({"KIVUKO_HOME": "/nowhere"}, 3, "Start Kivuko with `kivuko up`"),
        ({"KIVUKO_URL": "http://127.0.0.1:{closed}", "KIVUKO_TOKEN": "t"}, 3, "Nothing answers at http://127.0.0.1:"),
        ({"KIVUKO_URL": "{http}", "KIVUKO_TOKEN": "wrong"}, 4, "token is not known"),
        ({"KIVUKO_URL": "{http}"}, 4, "KIVUKO_TOKEN is not"),
        ({"KIVUKO_URL": "nonsense", "KIVUKO_TOKEN": "t"}, 2, "http://HOST:PORT"),
        ({"KIVUKO_DICOM_PORT": "x"}, 2, "KIVUKO_DICOM_PORT"),
    ],
)
def test_where_nothing_answers_or_lets_in(
    cli: Cli, running: Process, closed_port: int, env: dict[str, str], code: int, said: str
) -> None:
    done = cli(
        "study", "list", **{name: text.format(closed=closed_port, http=running.http) for name, text in env.items()}
    )
    assert done.returncode == code
    assert said in done.stderr
    assert not done.stdout


def test_the_socket_is_for_its_owner_only(running: Process) -> None:
    assert stat.S_IMODE((running.home / "kivuko.sock").stat().st_mode) == 0o600


def test_a_home_whose_path_is_too_long_for_a_socket_is_reached(
    cli: Cli, running: Process, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    deep = tmp_path.joinpath(*["a" * 40] * 3)
    deep.parent.mkdir(parents=True)
    deep.symlink_to(running.home)
    monkeypatch.chdir(deep.parent)
    assert len(os.fsencode(deep)) > 107
    assert cli("study", "list", KIVUKO_HOME=str(deep)).returncode == 0
