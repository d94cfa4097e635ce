"""The app of all services together, as `kivuko up` serves it."""

import importlib
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest
from fastapi import FastAPI
from openapi_spec_validator import validate
from pydantic import SecretStr

from contracts.access import AccessUsed
from contracts.topics import SERVICES
from libs.clock import utc_now
from libs.messaging.broker import make_broker
from libs.messaging.deadletter import DeadLetters
from libs.service import Platform, Service
from libs.settings import Settings
from libs.snapshot import NetworkView
from libs.storage.database import Database
from libs.storage.objects import open_store
from libs.web.access import AccessEntry, AccessList, AccessView, token_hash
from libs.web.app import make_app
from libs.web.dead_letters import dead_letter_router
from libs.web.permission import PERMISSIONS, Public, Requires
from libs.web.routes import declared
from tests.support.migrated import migrate

pytestmark = pytest.mark.integration


@dataclass
class Whole:
    app: FastAPI
    services: dict[str, Service]
    databases: dict[str, Database]

    def client(self, token: str | None) -> httpx.AsyncClient:
        headers = {} if token is None else {"authorization": f"Bearer {token}"}
        transport = httpx.ASGITransport(app=self.app, client=("192.0.2.7", 4711))
        return httpx.AsyncClient(transport=transport, base_url="http://kivuko", headers=headers)


async def _no_definition() -> None:
    return None


async def _tokens() -> AccessList:
    roles = ("admin", "operator", "auditor", "integrator", "viewer")
    entries = [AccessEntry(token_id=role, token_hash=token_hash(role), name=role, role=role) for role in roles]
    entries.append(
        AccessEntry(token_id="n", token_hash=token_hash("north"), name="north", role="operator", tenants=("north",))
    )
    return AccessList(entries=tuple(entries))


async def _record(service: str, _use: AccessUsed, _tenant: str) -> None:
    assert service in SERVICES


@pytest.fixture
async def whole(tmp_path: Path) -> AsyncIterator[Whole]:
    databases: dict[str, Database] = {}

    def database(service: str) -> Database:
        return databases.setdefault(service, Database(f"sqlite:///{tmp_path / 'db'}", service))

    platform = Platform(
        settings=Settings(home=tmp_path),
        broker=make_broker(f"sqlite:///{tmp_path / 'bus.db'}", instance="test"),
        objects=open_store(f"file://{tmp_path / 'objects'}"),
        network=NetworkView(_no_definition, tmp_path / "snapshot.json"),
        clock=utc_now,
        database=database,
    )
    services: dict[str, Service] = {
        name: importlib.import_module(f"services.{name}.app").build(platform) for name in SERVICES
    }
    routers = {
        service.name: dead_letter_router(DeadLetters(service.database, service.tables, utc_now))
        for service in services.values()
        if service.database is not None and service.tables is not None
    }
    access = AccessView(_tokens, utc_now, service_token=SecretStr("between services"))
    app = make_app(list(services.values()), access, _record, utc_now, version="1.2.3", dead_letters=routers)
    yield Whole(app, services, databases)
    for opened in databases.values():
        await opened.close()


def test_every_route_declares_a_permission_and_these_few_are_public(whole: Whole) -> None:
    routes = list(declared(whole.app))
    assert [route.path for route in routes if route.access is None] == []
    assert {route.path for route in routes if isinstance(route.access, Public)} == {
        "/healthz",
        "/readyz",
        "/openapi.json",
    }
    assert {route.access.permission for route in routes if isinstance(route.access, Requires)} <= PERMISSIONS.keys()
    assert {route.path for route in routes if isinstance(route.access, Requires) and route.access.from_loopback} == {
        "/metrics"
    }
    assert {route.path.split("/")[2] for route in routes if route.path.startswith("/v1/")} == set(SERVICES)


def test_what_changes_something_has_a_permission_that_is_recorded(whole: Whole) -> None:
    otherwise: dict[str, set[str]] = {}
    for route in declared(whole.app):
        if route.methods - {"GET", "HEAD"} and isinstance(route.access, Requires):
            otherwise.setdefault(PERMISSIONS[route.access.permission].recorded, set()).add(route.path)
    del otherwise["change"]
    # Trying something out changes nothing. What the rules are told is not kept; all else may show patients.
    assert otherwise == {
        "no": {"/v1/rules/try"},
        "patient-data": {
            "/v1/egress/transforms/{name}/try",
            "/v1/egress/transforms/{name}/file",
            "/v1/rules/replays",
            "/v1/rules/replays/{replay}",
            "/v1/worklist/map",
        },
    }


def test_whatever_is_recorded_belongs_to_a_service_that_can_record(whole: Whole) -> None:
    for route in declared(whole.app):
        if isinstance(route.access, Requires) and PERMISSIONS[route.access.permission].recorded != "no":
            assert whole.services[route.path.split("/")[2]].tables is not None, route.path


async def test_no_route_answers_without_a_token(whole: Whole) -> None:
    checked = 0
    async with whole.client(None) as client:
        for route in declared(whole.app):
            if isinstance(route.access, Requires):
                path = route.path.replace("{", "").replace("}", "")
                for method in route.methods:
                    answer = await client.request(method, path)
                    assert answer.status_code in (401, 429), (method, path)
                    checked += 1
    assert checked > 30


async def test_the_document_is_valid_and_names_are_unique(whole: Whole) -> None:
    async with whole.client(None) as client:
        document = (await client.get("/openapi.json")).json()
    validate(document)
    operations = [operation for methods in document["paths"].values() for operation in methods.values()]
    ids = [operation["operationId"] for operation in operations]
    assert sorted(ids) == sorted(set(ids))
    assert document["info"]["version"] == "1.2.3"
    secured = [operation for operation in operations if "security" in operation]
    assert all(operation["x-permission"] in PERMISSIONS for operation in secured)
    assert len(operations) - len(secured) == 2


async def test_the_services_token_opens_what_services_need_and_nothing_else(whole: Whole) -> None:
    await migrate(whole.databases["network"], "services.network")
    async with whole.client("between services") as client:
        assert (await client.get("/v1/network/access")).status_code == 200
        # There is no definition yet; the point is that it is not 403.
        assert (await client.get("/v1/network/snapshot")).status_code in (200, 404)
        for path in ("/v1/ingest/studies", "/v1/audit/records", "/v1/network/tokens", "/v1/network/history"):
            assert (await client.get(path)).status_code == 403, path
    async with whole.client("admin") as client:
        assert (await client.get("/v1/network/access")).status_code == 403


async def test_services_that_do_nothing_yet_say_so(whole: Whole) -> None:
    async with whole.client("viewer") as client:
        for service in ("sla", "console"):
            status = (await client.get(f"/v1/{service}/status")).json()
            assert status["network_version"] is None
            assert not any(part["in_force"] for part in status["parts"])
    assert all(whole.services[name].addresses is None for name in ("sla", "console"))


async def test_dead_letters_are_listed_shown_and_replayed_within_the_scope(whole: Whole) -> None:
    database, tables = whole.databases["rules"], whole.services["rules"].tables
    assert tables is not None
    await migrate(database, "services.rules")
    async with database.transaction() as tx:
        for number, (tenant, body) in enumerate([("north", b"{}"), ("south", b"{}"), (None, b"\xff")], start=1):
            await tx.execute(
                tables.dead_letter.insert().values(
                    fingerprint=str(number),
                    queue="rules.instances.stored.v1",
                    tenant=tenant,
                    reason="the handler said no",
                    attempts=5,
                    deaths=[],
                    headers={},
                    content_type="application/cloudevents+json",
                    body=body,
                    died_at=utc_now(),
                )
            )
    async with whole.client("operator") as client:
        listed = (await client.get("/v1/rules/dead-letters", params={"limit": 2})).json()
        assert ([letter["id"] for letter in listed["dead_letters"]], listed["before"]) == ([3, 2], 2)
        shown = (await client.get("/v1/rules/dead-letters/3")).json()
        assert (shown["body"], shown["encoding"]) == ("/w==", "base64")
    async with whole.client("north") as client:
        listed = (await client.get("/v1/rules/dead-letters")).json()
        assert [letter["id"] for letter in listed["dead_letters"]] == [1]
        assert (await client.get("/v1/rules/dead-letters/2")).status_code == 404
        refused = await client.post("/v1/rules/dead-letters/replay", json={"ids": [1, 2]})
        assert refused.status_code == 404
        assert (await client.get("/v1/rules/dead-letters/1")).json()["replayed_at"] is None
        replayed = await client.post("/v1/rules/dead-letters/replay", json={"ids": [1]})
        assert replayed.json() == {"replayed": 1}
        assert (await client.get("/v1/rules/dead-letters/1")).json()["replayed_at"] is not None
    async with whole.client("viewer") as client:
        assert (await client.get("/v1/rules/dead-letters")).status_code == 403
