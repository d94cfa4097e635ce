"""`kivuko send` to a receiver that nobody here wrote."""

import json
import shutil
import zipfile
from functools import partial
from pathlib import Path

import pytest

from tests.conftest import StoreScpFactory
from tests.integration.cli.conftest import command
from tests.support.dicomset import dataset_bytes, real_set

pytestmark = pytest.mark.integration


send = partial(command, "send")


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A folder with instances, a zip of more, what is no DICOM, and a link that leads round in a circle."""
    folder = tmp_path / "to send"
    inner = folder / "a|b" / "c"
    inner.mkdir(parents=True)
    first, second, *others = real_set()[:5]
    shutil.copy(first, inner / "1.dcm")
    shutil.copy(second, folder / "2")
    (folder / "notes [draft].txt").write_text("not DICOM")
    (inner / "round").symlink_to(folder)
    with zipfile.ZipFile(folder / "more.zip", "w") as archive:
        for number, path in enumerate(others):
            archive.write(path, f"exam/{number}.dcm")
        archive.writestr("exam/readme.txt", "not DICOM")
    return folder


def test_folders_and_archives_arrive_byte_for_byte(source: Path, storescp: StoreScpFactory) -> None:
    receiver = storescp(aet="ARCHIVE")
    done = send(str(source), "--to", f"127.0.0.1:{receiver.port}", "--aet", "ARCHIVE", "--json")
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert told["sent"] == 5
    assert told["failed"] == []
    assert {Path(one["file"]).name for one in told["left_aside"]} == {"notes [draft].txt", "readme.txt"}
    assert sorted(map(dataset_bytes, receiver.files())) == sorted(map(dataset_bytes, real_set()[:5]))


def test_people_are_told_what_was_left_aside(source: Path, storescp: StoreScpFactory) -> None:
    receiver = storescp()
    done = send(str(source), "--to", f"127.0.0.1:{receiver.port}", "--aet", "STORESCP")
    assert done.returncode == 0
    assert "5 of 5 sent" in done.stdout
    assert "2 left aside" in done.stdout
    assert "\x1b" not in done.stdout + done.stderr


def test_what_the_receiver_refuses_is_named_and_fails(source: Path, storescp: StoreScpFactory) -> None:
    receiver = storescp(flags=("--refuse",))
    done = send(str(source / "2"), "--to", f"127.0.0.1:{receiver.port}", "--aet", "STORESCP")
    assert done.returncode == 3
    assert "rejects the association" in done.stderr
    assert "0 of 1 sent" in done.stdout


def test_one_that_cannot_be_read_fails_but_the_others_go(source: Path, storescp: StoreScpFactory) -> None:
    receiver = storescp()
    (source / "damaged.zip").write_bytes((source / "more.zip").read_bytes()[:-100] + b"PK\x05\x06" + bytes(18))
    done = send(str(source), "--to", f"127.0.0.1:{receiver.port}", "--json")
    told = json.loads(done.stdout)
    assert told["sent"] == 5
    # An archive without its index may be taken for an empty one, or be refused; it must not hide the others.
    assert {Path(one["file"]).name for one in told["failed"]} <= {"damaged.zip"}
    assert done.returncode == (1 if told["failed"] else 0)


def test_nobody_listens(source: Path, closed_port: int) -> None:
    done = send(str(source), "--to", f"127.0.0.1:{closed_port}", "--json")
    assert done.returncode == 3
    told = json.loads(done.stdout)
    assert told["sent"] == 0
    assert len(told["failed"]) == 5
    assert "nothing takes connections" in told["problem"]


def test_nothing_to_send(tmp_path: Path, closed_port: int) -> None:
    (tmp_path / "a.txt").write_text("no")
    done = send(str(tmp_path), "--to", f"127.0.0.1:{closed_port}")
    assert done.returncode == 1
    assert "There is no DICOM instance among these" in done.stderr
