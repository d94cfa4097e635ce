"""The service `network` behind its real HTTP app, on each database; only the event broker is left out."""

import json
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
from pydantic import SecretStr
from sqlalchemy import select
from starlette.types import Receive, Scope, Send

from contracts.access import AccessUsed
from contracts.definition import Snapshot
from libs.messaging.outbox import Outbox
from libs.service import Service
from libs.storage.database import Database
from libs.web.access import AccessView
from libs.web.app import make_app
from libs.web.gate import LISTENER, SOCKET
from services.network import repository
from services.network.api import make_router
from services.network.models import messaging
from services.network.register import Register
from services.network.token import TokenRegister
from tests.support.migrated import migrate

SERVICE_TOKEN = "the-services-know-it"


@dataclass
class Clock:
    """A clock that goes when it is told to."""

    now: datetime = datetime(2026, 11, 20, 10, tzinfo=UTC)

    def __call__(self) -> datetime:
        return self.now

    def goes(self, **by: int) -> None:
        self.now += timedelta(**by)


@dataclass
class Network:
    """What a test has to do with."""

    database: Database
    register: Register
    local: httpx.AsyncClient
    access: AccessView
    clock: Clock
    app: Any
    uses: list[AccessUsed] = field(default_factory=list)

    def as_holder_of(self, token: str) -> httpx.AsyncClient:
        """Give a client that comes over TCP with a token."""
        transport = httpx.ASGITransport(self.app, raise_app_exceptions=False, client=("192.0.2.7", 40000))
        headers = {"authorization": f"Bearer {token}"}
        return httpx.AsyncClient(transport=transport, base_url="http://kivuko", headers=headers)

    async def apply(self, text: str, **options: Any) -> httpx.Response:
        return await self.local.post("/v1/network/definition", content=text, **options)

    async def events(self) -> list[dict[str, Any]]:
        """Give the events in the outbox, in the order of their emission."""
        async with self.database.reading() as tx:
            rows = await tx.scalars(select(messaging.outbox.c.body).order_by(messaging.outbox.c.id))
            return [json.loads(row) for row in rows]

    async def snapshot(self) -> Snapshot | None:
        return await repository.current_snapshot(self.database)


MakeNetwork = Callable[[str], Awaitable[Network]]


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}"
    url: str = request.getfixturevalue("postgresql").database()
    return url


@pytest.fixture
async def network(database_url: str) -> AsyncIterator[Network]:
    database = Database(database_url, "network")
    await migrate(database, "services.network")
    clock = Clock()
    outbox = Outbox("network", "test", clock, messaging)
    register = Register(database, outbox, clock)
    counter = iter(range(1, 250))
    tokens = TokenRegister(database, outbox, clock, lambda count: bytes([next(counter)]) * count)
    access = AccessView(lambda: repository.access_list(database), clock, service_token=SecretStr(SERVICE_TOKEN))
    uses: list[AccessUsed] = []

    async def record(_service: str, use: AccessUsed, _tenant: str) -> None:
        uses.append(use)

    service = Service("network", router=make_router(database, register, tokens))
    app = make_app([service], access, record, clock, version="test")

    async def over_the_socket(scope: Scope, receive: Receive, send: Send) -> None:
        scope[LISTENER] = SOCKET
        await app(scope, receive, send)

    transport = httpx.ASGITransport(over_the_socket, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://kivuko") as local:
        yield Network(database, register, local, access, clock, app, uses)
    await database.close()
