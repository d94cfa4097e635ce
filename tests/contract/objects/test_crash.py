"""A writer that is killed leaves an object whole or not at all, and loses none that it was told of."""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from libs.storage.folder import FolderStore
from libs.storage.objects import ObjectStore, open_store

MEBI = 1024 * 1024


@contextmanager
def writer(url: str, mode: str, size: int) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-m", "tests.contract.objects.writer", url, mode, str(size)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


def line(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


@pytest.mark.contract
@pytest.mark.crash
def test_killed_in_the_middle_of_an_object(store: ObjectStore, store_url: str) -> None:
    with writer(store_url, "stuck", 30 * MEBI) as process:
        assert line(process) == "stuck"
        assert list(store.list("")) == ["warm"]
    assert list(store.list("")) == ["warm"]
    assert store.stat("large") is None
    assert store.put("large", b"again", if_absent=True) is True


@pytest.mark.contract
@pytest.mark.crash
@pytest.mark.parametrize("acknowledged", [1, 7, 23])
def test_killed_at_some_moment(store: ObjectStore, store_url: str, acknowledged: int) -> None:
    size = 200_000
    with writer(store_url, "steady", size) as process:
        for number in range(acknowledged):
            assert line(process) == str(number)
        process.kill()
        assert process.stdout is not None
        # communicate() would pass over what readline() has already taken from the pipe.
        rest = process.stdout.read()
    told = acknowledged + len(rest.split())
    keys = set(store.list("steady/"))
    assert {f"steady/{number}" for number in range(told)} <= keys
    assert len(keys) <= told + 1
    for key in keys:
        with store.open(key) as file:
            assert file.read() == int(key.rpartition("/")[2]).to_bytes(4) * (size // 4)


@pytest.mark.contract
def test_a_large_stream_takes_little_memory(store: ObjectStore, store_url: str) -> None:
    with writer(store_url, "large", 160 * MEBI) as process:
        grown_by = int(line(process)) * 1024
    assert grown_by < 40 * MEBI
    found = store.stat("large")
    assert found is not None
    assert found.size == 160 * MEBI


@pytest.mark.contract
@pytest.mark.crash
def test_leftovers_are_removed_once_nobody_else_has_the_folder_open(tmp_path: Path) -> None:
    url = f"file://{tmp_path}"
    leftovers = tmp_path / ".tmp"
    with writer(url, "stuck", MEBI) as process:
        assert line(process) == "stuck"
        assert len(list(leftovers.iterdir())) == 1
        # The other process is alive: what it writes is not a leftover.
        other = open_store(url)
        assert len(list(leftovers.iterdir())) == 1
        process.kill()
        process.wait()
    other.close()
    last = FolderStore(tmp_path)
    assert list(leftovers.iterdir()) == []
    last.close()
