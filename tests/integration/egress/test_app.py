"""Egress as it is wired: events from a real broker, HTTP routes, and the study's trace."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from contracts.access import AccessUsed
from contracts.definition import Snapshot
from contracts.envelope import CONTENT_TYPE
from libs.clock import utc_now
from libs.messaging.broker import make_broker
from libs.messaging.topology import EVENTS, declare
from libs.service import Platform, Service
from libs.settings import Settings
from libs.snapshot import NetworkView
from libs.storage.database import Database
from libs.storage.folder import FolderStore
from libs.telemetry import trace
from libs.web.access import AccessEntry, AccessList, AccessView, token_hash
from libs.web.app import make_app
from services.egress.app import build
from tests.integration.egress.peer import keep, receiver
from tests.integration.egress.stand import TENANT, archive, item, request
from tests.support.migrated import migrate
from tests.support.synthetic import make_study

pytestmark = pytest.mark.integration


@dataclass
class Process:
    """What runs egress in these tests."""

    service: Service
    platform: Platform
    database: Database
    client: httpx.AsyncClient
    uses: list[AccessUsed]

    async def publish(self, paths: list[Path], study: str = "1.2.3", site: str | None = None) -> None:
        """Publish a request as the relay of rules does."""
        kept = [item(keep(self.platform.objects, path, n)) for n, path in enumerate(paths)]
        event = request(kept, study=study).model_copy(update={"site": site})
        await self.platform.broker.publish(
            event.model_dump_json().encode(),
            exchange=EVENTS,
            routing_key=f"delivery.requested.v1.{TENANT}",
            persist=True,
            content_type=CONTENT_TYPE,
        )


def caller(token: str) -> dict[str, str]:
    return {"authorization": f"Bearer {token}"}


async def run(folder: Path, snapshot: Snapshot) -> AsyncIterator[Process]:
    settings = Settings(home=folder / "home", instance="test")
    database = Database(settings.database, "egress")

    async def fetch() -> Snapshot:
        return snapshot

    async def tokens() -> AccessList:
        entries = [
            AccessEntry(token_id="1", token_hash=token_hash("op"), name="op", role="operator"),
            AccessEntry(token_id="2", token_hash=token_hash("view"), name="view", role="viewer"),
            AccessEntry(
                token_id="3", token_hash=token_hash("far"), name="far", role="operator", tenants=frozenset({"other"})
            ),
            # The site of the archive, from which nothing was sent.
            AccessEntry(token_id="4", token_hash=token_hash("near"), name="near", role="viewer", sites=("a",)),
            AccessEntry(
                token_id="5", token_hash=token_hash("own"), name="own", role="operator", tenants=frozenset({TENANT})
            ),
            AccessEntry(token_id="6", token_hash=token_hash("guest"), name="guest", role="operator", sites=("b",)),
        ]
        return AccessList(entries=tuple(entries))

    uses: list[AccessUsed] = []

    async def record(_service: str, use: AccessUsed, _tenant: str) -> None:
        uses.append(use)

    platform = Platform(
        settings=settings,
        broker=make_broker(settings.broker, instance="test"),
        objects=FolderStore(folder / "objects"),
        network=NetworkView(fetch, settings.home / "snapshot.json"),
        clock=utc_now,
        database=lambda _service: database,
    )
    service = build(platform)
    access = AccessView(tokens, utc_now)
    await access.refresh()
    app = make_app([service], access, record, utc_now, version="1")
    await migrate(database, "services.egress")
    await platform.network.refresh()
    await platform.broker.connect()
    await declare(platform.broker)
    await platform.broker.start()
    loops = [asyncio.ensure_future(loop()) for loop in service.loops]
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://kivuko") as client:
        yield Process(service, platform, database, client, uses)
    for loop in loops:
        loop.cancel()
    await asyncio.gather(*loops, return_exceptions=True)
    await platform.broker.stop()
    await database.close()


async def until_state(process: Process, state: str) -> dict[str, object]:
    """Wait until the first delivery is in a state, looking after each commit."""
    committed = asyncio.Event()
    process.database.on_commit(lambda _session: committed.set())
    async with asyncio.timeout(60):
        while True:
            committed.clear()
            answer = await process.client.get("/v1/egress/deliveries", headers=caller("op"))
            found = [each for each in answer.raise_for_status().json()["deliveries"] if each["state"] == state]
            if found:
                return dict(found[0])
            await committed.wait()


async def test_from_event_to_receipt_in_the_trace_of_the_study(tmp_path: Path) -> None:
    spans = InMemorySpanExporter()
    trace.configure(Settings(home=tmp_path), "egress")
    trace.export_to(spans)
    with receiver() as peer:
        async for process in run(tmp_path, archive(peer.port)):
            await process.publish(make_study(tmp_path, 3))
            await until_state(process, "done")
    attempts = [span for span in spans.get_finished_spans() if span.name == "delivery attempt"]
    assert {span.context.trace_id for span in attempts if span.context} == {trace.study_trace_id(TENANT, "1.2.3")}
    assert sum(int(str((span.attributes or {})["kivuko.count"])) for span in attempts) == 3


async def test_routes(tmp_path: Path) -> None:
    paths = make_study(tmp_path, 3)
    bad = paths[1].stem
    with receiver(lambda uid: 0xC123 if uid == bad else 0) as peer:
        async for process in run(tmp_path, archive(peer.port)):
            get, post = process.client.get, process.client.post
            await process.publish(paths)
            row = await until_state(process, "waiting")
            url = f"/v1/egress/deliveries/{row['id']}"

            detail = (await get(url, headers=caller("view"))).raise_for_status().json()
            assert (detail["sent_count"], detail["pending_count"], detail["priority"]) == (2, 1, "routine")
            assert {each["sop_instance_uid"]: each["status"] for each in detail["items"]}[bad] == "C123"
            page = (await get(url, headers=caller("view"), params={"limit": 2})).json()
            rest = (await get(url, headers=caller("view"), params={"after": page["next"]})).json()
            assert [each["id"] for each in page["items"] + rest["items"]] == [each["id"] for each in detail["items"]]

            listed = (await get("/v1/egress/deliveries", headers=caller("op"), params={"limit": 1})).json()
            after = {"before": listed["next"]}
            assert (await get("/v1/egress/deliveries", headers=caller("op"), params=after)).json()["deliveries"] == []
            for wrong in ({"state": "done"}, {"destination": "x"}, {"study": "9"}):
                answer = await get("/v1/egress/deliveries", headers=caller("op"), params=wrong)
                assert answer.json()["deliveries"] == []
            assert (await get("/v1/egress/deliveries?before=x", headers=caller("op"))).status_code == 422

            # Another tenant's operator sees and changes nothing of it.
            assert (await get("/v1/egress/deliveries", headers=caller("far"))).json()["deliveries"] == []
            assert (await get(url, headers=caller("far"))).status_code == 404
            assert (await post(f"{url}/retry", headers=caller("far"))).status_code == 404
            assert (await get("/v1/egress/destinations", headers=caller("far"))).json() == []
            assert (await post("/v1/egress/destinations/archive/echo", headers=caller("far"))).status_code == 404

            [known] = (await get("/v1/egress/destinations", headers=caller("view"))).json()
            assert (known["key"], known["reachable"], known["backlog"]) == ("archive", True, 1)
            assert (await post(f"{url}/retry", headers=caller("view"))).status_code == 403
            assert (await post(f"{url}/retry", headers=caller("op"))).json() == {"instances": 1}
            answer = await post("/v1/egress/destinations/archive/echo", headers=caller("op"))
            assert answer.json()["ok"] is False
            answer = await post("/v1/egress/destinations/nowhere/echo", headers=caller("op"))
            assert answer.status_code == 404
            [known] = (await get("/v1/egress/destinations", headers=caller("near"))).json()
            assert (known["key"], known["backlog"]) == ("archive", 0)
            await process.service.checks["objects"]()
