"""Rules as they are wired: events through a real broker, HTTP routes."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest
from faststream.rabbit import RabbitBroker
from sqlalchemy import MetaData
from sqlalchemy.ext.asyncio import AsyncSession

from contracts.access import AccessUsed
from contracts.definition import Snapshot
from contracts.delivery import DeliveryRequested
from contracts.envelope import CONTENT_TYPE, Event
from contracts.topics import BY_TYPE
from libs.clock import utc_now
from libs.messaging.broker import make_broker
from libs.messaging.consume import consume
from libs.messaging.relay import Relay
from libs.messaging.tables import messaging_tables
from libs.messaging.topology import EVENTS, declare
from libs.service import Platform
from libs.settings import Settings
from libs.snapshot import NetworkView
from libs.storage.database import Database
from libs.storage.folder import FolderStore
from libs.web.access import AccessEntry, AccessList, AccessView, token_hash
from libs.web.app import make_app
from services.rules.app import build
from services.rules.models import messaging
from tests.support.migrated import migrate
from tests.unit.rules.scene import STUDY, completed, definition, instance, rule, stored

pytestmark = pytest.mark.integration

ONE, TWO = instance(1), instance(2)
RULES = definition(
    rule("all"),
    rule("ct", "both", "study", when='study.Modality == "CT" && source.site == "malabo"', priority="stat"),
)


@dataclass
class Process:
    """What runs rules in these tests, and egress' end of the broker."""

    broker: RabbitBroker
    client: httpx.AsyncClient
    apply: Callable[[Any], Awaitable[None]]
    requested: list[DeliveryRequested]
    arrived: asyncio.Event
    uses: list[tuple[AccessUsed, str]] = field(default_factory=list)

    async def publish(self, *events: Event[Any]) -> None:
        """Publish as the relay of ingest does."""
        for event in events:
            await self.broker.publish(
                event.model_dump_json().encode(),
                exchange=EVENTS,
                routing_key=BY_TYPE[event.type].routing_key(event.tenant, event.site),
                persist=True,
                content_type=CONTENT_TYPE,
            )

    async def until(self, enough: Callable[[list[DeliveryRequested]], bool]) -> list[DeliveryRequested]:
        """Return what was requested once it is enough; the test's time limit ends it."""
        while not enough(self.requested):
            self.arrived.clear()
            await self.arrived.wait()
        return self.requested


def closed(count: int) -> Callable[[list[DeliveryRequested]], bool]:
    return lambda requests: sum(one.study_version is not None for one in requests) >= count


async def _tokens() -> AccessList:
    return AccessList(
        entries=(
            AccessEntry(token_id="o", token_hash=token_hash("operator"), name="o", role="operator"),
            AccessEntry(
                token_id="e", token_hash=token_hash("elsewhere"), name="e", role="operator", tenants=("other",)
            ),
            AccessEntry(token_id="i", token_hash=token_hash("integrator"), name="i", role="integrator"),
        )
    )


@pytest.fixture
async def process(tmp_path: Path) -> AsyncIterator[Process]:
    snapshots: list[Snapshot] = []

    async def fetch() -> Snapshot | None:
        return snapshots[-1] if snapshots else None

    broker = make_broker(f"sqlite:///{tmp_path / 'bus.db'}", instance="test")
    databases: dict[str, Database] = {}

    def database(service: str) -> Database:
        return databases.setdefault(service, Database(f"sqlite:///{tmp_path / 'db'}", service))

    network = NetworkView(fetch, tmp_path / "network-snapshot.json")
    platform = Platform(Settings(home=tmp_path), broker, FolderStore(tmp_path / "objects"), network, utc_now, database)
    service = build(platform)
    await migrate(database("rules"), "services.rules")
    requested: list[DeliveryRequested] = []
    arrived = asyncio.Event()
    metadata = MetaData()
    egress_tables = messaging_tables(metadata)
    async with database("egress").engine.begin() as connection:
        await connection.run_sync(metadata.create_all)

    @consume(broker, "egress", DeliveryRequested, database("egress"), egress_tables, utc_now)
    async def on_requested(event: Event[DeliveryRequested], _tx: AsyncSession) -> None:
        requested.append(event.data)
        arrived.set()

    uses: list[tuple[AccessUsed, str]] = []

    async def record(_service: str, use: AccessUsed, tenant: str) -> None:
        uses.append((use, tenant))

    async def apply(applied: Any) -> None:
        snapshots.append(Snapshot(version=len(snapshots) + 1, document_hash="0" * 64, definition=applied))
        await network.refresh()

    access = AccessView(_tokens, utc_now)
    await access.refresh()
    app = make_app([service], access, record, utc_now, version="test")
    transport = httpx.ASGITransport(app=app, client=("192.0.2.7", 4711))
    async with AsyncExitStack() as stack:
        client = await stack.enter_async_context(httpx.AsyncClient(transport=transport, base_url="http://kivuko"))
        for each in databases.values():
            stack.push_async_callback(each.close)
        await broker.connect()
        stack.push_async_callback(broker.stop)
        await declare(broker)
        await broker.start()
        loops = [Relay(database("rules"), broker, messaging, utc_now).run, *service.loops]
        tasks = [asyncio.ensure_future(loop()) for loop in loops]
        yield Process(broker, client, apply, requested, arrived, uses)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def test_a_study_is_requested_through_the_broker(process: Process) -> None:
    await process.apply(RULES)
    first = stored(ONE, TWO, Modality="CT")
    await process.publish(completed(ONE, TWO, Modality="CT"), first, first)
    # Two that close, and the one that went ahead as the instances came: they arrive in any order.
    requests = await process.until(lambda found: closed(2)(found) and len(found) == 3)
    closing = {one.destination: one for one in requests if one.study_version is not None}
    assert {name: (one.expected_count, one.priority, one.network_version) for name, one in closing.items()} == {
        "pacs": (2, "stat", 1),
        "telerad": (2, "stat", 1),
    }
    assert closing["pacs"].rules == ("all", "ct")
    assert [one.study_version for one in requests if one.destination == "pacs"].count(None) == 1


async def test_what_came_before_the_first_definition_is_decided_when_it_comes(process: Process) -> None:
    await process.publish(stored(ONE, Modality="CT"), completed(ONE, Modality="CT"))
    await process.apply(RULES)
    requests = await process.until(closed(2))
    assert {one.destination for one in requests} == {"pacs", "telerad"}


def bearer(token: str) -> dict[str, str]:
    return {"authorization": f"Bearer {token}"}


async def test_people_see_why_in_their_scope(process: Process) -> None:
    await process.apply(RULES)
    await process.publish(stored(ONE, Modality="CT", PatientName="Nobody^Reads"), completed(ONE, Modality="CT"))
    await process.until(closed(2))
    answer = await process.client.get("/v1/rules/decisions", params={"study": STUDY}, headers=bearer("operator"))
    decisions = answer.json()["decisions"]
    assert [one["decision"]["trigger"] for one in decisions] == ["instance", "study"]
    (match,) = decisions[1]["decision"]["matches"]
    assert (match["rule"], match["destinations"]) == ("ct", ["pacs", "telerad"])
    assert match["inputs"] == {"Modality": "CT", "source.site": "malabo"}
    assert "Nobody" not in answer.text
    assert [(use.target, tenant) for use, tenant in process.uses] == [(STUDY, "minsabs")]
    hidden = await process.client.get("/v1/rules/decisions", params={"study": STUDY}, headers=bearer("elsewhere"))
    assert hidden.json() == {"decisions": [], "next": None}
    refused = await process.client.get("/v1/rules/decisions", params={"study": STUDY}, headers=bearer("integrator"))
    assert refused.status_code == 403


async def test_rules_can_be_tried(process: Process) -> None:
    given = {"study": {"Modality": "CT"}, "source": {"site": "malabo"}}
    before = await process.client.post("/v1/rules/try", json=given, headers=bearer("operator"))
    assert (before.status_code, before.json()["title"]) == (409, "No definition")
    await process.apply(RULES)
    answer = await process.client.post("/v1/rules/try", json=given, headers=bearer("operator"))
    assert answer.json()["network_version"] == 1
    assert [(one["rule"], one["destinations"], one["inputs"]) for one in answer.json()["matches"]] == [
        ("all", ["pacs"], {}),
        ("ct", ["pacs", "telerad"], {"Modality": "CT", "source.site": "malabo"}),
    ]
    wrong = await process.client.post("/v1/rules/try", json={"study": {"Modalty": "CT"}}, headers=bearer("operator"))
    assert wrong.status_code == 422
    assert "did you mean `Modality`?" in wrong.json()["detail"]
    narrowed = await process.client.post("/v1/rules/try", json=given, headers=bearer("elsewhere"))
    assert narrowed.status_code == 403, "it names everyone's rules and destinations"
    assert process.requested == []


async def test_readiness_says_when_rules_cannot_be_read(process: Process) -> None:
    await process.apply(RULES)
    await process.client.post("/v1/rules/try", json={}, headers=bearer("operator"))
    await process.apply(definition(rule("newer", when="instance.Nothing == 1")))
    await process.client.post("/v1/rules/try", json={}, headers=bearer("operator"))
    answer = await process.client.get("/readyz")
    assert answer.status_code == 503
    assert "version 2" in answer.text


async def test_each_rule_is_explained_with_values_for_those_who_may_read_studies(process: Process) -> None:
    await process.apply(RULES)
    await process.publish(stored(ONE, TWO, Modality="CT"), completed(ONE, TWO, Modality="CT"))
    await process.until(closed(2))
    operator = {"authorization": "Bearer operator"}
    found = (await process.client.get("/v1/rules/explain", params={"study": STUDY}, headers=operator)).json()
    rules = {one["rule"]: one for one in found["rules"]}
    assert {name: (one["matched"], one["instances"], one["of"]) for name, one in rules.items()} == {
        "all": (True, 2, 2),
        "ct": (True, 2, 2),
    }
    assert rules["ct"]["condition"]["parts"][0]["values"] == {"study.Modality": "CT"}
    assert (found["decided_under"], found["explained_under"], found["note"]) == (1, 1, None)
    assert {(one["destination"], one["priority"]) for one in found["routes"]} == {("pacs", "stat"), ("telerad", "stat")}
    assert process.uses[-1][0].permission == "decisions.read"
    assert process.uses[-1][0].target == STUDY
    await process.apply(definition(rule("mr", "both", "study", when='study.Modality == "MR"')))
    params = {"study": STUDY, "under": "in-force"}
    now = (await process.client.get("/v1/rules/explain", params=params, headers=operator)).json()
    assert [(one["rule"], one["matched"]) for one in now["rules"]] == [("mr", False)]
    assert now["rules"][0]["because"] == ['`study.Modality == "MR"` is false: study.Modality is "CT"']
    then = (await process.client.get("/v1/rules/explain", params={"study": STUDY}, headers=operator)).json()
    assert [one["rule"] for one in then["rules"]] == ["all", "ct"]
    elsewhere = {"authorization": "Bearer elsewhere"}
    assert (await process.client.get("/v1/rules/explain", params=params, headers=elsewhere)).status_code == 404
    integrator = {"authorization": "Bearer integrator"}
    assert (await process.client.get("/v1/rules/explain", params=params, headers=integrator)).status_code == 403


async def test_a_replay_is_begun_followed_and_read(process: Process) -> None:
    await process.apply(RULES)
    await process.publish(stored(ONE, TWO, Modality="CT"), completed(ONE, TWO, Modality="CT"))
    await process.until(closed(2))
    headers = {"authorization": "Bearer operator"}
    client = process.client
    proposed = definition(rule("mr", "both", "study", when='study.Modality == "MR"')).model_dump(
        mode="json", by_alias=True
    )
    wanted = {"definition": proposed, "since": "2020-01-01T00:00:00Z"}
    begun = await client.post("/v1/rules/replays", json=wanted, headers=headers)
    assert begun.status_code == 202
    path = f"/v1/rules/replays/{begun.json()['id']}"
    # Another process does it; there is nothing to wait on but its word.
    while (await client.get(path, headers=headers)).json()["state"] == "running":  # noqa: ASYNC110 - as above
        await asyncio.sleep(0.1)
    assert (await client.get(path, headers=headers)).json()["state"] == "done"
    report = (await client.get(f"{path}/report", headers=headers)).json()
    assert (report["changed_studies"], report["nowhere"]) == (1, {"before": 0, "after": 1})
    changed = (await client.get(f"{path}/changes", headers=headers)).text.splitlines()
    assert changed[1].split(",")[1] == STUDY
    page = await client.get(f"{path}/picture", headers=headers)
    assert page.headers["content-type"].startswith("text/html")
    assert "1 of 1 studies would go another way" in page.text
    listed = (await client.get("/v1/rules/replays", headers=headers)).json()["replays"]
    assert [one["id"] for one in listed] == [begun.json()["id"]]
    assert (await client.delete(path, headers=headers)).json()["state"] == "done"
    assert (await client.get("/v1/rules/replays/none", headers=headers)).status_code == 404
    for token in ("elsewhere", "integrator"):
        refused = await client.post("/v1/rules/replays", json=wanted, headers={"authorization": f"Bearer {token}"})
        assert refused.status_code == 403


async def test_a_replay_that_makes_no_sense_is_refused(process: Process) -> None:
    headers = {"authorization": "Bearer operator"}
    proposed = definition(rule("mr", when='instance.Modality == "MR"')).model_dump(mode="json", by_alias=True)
    wanted = {"definition": proposed, "since": "2020-01-01T00:00:00Z"}
    assert (await process.client.post("/v1/rules/replays", json=wanted, headers=headers)).status_code == 409
    await process.apply(RULES)
    wrong = {**wanted, "until": "2019-01-01T00:00:00Z"}
    assert (await process.client.post("/v1/rules/replays", json=wrong, headers=headers)).status_code == 422
    proposed["rules"][0]["when"] = "instance.Modalty"
    refused = await process.client.post("/v1/rules/replays", json=wanted, headers=headers)
    assert refused.status_code == 422
    assert "did you mean" in refused.json()["detail"]
