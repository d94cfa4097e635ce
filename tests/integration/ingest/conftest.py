"""Ingest alone, with real databases, a real object store and real DICOM peers; events are read from its outbox."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select

from contracts.definition import Definition, Snapshot
from libs.clock import utc_now
from libs.messaging.broker import make_broker
from libs.service import Platform, Service
from libs.settings import Settings
from libs.snapshot import NetworkView
from libs.storage.database import Database
from libs.storage.objects import ObjectStore, open_store
from services.ingest import app
from services.ingest.models import messaging
from tests.support.migrated import migrate
from tests.support.postgresql import PostgreSQL

NETWORK: dict[str, Any] = {
    "kivuko": 1,
    "name": "test",
    "sites": {"luba": {"name": "Luba"}, "bata": {"name": "Bata", "tenant": "north"}},
    "nodes": {
        "CT1": {"site": "luba", "host": "127.0.0.1", "may": ["store"]},
        "MR1": {"site": "luba", "host": "127.0.0.1", "may": ["store"]},
        "NORTH": {"site": "bata", "host": "127.0.0.1", "may": ["store"]},
        "RIS": {"site": "luba", "host": "127.0.0.1", "may": ["worklist"]},
        "OLD": {"site": "luba", "host": "127.0.0.1", "may": ["store"], "retired": True},
        "FAR": {"site": "luba", "from": "192.0.2.0/24", "may": ["store"]},
    },
}


class Running:
    """A running ingest."""

    def __init__(self, service: Service, database: Database, objects: ObjectStore, home: Path) -> None:
        self.service = service
        self.database = database
        self.objects = objects
        self.home = home

    @property
    def port(self) -> int:
        """Port of DICOM."""
        assert self.service.addresses is not None
        return int(self.service.addresses()["dicom"].rpartition(":")[2])

    @property
    def spool(self) -> list[str]:
        """Files in the spool that something has arrived in, by their path below it."""
        folder = self.home / "spool"
        return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file() and _size(path))

    async def rows(self, statement: Any) -> list[Any]:
        """Read rows."""
        async with self.database.reading() as tx:
            return list((await tx.execute(statement)).all())

    async def events(self, name: str) -> list[dict[str, Any]]:
        """Give the events of a type that were emitted, envelopes included, in order."""
        rows = await self.rows(select(messaging.outbox.c.body).order_by(messaging.outbox.c.id))
        events = [json.loads(row.body) for row in rows]
        return [event for event in events if event["type"] == f"kivuko.{name}.v1"]

    async def until(self, met: Callable[[], Awaitable[bool]], what: str) -> None:
        """Wait for something; fails after 30 s."""
        try:
            async with asyncio.timeout(30):
                while not await met():  # noqa: ASYNC110 (what is waited for is in a database)
                    await asyncio.sleep(0.02)
        except TimeoutError:
            pytest.fail(f"waited 30 s for {what}")

    async def until_indexed(self) -> None:
        """Wait until the spool is empty."""

        async def empty() -> bool:
            return not self.spool

        await self.until(empty, "an empty spool")

    async def until_events(self, name: str, count: int) -> list[dict[str, Any]]:
        """Wait for a number of events of a type."""

        async def come() -> bool:
            return len(await self.events(name)) >= count

        await self.until(come, f"{count} {name}")
        return await self.events(name)


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


#: start(home, definition=..., database=..., objects=..., **settings)
Start = Callable[..., Any]


@asynccontextmanager
async def running(
    home: Path, *, network: dict[str, Any] | None = NETWORK, loops: bool = True, **settings: Any
) -> AsyncIterator[Running]:
    """Run ingest in a folder until the block ends."""
    own = Settings(home=home, dicom_port=0, _env_file=None, **settings)

    async def fetch() -> Snapshot | None:
        if network is None:
            return None
        return Snapshot(version=1, document_hash="0" * 64, definition=Definition.model_validate(network))

    async with AsyncExitStack() as stack:
        database = Database(own.database, "ingest")
        stack.push_async_callback(database.close)
        await migrate(database, "services.ingest")
        objects = open_store(own.objects)
        stack.callback(objects.close)
        view = NetworkView(fetch, home / "network-snapshot.json")
        await view.refresh()
        platform = Platform(
            settings=own,
            broker=make_broker(own.broker, instance="test"),
            objects=objects,
            network=view,
            clock=utc_now,
            database=lambda _name: database,
        )
        service = app.build(platform)
        assert service.start is not None
        assert service.stop is not None
        await service.start()
        tasks = [asyncio.ensure_future(loop()) for loop in service.loops] if loops else []

        async def end() -> None:
            assert service.stop is not None
            await service.stop()
            for task in tasks:
                task.cancel()
            for outcome in await asyncio.gather(*tasks, return_exceptions=True):
                assert isinstance(outcome, asyncio.CancelledError), outcome

        stack.push_async_callback(end)
        yield Running(service, database, objects, home)


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Studies are complete soon, and a small disk is enough."""
    monkeypatch.setenv("KIVUKO_INGEST_QUIET_SECONDS", "0.5")
    monkeypatch.setenv("KIVUKO_INGEST_MIN_FREE_BYTES", str(1 << 20))


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Both databases."""
    if request.param == "sqlite":
        return f"sqlite://{tmp_path}/databases"
    postgresql: PostgreSQL = request.getfixturevalue("postgresql")
    return postgresql.database()
