"""The HTTP routes of worklist as the service wires them, with the people who use them; nothing listens."""

import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
from sqlalchemy import select

from contracts.access import AccessUsed
from contracts.definition import Definition, Snapshot
from libs.messaging.broker import make_broker
from libs.service import Platform
from libs.settings import Settings
from libs.snapshot import NetworkView
from libs.storage.database import Database
from libs.storage.folder import FolderStore
from libs.web.access import AccessEntry, AccessList, AccessView, token_hash
from libs.web.app import make_app
from services.worklist.app import build
from services.worklist.models import items
from tests.support.migrated import migrate
from tests.unit.worklist.said import NOON

NETWORK: Mapping[str, Any] = {
    "kivuko": 1,
    "name": "test",
    "timezone": "Africa/Malabo",
    "sites": {
        "bata": {"name": "Bata", "tenant": "minsabs"},
        "malabo": {"name": "Malabo", "tenant": "minsabs"},
        "far": {"name": "Far", "tenant": "other"},
    },
    "nodes": {
        "US1": {"site": "bata", "host": "10.1.0.1", "modality": "US", "may": ["worklist"]},
        "US2": {"site": "bata", "host": "10.1.0.2", "modality": "US", "may": ["worklist"]},
        "CT1": {"site": "bata", "host": "10.1.0.3", "modality": "CT", "may": ["worklist"]},
        "RIS": {"site": "bata", "host": "10.1.0.4", "issuer": "HGB", "hl7": {"charset": "8859/1"}},
    },
}
#: Who may do what: everything, nothing but looking, another tenant's, one site's.
_PEOPLE: Mapping[str, Mapping[str, Any]] = {
    "night": {"role": "operator"},
    "day": {"role": "operator"},
    "looker": {"role": "viewer"},
    "stranger": {"role": "operator", "tenants": ("other",)},
    "malabo": {"role": "operator", "sites": ("malabo",), "tenants": ("minsabs",)},
}


@dataclass
class Clock:
    """Goes on by a second each time that somebody looks."""

    now: datetime = NOON

    def __call__(self) -> datetime:
        self.now += timedelta(seconds=1)
        return self.now


@dataclass
class Office:
    """The routes, and what stands behind them."""

    database: Database
    client: httpx.AsyncClient
    clock: Clock
    uses: list[AccessUsed]
    network: NetworkView
    #: The last of these is in force.
    applied: list[Snapshot]

    async def apply(self, **more: Any) -> None:
        """Apply the definition with other parts."""
        made = Definition.model_validate({**NETWORK, **more})
        number = len(self.applied) + 1
        self.applied.append(Snapshot(version=number, document_hash=str(number), definition=made))
        await self.network.refresh()

    async def get(self, path: str, who: str = "night", **query: Any) -> Any:
        """Ask; give the decoded answer to what was understood."""
        answer = await self.client.get(f"/v1/worklist{path}", params=query, headers=_as(who))
        assert answer.status_code == 200, answer.text
        return answer.json()

    async def post(self, path: str, body: Any = None, who: str = "night", **query: Any) -> Any:
        """Have something done; give the decoded answer to what was done."""
        answer = await self.client.post(f"/v1/worklist{path}", json=body, params=query, headers=_as(who))
        assert answer.is_success, answer.text
        return answer.json()

    async def refused(self, path: str, body: Any = None, who: str = "night", **query: Any) -> dict[str, Any]:
        """Have something done that is refused; give the problem."""
        # As bytes: a caller may write what is no text.
        content, headers = json.dumps(body).encode(), {**_as(who), "content-type": "application/json"}
        answer = await self.client.post(f"/v1/worklist{path}", content=content, params=query, headers=headers)
        assert not answer.is_success, answer.text
        found: dict[str, Any] = answer.json()
        return found

    async def missing(self, path: str, who: str = "night", **query: Any) -> dict[str, Any]:
        """Ask for what there is not; give the problem."""
        answer = await self.client.get(f"/v1/worklist{path}", params=query, headers=_as(who))
        assert not answer.is_success, answer.text
        found: dict[str, Any] = answer.json()
        return found

    async def shown(self) -> list[dict[str, Any]]:
        """Give what modalities are answered with."""
        wanted = select(items).where(items.c.state.in_(("scheduled", "arrived", "started"))).order_by(items.c.id)
        async with self.database.reading() as tx:
            return [row.attributes for row in await tx.execute(wanted)]


def _as(who: str) -> dict[str, str]:
    return {"authorization": f"Bearer {who}"}


@asynccontextmanager
async def office(url: str, folder: Path) -> AsyncIterator[Office]:
    """Open it on an empty database."""
    database = Database(url, "worklist")
    await migrate(database, "services.worklist")
    applied = [Snapshot(version=1, document_hash="1", definition=Definition.model_validate(NETWORK))]
    settings = Settings(home=folder, instance="test")
    clock = Clock()
    uses: list[AccessUsed] = []

    async def fetch() -> Snapshot:
        return applied[-1]

    async def people() -> AccessList:
        return AccessList(
            entries=tuple(
                AccessEntry(token_id=name, token_hash=token_hash(name), name=name, **scope)
                for name, scope in _PEOPLE.items()
            )
        )

    async def record(_service: str, use: AccessUsed, _tenant: str) -> None:
        uses.append(use)

    platform = Platform(
        settings=settings,
        broker=make_broker(f"sqlite:///{folder / 'bus.db'}", instance="test"),
        objects=FolderStore(folder / "objects"),
        network=NetworkView(fetch, folder / "snapshot.json"),
        clock=clock,
        database=lambda _service: database,
    )
    await platform.network.refresh()
    access = AccessView(people, clock)
    await access.refresh()
    app = make_app([build(platform)], access, record, clock, version="1")
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://kivuko") as client:
        yield Office(database, client, clock, uses, platform.network, applied)
    await database.close()
