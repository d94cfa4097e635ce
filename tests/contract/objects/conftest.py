"""Each test runs against a folder and against a real S3 server."""

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from libs.storage.objects import ObjectStore, open_store


@pytest.fixture(params=["folder", "s3"])
def store_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Address of an empty store."""
    if request.param == "folder":
        return f"file://{tmp_path / 'objects'}"
    url: str = request.getfixturevalue("s3").bucket()
    return url


@pytest.fixture
def store(store_url: str) -> Iterator[ObjectStore]:
    """An empty store."""
    opened = open_store(store_url)
    yield opened
    opened.close()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of its own with room for 4 MiB."""
    folder = tmp_path / "small"
    folder.mkdir()
    if os.geteuid() != 0:
        pytest.fail("a small file system can only be mounted by root: run the tests as root, or in a user namespace")
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(folder)], check=True)
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)
