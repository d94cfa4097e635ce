"""One Kivuko for all tests of the command line, with a dead letter from before its start."""

import asyncio
import json
import subprocess
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest
from faststream.rabbit import RabbitExchange
from typer.testing import CliRunner

from contracts.topics import EXCHANGE
from libs.messaging import topology
from libs.messaging.broker import make_broker
from services.cli.app import app
from tests.support.kivuko import Process
from tests.support.port import free_port

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
