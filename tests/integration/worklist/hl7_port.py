"""The HL7 port of worklist with its tables, without the rest of Kivuko."""

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

from sqlalchemy import select

from contracts.definition import Definition, Snapshot
from libs.clock import utc_now
from libs.dimse.tls import Certificates, Files, server_context
from libs.messaging.outbox import Outbox
from libs.snapshot import NetworkView
from libs.storage.database import Database
from services.worklist.hl7_intake import Intake
from services.worklist.hl7_settings import Hl7Settings
from services.worklist.listener_hl7 import Hl7Listener
from services.worklist.meeting import Meeting
from services.worklist.models import items, messages, messaging
from services.worklist.orders import Orders
from tests.support.migrated import migrate

NETWORK: Mapping[str, Any] = {
    "kivuko": 1,
    "name": "test",
    "timezone": "Africa/Malabo",
    "sites": {"malabo": {"name": "Malabo", "tenant": "minsabs"}},
    "nodes": {
        "RIS": {"site": "malabo", "host": "127.0.0.1", "issuer": "HGM", "hl7": {"charset": "8859/1"}},
        "CT1": {"site": "malabo", "host": "10.1.0.21", "modality": "CT", "may": ["worklist"]},
    },
}


@dataclass
class Port:
    """A running port."""

    database: Database
    network: NetworkView
    address: str
    tls: str | None

    def apply(self, network: Mapping[str, Any]) -> None:
        """Put a definition in force."""
        version = 1 if self.network.current is None else self.network.current.version + 1
        self.network.current = Snapshot(
            version=version, document_hash=f"{version}", definition=Definition.model_validate(network)
        )

    async def items(self) -> list[dict[str, Any]]:
        """Give the items in the order in which they came to be."""
        async with self.database.reading() as tx:
            return [row._asdict() for row in await tx.execute(select(items).order_by(items.c.id))]

    async def messages(self) -> list[dict[str, Any]]:
        """Give the messages that were kept."""
        async with self.database.reading() as tx:
            return [row._asdict() for row in await tx.execute(select(messages).order_by(messages.c.id))]


async def _nothing() -> None:
    return None


@asynccontextmanager
async def hl7_port(
    url: str, folder: Path, network: Mapping[str, Any] | None = NETWORK, *, files: Files | None = None, **settings: Any
) -> AsyncIterator[Port]:
    """Run a port on an empty database."""
    database = Database(url, "worklist")
    await migrate(database, "services.worklist")
    view = NetworkView(_nothing, folder / "snapshot.json")

    def zones(_site: str) -> ZoneInfo:
        return ZoneInfo("Africa/Malabo")

    day = timedelta(days=1)
    outbox = Outbox("worklist", "local", utc_now, messaging)
    meeting = Meeting(zones, utc_now, outbox, order_grace=day, study_grace=day, looked_back=30 * day)
    orders = Orders(database, outbox, zones, utc_now, meeting)
    certificates = None
    if files is not None:
        certificates = Certificates(files, lambda given: server_context(given, "bcp195"), print)
    listener = Hl7Listener(
        view,
        Intake(view, orders, utc_now),
        Hl7Settings(**settings),
        resolved=dict,
        loopback=False,
        certificates=certificates,
    )
    port = Port(database, view, listener.listen("127.0.0.1", 0, tls=False), None)
    if files is not None:
        port.tls = listener.listen("127.0.0.1", 0, tls=True)
    if network is not None:
        port.apply(network)
    try:
        yield port
    finally:
        await listener.stop()
        await database.close()
