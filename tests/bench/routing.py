"""From storescu through a router to storescp, all delivered: Kivuko beside Orthanc with a Lua rule.

First Kivuko is embedded: one process and its receivers. Then it is a cluster of one process a service, with RabbitMQ,
PostgreSQL and an S3 server, all on the same machine: its figures tell what that costs where all of it shares one
processor, and what a p95 is made of there; it is made for many machines.
"""

import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from pydicom.uid import generate_uid
from rich.progress import Progress, TaskID

from tests.bench.figure import Figure, at_most, beside, measured
from tests.e2e.conftest import definition
from tests.support.dcmtk import StoreScp, storescu
from tests.support.dicomset import dataset_bytes
from tests.support.kivuko import System, cluster, embedded
from tests.support.orthanc import Orthanc
from tests.support.postgresql import PostgreSQL
from tests.support.process import wait_until
from tests.support.rabbitmq import RabbitMQ
from tests.support.requestor import Association, Request
from tests.support.seaweedfs import SeaweedFS
from tests.support.synthetic import CT_IMAGE_STORAGE, EXPLICIT_LITTLE_ENDIAN, make_ct

_ROUNDS = 3
_A_SECOND = 50
_PACED = 400
_LATEST_MS = 250
_LUA = "function OnStoredInstance(id, tags, metadata) SendToModality(id, 'archive') end"


@dataclass(frozen=True)
class Load:
    """What is sent in one round."""

    name: str
    count: int
    pixels: int
    least: float


LOADS = (Load("CT 512x512", 100, 512, 3), Load("small 64x64", 300, 64, 10))


def run(progress: Progress) -> list[Figure]:
    """Send each load through both, in turn, three times; in each profile."""
    task = progress.add_task("routing: rounds", total=2 * len(LOADS) * (_ROUNDS * 2 + 1))
    with tempfile.TemporaryDirectory() as name, ExitStack() as servers:
        # For all to read: the servers of the cluster are run by others.
        folder = Path(name)
        folder.chmod(0o755)
        figures = _profile(folder / "embedded", embedded(folder / "embedded"), "", progress, task)
        rabbitmq, postgresql = RabbitMQ(folder / "rabbitmq"), PostgreSQL(folder / "postgresql")
        store = SeaweedFS(folder / "s3")
        for server in (rabbitmq, postgresql, store):
            servers.callback(server.stop)
            server.start()
        system = cluster(folder / "cluster", rabbitmq.vhost(), postgresql.database(), store.bucket())
        servers.callback(system.kill)
        return figures + _profile(folder / "cluster", system, "cluster: ", progress, task)


def _profile(folder: Path, system: System, prefix: str, progress: Progress, task: TaskID) -> list[Figure]:
    figures: list[Figure] = []
    archive = StoreScp(folder / "archive", aet="ARCHIVE")
    peer_archive = StoreScp(folder / "peer-archive", aet="ARCHIVE")
    peer = Orthanc(folder / "orthanc", settings=_routing_to(peer_archive, folder))
    for load in LOADS:
        ours: list[float] = []
        theirs: list[float] = []
        try:
            for server in (archive, peer_archive, peer, system):
                server.start()
            system.apply(definition(archive))
            for _ in range(_ROUNDS):
                ours.append(_rate(folder, load, system.dicom_port, archive))
                progress.advance(task)
                theirs.append(_rate(folder, load, peer.dicom_port, peer_archive))
                progress.advance(task)
            late = [_late(folder, load, system.dicom_port, archive) for _ in range(_ROUNDS)]
            progress.advance(task)
        finally:
            system.kill()
            for started in (peer, peer_archive, archive):
                started.stop()
        routed, paced = f"{load.name}, received to delivered", f"{prefix}{load.name}, {_A_SECOND} a second"
        figures += [
            beside(prefix + routed, "instances/s", ours, "Orthanc", theirs, least=load.least),
            measured(f"{paced}: pace that one association reached", "instances/s", [pace for pace, _ in late]),
            at_most(f"{paced}: p95 from stored to delivered", "ms", [ms for _, ms in late], _LATEST_MS),
        ]
    peer.close()
    return figures


def _routing_to(archive: StoreScp, folder: Path) -> dict[str, object]:
    script = folder / "route.lua"
    script.write_text(_LUA)
    return {"LuaScripts": [str(script)], "DicomModalities": {"archive": ["ARCHIVE", "127.0.0.1", archive.port]}}


def _rate(folder: Path, load: Load, port: int, archive: StoreScp) -> float:
    with tempfile.TemporaryDirectory(dir=folder) as name:
        files = _series(Path(name), load, load.count)
        before = len(archive.files())
        return load.count / _seconds(lambda: _send(port, files, archive, before + load.count))


def _late(folder: Path, load: Load, port: int, archive: StoreScp) -> tuple[float, float]:
    """Send at a steady rate; give the rate reached, and the time from a response to the file at the archive, ms.

    95 % take less. A file counts from its last write, by the clock of the file system, which is the system's.
    """
    with tempfile.TemporaryDirectory(dir=folder) as name:
        files = _series(Path(name), load, _PACED)
        association = Association(port, sop_class=CT_IMAGE_STORAGE, syntax=EXPLICIT_LITTLE_ENDIAN)
        stored: dict[str, float] = {}
        began = time.monotonic()
        for number, path in enumerate(files):
            content = bytearray(dataset_bytes(path))
            request = Request(content, CT_IMAGE_STORAGE, path.stem, association.max_pdu)
            time.sleep(max(0.0, began + number / _A_SECOND - time.monotonic()))
            if association.store(request) != 0:
                raise RuntimeError("an instance was not taken")
            stored[path.stem] = time.time()
        pace = len(stored) / (time.monotonic() - began)
        association.release()

        def arrived() -> dict[str, float]:
            return {each.name: each.stat().st_mtime for each in archive.files()}

        wait_until(lambda: all(f"CT.{uid}" in arrived() for uid in stored), "every instance at the archive", 120)
        there = arrived()
        late = sorted(there[f"CT.{uid}"] - at for uid, at in stored.items())
        return pace, late[int(len(late) * 0.95)] * 1000


def _series(folder: Path, load: Load, count: int) -> list[Path]:
    """Make a study of one series, as a scanner sends it."""
    study, series = str(generate_uid()), str(generate_uid())
    return [
        make_ct(folder, study_uid=study, series_uid=series, rows=load.pixels, cols=load.pixels) for _ in range(count)
    ]


def _seconds(work: Callable[[], None]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def _send(port: int, files: Sequence[Path], archive: StoreScp, wanted: int) -> None:
    sent = storescu(port, files)
    if sent.returncode != 0:
        raise RuntimeError(f"storescu ended with {sent.returncode}: {sent.stderr[-500:]}")
    wait_until(lambda: len(archive.files()) >= wanted, "every instance at the archive", 120)
