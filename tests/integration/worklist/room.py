"""Orders and performed procedure steps on a database, called as associations call them."""

import asyncio
import json
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import select

from contracts.definition import Definition, Snapshot
from libs.messaging.outbox import Outbox
from services.worklist import dataset, mpps
from services.worklist.attributes import Attributes
from services.worklist.caller import Caller, Done
from services.worklist.models import items, messaging
from tests.integration.worklist.conftest import Desk
from tests.unit.worklist.performed import MPPS, STUDY
from tests.unit.worklist.said import NOON, order


def definition(**more: Any) -> Definition:
    return Definition.model_validate(
        {
            "kivuko": 1,
            "name": "t",
            "timezone": "Africa/Malabo",
            "sites": {"malabo": {"name": "Malabo", "tenant": "minsabs"}, "other": {"name": "O", "tenant": "elsewhere"}},
            "nodes": {
                "CT1": {"site": "malabo", "host": "10.0.0.1", "may": ["mpps"]},
                "RIS": {"site": "malabo", "host": "10.0.0.2", "port": 104},
                "ALIEN": {"site": "other", "host": "10.0.0.3", "port": 104},
            },
            **more,
        }
    )


@dataclass
class View:
    """The network definition in force."""

    current: Snapshot


def caller(node: str = "CT1", tenant: str = "minsabs", site: str = "malabo") -> Caller:
    return Caller("a1", node, site, tenant, node, "KIVUKO", "10.0.0.1")


@dataclass
class Room:
    """Orders and steps on a database; calls are made as an association makes them, from a thread."""

    desk: Desk
    steps: mpps.Steps
    view: View
    syntax: str = dataset.EXPLICIT
    caller: Caller = field(default_factory=caller)

    async def create(self, said: Attributes, uid: str = MPPS) -> Done:
        data = dataset.encode(said, self.syntax)
        return await asyncio.to_thread(self.steps.create, self.caller, uid, data, self.syntax)

    async def set(self, said: Attributes, uid: str = MPPS) -> Done:
        data = dataset.encode(said, self.syntax)
        return await asyncio.to_thread(self.steps.set, self.caller, uid, data, self.syntax)

    async def get(self, *tags: int, uid: str = MPPS) -> Done:
        return await asyncio.to_thread(self.steps.get, self.caller, uid, tags, self.syntax)

    async def performed(self) -> dict[str, str | None]:
        """Give what is known to be performed, by step."""
        async with self.desk.database.reading() as tx:
            return {row.step_id: row.performed for row in await tx.execute(select(items))}

    async def performed_now(self) -> dict[str, str | None]:
        """The same of what is not cancelled."""
        return {row["step_id"]: row["performed"] for row in await self.rows(items) if row["state"] != "cancelled"}

    async def rows(self, table: Any) -> list[dict[str, Any]]:
        async with self.desk.database.reading() as tx:
            return [dict(row._asdict()) for row in await tx.execute(select(table))]

    async def told(self) -> list[tuple[str, dict[str, Any]]]:
        """Give the events of steps."""
        async with self.desk.database.reading() as tx:
            rows = await tx.execute(select(messaging.outbox).order_by(messaging.outbox.c.id))
        events = [(row.type, row.body) for row in rows]
        named = [(kind.split(".")[2], mpps_event) for kind, mpps_event in events if ".procedure." in kind]
        return [(kind, json.loads(body)["data"]) for kind, body in named]


def open_room(desk: Desk, **more: Any) -> Room:
    """Have steps taken beside orders; to be called from their event loop."""
    view = View(Snapshot(version=1, document_hash="h", definition=definition(**more)))
    outbox = Outbox("worklist", "local", lambda: NOON, messaging)
    steps = mpps.Steps(
        desk.database,
        outbox,
        view,  # type: ignore[arg-type]  # only `current` is asked for
        lambda: NOON,
        loop=asyncio.get_running_loop(),
    )
    return Room(desk, steps, view)


async def ordered(room: Room, *step_ids: str, study: str = STUDY, accession: str = "A1") -> None:
    """Place an order with these steps."""
    await room.desk.take(
        order(
            0,
            placer=f"P-{accession}",
            accession=accession,
            about={"StudyInstanceUID": (study,)},
            steps={
                each: {"ScheduledProcedureStepID": (each,), "Modality": ("CT",), "ScheduledStationAETitle": ("CT1",)}
                for each in step_ids
            },
            message=f"order-{accession}",
        )
    )
