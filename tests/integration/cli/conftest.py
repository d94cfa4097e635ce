"""One Kivuko for all tests of the command line, with a dead letter from before its start."""

import asyncio
import json
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from faststream.rabbit import RabbitExchange
from typer.testing import CliRunner

from contracts.topics import EXCHANGE
from libs.messaging import topology
from libs.messaging.broker import make_broker
from services.cli.app import app
from tests.integration.ingest.peer import send
from tests.support.dcmtk import StoreScp
from tests.support.kivuko import Process
from tests.support.port import free_port
from tests.support.process import wait_until
from tests.support.synthetic import make_study, new_uid

Cli = Callable[..., subprocess.CompletedProcess[str]]
#: Not JSON, so that no service can ever read it.
UNREADABLE = b"\xff no event"


@pytest.fixture(scope="session")
def closed_port() -> int:
    """A port on which nothing listens."""
    return free_port()


@pytest.fixture(scope="session")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Process]:
    """A started Kivuko without a definition."""
    process = Process(["up"], tmp_path_factory.mktemp("running") / "kivuko", {})
    asyncio.run(_publish(process.home, "study.completed.v1.north", UNREADABLE))
    process.start()
    yield process
    process.kill()


async def _publish(home: Path, routing_key: str, body: bytes) -> None:
    """Put a message on the bus of a Kivuko that does not run."""
    broker = make_broker(f"sqlite:///{home}/bus.db", instance="test")
    await broker.connect()
    try:
        await topology.declare(broker)
        await broker.publish(body, exchange=RabbitExchange(EXCHANGE), routing_key=routing_key, message_id="m-1")
    finally:
        await broker.stop()


def command(*arguments: str, stdin: str | None = None, **env: str) -> subprocess.CompletedProcess[str]:
    """Run the command line in this process: the same as in one of its own, without waiting for its start each time."""
    done = CliRunner(env=env).invoke(app, arguments, input=stdin)
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    return subprocess.CompletedProcess(arguments, done.exit_code, done.stdout, done.stderr)


@pytest.fixture(scope="session")
def cli(running: Process) -> Cli:
    """Run a command against it; keyword arguments are further environment variables."""
    return partial(command, KIVUKO_HOME=str(running.home))


def definition(port: int, name: str = "One clinic") -> str:
    """Give a definition that sends all that arrives to a node on a port."""
    return json.dumps(
        {
            "kivuko": 1,
            "name": name,
            "sites": {"clinic": {"name": name}},
            "nodes": {
                "SCANNER": {"site": "clinic", "host": "127.0.0.1", "may": ["store"]},
                "ARCHIVE": {"site": "clinic", "host": "127.0.0.1", "port": port},
            },
            "destinations": {"archive": {"node": "ARCHIVE"}},
            "rules": [{"name": "all", "trigger": "instance", "deliver": "archive"}],
        },
        indent=1,
    )


@dataclass(frozen=True)
class Clinic:
    """A Kivuko with a destination that takes things, one that is away, and one that can't be called yet.

    Attributes
    ----------
    study
        UID of a study of three instances that was sent to it.
    group
        First word of the commands that `run` runs; none for whole commands.
    """

    kivuko: Process
    archive: StoreScp
    folder: Path
    study: str
    group: str | None = None

    def run(self, *arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
        """Run a command against it."""
        words = arguments if self.group is None else (self.group, *arguments)
        return command(*words, KIVUKO_HOME=str(self.kivuko.home), **env)

    def answer(self, *arguments: str) -> Any:
        """Run a command that succeeds; give its JSON."""
        done = self.run(*arguments, "--json")
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    def start(self, away: int) -> None:
        """Start it with its definition, and have its study sent to it; nothing listens on the port `away`."""
        self.kivuko.start()
        done = self.kivuko.cli("apply", "-", stdin=_to_archive_and_away(self.archive.port, away))
        assert done.returncode == 0, done.stderr
        wait_until((self.kivuko.home / "network-snapshot.json").exists, "the definition to be in force")
        self.send(self.study)

    def send(self, study: str) -> None:
        """Have a study of three instances sent to it."""
        assert set(send(self.kivuko.dicom_port, make_study(self.folder, 3, study_uid=study))) == {0x0000}


@pytest.fixture(scope="module")
def clinic(tmp_path_factory: pytest.TempPathFactory, closed_port: int) -> Iterator[Clinic]:
    """A started one that was just sent its study."""
    folder = tmp_path_factory.mktemp("clinic")
    archive = StoreScp(folder / "archive", aet="ARCHIVE")
    made = Clinic(Process(["up"], folder / "kivuko", {}), archive, folder, new_uid())
    try:
        archive.start()
        made.start(closed_port)
        yield made
    finally:
        made.kivuko.kill()
        archive.stop()


def _to_archive_and_away(archive: int, away: int) -> str:
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
