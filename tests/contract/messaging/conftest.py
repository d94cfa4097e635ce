"""Both transports and both databases, and the two profiles that ship."""

from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Literal

import pytest

from libs.storage.database import Database
from tests.contract.messaging.station import Station, make_tables
from tests.support.postgresql import PostgreSQL
from tests.support.rabbitmq import RabbitMQ

Transport = Literal["embedded", "rabbitmq"]
DatabaseFactory = Callable[[str], "Database"]


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
