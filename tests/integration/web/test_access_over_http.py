"""How a service of a cluster learns which tokens are in force: over HTTP, with the services' own token."""

import asyncio
from collections.abc import AsyncIterator

import httpx
import pytest
from fastapi import APIRouter
from pydantic import SecretStr

from contracts.access import AccessUsed
from libs.clock import utc_now
from libs.service import Service
from libs.web.access import AccessEntry, AccessList, AccessUnavailableError, AccessView, http_fetch, token_hash
from libs.web.app import make_app
from libs.web.permission import requires
from libs.web.server import WebServer

pytestmark = pytest.mark.integration

SECRET = SecretStr("between services")


class Network:
    """Serves a list that the test changes."""

    def __init__(self) -> None:
        self.tokens: list[str] = []
        self.asked = asyncio.Event()

    async def list(self) -> AccessList:
        self.asked.set()
        return AccessList(
            entries=tuple(
                AccessEntry(token_id=token, token_hash=token_hash(token), name=token, role="viewer")
                for token in self.tokens
            )
        )


@pytest.fixture
def network() -> Network:
    return Network()


@pytest.fixture
async def server(network: Network) -> AsyncIterator[WebServer]:
    router = APIRouter()
    router.add_api_route("/access", network.list, dependencies=[requires("network.access")])

    async def record(_service: str, _use: AccessUsed, _tenant: str) -> None:
        raise AssertionError("what services ask of each other is not recorded")

    access = AccessView(network.list, utc_now, service_token=SECRET)
    app = make_app([Service(name="network", router=router)], access, record, utc_now, version="1")
    running = WebServer(app, host="127.0.0.1", port=0)
    await running.start()
    yield running
    await running.stop()


async def test_the_list_is_fetched_and_followed(server: WebServer, network: Network) -> None:
    network.tokens = ["first"]
    async with httpx.AsyncClient() as client:
        view = AccessView(http_fetch(client, server.address, SECRET), utc_now)
        assert (await view.find("first", "x")).name == "first"
        following = asyncio.create_task(view.run())
        await network.asked.wait()
        network.asked.clear()
        network.tokens = ["second"]
        view.changed()
        await network.asked.wait()
        # The fetch under way ends before this one begins.
        assert await view.refresh()
        assert (await view.find("second", "x")).name == "second"
        following.cancel()
        await asyncio.gather(following, return_exceptions=True)


async def test_a_wrong_secret_or_nobody_there_is_told_without_the_secret(server: WebServer) -> None:
    async with httpx.AsyncClient() as client:
        for url in (server.address, "http://127.0.0.1:9"):
            with pytest.raises(AccessUnavailableError) as raised:
                await http_fetch(client, url, SecretStr("wrong secret"))()
            assert url in str(raised.value)
            assert "wrong secret" not in str(raised.value)
