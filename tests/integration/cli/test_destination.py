"""Destinations on the command line: what waits, pause and resume, and what peers are found to take."""

import json
import os
import pty
import re
import subprocess
import termios
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace

import pytest
from pydicom import dcmread

from services.cli.destination import duration
from tests.integration.cli.conftest import Clinic
from tests.support.kivuko import KIVUKO
from tests.support.process import wait_until
from tests.support.synthetic import new_uid

pytestmark = pytest.mark.integration


def line(clinic: Clinic, name: str) -> str:
    """Give the line of a destination in the list."""
    [found] = [line for line in clinic.run("list").stdout.splitlines() if line.startswith(name)]
    return found


@pytest.fixture(scope="module")
def clinic(clinic: Clinic) -> Clinic:
    """One that has tried the destination that is away."""
    made = replace(clinic, group="destination")
    wait_until(lambda: made.answer("show", "away")["failures"] > 0, "the destination to be tried")
    return made


def test_the_list_says_what_waits_and_what_is_wrong(clinic: Clinic) -> None:
    away = line(clinic, "away")
    for part in ("unreachable", "1 study: 3 instances", "not known", "nothing takes connections"):
        assert part in away
    assert "STOW-RS" in line(clinic, "web")
    assert "blocked" in line(clinic, "web")


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
    clinic.send(new_uid())
    wait_until(lambda: clinic.answer("show", "archive")["held"] == 1, "the study to wait")
    assert "by local since" in line(clinic, "archive")
    assert ": new disks" in line(clinic, "archive")
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
