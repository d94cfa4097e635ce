"""C-STORE as a requestor: egress's association and its whole service beside dcmsend and pynetdicom, to storescp."""

import asyncio
import os
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pydicom.uid import generate_uid
from pynetdicom import AE, evt
from pynetdicom.presentation import build_context
from rich.progress import Progress

from libs.clock import utc_now
from libs.storage.folder import FolderStore
from services.egress.calling import Timeouts
from services.egress.scu import Call
from services.egress.settings import EgressSettings
from services.egress.shelf import Shelf
from tests.bench.figure import Figure, beside
from tests.integration.egress.peer import at, keep
from tests.integration.egress.stand import archive, stand
from tests.support.dcmtk import ENVIRONMENT, StoreScp
from tests.support.process import program
from tests.support.synthetic import CT_IMAGE_STORAGE, EXPLICIT_LITTLE_ENDIAN, make_ct

_ROUNDS = 5
_TIMEOUTS = Timeouts(connect=10, acse=30, response=120, network=60)


@dataclass(frozen=True)
class Load:
    """What is sent in one round, the least that it must reach of dcmsend, and how many pynetdicom gets of it."""

    name: str
    count: int
    pixels: int
    goal: float
    few: int


LOADS = (Load("CT 512x512", 200, 512, 1.0, 40), Load("small 64x64", 600, 64, 0.8, 40))


def run(progress: Progress) -> list[Figure]:
    """Send each load by each sender, in turn, to a receiver that starts each round with nothing."""
    figures: list[Figure] = []
    task = progress.add_task("sending: rounds", total=len(LOADS) * _ROUNDS)
    for load in LOADS:
        rates: dict[str, list[float]] = {}
        with tempfile.TemporaryDirectory(prefix="kivuko-sending-") as name:
            folder = Path(name)
            (folder / "files").mkdir()
            study = str(generate_uid())
            files = [
                make_ct(folder / "files", study_uid=study, rows=load.pixels, cols=load.pixels)
                for _ in range(load.count)
            ]
            for number in range(_ROUNDS):
                for sender, send in _senders(folder, load, files).items():
                    scp = StoreScp(folder / f"received-{number}", aet="STORESCP")
                    scp.start()
                    try:
                        rates.setdefault(sender, []).append(send(scp.port))
                    finally:
                        scp.stop()
                        shutil.rmtree(folder / f"received-{number}", ignore_errors=True)
                progress.advance(task)
        for ours in ("association", "association, every hash computed", "service, to the last record"):
            for peer in ("dcmsend", "pynetdicom", "pynetdicom nodelay"):
                goal = load.goal if (ours, peer) == ("association", "dcmsend") else None
                figures.append(
                    beside(f"{load.name}, {ours}", "instances/s", rates[ours], peer, rates[peer], least=goal)
                )
    return figures


def _senders(folder: Path, load: Load, files: Sequence[Path]) -> dict[str, Callable[[int], float]]:
    return {
        "association": lambda port: _call(folder, files, port, fresh=True),
        "dcmsend": lambda port: _dcmsend(files, port),
        "association, every hash computed": lambda port: _call(folder, files, port, fresh=False),
        "service, to the last record": lambda port: asyncio.run(_service(folder, files, port)),
        "pynetdicom": lambda port: _pynetdicom(files[: load.few], port, nodelay=False),
        "pynetdicom nodelay": lambda port: _pynetdicom(files[: load.few], port, nodelay=True),
    }


def _call(folder: Path, files: Sequence[Path], port: int, *, fresh: bool) -> float:
    objects = FolderStore(folder / "objects")
    parcels = [replace(keep(objects, path, number), fresh=fresh) for number, path in enumerate(files)]
    shelf, told = Shelf(0, lambda: None), 0
    shelf.put(parcels)

    def tell(*_: object) -> None:
        nonlocal told
        told += 1

    began = time.perf_counter()
    ending = Call(at(port), shelf, objects, _TIMEOUTS, tell).run()
    seconds = time.perf_counter() - began
    if ending.kind != "finished" or told != len(files):
        raise RuntimeError(f"{told} of {len(files)} were answered: {ending.problem}")
    return len(files) / seconds


async def _service(folder: Path, files: Sequence[Path], port: int) -> float:
    """Let egress have a study to send, and see when it is delivered and told of."""
    with tempfile.TemporaryDirectory(dir=folder) as name:
        async with stand(Path(name), None, EgressSettings()) as egress:
            now = utc_now()
            wanted = [each.model_copy(update={"received_at": now}) for each in egress.keep(files)]
            await egress.request(wanted)
            began = time.perf_counter()
            await egress.apply(archive(port))
            await egress.until_state("done")
            return len(files) / (time.perf_counter() - began)


def _dcmsend(files: Sequence[Path], port: int) -> float:
    command = [program("dcmsend", "dcmtk"), "-q", "-aec", "STORESCP", "127.0.0.1", str(port), *map(str, files)]
    began = time.perf_counter()
    subprocess.run(command, check=True, env=os.environ | ENVIRONMENT, capture_output=True)
    return len(files) / (time.perf_counter() - began)


def _pynetdicom(files: Sequence[Path], port: int, *, nodelay: bool) -> float:
    def opened(event: evt.Event) -> None:
        transport: Any = event.assoc.dul.socket
        if nodelay:
            transport.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    entity = AE(ae_title="KIVUKO")
    began = time.perf_counter()
    association = entity.associate(
        "127.0.0.1",
        port,
        contexts=[build_context(CT_IMAGE_STORAGE, [EXPLICIT_LITTLE_ENDIAN])],
        ae_title="STORESCP",
        evt_handlers=[(evt.EVT_CONN_OPEN, opened)],
    )
    for path in files:
        if association.send_c_store(path).Status != 0:
            raise RuntimeError("pynetdicom could not send")
    association.release()
    return len(files) / (time.perf_counter() - began)
