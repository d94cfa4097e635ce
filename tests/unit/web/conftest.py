from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any

import httpx
import pytest
from fastapi import APIRouter, Depends, FastAPI
from pydantic import BaseModel, field_validator

from contracts.access import AccessUsed, Role
from libs.service import Service
from libs.web.access import AccessEntry, AccessList, AccessUnavailableError, AccessView, token_hash
from libs.web.app import make_app
from libs.web.permission import PERMISSIONS, public, requires
from libs.web.principal import Principal, principal
from libs.web.problem import Problem


class SettableClock:
    """A clock that stands until it is told to move."""

    def __init__(self) -> None:
        self.now = datetime(2026, 11, 20, 9, 30, tzinfo=UTC)

    def __call__(self) -> datetime:
        return self.now

    def move(self, by: timedelta) -> None:
        self.now += by


@dataclass
class TokenSource:
    """Stands where the service `network` does."""

    entries: list[AccessEntry] = field(default_factory=list)
    away: bool = False
    asked: int = 0

    def add(self, token: str, role: Role = "viewer", **kwargs: Any) -> AccessEntry:
        entry = AccessEntry(
            token_id=f"id-{token}", token_hash=token_hash(token), name=f"name-{token}", role=role, **kwargs
        )
        self.entries.append(entry)
        return entry

    async def fetch(self) -> AccessList:
        self.asked += 1
        if self.away:
            raise AccessUnavailableError("it is away")
        return AccessList(entries=tuple(self.entries))


class Journal:
    """Keeps what is recorded, or fails to."""

    def __init__(self) -> None:
        self.uses: list[tuple[str, AccessUsed, str]] = []
        self.failing_statuses: set[int] = set()

    async def record(self, service: str, use: AccessUsed, tenant: str) -> None:
        if use.status in self.failing_statuses:
            raise OSError("disk full")
        self.uses.append((service, use, tenant))

    @property
    def statuses(self) -> list[int]:
        return [use.status for _, use, _ in self.uses]


class Body(BaseModel):
    age: int
    name: str = "x"

    @field_validator("name")
    @classmethod
    def _quotes_what_it_refuses(cls, value: str) -> str:
        if value.startswith("Doe"):
            raise ValueError(f"{value!r} is not allowed")
        return value


@dataclass
class Things:
    """A service whose routes do one thing each."""

    changes: list[str] = field(default_factory=list)

    def router(self) -> APIRouter:
        router = APIRouter()

        @router.get("/studies/{uid}", dependencies=[requires("studies.read")])
        async def study(uid: str, caller: Annotated[Principal, Depends(principal)]) -> dict[str, str]:
            return {"uid": uid, "caller": caller.name}

        @router.post("/things", dependencies=[requires("network.apply")])
        async def apply(body: Body) -> dict[str, str]:
            self.changes.append(body.name)
            return {"done": body.name}

        @router.post("/broken", dependencies=[requires("network.apply")])
        async def broken() -> None:
            raise ValueError("Doe^John is in the message")

        @router.post("/conflict", dependencies=[requires("network.apply")])
        async def conflict() -> None:
            raise Problem(409, "Overtaken", "Someone else was faster.", advice="Try again.", version=3)

        @router.get("/open", dependencies=[public("test")])
        async def everyone() -> dict[str, str]:
            return {"hello": "world"}

        for permission in PERMISSIONS:
            router.add_api_route(
                f"/permission/{permission}", _nothing, name=permission, dependencies=[requires(permission)]
            )
        return router


async def _nothing() -> dict[str, str]:
    return {}


@pytest.fixture
def clock() -> SettableClock:
    return SettableClock()


@pytest.fixture
def tokens() -> TokenSource:
    return TokenSource()


@pytest.fixture
def journal() -> Journal:
    return Journal()


@pytest.fixture
def things() -> Things:
    return Things()


@pytest.fixture
def view(tokens: TokenSource, clock: SettableClock) -> AccessView:
    return AccessView(tokens.fetch, clock)


@pytest.fixture
def app(view: AccessView, things: Things, journal: Journal, clock: SettableClock) -> FastAPI:
    service = Service(name="things", router=things.router())
    return make_app([service], view, journal.record, clock, version="1.2.3")


Connect = Callable[..., httpx.AsyncClient]


@pytest.fixture
async def connect(app: FastAPI) -> AsyncIterator[Connect]:
    """connect(token=None, address="192.0.2.7"): a client of the app."""
    clients: list[httpx.AsyncClient] = []

    def client(token: str | None = None, address: str = "192.0.2.7") -> httpx.AsyncClient:
        headers = {} if token is None else {"authorization": f"Bearer {token}"}
        transport = httpx.ASGITransport(app=app, client=(address, 4711))
        clients.append(httpx.AsyncClient(transport=transport, base_url="http://kivuko", headers=headers))
        return clients[-1]

    yield client
    for each in clients:
        await each.aclose()
