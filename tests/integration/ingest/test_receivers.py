"""Receiver processes: whatever becomes of one, or of its callers, nothing that was acknowledged is lost."""

import asyncio
import os
import signal
import socket
import threading
from pathlib import Path
from typing import Any

import psutil
import pytest
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian
from sqlalchemy import select

from libs.dimse.pdu import HEADER, Kind
from services.ingest import metric
from services.ingest.lane import Handover, Lane
from services.ingest.models import instances
from services.ingest.wire import Message
from tests.integration.ingest.conftest import NETWORK, running
from tests.integration.ingest.peer import associated, read, send, store
from tests.support import requestor
from tests.support.synthetic import make_ct, make_study

pytestmark = pytest.mark.integration
CT = (str(CTImageStorage), str(ExplicitVRLittleEndian))


def receivers() -> list[psutil.Process]:
    """List the receiver processes of this process, and not those of a whole Kivuko that other tests keep running."""
    found = psutil.Process().children()
    return [each for each in found if "services.ingest.receiver" in " ".join(each.cmdline())]


def stored(path: Path) -> dict[str, Any]:
    """Give what `peer.store` needs to send a file."""
    meta, dataset = read(path)
    return {"dataset": dataset, "sop_class": meta.sop_class_uid, "sop_uid": meta.sop_instance_uid}


async def test_a_receiver_that_is_killed_loses_nothing_that_it_acknowledged(tmp_path: Path) -> None:
    paths = make_study(tmp_path, 6)

    def part(port: int) -> list[int | None]:
        """Send half, kill the receiver, find the association gone."""
        with associated(port, [CT]) as association:
            statuses = [store(association, CT, **stored(path), number=n) for n, path in enumerate(paths[:3], 1)]
            (victim,) = receivers()
            victim.send_signal(signal.SIGKILL)
            victim.wait(10)
            statuses.append(store(association, CT, **stored(paths[3]), number=4))
        return statuses

    async with running(tmp_path / "home") as ingest:
        assert await asyncio.to_thread(part, ingest.port) == [0, 0, 0, None]
        # Who calls meanwhile waits for the next one.
        assert await asyncio.to_thread(send, ingest.port, paths[3:]) == [0, 0, 0]
        await ingest.until_indexed()
        found = {row.sop_uid for row in await ingest.rows(select(instances.c.sop_uid))}
        assert found == {path.stem for path in paths}


async def test_a_connection_that_comes_to_a_dead_receiver_comes_back() -> None:
    came: list[tuple[Message, bytes]] = []
    ended = asyncio.Event()

    def lost(_: Lane, left: list[Handover]) -> None:
        for message, connected in left:
            came.append((message, connected.recv(4)))
            connected.close()
        ended.set()

    lane = Lane("receiver-0", lambda *_: None, lost)
    os.kill(lane.pid, signal.SIGKILL)
    # The loop stands still meanwhile: nobody has read yet that it is dead. It is left to be collected.
    os.waitid(os.P_PID, lane.pid, os.WEXITED | os.WNOWAIT)  # noqa: ASYNC222 - that is the point
    for number in (1, 2):
        near, far = socket.socketpair()
        with near:
            near.sendall(b"call")
            lane.send({"kind": "connection", "id": number}, far)
    await ended.wait()
    assert [(message["id"], data) for message, data in came] == [(1, b"call"), (2, b"call")]
    assert await lane.gone() == -signal.SIGKILL


async def test_callers_who_never_say_who_they_are_stop_nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KIVUKO_INGEST_WAITING_ADDRESS", "16")
    async with running(tmp_path / "home") as ingest:
        open_: list[socket.socket] = []
        try:
            for number in range(200):
                caller = socket.create_connection(("127.0.0.1", ingest.port))
                # Half say nothing at all, the others begin a request that never ends.
                if number % 2:
                    caller.sendall(HEADER.pack(Kind.ASSOCIATE_RQ, 500) + b"\0\1")
                open_.append(caller)
            assert await asyncio.to_thread(send, ingest.port, make_study(tmp_path, 3)) == [0, 0, 0]
            for caller in open_[:180]:
                # The oldest had to go.
                caller.settimeout(10)
                assert not await asyncio.to_thread(_rest, caller)
        finally:
            for caller in open_:
                caller.close()
        assert await asyncio.to_thread(send, ingest.port, [make_ct(tmp_path)]) == [0]


def _rest(caller: socket.socket) -> bytes:
    """Read to the end; an A-ABORT is no answer."""
    try:
        data = caller.recv(1 << 16)
    except ConnectionResetError:
        return b""
    return b"" if data[:1] == bytes([Kind.ABORT]) else data


async def test_it_ends_with_whatever_is_open(tmp_path: Path) -> None:
    path = make_ct(tmp_path)

    def idle(port: int, sent: threading.Event, stopped: threading.Event) -> bool:
        """Send one object, then hold the association open; tell whether it was aborted in the end."""
        with associated(port, [CT]) as association:
            assert store(association, CT, **stored(path)) == 0
            sent.set()
            assert stopped.wait(30)
            association.join(10)
            return association.is_aborted

    sent, stopped = threading.Event(), threading.Event()
    async with running(tmp_path / "home") as ingest:
        with socket.create_connection(("127.0.0.1", ingest.port)) as silent:
            caller = asyncio.ensure_future(asyncio.to_thread(idle, ingest.port, sent, stopped))
            assert await asyncio.to_thread(sent.wait, 30)
            assert receivers()
            port = ingest.port
            await ingest.until_indexed()
            assert ingest.service.stop is not None
            await ingest.service.stop()
            stopped.set()
            assert await caller
            assert not receivers()
            assert await asyncio.to_thread(_rest, silent) == b""
            with pytest.raises(ConnectionRefusedError):
                socket.create_connection(("127.0.0.1", port))
    assert not [path for path in (tmp_path / "home" / "spool").rglob("*") if path.is_file()]


async def test_an_object_that_is_too_large_for_its_node_is_refused_and_the_next_one_taken(tmp_path: Path) -> None:
    nodes = {**NETWORK["nodes"], "CT1": {**NETWORK["nodes"]["CT1"], "limits": {"object-size": 100_000}}}
    small, large = make_ct(tmp_path), make_ct(tmp_path, rows=400, cols=400)
    async with running(tmp_path / "home", network={**NETWORK, "nodes": nodes}) as ingest:
        assert await asyncio.to_thread(send, ingest.port, [large, small]) == [0xA700, 0]
        assert await asyncio.to_thread(send, ingest.port, [large], calling="MR1") == [0]
        await ingest.until_indexed()
        assert len(await ingest.rows(select(instances.c.id))) == 2


async def test_more_associations_than_a_node_may_have_are_put_off(tmp_path: Path) -> None:
    nodes = {**NETWORK["nodes"], "CT1": {**NETWORK["nodes"]["CT1"], "limits": {"associations": 1}}}
    async with running(tmp_path / "home", network={**NETWORK, "nodes": nodes}) as ingest:

        def both() -> tuple[bool, int | None]:
            with associated(ingest.port, [CT]) as first:
                assert first.is_established
                with associated(ingest.port, [CT]) as second:
                    rejected = second.is_rejected and second.acceptor.primitive.result == 2  # type: ignore[union-attr]
                return rejected, store(first, CT, **stored(make_ct(tmp_path)))

        assert await asyncio.to_thread(both) == (True, 0)
        assert await asyncio.to_thread(send, ingest.port, [make_ct(tmp_path)]) == [0]


async def test_a_receiver_that_hangs_is_killed_and_nothing_is_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KIVUKO_INGEST_RECEIVER_TIMEOUT", "2")
    paths = make_study(tmp_path, 4)

    def hang(port: int) -> tuple[list[int | None], psutil.Process]:
        """Send half, and stop the receiver without ending it; the association ends with it."""
        with associated(port, [CT]) as association:
            statuses = [store(association, CT, **stored(path), number=n) for n, path in enumerate(paths[:2], 1)]
            (victim,) = receivers()
            victim.send_signal(signal.SIGSTOP)
            statuses.append(store(association, CT, **stored(paths[2]), number=3))
        return statuses, victim

    async with running(tmp_path / "home") as ingest:
        statuses, victim = await asyncio.to_thread(hang, ingest.port)
        assert statuses == [0, 0, None]
        assert await asyncio.to_thread(send, ingest.port, paths[2:]) == [0, 0]
        assert not victim.is_running()

        async def all_indexed() -> bool:
            found = {row.sop_uid for row in await ingest.rows(select(instances.c.sop_uid))}
            return found == {path.stem for path in paths}

        await ingest.until(all_indexed, "all that was sent")
        # Which a barrier stands before.
        assert await ingest.until_events("study.completed", 1)


async def test_a_place_is_free_when_its_last_holder_hears_of_the_release(tmp_path: Path) -> None:
    nodes = {**NETWORK["nodes"], "CT1": {**NETWORK["nodes"]["CT1"], "limits": {"associations": 1}}}
    path = make_ct(tmp_path)

    def again_and_again(port: int) -> int:
        """Call, release, and call again at once; a rejection raises."""
        for number in range(50):
            association = requestor.Association(port, sop_class=CT[0], syntax=CT[1], calling="CT1")
            if number % 10 == 0:
                dataset = bytearray(stored(path)["dataset"])
                request = sender_request(dataset, path, association.max_pdu)
                assert association.store(request) == 0
            association.release()
        return 50

    async with running(tmp_path / "home", network={**NETWORK, "nodes": nodes}) as ingest:
        assert await asyncio.to_thread(again_and_again, ingest.port) == 50


def sender_request(dataset: bytearray, path: Path, max_pdu: int) -> requestor.Request:
    """Frame a file."""
    said = stored(path)
    return requestor.Request(dataset, said["sop_class"], said["sop_uid"], max_pdu)


async def test_a_flood_of_callers_that_say_nothing_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def ended() -> float:
        return float(metric.ASSOCIATIONS.labels(outcome="no-association")._value.get())

    before = ended()
    async with running(tmp_path / "home") as ingest:

        def flood() -> None:
            for _ in range(40):
                socket.create_connection(("127.0.0.1", ingest.port)).close()

        await asyncio.to_thread(flood)
        # Told by the same receiver, after all of the flood.
        assert await asyncio.to_thread(send, ingest.port, [make_ct(tmp_path)]) == [0]

        async def counted() -> bool:
            return ended() - before == 40

        await ingest.until(counted, "the end of every connection")
    assert capsys.readouterr().err.count("without a valid association") == 1
