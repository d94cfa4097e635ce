"""A disk that fills up: said early, refused in time, and over by itself."""

import asyncio
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select

from services.ingest.models import instances
from services.ingest.watch import NoRoomError
from tests.integration.ingest.conftest import Running, running
from tests.integration.ingest.peer import send
from tests.support.dcmtk import echoscu
from tests.support.synthetic import make_ct, make_study

pytestmark = pytest.mark.integration
MB = 1 << 20
SIZE, NEEDED = 24 * MB, 8 * MB


@pytest.fixture
def disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A small disk. Mounting needs root, as in the test image."""
    monkeypatch.setenv("KIVUKO_INGEST_MIN_FREE_BYTES", str(NEEDED))
    folder = tmp_path / "disk"
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={SIZE}", "tmpfs", str(folder)], check=True)
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def elsewhere(folder: Path) -> dict[str, Any]:
    """Have databases and objects on another disk."""
    return {
        "database_url": f"sqlite://{folder}/db",
        "broker_url": f"sqlite://{folder}/bus.db",
        "objects_url": f"file://{folder}/objects",
    }


def free(folder: Path) -> int:
    found = os.statvfs(folder)
    return found.f_bavail * found.f_frsize


def fill(folder: Path, leave: int) -> Path:
    """Write a file that leaves so many bytes free."""
    filler = folder / "filler"
    filler.write_bytes(bytes(free(folder) - leave))
    return filler


async def states(ingest: Running) -> list[tuple[str, str]]:
    return [(event["data"]["place"], event["data"]["state"]) for event in await ingest.events("room.changed")]


async def until_state(ingest: Running, state: str) -> None:
    async def told() -> bool:
        return (await states(ingest))[-1:] == [("spool", state)]

    await ingest.until(told, f"the spool to be {state}")


async def test_it_is_said_early_refused_in_time_and_over_by_itself(tmp_path: Path, disk: Path) -> None:
    async with running(disk / "home", **elsewhere(tmp_path)) as ingest:
        filler = fill(disk, NEEDED + MB)
        await until_state(ingest, "low")
        await ingest.service.checks["room"]()
        assert await asyncio.to_thread(send, ingest.port, [make_ct(tmp_path)]) == [0x0000]
        filler.unlink()
        await until_state(ingest, "ample")

        filler = fill(disk, NEEDED - MB)
        await until_state(ingest, "full")
        assert await asyncio.to_thread(send, ingest.port, make_study(tmp_path, 2)) == [0xA700, 0xA700]
        assert (await asyncio.to_thread(echoscu, ingest.port, calling="CT1")).returncode == 0
        with pytest.raises(NoRoomError, match="disk of spool is full"):
            await ingest.service.checks["room"]()

        filler.unlink()
        await until_state(ingest, "ample")
        await ingest.service.checks["room"]()
        assert await asyncio.to_thread(send, ingest.port, [make_ct(tmp_path)]) == [0x0000]
        await ingest.until_indexed()
        assert len(await ingest.rows(select(instances))) == 2


async def test_large_objects_at_once_do_not_take_what_is_kept_free(tmp_path: Path, disk: Path) -> None:
    paths = []
    for number in range(6):
        folder = tmp_path / str(number)
        folder.mkdir()
        paths.append(make_ct(folder, rows=1500, cols=1500))
    least = SIZE
    # Not indexed, so that nothing leaves the spool meanwhile.
    async with running(disk / "home", loops=False, **elsewhere(tmp_path)) as ingest:
        sending = asyncio.gather(*(asyncio.to_thread(send, ingest.port, [path]) for path in paths))
        while not sending.done():
            least = min(least, free(disk))
            await asyncio.sleep(0)
        answers = [status for (status,) in await sending]
        assert set(answers) == {0x0000, 0xA700}
        assert answers.count(0x0000) >= 1
        assert least >= NEEDED
        assert len(ingest.spool) == answers.count(0x0000)


async def test_a_full_disk_of_objects_is_said_and_what_arrives_waits_in_the_spool(tmp_path: Path, disk: Path) -> None:
    own = {**elsewhere(tmp_path), "objects_url": f"file://{disk}/objects"}
    async with running(tmp_path / "home", **own) as ingest:
        filler = fill(disk, 0)

        async def full() -> bool:
            return (await states(ingest))[-1:] == [("objects", "full")]

        await ingest.until(full, "full objects")
        with pytest.raises(NoRoomError, match="waits in the spool"):
            await ingest.service.checks["room"]()
        assert await asyncio.to_thread(send, ingest.port, [make_ct(tmp_path)]) == [0x0000]
        assert ingest.spool
        filler.unlink()
        await ingest.until_indexed()
        assert len(await ingest.rows(select(instances))) == 1
