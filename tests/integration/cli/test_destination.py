"""Destinations on the command line: what waits, pause and resume, and what peers are found to take."""

import json
import os
import pty
import re
import subprocess
import termios
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from pydicom import dcmread

from services.cli.destination import duration
from tests.integration.cli.conftest import command
from tests.integration.ingest.peer import send
from tests.support.dcmtk import StoreScp
from tests.support.kivuko import KIVUKO, Process
from tests.support.process import wait_until
from tests.support.synthetic import make_study, new_uid

pytestmark = pytest.mark.integration


def definition(archive: int, away: int) -> str:
    return json.dumps(
        {
            "kivuko": 1,
            "name": "One clinic",
            "sites": {"clinic": {"name": "Clinic"}},
            "nodes": {
                "CT1": {"site": "clinic", "host": "127.0.0.1", "may": ["store"]},
                "ARCHIVE": {"site": "clinic", "host": "127.0.0.1", "port": archive},
                "AWAY": {"site": "clinic", "host": "127.0.0.1", "port": away},
            },
            "destinations": {
                "archive": {"node": "ARCHIVE"},
                "away": {"node": "AWAY"},
                "web": {"stow": "https://pacs.example/dicomweb"},
            },
            "rules": [{"name": "all", "trigger": "instance", "deliver": ["archive", "away"]}],
        }
    )


@dataclass
class Clinic:
    """A Kivuko with a destination that takes things, one that is away, and one that can't be called yet."""

    kivuko: Process
    archive: StoreScp
    folder: Path

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run a command against it."""
        return command("destination", *arguments, KIVUKO_HOME=str(self.kivuko.home))

    def answer(self, *arguments: str) -> Any:
        """Run a command that succeeds; give its JSON."""
        done = self.run(*arguments, "--json")
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    def send(self) -> None:
        """Have a study of three instances sent to it."""
        assert set(send(self.kivuko.dicom_port, make_study(self.folder, 3, study_uid=new_uid()))) == {0x0000}

    def line(self, name: str) -> str:
        """Give the line of a destination in the list."""
        [line] = [line for line in self.run("list").stdout.splitlines() if line.startswith(name)]
        return line


@pytest.fixture(scope="module")
def clinic(tmp_path_factory: pytest.TempPathFactory, closed_port: int) -> Iterator[Clinic]:
    folder = tmp_path_factory.mktemp("destination")
    archive = StoreScp(folder / "archive", aet="ARCHIVE")
    made = Clinic(Process(["up"], folder / "kivuko", {}), archive, folder)
    try:
        archive.start()
        made.kivuko.start()
        done = made.kivuko.cli("apply", "-", stdin=definition(archive.port, closed_port))
        assert done.returncode == 0, done.stderr
        wait_until((made.kivuko.home / "network-snapshot.json").exists, "the definition to be in force")
        made.send()
        wait_until(lambda: made.answer("show", "away")["failures"] > 0, "the destination to be tried")
        yield made
    finally:
        made.kivuko.kill()
        archive.stop()


def test_the_list_says_what_waits_and_what_is_wrong(clinic: Clinic) -> None:
    away = clinic.line("away")
    for part in ("unreachable", "1 study: 3 instances", "not known", "nothing takes connections"):
        assert part in away
    assert "STOW-RS" in clinic.line("web")
    assert "blocked" in clinic.line("web")


def test_on_a_narrow_terminal_names_stay_whole(clinic: Clinic) -> None:
    ours, its = pty.openpty()
    termios.tcsetwinsize(its, (40, 60))
    # What runs the tests may say how wide its own terminal is.
    inherited = {name: value for name, value in os.environ.items() if name not in ("COLUMNS", "LINES")}
    env = inherited | {"KIVUKO_HOME": str(clinic.kivuko.home), "TERM": "xterm"}
    with subprocess.Popen([KIVUKO, "destination", "list"], stdout=its, env=env) as running:
        os.close(its)
        text = re.sub(r"\x1b\[[0-9;]*m", "", "".join(_printed(ours)))
        assert running.wait(60) == 0
    assert max(map(len, text.splitlines())) <= 60
    [away] = [line for line in text.splitlines() if line.startswith("away")]
    assert away.split()[1:] == ["unreachable", "1", "study:", "3", "instances,", *away.split()[-2:]]
    assert "nothing takes connections" in text


def _printed(terminal: int) -> Iterator[str]:
    # Reading from a terminal whose program has ended is an error, not an end.
    with suppress(OSError):
        while part := os.read(terminal, 1 << 16):
            yield part.decode()


def test_one_that_is_away_is_shown_with_its_next_try_and_what_it_keeps(clinic: Clinic) -> None:
    text = clinic.run("show", "away").stdout
    for part in ("in a row", "next try", "AWAY at 127.0.0.1", "as KIVUKO", "never", "1 study: 3 instances"):
        assert part in text
    assert "kivuko delivery list --destination away" in text
    missing = clinic.run("show", "nowhere")
    assert missing.returncode == 1
    assert "There is no destination with this key in your scope." in missing.stderr


def test_a_paused_one_gets_nothing_until_it_is_resumed(clinic: Clinic) -> None:
    wait_until(lambda: clinic.answer("show", "archive")["backlog"] == 0, "the first study to be delivered")
    before = len(clinic.archive.files())
    assert "kivuko destination resume archive" in clinic.run("pause", "archive", "--reason", "new disks").stdout
    clinic.send()
    wait_until(lambda: clinic.answer("show", "archive")["held"] == 1, "the study to wait")
    assert "by local since" in clinic.line("archive")
    assert ": new disks" in clinic.line("archive")
    assert len(clinic.archive.files()) == before
    assert "1 study: 3 instances" in clinic.run("resume", "archive").stdout
    wait_until(lambda: len(clinic.archive.files()) == before + 3, "the study to arrive")
    again = clinic.run("resume", "archive")
    assert again.returncode == 1
    assert "is not paused" in again.stderr


def test_what_it_takes_is_found_out_and_a_test_object_stored_only_if_asked(clinic: Clinic) -> None:
    before = set(clinic.archive.files())
    text = clinic.run("test", "archive").stdout
    for part in ("success, round trip", "OFFIS_DCMTK", "PDUs of 16384 bytes", "CT Image Storage", "none was stored"):
        assert part in text
    assert set(clinic.archive.files()) == before
    every = clinic.run("test", "archive", "--all").stdout
    [ct] = [line for line in every.splitlines() if line.startswith("CT Image Storage")]
    assert ct.split()[3:6] == ["yes", "yes", "yes"]
    stored = clinic.run("test", "archive", "--store")
    assert stored.returncode == 0
    assert "stored, 1.0 MB explicit in" in stored.stdout
    [file] = set(clinic.archive.files()) - before
    assert dcmread(file).PatientID == "KIVUKO-TEST"
    assert "pairs of SOP class and transfer syntax" in clinic.run("show", "archive").stdout
    assert clinic.answer("test", "archive")["round_trip"] > 0


def test_one_that_is_away_fails_its_test_with_the_reason(clinic: Clinic) -> None:
    away = clinic.run("test", "away")
    assert away.returncode == 1
    assert "nothing takes connections for AWAY" in away.stdout
    assert "test object" not in away.stdout
    document = clinic.run("test", "away", "--json")
    assert document.returncode == 1
    assert json.loads(document.stdout)["ok"] is False
    web = clinic.run("test", "web")
    assert web.returncode == 1
    assert "STOW-RS" in web.stderr


@pytest.mark.parametrize(
    ("seconds", "said"),
    [(0.4, "0 s"), (59.4, "59 s"), (59.6, "1 min"), (3599, "59 min"), (3661, "1 h 1 min"), (190_000, "2 d 4 h")],
)
def test_durations_are_told_as_people_would(seconds: float, said: str) -> None:
    assert duration(seconds) == said
