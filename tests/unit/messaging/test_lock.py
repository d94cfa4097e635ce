"""The lock on the bus file."""

import os
from pathlib import Path

import pytest

from libs.messaging.lock import FileLock, LockedError

pytestmark = pytest.mark.unit


def test_the_second_one_is_told_who_has_it_and_what_to_do(tmp_path: Path) -> None:
    file = tmp_path / "bus.db"
    first, second = FileLock(file), FileLock(file)
    first.acquire()
    with pytest.raises(LockedError, match=f"process {os.getpid()}.*KIVUKO_HOME"):
        second.acquire()
    first.release()
    second.acquire()
    second.release()
