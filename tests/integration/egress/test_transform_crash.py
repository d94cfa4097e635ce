"""Killed while it transforms, and without room for what it makes: nothing is lost, left over, or sent unchanged."""

import asyncio
import resource
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from pydicom import dcmread
from pydicom.uid import RLELossless

from services.egress.outcome import NO_ROOM
from services.egress.transforming import Spool
from tests.integration.egress.changer import OWN, definition
from tests.integration.egress.stand import stand
from tests.integration.egress.test_transforms import to_folder
from tests.support.process import wait_until
from tests.support.synthetic import make_study

pytestmark = pytest.mark.integration
#: More than the tables need, and less than a large image.
_ROOM = 8 << 20


def sent(folder: Path) -> list[str]:
    """Give the Patient IDs in the folder that is the destination; whatever lies there must be a whole instance."""
    return [str(dcmread(path).PatientID) for path in (folder / "there").rglob("*") if path.is_file()]


def spooled(folder: Path) -> list[Path]:
    return [path for path in (folder / "transforms-a").rglob("*") if path.is_file()]


def children(process: int) -> list[Path]:
    """Give the processes that one has started."""
    return [Path("/proc", each) for each in Path(f"/proc/{process}/task/{process}/children").read_text().split()]


@pytest.mark.crash
async def test_killed_amid_transforming_nothing_is_lost_or_left_over(tmp_path: Path) -> None:
    snapshot = definition(tmp_path)
    # Without a definition all of it is held.
    async with stand(tmp_path, None) as egress:
        await egress.request(egress.keep(make_study(tmp_path, 6, rows=512, cols=512, PatientID="4711")))
    command = [sys.executable, "-m", "tests.integration.egress.changer", str(tmp_path)]
    process = await asyncio.create_subprocess_exec(*command, stderr=subprocess.DEVNULL)
    await asyncio.to_thread(wait_until, lambda: bool(spooled(tmp_path)), "something to be transformed")
    workers = await asyncio.to_thread(children, process.pid)
    process.send_signal(signal.SIGKILL)
    await process.wait()
    # Its workers end by themselves, so that none writes any more.
    await asyncio.to_thread(wait_until, lambda: not any(each.exists() for each in workers), "its workers' end")
    assert set(sent(tmp_path)) <= {"D-4711"}
    async with stand(tmp_path, snapshot) as egress:
        await egress.until_state("done")
    assert sent(tmp_path) == ["D-4711"] * 6
    assert spooled(tmp_path) == []
    assert list((tmp_path / "transforms-a").iterdir()) == []


def test_what_a_killed_process_left_is_removed_and_what_another_has_is_not(tmp_path: Path) -> None:
    left, other = tmp_path / "left", Spool(tmp_path)
    left.mkdir()
    (left / "file").write_bytes(b"x")
    other.new().write_bytes(b"y")
    mine = Spool(tmp_path)
    assert sorted(tmp_path.iterdir()) == sorted([other.folder, mine.folder])
    assert len(list(other.folder.iterdir())) == 1
    other.close()
    mine.close()
    assert list(tmp_path.iterdir()) == []


@contextmanager
def small_files() -> Iterator[None]:
    """Have no file grow large, in this process and those that it starts; what is too much is an error of writing."""
    _, most = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (_ROOM, most))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))


@pytest.mark.parametrize("compressed", [False, True], ids=["what is fetched", "what is made"])
async def test_without_room_it_waits_and_goes_on_by_itself(tmp_path: Path, *, compressed: bool) -> None:
    """By a limit of the process, which says the same as a disk that is full: not all of the file was written."""
    [path] = make_study(tmp_path, 1, rows=2600, cols=2600, PatientID="4711")
    if compressed:
        dataset = dcmread(path)
        dataset.PixelData = bytes(len(dataset.PixelData))
        dataset.compress(RLELossless)
        dataset.save_as(path)
    own = {**OWN, "transfer-syntax": "explicit-le"}
    async with stand(tmp_path, to_folder(tmp_path / "there", "own", {"own": own})) as egress:
        wanted = egress.keep([path])
        with small_files():
            await egress.request(wanted)
            await egress.until_state("waiting")
            [item] = await egress.items()
            assert (item.status, item.state, item.refusals) == (NO_ROOM, "pending", 0)
            assert "no room" in item.reason
            assert sent(tmp_path) == []
            await egress.orders.pause("archive", "op", None)
            await egress.until_state("held")
            # A try that was under way then comes to its end.
            await asyncio.to_thread(wait_until, lambda: spooled(tmp_path) == [], "nothing to be left over")
        # Its workers began with the limit.
        await egress.sender._transforming._workers.stop()  # type: ignore[union-attr]  # there is one
        await egress.orders.resume("archive")
        await egress.until_state("done")
    assert sent(tmp_path) == ["D-4711"]
    assert list((tmp_path / "transforms-a").iterdir()) == []
