import json
from datetime import timedelta
from typing import Any

import httpx
import pytest
from fastapi import APIRouter, FastAPI
from hypothesis import given
from hypothesis import strategies as st
from openapi_spec_validator import validate

from libs.service import Service
from libs.web.access import AccessView
from libs.web.app import UndeclaredRouteError, make_app
from libs.web.edge import LONGEST_BODY
from libs.web.problem import Problem
from libs.web.routes import declared
from tests.unit.web.conftest import Connect, Journal, SettableClock, Things, TokenSource

pytestmark = pytest.mark.unit


def problem(response: httpx.Response, status: int) -> dict[str, Any]:
    """Check the shape of RFC 9457, and give the members."""
    assert response.status_code == status
    assert response.headers["content-type"] == "application/problem+json"
    document: dict[str, Any] = response.json()
    assert document["status"] == status
    assert document["type"].startswith("urn:kivuko:problem:")
    assert document["instance"] == f"urn:uuid:{response.headers['x-request-id']}"
    assert document["title"]
    assert document["detail"].endswith((".", "`", "see `errors`.", "see `failing`."))
    return document


async def test_without_a_token_only_public_addresses_answer(connect: Connect) -> None:
    client = connect()
    assert (await client.get("/healthz")).json() == {"status": "alive"}
    assert (await client.get("/readyz")).json() == {"status": "ready", "checks": []}
    assert (await client.get("/v1/things/open")).json() == {"hello": "world"}
    assert (await client.get("/openapi.json")).status_code == 200
    for path in ("/v1/things/studies/1.2", "/metrics", "/no-such-thing", "/docs", "/redoc", "/healthz/"):
        answer = await client.get(path)
        assert problem(answer, 401)["advice"]
        assert answer.headers["www-authenticate"] == 'Bearer realm="kivuko"'


@pytest.mark.parametrize("header", ["Basic dDp0", "Bearer", "Bearer ", "t", "Token t", ""])
async def test_a_malformed_header_is_refused(header: str, tokens: TokenSource, connect: Connect) -> None:
    tokens.add("t")
    problem(await connect().get("/v1/things/studies/1.2", headers={"authorization": header}), 401)


async def test_a_wrong_token_is_refused_even_where_none_is_needed(tokens: TokenSource, connect: Connect) -> None:
    tokens.add("t")
    answer = await connect("wrong").get("/healthz")
    problem(answer, 401)
    assert 'error="invalid_token"' in answer.headers["www-authenticate"]
    assert "wrong" not in answer.text


async def test_a_token_in_the_address_is_not_taken(tokens: TokenSource, connect: Connect) -> None:
    tokens.add("t", "admin")
    problem(await connect().get("/v1/things/studies/1.2?access_token=t&token=t"), 401)


async def test_headers_do_not_make_a_caller_local(connect: Connect) -> None:
    spoofed = {
        "x-forwarded-for": "127.0.0.1",
        "forwarded": "for=127.0.0.1",
        "x-real-ip": "127.0.0.1",
        "host": "localhost",
        "kivuko.listener": "socket",
        "x-kivuko-listener": "socket",
    }
    for address in ("192.0.2.7", "127.0.0.1"):
        client = connect(address=address)
        problem(await client.get("/v1/things/studies/1.2", headers=spoofed), 401)
        problem(await client.get("/metrics", headers=spoofed), 401)


async def test_metrics_are_open_to_the_same_machine_and_by_permission(tokens: TokenSource, connect: Connect) -> None:
    tokens.add("t", "viewer")
    for client in (connect(address="127.0.0.1"), connect(address="::1"), connect("t")):
        answer = await client.get("/metrics")
        assert answer.headers["content-type"].startswith("text/plain")
        assert "kivuko_http_unauthenticated_total" in answer.text


async def test_too_many_failures_have_to_wait_but_a_valid_token_never_does(
    tokens: TokenSource, connect: Connect, clock: SettableClock
) -> None:
    tokens.add("t")
    client = connect()
    answers = [await client.get("/v1/things/studies/1.2") for _ in range(25)]
    assert [answer.status_code for answer in answers] == [401] * 20 + [429] * 5
    problem(answers[-1], 429)
    assert 0 < int(answers[-1].headers["retry-after"]) <= 60
    assert (await connect("t").get("/v1/things/studies/1.2")).status_code == 200
    problem(await connect(address="192.0.2.8").get("/v1/things/studies/1.2"), 401)
    clock.move(timedelta(minutes=1))
    problem(await client.get("/v1/things/studies/1.2"), 401)


async def test_when_tokens_cannot_be_checked_the_answer_is_later_not_no(tokens: TokenSource, connect: Connect) -> None:
    tokens.add("t")
    tokens.away = True
    answer = await connect("t").get("/v1/things/studies/1.2")
    assert "network" in problem(answer, 503)["detail"]
    assert answer.headers["retry-after"]


async def test_problems_of_every_kind_have_one_shape(tokens: TokenSource, connect: Connect) -> None:
    tokens.add("t", "admin")
    tokens.add("v", "viewer")
    client = connect("t")
    forbidden = problem(await connect("v").post("/v1/things/things", json={"age": 1}), 403)
    assert forbidden["permission"] == "network.apply"
    problem(await client.get("/v1/things/none"), 404)
    answer = await client.delete("/v1/things/studies/1.2")
    problem(answer, 405)
    assert answer.headers["allow"] == "GET"
    problem(await client.post("/v1/things/things", content=b"{"), 422)
    overtaken = problem(await client.post("/v1/things/conflict"), 409)
    assert (overtaken["detail"], overtaken["advice"], overtaken["version"]) == (
        "Someone else was faster.",
        "Try again.",
        3,
    )


async def test_a_request_that_does_not_fit_is_told_where_without_its_values(
    tokens: TokenSource, connect: Connect
) -> None:
    tokens.add("t", "admin")
    answer = await connect("t").post("/v1/things/things", json={"age": "Doe^Jane", "name": "Doe^John"})
    assert {error["where"] for error in problem(answer, 422)["errors"]} == {"body.age", "body.name"}
    assert "Doe" not in answer.text


async def test_an_unexpected_error_says_nothing_of_its_cause(
    tokens: TokenSource, connect: Connect, capsys: pytest.CaptureFixture[str]
) -> None:
    tokens.add("t", "admin")
    answer = await connect("t").post("/v1/things/broken")
    document = problem(answer, 500)
    written = capsys.readouterr().err
    assert "Doe" not in answer.text + written
    assert answer.headers["x-request-id"] in document["advice"]
    assert answer.headers["x-request-id"] in written
    assert "ValueError" in written


async def test_a_body_that_is_too_large_is_refused_announced_or_not(tokens: TokenSource, connect: Connect) -> None:
    tokens.add("t", "admin")
    client = connect("t")

    async def chunks() -> Any:
        for _ in range(LONGEST_BODY // 2**20 + 1):
            yield b" " * 2**20

    problem(await client.post("/v1/things/things", content=b" " * (LONGEST_BODY + 1)), 413)
    problem(await client.post("/v1/things/things", content=chunks()), 413)
    exact = b'{"age": 1' + b" " * (LONGEST_BODY - 10) + b"}"
    assert len(exact) == LONGEST_BODY
    assert (
        await client.post("/v1/things/things", content=exact, headers={"content-type": "application/json"})
    ).status_code == 200


async def test_every_answer_says_not_to_keep_guess_or_frame_it(connect: Connect) -> None:
    for path in ("/healthz", "/v1/things/studies/1.2"):
        headers = (await connect().get(path)).headers
        assert headers["cache-control"] == "no-store"
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["x-frame-options"] == "DENY"
        assert headers["date"] == "Fri, 20 Nov 2026 09:30:00 GMT"
        assert "server" not in headers


async def test_readiness_names_what_fails_and_how_to_mend_it(
    view: AccessView, journal: Journal, clock: SettableClock
) -> None:
    failing = True

    async def full() -> None:
        if failing:
            raise RuntimeError("the disk is full: free some space")

    async def driver() -> None:
        if failing:
            raise ConnectionError("amqp://guest:secret@host refused")

    async def fine() -> None:
        return

    service = Service(name="ingest", checks={"spool": full, "broker": driver, "rest": fine})
    app = make_app([service], view, journal.record, clock, version="1")
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app=app), base_url="http://kivuko") as client:
        answer = await client.get("/readyz")
        assert problem(answer, 503)["failing"] == [
            {"check": "ingest.spool", "detail": "the disk is full: free some space"},
            {"check": "ingest.broker", "detail": "failed with ConnectionError: see the log"},
        ]
        failing = False
        clock.move(timedelta(seconds=1))
        assert (await client.get("/readyz")).json()["checks"] == ["ingest.spool", "ingest.broker", "ingest.rest"]
        failing = True
        clock.move(timedelta(hours=-1))
        assert (await client.get("/readyz")).status_code == 503, "an old answer stands although the clock was put back"


async def test_a_change_is_recorded_before_it_is_tried_and_with_its_outcome(
    tokens: TokenSource, connect: Connect, journal: Journal
) -> None:
    tokens.add("t", "operator", tenants=("north",))
    client = connect("t")
    await client.post("/v1/things/things", json={"age": 1})
    await client.post("/v1/things/broken")
    await client.post("/v1/things/conflict")
    await client.post("/v1/things/things", json={})
    assert journal.statuses == [100, 200, 100, 500, 100, 409, 100, 422]
    service, use, tenant = journal.uses[1]
    assert (service, tenant) == ("things", "north")
    assert (use.actor, use.role, use.permission, use.method) == ("name-t", "operator", "network.apply", "POST")
    assert (use.route, use.target, use.address) == ("/v1/things/things", None, "192.0.2.7")


async def test_a_change_that_cannot_be_recorded_is_not_made(
    tokens: TokenSource, connect: Connect, journal: Journal, things: Things
) -> None:
    tokens.add("t", "operator")
    journal.failing_statuses = {100}
    problem(await connect("t").post("/v1/things/things", json={"age": 1}), 503)
    assert things.changes == []
    journal.failing_statuses = {200}
    answer = await connect("t").post("/v1/things/things", json={"age": 1, "name": "x"})
    assert answer.status_code == 200
    assert things.changes == ["x"]
    # Of the first request the refusal could be recorded, of the second the try.
    assert journal.statuses == [503, 100]


async def test_data_of_patients_leave_only_when_that_is_recorded(
    tokens: TokenSource, connect: Connect, journal: Journal
) -> None:
    tokens.add("t", "viewer")
    client = connect("t")
    journal.failing_statuses = {200}
    answer = await client.get("/v1/things/studies/1.2.3")
    problem(answer, 503)
    assert "1.2.3" not in answer.text
    journal.failing_statuses = set()
    assert (await client.get("/v1/things/studies/1.2.3")).status_code == 200
    [(_, use, tenant)] = journal.uses
    assert (use.route, use.target, use.status) == ("/v1/things/studies/{uid}", "1.2.3", 200)
    assert tenant == "kivuko"


async def test_a_refused_try_is_recorded_too(tokens: TokenSource, connect: Connect, journal: Journal) -> None:
    tokens.add("t", "viewer")
    await connect("t").post("/v1/things/things", json={"age": 1})
    assert [(use.actor, use.status) for _, use, _ in journal.uses] == [("name-t", 403)]


def test_the_document_is_valid_openapi_with_stable_names(app: FastAPI) -> None:
    document = app.openapi()
    validate(document)
    operations = {
        (path, method): operation
        for path, methods in document["paths"].items()
        for method, operation in methods.items()
    }
    ids = [operation["operationId"] for operation in operations.values()]
    assert len(ids) == len(set(ids))
    study = operations["/v1/things/studies/{uid}", "get"]
    assert study["operationId"] == "things_study"
    assert study["security"] == [{"token": []}]
    assert study["x-permission"] == "studies.read"
    assert study["responses"]["default"]["content"].keys() == {"application/problem+json"}
    assert "security" not in operations["/healthz", "get"]
    assert "http" not in json.dumps(document["paths"])


def test_a_route_that_declares_nothing_does_not_start(view: AccessView, journal: Journal, clock: SettableClock) -> None:
    router = APIRouter()

    @router.get("/forgotten")
    async def forgotten() -> None:
        return

    with pytest.raises(UndeclaredRouteError, match="/v1/things/forgotten"):
        make_app([Service(name="things", router=router)], view, journal.record, clock, version="1")


def test_every_route_of_the_app_is_seen(app: FastAPI) -> None:
    paths = {route.path for route in declared(app)}
    assert {"/healthz", "/readyz", "/metrics", "/openapi.json", "/v1/things/studies/{uid}"} <= paths


@given(
    title=st.text(min_size=1, max_size=40),
    detail=st.text(max_size=200),
    status=st.integers(400, 599),
)
def test_a_problem_is_json_with_all_members_whatever_it_says(title: str, detail: str, status: int) -> None:
    said = Problem(status, title, detail).response("urn:uuid:1")
    document = json.loads(bytes(said.body))
    assert document["type"].removeprefix("urn:kivuko:problem:").replace("-", "").isascii()
    assert (document["title"], document["status"], document["detail"]) == (title, status, detail)
