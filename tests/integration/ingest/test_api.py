"""What HTTP shows of studies and of the quarantine, within the caller's scope."""

import asyncio
from pathlib import Path

import httpx
import pytest
from fastapi import FastAPI, Request
from starlette.middleware.base import RequestResponseEndpoint
from starlette.responses import JSONResponse, Response

from libs.web.permission import Requires
from libs.web.principal import Principal
from libs.web.problem import Problem
from tests.integration.ingest.conftest import Running, running
from tests.integration.ingest.peer import read, send
from tests.integration.ingest.test_bad_input import send_as
from tests.support.synthetic import make_ct, make_study

pytestmark = pytest.mark.integration
EVERYTHING = Principal(name="all", role="admin")
NORTH = Principal(name="north", role="viewer", tenants=frozenset({"north"}))
BATA = Principal(name="bata", role="operator", sites=frozenset({"bata"}))
NOTHING = Principal(name="none", role="auditor", tenants=frozenset())


class _Use:
    def concerns(self, target: str | None, tenant: str) -> None:
        """Recording has tests of its own."""

    def declared(self, permission: str, caller: Principal) -> None:
        """Recording has tests of its own."""

    async def begin(self) -> None:
        """Recording has tests of its own."""


def client(ingest: Running, caller: Principal) -> httpx.AsyncClient:
    """Call the routes as a caller."""
    app = FastAPI()
    assert ingest.service.router is not None
    app.include_router(ingest.service.router, prefix="/v1/ingest")

    @app.middleware("http")
    async def authenticated(request: Request, call: RequestResponseEndpoint) -> Response:
        request.state.principal = caller
        request.state.use = _Use()
        return await call(request)

    @app.exception_handler(Problem)
    async def told(_request: Request, problem: Problem) -> JSONResponse:
        return JSONResponse(problem.document(""), problem.status)

    return httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test")


async def test_studies_and_quarantine_by_page_and_scope(tmp_path: Path) -> None:
    async with running(tmp_path / "home") as ingest:
        for calling, count in (("CT1", 2), ("CT1", 1), ("NORTH", 3)):
            await asyncio.to_thread(send, ingest.port, make_study(tmp_path, count), calling=calling)
            await ingest.until_indexed()
        _, dataset = read(make_ct(tmp_path, StudyInstanceUID=None))
        await asyncio.to_thread(send_as, ingest.port, dataset, sop_uid="1.2.3")
        await ingest.until_indexed()
        await ingest.until_events("study.completed", 3)
        async with client(ingest, EVERYTHING) as http:
            first = (await http.get("/v1/ingest/studies", params={"limit": 2})).json()
            assert [study["instance_count"] for study in first["studies"]] == [3, 1]
            rest = (await http.get("/v1/ingest/studies", params={"limit": 2, "before": first["before"]})).json()
            assert [study["instance_count"] for study in rest["studies"]] == [2]
            assert rest["before"] is None
            assert {study["state"] for study in first["studies"]} == {"complete"}
            uid = first["studies"][0]["study_instance_uid"]
            shown = (await http.get(f"/v1/ingest/studies/{uid}")).json()
            assert (shown["tenant"], shown["arrivals"], shown["modalities"]) == ("north", {"stored": 3}, ["CT"])
            assert len((await http.get("/v1/ingest/studies", params={"site": "luba"})).json()["studies"]) == 2
            (entry,) = (await http.get("/v1/ingest/quarantine")).json()["entries"]
            assert (entry["reason"], entry["site"]) == ("identity-mismatch", "luba")
            assert (await http.get(f"/v1/ingest/quarantine/{entry['id']}")).json() == entry
        for caller in (NORTH, BATA):
            async with client(ingest, caller) as http:
                (study,) = (await http.get("/v1/ingest/studies")).json()["studies"]
                assert study["tenant"] == "north"
                hidden = rest["studies"][0]["study_instance_uid"]
                assert (await http.get(f"/v1/ingest/studies/{hidden}")).status_code == 404
        async with client(ingest, BATA) as http:
            assert (await http.get("/v1/ingest/quarantine")).json()["entries"] == []
            assert (await http.get(f"/v1/ingest/quarantine/{entry['id']}")).status_code == 404
        async with client(ingest, NOTHING) as http:
            assert (await http.get("/v1/ingest/studies")).json()["studies"] == []
            assert (await http.get("/v1/ingest/quarantine")).json()["entries"] == []


async def test_every_route_declares_its_permission(tmp_path: Path) -> None:
    async with running(tmp_path / "home", loops=False) as ingest:
        router = ingest.service.router
        assert router is not None
        assert router.routes
        for route in router.routes:
            declared = getattr(route, "dependencies", [])
            assert any(isinstance(each.dependency, Requires) for each in declared)
