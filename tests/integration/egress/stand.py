"""Egress by itself: its tables, its sender, and requests as rules would make them."""

import asyncio
import json
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from sqlalchemy import Row, select

from contracts.definition import Definition, Snapshot
from contracts.delivery import DeliveryHold, DeliveryItem, DeliveryRequested
from contracts.envelope import Event
from libs.clock import Clock, utc_now
from libs.dicom.uid import new_uid
from libs.messaging.outbox import Outbox
from libs.snapshot import NetworkView
from libs.storage.database import Database
from libs.storage.folder import FolderStore
from services.egress.awaited import Awaited
from services.egress.calling import Timeouts
from services.egress.comparer import Comparer
from services.egress.comparisons import Comparisons
from services.egress.confirmations import Confirmations
from services.egress.confirmer import Confirmer
from services.egress.deliveries import Deliveries
from services.egress.models import deliveries, destinations, items, messaging
from services.egress.orders import Orders
from services.egress.parcel import Parcel
from services.egress.project import Projects
from services.egress.reach import Contexts, no_contexts
from services.egress.sender import Sender
from services.egress.settings import EgressSettings
from services.egress.transforming import Transforming
from services.egress.transforms.workers import Workers
from services.egress.work import Work
from tests.integration.egress.peer import keep
from tests.support.migrated import migrate

TENANT = "default"
#: Nothing waits for long, and each answer is written down at once.
QUICK = EgressSettings(
    backoff_first=0.02,
    backoff_cap=0.1,
    linger=0.05,
    poll=0.05,
    lease=30,
    commit_wait=5,
    connect_timeout=5,
    acse_timeout=5,
    response_timeout=20,
    network_timeout=20,
    transforms=1,
)


def network(version: int, destinations: dict[str, dict[str, Any]], nodes: dict[str, dict[str, Any]]) -> Snapshot:
    """Make a version of the network definition; nodes are on loopback with the title STORESCP."""
    document = {
        "kivuko": 1,
        "name": "test",
        "sites": {"a": {"name": "A"}},
        "nodes": {key: {"site": "a", "host": "127.0.0.1", "aet": "STORESCP"} | node for key, node in nodes.items()},
        "transforms": {
            "lossless": {"transfer-syntax": "jpeg2000-lossless"},
            # Nobody has the secret, so that what is to be changed by it is held.
            "keyed": {"hash": "PatientID", "project": "nobody"},
        },
        "destinations": destinations,
    }
    return Snapshot(version=version, document_hash="0" * 64, definition=Definition.model_validate(document))


def archive(port: int, version: int = 1, *, destination: dict[str, Any] | None = None, **node: Any) -> Snapshot:
    """Make a definition with the one destination `archive`."""
    return network(version, {"archive": {"node": "PACS"} | (destination or {})}, {"PACS": {"port": port} | node})


class Stand:
    """One replica of egress."""

    def __init__(
        self,
        database_url: str,
        folder: Path,
        snapshot: Snapshot | None,
        settings: EgressSettings = QUICK,
        name: str = "a",
        clock: Clock = utc_now,
        contexts: Contexts = no_contexts,
        secrets: Path | None = None,
    ) -> None:
        self.database = Database(database_url, "egress")
        self.objects = FolderStore(folder / "objects")
        self._snapshot = snapshot
        self.network = NetworkView(self._fetch, folder / f"snapshot-{name}.json")
        outbox = Outbox("egress", "test", clock, messaging)
        self.deliveries = Deliveries(
            self.database,
            outbox,
            self.network,
            settings,
            clock=clock,
            contexts=contexts,
            projects=Projects(secrets),
        )
        self.work = Work(
            self.database, self.deliveries, settings, worker=name, clock=clock, random=random.Random(1).random
        )
        self.orders = Orders(self.database, self.deliveries, clock)
        timeouts = Timeouts(
            settings.connect_timeout, settings.acse_timeout, settings.response_timeout, settings.network_timeout
        )
        transforming = Transforming(
            self.network,
            Projects(secrets),
            Workers(settings.transforms, settings.transform_memory, settings.transform_seconds),
            self.database,
            self.objects,
            folder / f"transforms-{name}",
            settings.transforms,
        )
        self.awaited = Awaited(self.database, self.deliveries, self.network, Projects(secrets), transforming, clock)
        self.sender = Sender(
            self.work,
            self.deliveries,
            self.database,
            self.network,
            objects=self.objects,
            timeouts=timeouts,
            settings=settings,
            clock=clock,
            folder=folder / "journal",
            transforming=transforming,
        )
        self.confirmations = Confirmations(
            self.database,
            outbox,
            self.deliveries,
            settings,
            clock=clock,
            random=random.Random(2).random,
            new_uid=new_uid,
        )
        self.confirmer = Confirmer(
            self.confirmations,
            self.deliveries,
            self.database,
            timeouts=timeouts,
            settings=settings,
            clock=clock,
            random=random.Random(3).random,
        )
        self.comparer = Comparer(
            Comparisons(self.database, outbox, self.deliveries, clock, new_uid),
            self.confirmer,
            self.deliveries,
            self.database,
            self.network,
            timeouts=timeouts,
            settings=settings,
            worker=name,
            clock=clock,
        )
        self._committed = asyncio.Event()
        self.database.on_commit(lambda _session: self._committed.set())
        self._kept = 0

    async def _fetch(self) -> Snapshot | None:
        return self._snapshot

    async def apply(self, snapshot: Snapshot) -> None:
        """Put a version of the network definition into force."""
        self._snapshot = snapshot
        await self.network.refresh()

    def keep(self, paths: Sequence[Path]) -> list[DeliveryItem]:
        """Put files into the object store."""
        kept = []
        for path in paths:
            self._kept += 1
            kept.append(item(keep(self.objects, path, self._kept)))
        return kept

    async def request(self, wanted: Sequence[DeliveryItem], **values: Any) -> None:
        """Hand in a request, closing the delivery unless told otherwise."""
        async with self.database.transaction() as tx:
            await self.deliveries.merge(request(wanted, **values), tx)

    async def until(self, done: Callable[[], Awaitable[bool]]) -> None:
        """Wait until something is true; it is looked at after each commit."""
        async with asyncio.timeout(60):
            while True:
                self._committed.clear()
                if await done():
                    return
                await self._committed.wait()

    async def until_state(self, *states: str, study: str = "1.2.3", destination: str = "archive") -> Row[Any]:
        """Wait until a delivery is in one of these states; give it."""

        matching: list[Row[Any]] = []

        async def reached() -> bool:
            found = await self.delivery(study, destination)
            if found is None or found.state not in states:
                return False
            if any(each.leased_by is not None for each in await self.items() if each.delivery_id == found.id):
                return False
            matching.append(found)
            return True

        await self.until(reached)
        return matching[-1]

    async def delivery(self, study: str = "1.2.3", destination: str = "archive") -> Row[Any] | None:
        """Read a delivery."""
        key = (deliveries.c.study_instance_uid == study, deliveries.c.destination == destination)
        async with self.database.reading() as tx:
            return (await tx.execute(select(deliveries).where(*key))).one_or_none()

    async def destination(self, key: str = "archive") -> Row[Any]:
        """Read what is known of a destination that was called."""
        async with self.database.reading() as tx:
            return (await tx.execute(select(destinations).where(destinations.c.key == key))).one()

    async def items(self) -> Sequence[Row[Any]]:
        """Read all items."""
        async with self.database.reading() as tx:
            return (await tx.execute(select(items).order_by(items.c.id))).all()

    async def events(self, name: str) -> list[dict[str, Any]]:
        """Read the events of a kind that were emitted, in order: `delivery.completed`."""
        outbox = messaging.outbox
        query = select(outbox.c.body).where(outbox.c.type == f"kivuko.{name}.v1").order_by(outbox.c.id)
        async with self.database.reading() as tx:
            return [json.loads(body)["data"] for body in (await tx.execute(query)).scalars()]


@asynccontextmanager
async def stand(
    folder: Path,
    snapshot: Snapshot | None,
    settings: EgressSettings = QUICK,
    *,
    database_url: str | None = None,
    name: str = "a",
    clock: Clock = utc_now,
    contexts: Contexts = no_contexts,
    secrets: Path | None = None,
) -> AsyncIterator[Stand]:
    """Run a replica of egress until the block ends."""
    made = Stand(
        database_url or f"sqlite://{folder / 'db'}", folder, snapshot, settings, name, clock, contexts, secrets
    )
    await migrate(made.database, "services.egress")
    await made.network.refresh()
    running = [asyncio.create_task(made.sender.run()), asyncio.create_task(made.confirmer.run())]
    try:
        yield made
        assert not any(each.done() for each in running), "the loops must never stop by themselves"
    finally:
        for each in running:
            each.cancel()
        await asyncio.gather(*running, return_exceptions=True)
        await made.database.close()


def item(parcel: Parcel) -> DeliveryItem:
    """Describe what is kept as rules would."""
    return DeliveryItem(
        sop_instance_uid=parcel.sop_instance_uid,
        sop_class_uid=parcel.sop_class_uid,
        transfer_syntax_uid=parcel.transfer_syntax_uid,
        content_hash=parcel.content_hash,
        object_key=parcel.object_key,
        size=parcel.size,
    )


def request(
    wanted: Sequence[DeliveryItem],
    *,
    study: str = "1.2.3",
    destination: str = "archive",
    priority: str = "routine",
    closes: bool = True,
    study_version: int = 1,
    expected: int | None = None,
    expected_hash: str | None = None,
    transform: str | None = None,
    hold: DeliveryHold | None = None,
    later: float = 0,
    document: dict[str, Any] | None = None,
    under: int = 1,
) -> Event[DeliveryRequested]:
    """Make a request."""
    return Event[DeliveryRequested](
        id=f"{random.random()}",
        source="/test/rules",
        type="kivuko.delivery.requested.v1",
        subject=study,
        time=datetime(2026, 11, 20, 10, tzinfo=UTC) + timedelta(seconds=later),
        tenant=TENANT,
        sequence=1,
        data=DeliveryRequested.model_validate(
            {
                "study_instance_uid": study,
                "destination": destination,
                "priority": priority,
                "network_version": under,
                "hold": hold,
                "rules": ["all"],
                "source_node": "CT1",
                "transform": transform,
                "transform_document": document,
                "items": wanted,
                "study_version": study_version if closes else None,
                "expected_count": (len(wanted) if expected is None else expected) if closes else None,
                "expected_hash": expected_hash if closes else None,
            }
        ),
    )
