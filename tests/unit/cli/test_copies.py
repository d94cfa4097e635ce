"""Copies of instances in a folder, told by the hash of their dataset."""

import hashlib
import os
from pathlib import Path

import pytest

from libs.dicom.identity import DEFLATED
from services.cli.copies import look
from tests.support.synthetic import CT_IMAGE_STORAGE, EXPLICIT_LITTLE_ENDIAN, make_study, part10

pytestmark = pytest.mark.unit

DATASET = b"\x08\x00\x18\x00UI\x04\x001.2\0"


def write(path: Path, dataset: bytes, transfer_syntax: str) -> None:
    path.write_bytes(part10(dataset, sop_class=CT_IMAGE_STORAGE, sop_uid="1.2", transfer_syntax=transfer_syntax))


def digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def test_every_part_10_file_is_hashed_and_the_rest_counted(tmp_path: Path) -> None:
    inner = tmp_path / "a" / "b"
    inner.mkdir(parents=True)
    paths = make_study(inner, 3)
    (tmp_path / "notes.txt").write_text("not DICOM")
    (tmp_path / "empty").write_bytes(b"")
    (inner / "round").symlink_to(tmp_path)
    found = look(tmp_path, quiet=True)
    assert sorted(found.uids.values()) == sorted(path.stem for path in paths)
    assert found.foreign == 2
    assert not found.unreadable


@pytest.mark.parametrize("length", [0, 1, (1 << 20) - 1, 1 << 20, (1 << 20) + 1, (2 << 20) + 7])
def test_the_hash_is_of_what_follows_the_file_meta_information(tmp_path: Path, length: int) -> None:
    dataset = DATASET + bytes(length)
    write(tmp_path / "x", dataset, EXPLICIT_LITTLE_ENDIAN)
    assert look(tmp_path, quiet=True).uids == {digest(dataset): "1.2"}


@pytest.mark.parametrize("length", [1, 1 << 20, (1 << 20) + 1])
def test_a_deflated_dataset_may_have_got_the_null_that_makes_its_length_even(tmp_path: Path, length: int) -> None:
    deflated = b"\x7f" * length
    write(tmp_path / "x", deflated + b"\0", DEFLATED)
    assert look(tmp_path, quiet=True).uids == {digest(deflated): "1.2", digest(deflated + b"\0"): "1.2"}
    write(tmp_path / "x", deflated, DEFLATED)
    assert look(tmp_path, quiet=True).uids == {digest(deflated): "1.2"}


def test_what_cannot_be_read_is_named(tmp_path: Path) -> None:
    (tmp_path / "gone").symlink_to(tmp_path / "nowhere")
    os.mkfifo(tmp_path / "pipe")
    found = look(tmp_path, quiet=True)
    assert not found.uids
    assert sorted(Path(name).name for name, _ in found.unreadable) == ["gone", "pipe"]
