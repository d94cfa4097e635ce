"""Instances as files in a folder: what is particular to that kind of target."""

import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import BinaryIO

import pytest

from libs.storage.folder import FolderStore
from services.egress.calling import Ending
from services.egress.filing import WRITTEN, Filing, check
from services.egress.folder import FolderTarget, Owner
from services.egress.outcome import NO_ANSWER, NO_ROOM, UNSENDABLE, Outcome, Verdict
from services.egress.pace import Pace
from services.egress.parcel import Parcel, Readable
from services.egress.shelf import Shelf
from tests.integration.egress.peer import keep
from tests.support.synthetic import make_ct, make_study

pytestmark = pytest.mark.integration
STUDY = "1.2.3"


@pytest.fixture
def objects(tmp_path: Path) -> FolderStore:
    return FolderStore(tmp_path / "objects")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "research"
    path.mkdir()
    return path


@pytest.fixture
def mounted(folder: Path) -> Iterator[Callable[[str], Path]]:
    def mount(options: str) -> Path:
        if os.geteuid() != 0:
            pytest.fail("a file system can only be mounted by root: run the tests as root, or in a user namespace")
        subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)], check=True)
        return folder

    yield mount
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


def file(
    folder: Path,
    objects: Readable,
    parcels: Sequence[Parcel],
    owner: Owner = Owner("t", STUDY),  # noqa: B008 - frozen
    left: list[int] | None = None,
) -> tuple[Ending, list[Outcome]]:
    told: list[Outcome] = []
    shelf = Shelf(0, lambda: None)
    shelf.put(parcels)
    target = FolderTarget(folder, 1)
    ending = Filing(target, shelf, objects, lambda _parcel, outcome: told.append(outcome), lambda _: owner).run()
    if left is not None:
        left.extend(sorted(parcel.item for parcel in shelf.remove()))
    return ending, told


def names(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if not path.is_dir()}


def test_files_are_by_tenant_study_and_instance_and_as_they_were_kept(
    folder: Path, objects: FolderStore, tmp_path: Path
) -> None:
    paths = make_study(tmp_path, 3)
    parcels = [keep(objects, path, n) for n, path in enumerate(paths)]
    ending, told = file(folder, objects, parcels)
    assert ending == Ending("finished")
    assert [(o.verdict, o.status) for o in told] == [(Verdict.SENT, WRITTEN)] * 3
    expected = {f"t/{STUDY}/{parcel.sop_instance_uid}.dcm": path for parcel, path in zip(parcels, paths, strict=True)}
    assert names(folder) == set(expected)
    for name, path in expected.items():
        assert (folder / name).read_bytes() == path.read_bytes()
        # A file of its own: who changes it there changes nothing of ours.
        assert (folder / name).stat().st_nlink == 1


def test_the_same_again_stays_as_it_is_and_other_content_takes_its_place(
    folder: Path, objects: FolderStore, tmp_path: Path
) -> None:
    parcel = keep(objects, make_ct(tmp_path, rows=2048, cols=2048), 0)
    file(folder, objects, [parcel])
    [path] = [folder / name for name in names(folder)]
    before = path.stat()
    _, told = file(folder, objects, [parcel])
    assert [o.status for o in told] == [WRITTEN]
    assert (path.stat().st_ino, path.stat().st_mtime_ns) == (before.st_ino, before.st_mtime_ns)

    other = bytearray(path.read_bytes())
    other[-1] ^= 1
    path.write_bytes(other)
    file(folder, objects, [parcel])
    assert path.read_bytes() == objects.open(parcel.object_key).read()
    assert len(names(folder)) == 1


def test_two_tenants_may_have_the_same_instance(folder: Path, objects: FolderStore, tmp_path: Path) -> None:
    first = keep(objects, make_ct(tmp_path), 0)
    second = replace(keep(objects, make_ct(tmp_path), 1), sop_instance_uid=first.sop_instance_uid)
    file(folder, objects, [first], Owner("a", STUDY))
    file(folder, objects, [second], Owner("b", STUDY))
    name = f"{STUDY}/{first.sop_instance_uid}.dcm"
    assert (folder / "a" / name).read_bytes() == objects.open(first.object_key).read()
    assert (folder / "b" / name).read_bytes() == objects.open(second.object_key).read()


def test_a_full_disk_is_left_alone_and_holds_no_part(
    mounted: Callable[[str], Path], objects: FolderStore, tmp_path: Path
) -> None:
    folder = mounted("size=300k")
    paths = make_study(tmp_path, 3, rows=256, cols=256)
    parcels = [keep(objects, path, n) for n, path in enumerate(paths)]
    ending, told = file(folder, objects, parcels)
    assert ending.kind == "busy"
    assert "free some space" in (ending.problem or "")
    assert [(o.item, o.verdict, o.status) for o in told] == [
        (0, Verdict.SENT, WRITTEN),
        (1, Verdict.SENT, WRITTEN),
        (2, Verdict.LATER, NO_ROOM),
    ]
    assert names(folder) == {f"t/{STUDY}/{parcel.sop_instance_uid}.dcm" for parcel in parcels[:2]}
    subprocess.run(["mount", "-o", "remount,size=3m", str(folder)], check=True)
    assert file(folder, objects, parcels[2:]) == (Ending("finished"), [Outcome(2, Verdict.SENT, WRITTEN)])


def test_a_folder_that_can_t_be_written_says_what_to_do(
    mounted: Callable[[str], Path], objects: FolderStore, tmp_path: Path
) -> None:
    folder = mounted("ro")
    parcels = [keep(objects, path, n) for n, path in enumerate(make_study(tmp_path, 2))]
    left: list[int] = []
    ending, told = file(folder, objects, parcels, left=left)
    assert (ending.kind, told, left) == ("unreachable", [], [0, 1])
    assert "let Kivuko's user write to it" in (ending.problem or "")
    assert check(FolderTarget(folder, 1)) == ending


def test_a_folder_that_is_not_there_is_never_made(folder: Path, objects: FolderStore, tmp_path: Path) -> None:
    (folder / "plain").write_bytes(b"")
    parcel = keep(objects, make_ct(tmp_path), 0)
    for absent in (folder / "away", folder / "plain"):
        ending, told = file(absent, objects, [parcel])
        assert (ending.kind, told) == ("unreachable", [])
        assert "mount its disk" in (ending.problem or "")
        assert check(FolderTarget(absent, 1)) == ending
    assert names(folder) == {"plain"}


def test_a_folder_is_tested_without_a_trace(folder: Path) -> None:
    assert check(FolderTarget(folder, 1)) == Ending("finished")
    assert list(folder.iterdir()) == []


def test_no_link_is_followed_out_of_the_folder(folder: Path, objects: FolderStore, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "file").write_bytes(b"not ours")
    first, second = [keep(objects, path, n) for n, path in enumerate(make_study(tmp_path, 2))]
    (folder / "t").mkdir()
    (folder / "t" / STUDY).symlink_to(outside)
    ending, told = file(folder, objects, [first])
    assert ending == Ending("finished")
    assert [(o.verdict, o.status) for o in told] == [(Verdict.REFUSED, UNSENDABLE)]
    assert "move it away" in told[0].reason

    (folder / "t" / STUDY).unlink()
    (folder / "t" / STUDY).mkdir()
    (folder / "t" / STUDY / f"{second.sop_instance_uid}.dcm").symlink_to(outside / "file")
    _, told = file(folder, objects, [second])
    assert [o.verdict for o in told] == [Verdict.SENT]
    assert not (folder / "t" / STUDY / f"{second.sop_instance_uid}.dcm").is_symlink()
    assert [(path.name, path.read_bytes()) for path in outside.iterdir()] == [("file", b"not ours")]


def test_what_is_in_the_way_or_has_no_fit_name_is_refused(folder: Path, objects: FolderStore, tmp_path: Path) -> None:
    parcels = [keep(objects, path, n) for n, path in enumerate(make_study(tmp_path, 3))]
    (folder / "t" / STUDY / f"{parcels[0].sop_instance_uid}.dcm").mkdir(parents=True)
    parcels[1] = replace(parcels[1], sop_instance_uid="../../1.2")
    ending, told = file(folder, objects, parcels)
    assert ending == Ending("finished")
    assert [(o.verdict, o.status) for o in told] == [
        (Verdict.REFUSED, UNSENDABLE),
        (Verdict.REFUSED, UNSENDABLE),
        (Verdict.SENT, WRITTEN),
    ]
    assert names(folder) == {f"t/{STUDY}/{parcels[2].sop_instance_uid}.dcm"}


def test_a_file_longer_than_the_file_system_takes_is_refused(folder: Path, tmp_path: Path) -> None:
    program = """
import resource, sys
from pathlib import Path
from libs.storage.folder import FolderStore
from tests.integration.egress.test_filing import file, keep
store = FolderStore(Path(sys.argv[1]))
parcels = [keep(store, Path(path), n) for n, path in enumerate(sys.argv[3:])]
resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
ending, told = file(Path(sys.argv[2]), store, parcels)
print(ending.kind, *(o.verdict for o in told))
"""
    paths = [make_ct(tmp_path, rows=256, cols=256), make_ct(tmp_path)]
    said = subprocess.run(
        [sys.executable, "-c", program, tmp_path / "objects", folder, *paths],
        check=True,
        capture_output=True,
        text=True,
    )
    assert said.stdout.split() == ["finished", "refused", "sent"]
    assert len(names(folder)) == 1


def test_a_killed_writer_leaves_no_part_under_a_name_and_the_next_one_tidies_up(
    folder: Path, objects: FolderStore, tmp_path: Path
) -> None:
    program = """
import sys, threading
from pathlib import Path
from libs.storage.folder import FolderStore
from tests.integration.egress.test_filing import file, keep, Slow
store = FolderStore(Path(sys.argv[1]))
def hang():
    print("half", flush=True)
    threading.Event().wait()
file(Path(sys.argv[2]), Slow(store, hang), [keep(store, Path(sys.argv[3]), 0)])
"""
    path = make_ct(tmp_path, rows=2048, cols=2048)
    command = [sys.executable, "-c", program, str(tmp_path / "objects"), str(folder), str(path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as killed:
        assert killed.stdout is not None
        assert killed.stdout.readline() == b"half\n"
        killed.kill()
    [left] = names(folder)
    assert left.endswith(".part")
    assert 0 < (folder / left).stat().st_size < path.stat().st_size
    parcel = keep(objects, path, 0)
    assert file(folder, objects, [parcel]) == (Ending("finished"), [Outcome(0, Verdict.SENT, WRITTEN)])
    assert names(folder) == {f"t/{STUDY}/{parcel.sop_instance_uid}.dcm"}


class Slow:
    """Objects whose second piece and what follows comes only when a function has returned."""

    def __init__(self, objects: FolderStore, then: Callable[[], None]) -> None:
        self._objects = objects
        self._then = then

    def open(self, key: str) -> BinaryIO:
        return _Slow(self._objects.open(key), self._then)  # type: ignore[return-value]  # it is read, no more


class _Slow:
    def __init__(self, file: BinaryIO, then: Callable[[], None]) -> None:
        self._file = file
        self._then = then
        self._reads = 0

    def read(self, count: int) -> bytes:
        self._reads += 1
        if self._reads == 3:
            self._then()
        return self._file.read(count)

    def __enter__(self) -> "_Slow":  # noqa: PYI034 - private
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()


def test_one_that_tidies_up_leaves_what_another_is_writing(folder: Path, objects: FolderStore, tmp_path: Path) -> None:
    big = keep(objects, make_ct(tmp_path, rows=2048, cols=2048), 0)
    small = keep(objects, make_ct(tmp_path), 1)
    seen = []

    def meanwhile() -> None:
        seen.append(file(folder, objects, [small]))

    assert file(folder, Slow(objects, meanwhile), [big]) == (Ending("finished"), [Outcome(0, Verdict.SENT, WRITTEN)])
    assert seen == [(Ending("finished"), [Outcome(1, Verdict.SENT, WRITTEN)])]
    assert names(folder) == {f"t/{STUDY}/{each.sop_instance_uid}.dcm" for each in (big, small)}


def test_a_cap_is_kept_and_an_abort_does_not_wait_for_it(folder: Path, objects: FolderStore, tmp_path: Path) -> None:
    parcel = keep(objects, make_ct(tmp_path, rows=256, cols=256), 0)
    shelf = Shelf(0, lambda: None)
    shelf.put([parcel])
    told: list[Outcome] = []
    asked = threading.Event()

    class Watched(Pace):
        def take(self, count: int) -> float:
            wait = super().take(count)
            if wait > 0:
                asked.set()
            return wait

    # At 8 bit/s it would take a day and a half.
    filing = Filing(
        FolderTarget(folder, 1),
        shelf,
        objects,
        lambda _parcel, outcome: told.append(outcome),
        lambda _: Owner("t", STUDY),
        paces=[Watched(8, lambda: 0.0)],
    )
    endings: list[Ending] = []
    running = threading.Thread(target=lambda: endings.append(filing.run()))
    running.start()
    assert asked.wait(60)
    filing.abort()
    running.join(60)
    assert [ending.kind for ending in endings] == ["stopped"]
    assert [(o.verdict, o.status) for o in told] == [(Verdict.LATER, NO_ANSWER)]
    assert names(folder) == set()
