"""A decider on real tables, and events about small studies."""

import gzip
import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, TypeVar

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession

from contracts.definition import Definition, Snapshot
from contracts.delivery import DeliveryCompleted, DeliveryRequested, DestinationChanged
from contracts.envelope import Event
from contracts.fact import Fact, ObjectRef, Source
from contracts.instances import InstancesStored, QuarantineResolved, Resolution, StoredInstance
from contracts.manifest import set_hash
from contracts.procedure import ProcedureCompleted
from contracts.routing import RoutingDecided
from contracts.study import StudyAmended, StudyCompleted, StudyExpired
from contracts.topics import BY_MODEL
from libs.messaging.outbox import Outbox
from libs.snapshot import NetworkView
from libs.storage.database import Database
from libs.storage.objects import ObjectStore, open_store
from services.rules import action_rows
from services.rules.decider import Decider
from services.rules.models import messaging
from services.rules.timers import Timers
from tests.support.migrated import migrate

T = TypeVar("T", bound=Fact)

NOW = datetime(2026, 11, 20, 9, 30, tzinfo=UTC)
TENANT = "minsabs"
STUDY = "1.2.3"
SERIES = "1.2.3.4"
CT1 = Source(site="malabo", node="CT1", calling_aet="CT1", called_aet="KIVUKO", address="10.1.0.21")
PACS = Source(site="malabo", node="PACS", calling_aet="PACS", called_aet="KIVUKO", address="10.1.0.5")


def definition(*rules: dict[str, Any]) -> Definition:
    return Definition.model_validate(
        {
            "kivuko": 1,
            "name": "Red",
            "sites": {"malabo": {"name": "Malabo", "tenant": TENANT}},
            "nodes": {
                "CT1": {"site": "malabo", "host": "10.1.0.21"},
                "PACS": {"site": "malabo", "host": "10.1.0.5", "port": 104},
                "TELERAD": {"site": "malabo", "host": "10.1.0.6", "port": 104},
            },
            "destinations": {
                "pacs": {"node": "PACS"},
                "telerad": {"node": "TELERAD"},
                "both": {"group": ["pacs", "telerad"]},
                "readers": {"group": ["telerad", "pacs"], "pick": "first-healthy"},
            },
            "rules": list(rules),
        }
    )


def rule(name: str, deliver: str = "pacs", trigger: str = "instance", **more: Any) -> dict[str, Any]:
    return {"name": name, "trigger": trigger, "deliver": deliver, **more}


def act(name: str, trigger: str = "instance", **more: Any) -> dict[str, Any]:
    """Write a rule that delivers nothing itself."""
    return {"name": name, "trigger": trigger, **more}


def instance(number: int, **attributes: Any) -> StoredInstance:
    return StoredInstance(
        sop_instance_uid=f"{SERIES}.{number}",
        sop_class_uid="1.2.840.10008.5.1.4.1.1.2",
        series_instance_uid=SERIES,
        transfer_syntax_uid="1.2.840.10008.1.2.1",
        content_hash=hashlib.sha256(str(number).encode()).hexdigest(),
        object_key=f"{TENANT}/{number}.dcm",
        size=1000 + number,
        received_at=NOW + timedelta(seconds=number),
        attributes=attributes,
    )


def _event(data: Any, name: str) -> Event[Any]:
    return Event[Any](
        id=name,
        source="/local/ingest",
        type=BY_MODEL[type(data)].type,
        subject=STUDY,
        time=NOW,
        tenant=TENANT,
        site="malabo",
        sequence=1,
        data=data,
    )


def stored(
    *instances: StoredInstance,
    source: Source = CT1,
    headers: str = "headers/1.json.gz",
    after_version: int | None = None,
    **shared: Any,
) -> Event[Any]:
    data = InstancesStored(
        study_instance_uid=STUDY,
        source=source,
        association_id="a",
        attributes=shared,
        instances=instances,
        headers=ObjectRef(key=headers, sha256="0" * 64, size=1),
        after_version=after_version,
    )
    return _event(data, f"stored {[one.sop_instance_uid for one in instances]}")


def completed(*instances: StoredInstance, version: int = 1, **attributes: Any) -> Event[Any]:
    model = StudyCompleted if version == 1 else StudyAmended
    data = model(
        study_instance_uid=STUDY,
        version=version,
        instance_count=len(instances),
        series_count=1,
        content_hash=set_hash((one.sop_instance_uid, one.content_hash) for one in instances),
        manifest=ObjectRef(key="manifests/1.json", sha256="0" * 64, size=1),
        first_arrival=min(one.received_at for one in instances),
        last_arrival=max(one.received_at for one in instances),
        source=CT1,
        sites=("malabo",),
        attributes=attributes,
        evidence=("quiet",),
        **({} if version == 1 else {"added_count": 1}),
    )
    return _event(data, f"completed {version}")


def expired(*instances: StoredInstance, version: int = 1) -> Event[Any]:
    data = StudyExpired(
        study_instance_uid=STUDY,
        version=version,
        content_hash=set_hash((one.sop_instance_uid, one.content_hash) for one in instances),
        instance_count=len(instances),
        size=sum(one.size for one in instances),
        keep=1,
        kept_since=max(one.received_at for one in instances),
        destinations=("pacs",),
        network_version=1,
    )
    return _event(data, f"expired {version}")


def resolved(quarantine_id: str, resolution: Resolution = "released") -> Event[Any]:
    data = QuarantineResolved(
        quarantine_id=quarantine_id, resolution=resolution, reason="seen", principal="op", study_instance_uid=STUDY
    )
    return _event(data, f"{resolution} {quarantine_id}")


def arrived(destination: str, version: int = 1) -> Event[Any]:
    data = DeliveryCompleted(
        delivery_id="d",
        study_instance_uid=STUDY,
        destination=destination,
        study_version=version,
        instance_count=1,
        bytes_sent=1,
        attempts=1,
        requested_at=NOW,
        completed_at=NOW,
    )
    return _event(data, f"{destination} has {version}")


def performed(uid: str = "1.2.77", *, station: str = "CT1", modality: str = "CT") -> Event[Any]:
    data = ProcedureCompleted(
        mpps_instance_uid=uid,
        study_instance_uid=STUDY,
        accession_number="A1",
        station_aet=station,
        modality=modality,
        source=CT1,
        ended_at=NOW,
    )
    return _event(data, f"performed {uid}")


def health(destination: str, *, healthy: bool, minutes: int = 0) -> Event[Any]:
    since = NOW + timedelta(minutes=minutes)
    problem = None if healthy else "away"
    data = DestinationChanged(destination=destination, healthy=healthy, problem=problem, since=since)
    return _event(data, f"{destination} {healthy} {minutes}")


class Simulated:
    """A clock that goes on when it is told to."""

    def __init__(self) -> None:
        self.now = NOW

    def __call__(self) -> datetime:
        return self.now


def put_headers(objects: ObjectStore, key: str, documents: dict[str, dict[str, Any]]) -> None:
    objects.put(key, gzip.compress(json.dumps({"instances": documents}).encode()))


@dataclass
class Scene:
    """A decider with everything it stands on."""

    database: Database
    network: NetworkView
    objects: ObjectStore
    decider: Decider
    snapshots: list[Snapshot]
    clock: "Simulated"

    async def apply(self, applied: Definition) -> None:
        """Bring a definition into force."""
        self.snapshots.append(Snapshot(version=len(self.snapshots) + 1, document_hash="0" * 64, definition=applied))
        await self.network.refresh()

    async def take(self, *events: Event[Any]) -> None:
        """Handle events, each in a transaction of its own."""
        for event in events:
            async with self.database.transaction() as tx:
                await self.handle(event, tx)

    async def handle(self, event: Event[Any], tx: AsyncSession) -> None:
        """Handle an event as the service's handlers do."""
        if isinstance(event.data, InstancesStored):
            await self.decider.stored(event, tx)
        elif isinstance(event.data, StudyExpired):
            await self.decider.expired(event, tx)
        elif isinstance(event.data, QuarantineResolved):
            await self.decider.resolved(event, tx)
        elif isinstance(event.data, DeliveryCompleted):
            await self.decider.delivered(event, tx)
        elif isinstance(event.data, ProcedureCompleted):
            await self.decider.performed(event, tx)
        elif isinstance(event.data, DestinationChanged):
            await action_rows.note_health(tx, event.data)
        else:
            await self.decider.completed(event, tx)

    async def requested(self) -> list[DeliveryRequested]:
        """Give the requests that were put into the outbox."""
        return [event for event in await self._emitted(DeliveryRequested) if isinstance(event, DeliveryRequested)]

    async def decided(self) -> list[RoutingDecided]:
        """Give the decisions that were put into the outbox."""
        return [event for event in await self._emitted(RoutingDecided) if isinstance(event, RoutingDecided)]

    async def look(self) -> int:
        """Have the rules look whose time has come."""
        return await Timers(self.decider, self.database, self.clock).look()

    async def emitted(self, model: type[T]) -> list[T]:
        """Give the events of a kind that were put into the outbox."""
        return [event for event in await self._emitted(model) if isinstance(event, model)]

    async def _emitted(self, model: type[Fact]) -> Sequence[object]:
        return [event.data for event in await outbox_of(self, model)]


async def outbox_of(scene: Scene, model: type[Fact]) -> list[Event[Any]]:
    """Give the events of a kind in the outbox, in their order."""
    async with scene.database.reading() as tx:
        bodies = await tx.scalars(
            select(messaging.outbox.c.body)
            .where(messaging.outbox.c.type == BY_MODEL[model].type)
            .order_by(messaging.outbox.c.id)
        )
        return [Event[model].model_validate_json(body) for body in bodies]  # type: ignore[valid-type]  # a variable


async def make_scene(folder: Path, database_url: str | None = None) -> Scene:
    """Set a scene; without a definition yet."""
    snapshots: list[Snapshot] = []

    async def fetch() -> Snapshot | None:
        return snapshots[-1] if snapshots else None

    database = Database(database_url or f"sqlite:///{folder / 'db'}", "rules")
    await migrate(database, "services.rules")
    network = NetworkView(fetch, folder / "network-snapshot.json")
    objects = open_store(f"file://{folder / 'objects'}")
    clock = Simulated()
    outbox = Outbox("rules", "local", clock, messaging)
    return Scene(database, network, objects, Decider(network, outbox, objects, clock), snapshots, clock)


def items(requests: Sequence[DeliveryRequested]) -> set[tuple[str, str]]:
    """Give what was requested: destination and SOP Instance UID."""
    return {(request.destination, item.sop_instance_uid) for request in requests for item in request.items}
