"""From a producer's outbox over a real broker into the records, and out over HTTP."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
from sqlalchemy import MetaData

from contracts.access import AccessUsed, Role
from contracts.envelope import Event
from contracts.fact import Fact
from contracts.topics import BY_TYPE
from libs.messaging import topology
from libs.messaging.broker import make_broker
from libs.messaging.outbox import Outbox
from libs.messaging.relay import Relay
from libs.messaging.tables import messaging_tables
from libs.service import Platform
from libs.settings import Settings
from libs.snapshot import NetworkView
from libs.storage.database import Database
from libs.storage.objects import open_store
from libs.web.access import AccessEntry, AccessList, AccessView, token_hash
from libs.web.app import make_app
from services.audit.app import build
from services.audit.models import messaging
from services.audit.repository import count_in
from tests.integration.audit.conftest import SettableClock, until_recorded
from tests.support.migrated import migrate

pytestmark = pytest.mark.integration

EXAMPLES = Path(__file__).parents[3] / "contracts" / "examples"
STUDY = "1.2.826.0.1.3680043.8.498.10"


def fact(name: str, **changes: Any) -> Fact:
    content = json.loads((EXAMPLES / name).read_text())
    content["data"] |= changes
    data: Fact = Event[BY_TYPE[content["type"]].model].model_validate(content).data  # type: ignore[misc]
    return data


Emit = Callable[[str, Fact, str, str | None], Awaitable[None]]


class Stand:
    """Audit as it runs, and producers beside it."""

    def __init__(self, clock: SettableClock, database: Database, emit: Emit, app: Any) -> None:
        self.clock = clock
        self.database = database
        self.emit = emit
        self._app = app

    @asynccontextmanager
    async def client(self, token: str) -> AsyncIterator[httpx.AsyncClient]:
        async with httpx.AsyncClient(
            transport=httpx.ASGITransport(app=self._app),
            base_url="http://kivuko",
            headers={"authorization": f"Bearer {token}"},
        ) as client:
            yield client


def _entry(token: str, role: Role, **scope: Any) -> AccessEntry:
    return AccessEntry(token_id=token, token_hash=token_hash(token), name=token, role=role, **scope)


async def _tokens() -> AccessList:
    return AccessList(
        entries=(
            _entry("all", "auditor"),
            _entry("viewer", "viewer"),
            _entry("integrator", "integrator"),
            _entry("north", "auditor", tenants=("north",)),
            _entry("south", "auditor", tenants=("south",)),
            _entry("clinic", "viewer", tenants=("north",), sites=("clinic",)),
            _entry("elsewhere", "viewer", tenants=("north",), sites=("elsewhere",)),
        )
    )


async def _no_definition() -> None:
    return None


@pytest.fixture
async def stand(tmp_path: Path, database_url: str, clock: SettableClock) -> AsyncIterator[Stand]:
    async with AsyncExitStack() as stack:
        broker = make_broker(f"sqlite:///{tmp_path / 'bus.db'}", instance="test")
        opened: dict[str, Database] = {}

        def database(service: str) -> Database:
            if service not in opened:
                opened[service] = Database(database_url, service)
                stack.push_async_callback(opened[service].close)
            return opened[service]

        platform = Platform(
            settings=Settings(home=tmp_path),
            broker=broker,
            objects=open_store(f"file://{tmp_path / 'objects'}"),
            network=NetworkView(_no_definition, tmp_path / "snapshot.json"),
            clock=clock,
            database=database,
        )
        service = build(platform)
        audit = database("audit")
        await migrate(audit, "services.audit")
        await broker.connect()
        stack.push_async_callback(broker.stop)
        await topology.declare(broker)
        await broker.start()
        outboxes: dict[str, tuple[Database, Outbox]] = {
            "audit": (audit, Outbox("audit", "malabo", clock, messaging)),
        }
        relays = [Relay(audit, broker, messaging, clock)]
        for producer in ("ingest", "rules", "egress"):
            metadata = MetaData()
            tables = messaging_tables(metadata)
            producing = Database(f"sqlite:///{tmp_path / 'producers'}", producer)
            stack.push_async_callback(producing.close)
            async with producing.migrating() as connection:
                await connection.run_sync(metadata.create_all)
            outboxes[producer] = (producing, Outbox(producer, "malabo", clock, tables))
            relays.append(Relay(producing, broker, tables, clock))
        running = [asyncio.create_task(relay.run()) for relay in relays]

        async def end() -> None:
            for task in running:
                task.cancel()
            await asyncio.gather(*running, return_exceptions=True)

        stack.push_async_callback(end)

        async def emit(producer: str, data: Fact, tenant: str, site: str | None) -> None:
            producing, outbox = outboxes[producer]
            async with producing.transaction() as tx:
                await outbox.emit(tx, data, subject=STUDY, tenant=tenant, site=site)

        async def record(name: str, use: AccessUsed, tenant: str) -> None:
            producing, outbox = outboxes[name]
            async with producing.transaction() as tx:
                await outbox.emit(tx, use, subject=use.target or use.route, tenant=tenant)

        access = AccessView(_tokens, clock)
        yield Stand(clock, audit, emit, make_app([service], access, record, clock, version="1"))


async def _a_study(stand: Stand, tenant: str = "north", site: str | None = "clinic") -> None:
    steps: list[tuple[str, str]] = [
        ("ingest", "instances.stored.v1/typical.json"),
        ("rules", "routing.decided.v1/nothing-matched.json"),
        ("ingest", "study.completed.v1/typical.json"),
        ("rules", "delivery.requested.v1/closing.json"),
        ("egress", "delivery.attempted.v1/out-of-resources.json"),
        ("egress", "delivery.attempted.v1/well.json"),
        ("egress", "delivery.completed.v1/typical.json"),
    ]
    for producer, name in steps:
        await stand.emit(producer, fact(name, study_instance_uid=STUDY), tenant, site)
        stand.clock.move(timedelta(seconds=1))


async def test_the_timeline_tells_every_step_in_order(stand: Stand) -> None:
    await _a_study(stand)
    await until_recorded(stand.database, 7)
    async with stand.client("viewer") as client:
        answer = await client.get(f"/v1/audit/studies/{STUDY}/timeline")
    timeline = answer.json()
    assert answer.status_code == 200
    assert (timeline["study_instance_uid"], timeline["more"]) == (STUDY, False)
    entries = timeline["entries"]
    assert [(entry["service"], entry["event"].removesuffix(".v1")) for entry in entries] == [
        ("ingest", "instances.stored"),
        ("rules", "routing.decided"),
        ("ingest", "study.completed"),
        ("rules", "delivery.requested"),
        ("egress", "delivery.attempted"),
        ("egress", "delivery.attempted"),
        ("egress", "delivery.completed"),
    ]
    assert entries[0]["time"] == "2026-11-20T09:30:00Z"
    assert entries == sorted(entries, key=lambda entry: str(entry["time"]))
    assert all(entry["sentence"].endswith(".") and entry["region"] == "malabo" for entry in entries)
    assert entries[5]["details"]["destination"] == "pacs"
    async with stand.client("viewer") as client:
        path = f"/v1/audit/studies/{STUDY}/timeline"
        first = (await client.get(path, params={"limit": 4})).json()
        assert first["more"]
        later = (await client.get(path, params={"since": first["entries"][-1]["time"]})).json()
    assert not later["more"]
    assert first["entries"] + later["entries"][1:] == entries


async def test_a_reader_sees_its_own_tenant_and_sites_only(stand: Stand) -> None:
    await _a_study(stand, "north", "clinic")
    await _a_study(stand, "south", "clinic")
    await until_recorded(stand.database, 14)
    counts = {}
    for token in ("all", "north", "south", "clinic", "elsewhere"):
        async with stand.client(token) as client:
            counts[token] = len((await client.get(f"/v1/audit/studies/{STUDY}/timeline")).json()["entries"])
    assert counts == {"all": 14, "north": 7, "south": 7, "clinic": 7, "elsewhere": 0}


async def test_who_looked_is_recorded_but_is_not_part_of_the_timeline(stand: Stand) -> None:
    await _a_study(stand)
    await until_recorded(stand.database, 7)
    async with stand.client("viewer") as client:
        await client.get(f"/v1/audit/studies/{STUDY}/timeline")
        await until_recorded(stand.database, 8)
        assert len((await client.get(f"/v1/audit/studies/{STUDY}/timeline")).json()["entries"]) == 7
    await until_recorded(stand.database, 9)
    async with stand.client("north") as client:
        page = (
            await client.get("/v1/audit/records", params={"subject": STUDY, "type": "kivuko.access.used.v1"})
        ).json()
    assert [record["tenant"] for record in page["records"]] == ["north", "north"]
    assert page["records"][0]["sentence"] == (
        "viewer (viewer) used studies.read: GET /v1/audit/studies/{uid}/timeline, answer 200."
    )


async def test_records_are_paged_and_shown_byte_for_byte(stand: Stand) -> None:
    await _a_study(stand)
    await until_recorded(stand.database, 7)
    async with stand.client("north") as client:
        found: list[int] = []
        before: int | None = None
        while True:
            query: dict[str, int | str] = {"limit": 3, "study": STUDY}
            if before is not None:
                query["before"] = before
            page = (await client.get("/v1/audit/records", params=query)).json()
            found += [record["seq"] for record in page["records"]]
            before = page["before"]
            if before is None:
                break
        assert len(found) == len(set(found)) == 7
        assert found == sorted(found, reverse=True)
        shown = await client.get(f"/v1/audit/records/{found[-1]}")
        assert shown.headers["content-type"] == "application/cloudevents+json"
        assert Event[Fact].model_validate_json(shown.content).subject == STUDY
        assert (await client.get("/v1/audit/records/999999")).status_code == 404
    async with stand.client("south") as client:
        assert (await client.get(f"/v1/audit/records/{found[-1]}")).status_code == 404
        assert (await client.get("/v1/audit/records")).json()["records"] == []


async def test_only_those_who_may_read_the_audit_log(stand: Stand) -> None:
    for token, expected in (("all", 200), ("viewer", 403), ("integrator", 403)):
        async with stand.client(token) as client:
            for path in ("/v1/audit/records", "/v1/audit/gaps"):
                assert (await client.get(path)).status_code == expected
    async with stand.client("integrator") as client:
        assert (await client.get(f"/v1/audit/studies/{STUDY}/timeline")).status_code == 403


async def test_a_lost_event_shows_as_a_gap_after_a_minute(stand: Stand) -> None:
    await _a_study(stand)
    await until_recorded(stand.database, 7)
    async with stand.database.transaction() as tx:
        await count_in(tx, "/malabo/ingest", [4], stand.clock())
    async with stand.client("all") as client:
        assert (await client.get("/v1/audit/gaps")).json()["gaps"] == []
        stand.clock.move(timedelta(minutes=1))
        [gap] = (await client.get("/v1/audit/gaps")).json()["gaps"]
    assert (gap["source"], gap["first"], gap["last"]) == ("/malabo/ingest", 3, 3)
