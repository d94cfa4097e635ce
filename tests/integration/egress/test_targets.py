"""What holds of every kind of target, tested on each: C-STORE against dcmtk, and a folder."""

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import BinaryIO, Protocol, Self, cast

import pytest

from libs.storage.folder import FolderStore
from libs.storage.objects import StoreUnavailableError
from services.egress.calling import Ending, Timeouts
from services.egress.filing import Filing
from services.egress.folder import FolderTarget, Owner
from services.egress.outcome import ARRIVED, OBJECT_DAMAGED, Outcome, Verdict
from services.egress.parcel import WHOLE, Parcel, Readable
from services.egress.scu import Call
from services.egress.shelf import Shelf
from services.egress.target import Carrier
from tests.conftest import StoreScpFactory
from tests.integration.egress.peer import at, keep
from tests.support.dicomset import dataset_bytes
from tests.support.port import free_port
from tests.support.synthetic import make_ct, make_study

pytestmark = pytest.mark.integration
TIMEOUTS = Timeouts(connect=5, acse=20, response=30, network=30)
Tell = Callable[[Parcel, Outcome], None]


class Kind(Protocol):
    """One kind of target."""

    def carrier(self, shelf: Shelf, objects: Readable, tell: Tell) -> Carrier:
        """Make what goes to a target that is there."""
        ...

    def lost(self, shelf: Shelf, objects: Readable, tell: Tell) -> Carrier:
        """Make what goes to one that can't be reached."""
        ...

    def files(self) -> list[Path]:
        """Give everything that the target has."""
        ...


class StoreScp:
    def __init__(self, factory: StoreScpFactory) -> None:
        self._server = factory()

    def carrier(self, shelf: Shelf, objects: Readable, tell: Tell) -> Carrier:
        return Call(at(self._server.port), shelf, objects, TIMEOUTS, tell)

    def lost(self, shelf: Shelf, objects: Readable, tell: Tell) -> Carrier:
        return Call(at(free_port()), shelf, objects, TIMEOUTS, tell)

    def files(self) -> list[Path]:
        return list(self._server.files())


class Folder:
    def __init__(self, path: Path) -> None:
        self._path = path
        path.mkdir()

    def carrier(self, shelf: Shelf, objects: Readable, tell: Tell) -> Carrier:
        return self._at(self._path, shelf, objects, tell)

    def lost(self, shelf: Shelf, objects: Readable, tell: Tell) -> Carrier:
        return self._at(self._path / "away", shelf, objects, tell)

    def files(self) -> list[Path]:
        return [path for path in self._path.rglob("*") if not path.is_dir()]

    @staticmethod
    def _at(path: Path, shelf: Shelf, objects: Readable, tell: Tell) -> Carrier:
        return Filing(FolderTarget(path, 1), shelf, objects, tell, lambda _parcel: Owner("t", "1.2.3"))


@pytest.fixture(params=["store", "folder"])
def kind(request: pytest.FixtureRequest, storescp: StoreScpFactory, tmp_path: Path) -> Kind:
    return StoreScp(storescp) if request.param == "store" else Folder(tmp_path / "target")


@pytest.fixture
def objects(tmp_path: Path) -> FolderStore:
    return FolderStore(tmp_path / "objects")


@dataclass
class Visit:
    """A shelf, what was told of it, and who may react to that."""

    shelf: Shelf = field(default_factory=lambda: Shelf(0, lambda: None))
    told: list[tuple[Parcel, Outcome]] = field(default_factory=list)
    then: Callable[[], None] = lambda: None

    def tell(self, parcel: Parcel, outcome: Outcome) -> None:
        self.told.append((parcel, outcome))
        self.then()

    @property
    def verdicts(self) -> dict[int, Verdict]:
        return {outcome.item: outcome.verdict for _, outcome in self.told}

    def left(self) -> set[int]:
        return {parcel.item for parcel in self.shelf.remove()}


def kept(objects: FolderStore, paths: Sequence[Path]) -> list[Parcel]:
    return [keep(objects, path, number) for number, path in enumerate(paths)]


def datasets(paths: Sequence[Path]) -> list[bytes]:
    return sorted(map(dataset_bytes, paths))


def test_all_arrives_as_it_is_kept_and_each_is_told_once(kind: Kind, objects: FolderStore, tmp_path: Path) -> None:
    paths = [*make_study(tmp_path, 20), make_ct(tmp_path, rows=2048, cols=2048)]
    visit = Visit()
    visit.shelf.put(kept(objects, paths))
    ending = kind.carrier(visit.shelf, objects, visit.tell).run()
    assert ending == Ending("finished")
    assert sorted(outcome.item for _, outcome in visit.told) == list(range(21))
    assert {outcome.verdict for _, outcome in visit.told} == {Verdict.SENT}
    assert all(outcome.item == parcel.item for parcel, outcome in visit.told)
    assert datasets(kind.files()) == datasets(paths)


def test_the_most_urgent_is_next(kind: Kind, objects: FolderStore, tmp_path: Path) -> None:
    ranked = [
        replace(parcel, rank=(lane, parcel.item))
        for parcel, lane in zip(kept(objects, make_study(tmp_path, 5)), (3, 1, 2, 1, 0), strict=True)
    ]
    visit = Visit()
    visit.shelf.put(ranked[:4])

    def come() -> None:
        if len(visit.told) == 2:
            visit.shelf.put(ranked[4:])

    visit.then = come
    assert kind.carrier(visit.shelf, objects, visit.tell).run().kind == "finished"
    assert [outcome.item for _, outcome in visit.told] == [1, 3, 4, 2, 0]


def test_stopping_ends_after_what_is_under_way(kind: Kind, objects: FolderStore, tmp_path: Path) -> None:
    paths = make_study(tmp_path, 4)
    visit = Visit()
    visit.shelf.put(kept(objects, paths))
    carrier = kind.carrier(visit.shelf, objects, visit.tell)
    visit.then = carrier.stop
    assert carrier.run().kind == "stopped"
    assert visit.verdicts == {0: Verdict.SENT}
    assert visit.left() == {1, 2, 3}
    assert datasets(kind.files()) == datasets(paths[:1])


def test_one_that_is_stopped_before_it_began_does_nothing(kind: Kind, objects: FolderStore, tmp_path: Path) -> None:
    visit = Visit()
    visit.shelf.put(kept(objects, make_study(tmp_path, 2)))
    carrier = kind.carrier(visit.shelf, objects, visit.tell)
    carrier.stop()
    assert carrier.run().kind == "stopped"
    assert (visit.told, visit.left(), kind.files()) == ([], {0, 1}, [])


class Interfering:
    """Objects that do something when the reading of one has begun."""

    def __init__(self, objects: FolderStore, key: str) -> None:
        self._objects = objects
        self._key = key
        self.then: Callable[[], None] = lambda: None

    def open(self, key: str) -> BinaryIO:
        file = self._objects.open(key)
        return cast("BinaryIO", _Watched(file, self.then)) if key == self._key else file


class _Watched:
    def __init__(self, file: BinaryIO, then: Callable[[], None]) -> None:
        self._file = file
        self._then = then

    def read(self, *count: int) -> bytes:
        found = self._file.read(*count)
        self._then()
        return found

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()


@pytest.mark.parametrize("size", [16, 2048])
def test_an_abort_ends_at_once(kind: Kind, objects: FolderStore, tmp_path: Path, size: int) -> None:
    paths = make_study(tmp_path, 3, rows=size, cols=size)
    parcels = kept(objects, paths)
    visit = Visit()
    visit.shelf.put(parcels)
    watched = Interfering(objects, parcels[1].object_key)
    carrier = kind.carrier(visit.shelf, watched, visit.tell)
    watched.then = carrier.abort
    assert carrier.run().kind == "stopped"
    sent = {item for item, verdict in visit.verdicts.items() if verdict in ARRIVED}
    assert visit.verdicts.keys().isdisjoint(left := visit.left())
    assert visit.verdicts.keys() | left == {0, 1, 2}
    assert set(visit.verdicts.values()) <= {Verdict.SENT, Verdict.LATER}
    # The one before may have been under way: then it may have arrived and not been answered.
    assert sent <= {0}
    there = set(datasets(kind.files()))
    assert {dataset_bytes(paths[item]) for item in sent} <= there <= {dataset_bytes(paths[0])}


def test_what_is_damaged_or_missing_never_arrives(kind: Kind, objects: FolderStore, tmp_path: Path) -> None:
    big = make_ct(tmp_path, rows=2048, cols=2048)
    paths = [*make_study(tmp_path, 4), big, *make_study(tmp_path, 1)]
    parcels = kept(objects, paths)
    assert parcels[4].size > WHOLE
    for parcel in (parcels[0], parcels[4]):
        flipped = bytearray(objects.open(parcel.object_key).read())
        flipped[-1] ^= 1
        objects.put(parcel.object_key, bytes(flipped))
    objects.delete(parcels[1].object_key)
    objects.put(parcels[2].object_key, b"not DICOM")
    # Cut short, and too young to be hashed again.
    objects.put(parcels[3].object_key, paths[3].read_bytes()[:-10])
    parcels[3] = replace(parcels[3], fresh=True)
    visit = Visit()
    visit.shelf.put(parcels)
    while visit.shelf.next() is not None:
        # An association ends with an object that turns out to be damaged while it is sent.
        assert kind.carrier(visit.shelf, objects, visit.tell).run().kind in ("finished", "stopped")
    assert visit.verdicts == dict.fromkeys(range(5), Verdict.DAMAGED) | {5: Verdict.SENT}
    assert len(visit.told) == 6
    assert {outcome.status for _, outcome in visit.told if outcome.item < 5} == {OBJECT_DAMAGED}
    assert datasets(kind.files()) == datasets(paths[5:])


def test_one_that_can_t_be_reached_is_told_of_nothing(kind: Kind, objects: FolderStore, tmp_path: Path) -> None:
    visit = Visit()
    visit.shelf.put(kept(objects, make_study(tmp_path, 2)))
    ending = kind.lost(visit.shelf, objects, visit.tell).run()
    assert ending.kind == "unreachable"
    assert ending.problem
    assert (visit.told, visit.left()) == ([], {0, 1})


class Away:
    """A store that can't be read."""

    def open(self, key: str) -> BinaryIO:  # noqa: ARG002 - its name is that of the protocol
        raise StoreUnavailableError("the store is away")


def test_while_our_own_store_is_away_nothing_is_told(kind: Kind, objects: FolderStore, tmp_path: Path) -> None:
    visit = Visit()
    visit.shelf.put(kept(objects, make_study(tmp_path, 2)))
    ending = kind.carrier(visit.shelf, Away(), visit.tell).run()
    assert ending == Ending("store-away", "the store is away")
    assert (visit.told, visit.left(), kind.files()) == ([], {0, 1}, [])


class _Killed(BaseException):
    """The process ends here, and what it knew is gone."""


@pytest.mark.parametrize("after", [1, 3])
def test_after_a_crash_each_is_there_once(kind: Kind, objects: FolderStore, tmp_path: Path, after: int) -> None:
    paths = make_study(tmp_path, 4)
    parcels = kept(objects, paths)
    visit = Visit()
    visit.shelf.put(parcels)

    def die() -> None:
        if len(visit.told) == after:
            raise _Killed

    visit.then = die
    with pytest.raises(_Killed):
        kind.carrier(visit.shelf, objects, visit.tell).run()
    again = Visit()
    again.shelf.put(parcels)
    assert kind.carrier(again.shelf, objects, again.tell).run() == Ending("finished")
    assert again.verdicts == dict.fromkeys(range(4), Verdict.SENT)
    assert datasets(kind.files()) == datasets(paths)


def test_several_share_a_shelf(kind: Kind, objects: FolderStore, tmp_path: Path) -> None:
    paths = make_study(tmp_path, 30)
    visit = Visit()
    visit.shelf.put(kept(objects, paths))
    endings: list[Ending] = []
    carriers = [kind.carrier(visit.shelf, objects, visit.tell) for _ in range(3)]
    threads = [threading.Thread(target=lambda each=each: endings.append(each.run())) for each in carriers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert endings == [Ending("finished")] * 3
    assert sorted(outcome.item for _, outcome in visit.told) == list(range(30))
    assert datasets(kind.files()) == datasets(paths)
