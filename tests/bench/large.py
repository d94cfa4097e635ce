"""A 3 GiB native and a 6 GiB encapsulated object in both acknowledgement modes: memory, and time."""

import shutil
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from rich.progress import Progress

from tests.bench.figure import Figure, at_most, measured
from tests.support.bulk import bulk
from tests.support.kivuko import embedded
from tests.support.process import wait_until
from tests.support.resident import Resident
from tests.support.seaweedfs import SeaweedFS
from tests.support.stored import NETWORK, indexed, kept

_GIB = 1 << 30
_SIZES: dict[Literal["native", "encapsulated"], int] = {"native": 3 * _GIB, "encapsulated": 6 * _GIB}


@dataclass(frozen=True)
class _Mode:
    name: str
    ack: str
    s3: bool


_MODES = (
    _Mode("ack=spool, folder", "spool", s3=False),
    _Mode("ack=object-store, folder", "object-store", s3=False),
    _Mode("ack=spool, S3", "spool", s3=True),
    _Mode("ack=object-store, S3", "object-store", s3=True),
)


def run(progress: Progress) -> list[Figure]:
    """Send each object once in each mode; every byte is compared afterwards."""
    figures: list[Figure] = []
    task = progress.add_task("large objects", total=len(_MODES) * len(_SIZES))
    for mode in _MODES:
        for form, size in _SIZES.items():
            progress.update(task, description=f"large: {size / _GIB:g} GiB {form}, {mode.name}")
            with tempfile.TemporaryDirectory(prefix="kivuko-large-") as folder:
                figures += _one(mode, form, size, Path(folder))
            progress.advance(task)
    return figures


def _one(mode: _Mode, form: Literal["native", "encapsulated"], size: int, folder: Path) -> list[Figure]:
    name = f"{size / _GIB:g} GiB {form}, {mode.name}"
    store = SeaweedFS(folder / "s3") if mode.s3 else None
    url = f"file://{folder / 'objects'}"
    if store is not None:
        store.start()
        url = store.bucket()
    system = embedded(folder, KIVUKO_ACK=mode.ack, KIVUKO_OBJECTS_URL=url)
    try:
        system.start()
        system.apply(NETWORK)
        home = system.of("ingest").home
        first = bulk("native", 1)
        _arrived(home, first.sop_uid, lambda: _successful(first.send(system.dicom_port)))
        memory = Resident(system.of("ingest").pid)
        large, began = bulk(form, size), time.monotonic()
        sent = _arrived(home, large.sop_uid, lambda: _successful(large.send(system.dicom_port)))
        seconds, grown = time.monotonic() - began, memory.growth()
        found = indexed(home, large.sop_uid)
        if found is None or kept(url, found[1]) != sent or found[0] != sent[0]:
            raise RuntimeError(f"{name}: what is kept is not what was sent")
        return [
            at_most(f"{name}: growth of resident memory", "MB", [grown / (1 << 20)], 64),
            measured(f"{name}: received and indexed", "MB/s", [sent[1] / 1e6 / seconds]),
        ]
    finally:
        system.kill()
        if store is not None:
            store.stop()
        shutil.rmtree(folder / "kivuko", ignore_errors=True)


def _successful(answer: tuple[int, str, int]) -> tuple[str, int]:
    status, digest, length = answer
    if status != 0:
        raise RuntimeError(f"answered with 0x{status:04X}")
    return digest, length


def _arrived(home: Path, sop_uid: str, send: Callable[[], tuple[str, int]]) -> tuple[str, int]:
    sent = send()
    wait_until(lambda: indexed(home, sop_uid) is not None, f"{sop_uid} to be indexed", 600)
    return sent
