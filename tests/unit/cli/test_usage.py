"""The command line as it is asked: help, wrong usage, and what is loaded for it."""

import subprocess
import sys
from importlib.metadata import version
from typing import get_args

import pytest
from typer.testing import CliRunner, Result

from contracts.access import Role
from services.cli.app import app

pytestmark = pytest.mark.unit

COMMANDS = [
    "up", "run", "migrate", "apply", "doctor", "send", "demo", "network show", "network history", "network rollback",
    "study list", "study trace", "delivery list", "delivery show", "delivery retry", "delivery receipt",
    "delivery verify", "delivery key", "delivery redirect", "delivery change",
    "dead list", "dead show", "dead replay", "token create", "token list",
    "rule list", "rule explain", "rule test", "rule replay",
    "token revoke",
]  # fmt: skip
#: What only some commands need: loading it for all would take seconds on a small box.
HEAVY = ("sqlalchemy", "fastapi", "faststream", "aio_pika", "pynetdicom", "pydicom", "alembic", "uvicorn")


def run(*arguments: str) -> Result:
    """Run the command line in this process."""
    return CliRunner(env={"TERMINAL_WIDTH": "200"}).invoke(app, arguments)


def test_it_says_its_version() -> None:
    said = run("--version")
    assert (said.exit_code, said.output) == (0, f"kivuko {version('kivuko')}\n")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["token", "create", "x", "--role", "king"], "no role 'king'"),
        (["token", "create", "x"], "--role"),
        (["apply", "/nowhere.yaml"], "No such file or directory"),
        (["up", "--config", "/nowhere.yaml"], "there is no such file"),
        (["dead", "show", "nobody/1"], "SERVICE/NUMBER"),
        (["dead", "replay"], "not both"),
        (["run", "nothing"], "no service 'nothing'"),
        (["send", "/nowhere", "--to", "127.0.0.1:1"], "there is no such file"),
        (["send", "/", "--to", "127.0.0.1"], "HOST:PORT"),
        (["send", "/", "--to", "127.0.0.1:1", "--aet", "A" * 17], "AE title"),
    ],
)
def test_wrong_usage(arguments: list[str], said: str) -> None:
    done = run(*arguments)
    assert done.exit_code == 2
    assert said in done.stderr
    assert not done.stdout


@pytest.mark.parametrize("command", COMMANDS)
def test_help_has_an_example_of_the_command_and_json(command: str) -> None:
    done = run(*command.split(), "--help")
    words = " ".join(done.stdout.split())
    assert done.exit_code == 0
    assert f"kivuko {command}" in words.partition("Example:")[2]
    assert "--json" in words


def test_help_of_all_has_every_command_and_the_exit_codes() -> None:
    words = run("--help").stdout
    assert all(command.split()[0] in words for command in COMMANDS)
    assert "3 nothing answers" in words


def test_help_names_every_role() -> None:
    words = run("token", "create", "--help").stdout
    assert all(role in words for role in get_args(Role))


@pytest.mark.parametrize("command", ["--help", "token list"])
def test_light_commands_load_little(command: str) -> None:
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "services.cli", *command.split()],
        env={"KIVUKO_HOME": "/nowhere"}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    loaded = {line.rpartition("|")[2].strip().partition(".")[0] for line in done.stderr.splitlines()}
    assert "typer" in loaded
    assert not loaded.intersection(HEAVY)
