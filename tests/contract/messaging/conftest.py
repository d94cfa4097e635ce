"""Both transports and both databases, and the two profiles that ship."""

import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from tests.contract.messaging.station import Station, make_tables
from tests.support.postgresql import PostgreSQL
from tests.support.rabbitmq import RabbitMQ


class Peer:
    """A process of `tests.contract.messaging.peer`."""

    def __init__(self, *arguments: str) -> None:
        command = [sys.executable, "-m", "tests.contract.messaging.peer", *arguments]
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        self.pid = self._process.pid

    def line(self) -> str:
        """Wait for what it says next."""
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        assert line, "the peer ended; its errors are above"
        return line.strip()

    def rest(self) -> list[str]:
        """Give what it had said, whole lines only, before it was killed."""
        assert self._process.stdout is not None
        return [line.strip() for line in self._process.stdout.read().splitlines(keepends=True) if line.endswith("\n")]

    def kill(self) -> None:
        """End it as a power cut would."""
        self._process.kill()
        self._process.wait()


@pytest.fixture
def start_peer() -> Iterator[Callable[..., Peer]]:
    """Start a peer: `start_peer(what, broker_url, database_url, service)`."""
    peers: list[Peer] = []

    def start(*arguments: str) -> Peer:
        peers.append(Peer(*arguments))
        return peers[-1]

    yield start
    for peer in peers:
        peer.kill()


@pytest.fixture(params=["embedded", "rabbitmq"])
def broker_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Address of an empty broker: first one transport, then the other."""
    return _broker(request, request.param, tmp_path)


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Address of an empty database: first one dialect, then the other."""
    return _database(request, request.param, tmp_path)


@pytest.fixture(params=["embedded", "cluster"])
async def station(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Station]:
    """One process of a profile: its broker, and the database of the service `rules`."""
    embedded = request.param == "embedded"
    broker = _broker(request, "embedded" if embedded else "rabbitmq", tmp_path)
    database = _database(request, "sqlite" if embedded else "postgresql", tmp_path)
    async with AsyncExitStack() as stack:
        station = Station(broker, database, "rules")
        stack.push_async_callback(station.close)
        await make_tables(station.database)
        yield station


def _broker(request: pytest.FixtureRequest, transport: str, folder: Path) -> str:
    if transport == "embedded":
        return f"sqlite:///{folder / 'bus.db'}"
    server: RabbitMQ = request.getfixturevalue("rabbitmq")
    return server.vhost()


def _database(request: pytest.FixtureRequest, dialect: str, folder: Path) -> str:
    if dialect == "sqlite":
        return f"sqlite:///{folder / 'db'}"
    server: PostgreSQL = request.getfixturevalue("postgresql")
    return server.database()
