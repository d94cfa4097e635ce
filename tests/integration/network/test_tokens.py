"""Tokens: shown once, kept as a hash, gone when revoked; and who may do what."""

import base64

import pytest
from sqlalchemy import select

from libs.web.access import AccessList, token_hash
from services.network.models import tokens
from tests.integration.network.conftest import SERVICE_TOKEN, Network

pytestmark = pytest.mark.integration


async def test_a_token_is_shown_once_and_kept_as_a_hash(network: Network) -> None:
    answer = await network.local.post("/v1/network/tokens", json={"name": "reader", "role": "viewer", "days": 30})
    assert answer.status_code == 201
    created = answer.json()
    token = created["token"]
    assert token.startswith("kvk_")
    assert len(base64.urlsafe_b64decode(token.removeprefix("kvk_") + "=")) == 32
    (listed,) = (await network.local.get("/v1/network/tokens")).json()["tokens"]
    assert listed == {key: value for key, value in created.items() if key != "token"}
    assert (listed["created_by"], listed["expires_at"]) == ("local", "2026-12-20T10:00:00Z")
    async with network.database.reading() as tx:
        (row,) = (await tx.execute(select(tokens))).all()
    assert row.token_hash == token_hash(token)
    assert token not in repr(row)
    (event,) = await network.events()
    assert event["type"] == "kivuko.access.token-changed.v1"
    assert event["data"] == {
        "token_id": created["id"],
        "name": "reader",
        "role": "viewer",
        "change": "created",
        "actor": "local",
    }
    assert token not in str(event)


async def test_a_token_opens_what_its_role_may_and_nothing_when_revoked(network: Network) -> None:
    created = (await network.local.post("/v1/network/tokens", json={"name": "op", "role": "operator"})).json()
    async with network.as_holder_of(created["token"]) as holder:
        assert (await holder.get("/v1/network/history")).status_code == 200
        assert (await holder.get("/v1/network/tokens")).status_code == 403
        assert (await holder.post("/v1/network/tokens", json={"name": "x", "role": "admin"})).status_code == 403
        revoked = await network.local.delete(f"/v1/network/tokens/{created['id']}")
        assert revoked.json()["revoked_by"] == "local"
        await network.access.refresh()
        assert (await holder.get("/v1/network/history")).status_code == 401
    assert (await network.local.delete(f"/v1/network/tokens/{created['id']}")).status_code == 404
    assert (await network.local.delete("/v1/network/tokens/none")).status_code == 404
    assert [event["data"]["change"] for event in await network.events()] == ["created", "revoked"]


async def test_an_expired_token_opens_nothing(network: Network) -> None:
    created = (await network.local.post("/v1/network/tokens", json={"name": "a", "role": "admin", "days": 1})).json()
    async with network.as_holder_of(created["token"]) as holder:
        assert (await holder.get("/v1/network/tokens")).status_code == 200
        network.clock.goes(hours=24)
        assert (await holder.get("/v1/network/tokens")).status_code == 401


@pytest.mark.parametrize("scope", [{"tenants": ["minsabs"]}, {"sites": ["bata"]}])
async def test_a_narrowed_scope_does_not_see_or_change_the_whole_network(
    network: Network, scope: dict[str, list[str]]
) -> None:
    """Even as admin: else it could make itself a token without limits."""
    order = {"name": "narrow", "role": "admin"} | scope
    created = (await network.local.post("/v1/network/tokens", json=order)).json()
    assert {key: created[key] for key in scope} == scope
    async with network.as_holder_of(created["token"]) as holder:
        for method, path in (
            ("GET", "snapshot"), ("GET", "history"), ("GET", "definition/1"), ("GET", "difference"), ("GET", "tokens"),
            ("POST", "definition"), ("DELETE", f"tokens/{created['id']}"),
        ):  # fmt: skip
            answer = await holder.request(method, f"/v1/network/{path}")
            assert (answer.status_code, answer.json()["title"]) == (403, "Not in scope"), path
        assert (await holder.post("/v1/network/tokens", json={"name": "x", "role": "admin"})).status_code == 403
        assert (await holder.post("/v1/network/rollback", json={"version": 1})).status_code == 403


@pytest.mark.parametrize(
    ("order", "status"),
    [
        ({"name": "local", "role": "admin"}, 409),
        ({"name": "service", "role": "admin"}, 409),
        ({"name": "taken", "role": "viewer"}, 409),
        ({"name": "", "role": "viewer"}, 422),
        ({"name": "x", "role": "root"}, 422),
        ({"name": "x", "role": "viewer", "tenants": []}, 422),
        ({"name": "x", "role": "viewer", "days": 0}, 422),
        ({"name": "x", "role": "viewer", "tenant": "t"}, 422),
    ],
)
async def test_orders_that_are_refused(network: Network, order: dict[str, object], status: int) -> None:
    await network.local.post("/v1/network/tokens", json={"name": "taken", "role": "admin"})
    answer = await network.local.post("/v1/network/tokens", json=order)
    assert answer.status_code == status
    assert answer.json()["advice"]
    assert len(await network.events()) == 1


async def test_the_name_of_a_revoked_token_is_free_again(network: Network) -> None:
    first = (await network.local.post("/v1/network/tokens", json={"name": "n", "role": "viewer"})).json()
    await network.local.delete(f"/v1/network/tokens/{first['id']}")
    assert (await network.local.post("/v1/network/tokens", json={"name": "n", "role": "viewer"})).status_code == 201
    assert len((await network.local.get("/v1/network/tokens")).json()["tokens"]) == 2


async def test_services_get_the_hashes_of_the_tokens_in_use_and_nobody_else_does(network: Network) -> None:
    gone = (await network.local.post("/v1/network/tokens", json={"name": "gone", "role": "viewer"})).json()
    order = {"name": "kept", "role": "viewer", "tenants": ["minsabs"], "sites": ["bata"], "days": 5}
    kept = (await network.local.post("/v1/network/tokens", json=order)).json()
    await network.local.delete(f"/v1/network/tokens/{gone['id']}")
    async with network.as_holder_of(SERVICE_TOKEN) as service:
        (entry,) = AccessList.model_validate_json((await service.get("/v1/network/access")).content).entries
        assert (await service.get("/v1/network/snapshot")).status_code == 404
        assert (await service.get("/v1/network/history")).status_code == 403
        assert (await service.get("/v1/network/tokens")).status_code == 403
    assert entry.token_hash == token_hash(kept["token"])
    assert (entry.token_id, entry.tenants, entry.sites) == (kept["id"], ("minsabs",), ("bata",))
    assert entry.expires_at is not None
    assert (await network.local.get("/v1/network/access")).status_code == 403
