"""The listeners, with real sockets and real processes."""

import asyncio
import os
import signal
import socket
import stat
import subprocess
import sys
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import httpx
import pytest
from fastapi import APIRouter, Depends, FastAPI

from contracts.access import AccessUsed
from libs.service import Service
from libs.web.access import AccessList, AccessView
from libs.web.app import make_app
from libs.web.permission import requires
from libs.web.principal import Principal, principal
from libs.web.server import ListenError, WebServer, socket_name

pytestmark = pytest.mark.integration


def _now() -> datetime:
    return datetime.now(UTC)


async def _no_tokens() -> AccessList:
    return AccessList(entries=())


class Pause:
    """Holds a request until the test lets it go."""

    def __init__(self) -> None:
        self.entered = asyncio.Event()
        self.released = asyncio.Event()


def _app(uses: list[AccessUsed], pause: Pause | None = None) -> FastAPI:
    router = APIRouter()

    @router.get("/me", dependencies=[requires("studies.read")])
    async def me(caller: Annotated[Principal, Depends(principal)]) -> dict[str, Any]:
        return {"name": caller.name, "role": caller.role, "local": caller.local}

    @router.get("/slow", dependencies=[requires("status.read")])
    async def slow() -> dict[str, str]:
        if pause is not None:
            pause.entered.set()
            await pause.released.wait()
        return {"slow": "done"}

    async def record(service: str, use: AccessUsed, tenant: str) -> None:
        assert (service, tenant) == ("things", "kivuko")
        uses.append(use)

    access = AccessView(_no_tokens, _now)
    return make_app([Service(name="things", router=router)], access, record, _now, version="1")


def over(path: Path) -> httpx.AsyncClient:
    return httpx.AsyncClient(transport=httpx.AsyncHTTPTransport(uds=str(path)), base_url="http://kivuko")


@pytest.fixture
def uses() -> list[AccessUsed]:
    return []


@pytest.fixture
async def server(tmp_path: Path, uses: list[AccessUsed]) -> AsyncIterator[WebServer]:
    running = WebServer(_app(uses), host="127.0.0.1", port=0, socket_path=tmp_path / "kivuko.sock")
    await running.start()
    yield running
    await running.stop()


async def test_the_socket_is_admin_and_the_port_is_nobody(
    server: WebServer, tmp_path: Path, uses: list[AccessUsed]
) -> None:
    async with over(tmp_path / "kivuko.sock") as local, httpx.AsyncClient(base_url=server.address) as remote:
        assert (await local.get("/v1/things/me")).json() == {"name": "local", "role": "admin", "local": True}
        assert (await remote.get("/v1/things/me")).status_code == 401
        # A wrong token does not make the socket less, and nothing said over the port makes it more.
        assert (await local.get("/v1/things/me", headers={"authorization": "Bearer x"})).status_code == 200
        spoofed = {"kivuko.listener": "socket", "x-forwarded-for": "unix:", "host": "kivuko.sock"}
        assert (await remote.get("/v1/things/me", headers=spoofed)).status_code == 401
    assert [use.address for use in uses] == ["socket", "socket"]


@pytest.mark.usefixtures("server")
def test_only_the_owner_can_open_the_socket(tmp_path: Path) -> None:
    mode = (tmp_path / "kivuko.sock").stat()
    assert stat.S_ISSOCK(mode.st_mode)
    assert stat.S_IMODE(mode.st_mode) == 0o600
    assert mode.st_uid == os.geteuid()


@pytest.mark.usefixtures("server")
async def test_a_second_process_is_refused_and_the_first_goes_on(tmp_path: Path) -> None:
    second = WebServer(_app([]), host="127.0.0.1", port=0, socket_path=tmp_path / "kivuko.sock")
    with pytest.raises(ListenError, match="another Kivuko runs"):
        await second.start()
    async with over(tmp_path / "kivuko.sock") as local:
        assert (await local.get("/healthz")).status_code == 200


async def test_the_socket_of_a_killed_process_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "kivuko.sock"
    code = (
        "import asyncio, pathlib, sys\n"
        "from libs.web.server import WebServer\n"
        "async def main():\n"
        "    await WebServer(None, host='127.0.0.1', port=0, socket_path=pathlib.Path(sys.argv[1])).start()\n"
        "    print('up', flush=True)\n"
        "    await asyncio.Event().wait()\n"
        "asyncio.run(main())\n"
    )
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", code, str(path), stdout=subprocess.PIPE, cwd=Path(__file__).parents[3]
    )
    assert process.stdout is not None
    assert await process.stdout.readline() == b"up\n"
    process.send_signal(signal.SIGKILL)
    await process.wait()
    assert path.exists()
    server = WebServer(_app([]), host="127.0.0.1", port=0, socket_path=path)
    await server.start()
    async with over(path) as local:
        assert (await local.get("/healthz")).status_code == 200
    await server.stop()
    assert not path.exists()


async def test_a_taken_port_is_told_and_leaves_no_socket(server: WebServer, tmp_path: Path) -> None:
    port = int(server.address.rpartition(":")[2])
    second = WebServer(_app([]), host="127.0.0.1", port=port, socket_path=tmp_path / "other.sock")
    with pytest.raises(ListenError, match=f"port {port}: another program has it.*KIVUKO_HTTP_PORT"):
        await second.start()
    assert not (tmp_path / "other.sock").exists()


async def test_a_request_under_way_is_answered_before_the_end(tmp_path: Path) -> None:
    pause = Pause()
    server = WebServer(_app([], pause), host="127.0.0.1", port=0, socket_path=tmp_path / "kivuko.sock")
    await server.start()
    async with over(tmp_path / "kivuko.sock") as local:
        asked = asyncio.create_task(local.get("/v1/things/slow"))
        await pause.entered.wait()
        stopping = asyncio.create_task(server.stop())
        pause.released.set()
        assert (await asked).json() == {"slow": "done"}
        await stopping
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", int(server.address.rpartition(":")[2])))


async def test_garbage_on_the_port_harms_nobody(server: WebServer) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", int(server.address.rpartition(":")[2]))
    writer.write(b"\x01\x00\x00\x00\x00\xcd DICOM, not HTTP\r\n\r\n")
    assert b"400" in await reader.read(4096)
    writer.close()
    async with httpx.AsyncClient(base_url=server.address) as remote:
        answer = await remote.get("/healthz")
    assert answer.status_code == 200
    assert "server" not in answer.headers


async def test_callers_who_never_finish_are_bounded(
    server: WebServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("libs.web.server.MOST_CONNECTIONS", 5)
    monkeypatch.setattr("libs.web.server.HEAD_S", 1000)
    port = int(server.address.rpartition(":")[2])
    held = [await asyncio.open_connection("127.0.0.1", port) for _ in range(5)]
    # So that all of them are taken in before the one too many comes.
    for reader, writer in held:
        writer.write(b"GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n")
        assert b"200" in await reader.readuntil(b"alive")
        writer.write(b"GET ")
    reader, one_too_many = await asyncio.open_connection("127.0.0.1", port)
    async with asyncio.timeout(60):
        assert await reader.read() == b""
    one_too_many.close()
    async with over(tmp_path / "kivuko.sock") as local:
        assert (await local.get("/healthz")).status_code == 200, "the socket has connections of its own"
    for _, writer in held:
        writer.close()


@pytest.mark.parametrize("said", [b"", b"GET /healthz HTTP/1.1\r\nHost: a\r\nX-Slow: "])
async def test_a_head_that_never_ends_is_not_waited_for(
    server: WebServer, said: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("libs.web.server.HEAD_S", 0.1)
    reader, writer = await asyncio.open_connection("127.0.0.1", int(server.address.rpartition(":")[2]))
    writer.write(said)
    async with asyncio.timeout(60):
        assert await reader.read() == b""
    writer.close()


def test_a_long_path_is_shortened_or_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    deep = tmp_path / ("d" * 100) / "kivuko.sock"
    deep.parent.mkdir()
    with pytest.raises(ListenError, match="KIVUKO_HOME"):
        socket_name(deep)
    monkeypatch.chdir(deep.parent)
    assert socket_name(deep) == "kivuko.sock"
