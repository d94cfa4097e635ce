"""The routes by which partners fetch, on a real connection, with a study that a partner was told of."""

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import httpx
import uvicorn
from sqlalchemy import update

from contracts.access import AccessUsed, Role
from contracts.definition import Definition, Snapshot
from libs.clock import utc_now
from libs.messaging.outbox import Outbox
from libs.service import Service
from libs.snapshot import NetworkView
from libs.storage.database import Database
from libs.storage.folder import FolderStore
from libs.storage.objects import ObjectStore, StoreUnavailableError
from libs.web.access import AccessEntry, AccessList, AccessView, token_hash
from libs.web.app import make_app
from services.egress.deliveries import Deliveries
from services.egress.delivery import delivery_id
from services.egress.fetch_api import make_fetch_router
from services.egress.linking import Links
from services.egress.models import deliveries as table
from services.egress.models import items, messaging
from tests.integration.egress.peer import keep
from tests.integration.egress.stand import QUICK, TENANT, item, request
from tests.support.migrated import migrate

STUDY = "1.2.3"
KEY = delivery_id(TENANT, STUDY, "partner:telerad")
HERE = f"/v1/egress/studies/{KEY}"
TOKENS: dict[str, tuple[Role, tuple[str, ...] | None]] = {
    "reader": ("integrator", ("reader",)),
    "other": ("integrator", ("other",)),
    "owner": ("operator", (TENANT,)),
    "everywhere": ("integrator", None),
    "admin": ("admin", None),
}


def partners(*sites: str) -> Snapshot:
    """Make a definition with the one partner `telerad`, which may get what came from these sites."""
    partner = {"tenant": "reader", "events": ["study.available"], "sites": sites}
    document = {"kivuko": 1, "name": "test", "sites": {"a": {"name": "A"}}, "partners": {"telerad": partner}}
    return Snapshot(version=1, document_hash="0" * 64, definition=Definition.model_validate(document))


class Counted:
    """Objects of which it is counted how many are open."""

    def __init__(self, objects: ObjectStore) -> None:
        self._objects = objects
        self.open_now: list[BinaryIO] = []
        self.away = False

    def open(self, key: str) -> BinaryIO:
        """Read an object, unless the store is said to be away."""
        if self.away:
            raise StoreUnavailableError("away")
        file = self._objects.open(key)
        self.open_now.append(file)
        return file

    @property
    def still_open(self) -> int:
        """How many were not closed."""
        return sum(not file.closed for file in self.open_now)


@dataclass
class Server:
    """What serves, and what it recorded of its use."""

    client: httpx.AsyncClient
    database: Database
    network: NetworkView
    objects: ObjectStore
    counted: Counted
    port: int
    snapshot: list[Snapshot]
    used: list[tuple[AccessUsed, str]] = field(default_factory=list)

    async def announce(self, paths: list[Path], deliveries: Deliveries) -> list[Any]:
        """Keep a study, and have it be what the partner was told of."""
        kept = [item(keep(self.objects, path, n)) for n, path in enumerate(paths)]
        async with self.database.transaction() as tx:
            event = request(kept, study=STUDY, destination="partner:telerad").model_copy(update={"site": "a"})
            await deliveries.merge(event, tx)
            await tx.execute(update(items).values(state="sent"))
            await tx.execute(update(table).values(state="done", completed_version=1))
        return kept

    async def get(self, path: str = HERE, token: str = "reader", **more: Any) -> httpx.Response:  # noqa: S107 - a name
        """Ask with the token of that name."""
        return await self.client.get(path, headers={"authorization": f"Bearer {token}"}, **more)


@asynccontextmanager
async def serving(
    folder: Path, paths: list[Path], objects: ObjectStore | None = None, links: Links | None = None
) -> AsyncIterator[tuple[Server, list[Any]]]:
    """Serve what partners fetch, from a folder or from another store, until the block ends."""
    database = Database(f"sqlite://{folder / 'db'}", "egress")
    await migrate(database, "services.egress")
    snapshot = [partners("a")]

    async def fetch() -> Snapshot:
        return snapshot[0]

    network = NetworkView(fetch, folder / "snapshot.json")
    await network.refresh()
    objects = objects or FolderStore(folder / "objects")
    counted = Counted(objects)

    async def tokens() -> AccessList:
        return AccessList(
            entries=tuple(
                AccessEntry(token_id=name, token_hash=token_hash(name), name=name, role=role, tenants=tenants)
                for name, (role, tenants) in TOKENS.items()
            )
        )

    used: list[tuple[AccessUsed, str]] = []

    async def record(_service: str, use: AccessUsed, tenant: str) -> None:
        used.append((use, tenant))

    access = AccessView(tokens, utc_now)
    await access.refresh()
    service = Service(name="egress", router=make_fetch_router(database, network, counted, links))
    app = make_app([service], access, record, utc_now, version="1")
    listener = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(app, log_config=None, lifespan="off"))
    serve = asyncio.create_task(server.serve([listener]))
    port = listener.getsockname()[1]
    deliveries = Deliveries(
        database,
        Outbox("egress", "test", utc_now, messaging),
        network,
        QUICK,
        clock=utc_now,
    )
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=60) as client:
        made = Server(client, database, network, objects, counted, port, snapshot, used)
        kept = await made.announce(paths, deliveries)
        try:
            yield made, kept
        finally:
            server.should_exit = True
            await serve
            await database.close()
