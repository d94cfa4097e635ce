"""Spool files: what is sealed comes back as it was, what was never sealed goes, what is damaged is kept for people."""

import hashlib
import os
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from contracts.fact import Source
from libs.dicom import part10
from services.ingest.arrival import Arrival, Entry
from services.ingest.disk import SpoolFullError, SpoolUnavailableError
from services.ingest.pool import FolderInUseError, Pool, lock
from services.ingest.room import Margin
from services.ingest.seal import BLANK, BrokenSealError, Heads, Seal, UnsealedError, head
from services.ingest.seal import read as read_seal
from services.ingest.spool import Spool
from tests.support.synthetic import CT_IMAGE_STORAGE, EXPLICIT_LITTLE_ENDIAN, make_ct

pytestmark = pytest.mark.unit
SOURCE = Source(site="luba", node="CT1", calling_aet="CT1", called_aet="KIVUKO", address="127.0.0.1")
SECURED = SOURCE.model_copy(update={"tls_subject": 'CN=ct "1",O=Clínica\\, Luba'})
TRACE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


def arrival(sop_uid: str, *, name: str = "0000000000000001-ab", traceparent: str = "") -> Arrival:
    """Make an arrival."""
    return Arrival(
        name, "default", SECURED, "A1", CT_IMAGE_STORAGE, sop_uid, EXPLICIT_LITTLE_ENDIAN,
        datetime(2026, 1, 1, tzinfo=UTC), traceparent,
    )  # fmt: skip


def write(pool: Pool, what: Arrival, dataset: bytes, sizes: list[int], traceparent: str = TRACE) -> Path:
    """Write an arrival in fragments of the given sizes, again and again, and seal it."""
    file = pool.take(head(what.meta()))
    at, turn = 0, 0
    while at < len(dataset):
        size = sizes[turn % len(sizes)]
        file.write(memoryview(dataset)[at : at + size])
        at, turn = at + size, turn + 1
    file.seal(0, "", "", traceparent)
    return file.path


@pytest.fixture
def spool(tmp_path: Path) -> Spool:
    return Spool(tmp_path / "spool", 0)


@pytest.fixture
def pool(spool: Spool) -> Iterator[Pool]:
    folder = spool.folder / "receiver-0"
    folder.mkdir()
    made = Pool(folder, 0, "life")
    yield made
    made.close()


@pytest.mark.parametrize("side", [16, 300, 1200])
@pytest.mark.parametrize("sizes", [[1 << 20], [1000], [7, 65536], [40000, 1], [300_000, 800_000, 1_100_000]])
@pytest.mark.parametrize("traceparent", [TRACE, ""])
def test_what_is_sealed_comes_back(
    tmp_path: Path, spool: Spool, pool: Pool, side: int, sizes: list[int], traceparent: str
) -> None:
    with make_ct(tmp_path, sop_uid="1.2.3", study_uid="1.2", series_uid="1.3", rows=side, cols=side).open("rb") as file:
        part10.decode(file)
        dataset = file.read()
    path = write(pool, arrival("1.2.3"), dataset, sizes, traceparent)
    (entry,) = spool.repair()
    assert entry == Entry(
        arrival=arrival("1.2.3", traceparent=traceparent),
        study_uid="1.2",
        series_uid="1.3",
        path=path,
        content_hash=hashlib.sha256(dataset).hexdigest(),
        size=path.stat().st_size,
        accepted=True,
    )
    with path.open("rb") as file:
        part10.decode(file)
        assert file.read() == dataset
    # Twice is the same, and what is known is left alone.
    assert list(spool.repair()) == [entry]
    assert spool.left(path.parent, {entry.arrival.id}) == []
    assert path.exists()


def test_a_refusal_comes_back_with_its_reason(spool: Spool, pool: Pool) -> None:
    file = pool.take(head(arrival("1.2.3").meta()))
    file.write(memoryview(b"no dataset"))
    file.seal(0xA900, "identity-mismatch", "the dataset's \"UID\" is not the command's", TRACE)
    (entry,) = spool.repair()
    assert not entry.accepted
    assert entry.objection is not None
    assert (entry.objection.status, entry.objection.reason) == (0xA900, "identity-mismatch")
    assert entry.objection.detail == "the dataset's 'UID' is not the command's"


@pytest.mark.parametrize("length", [0, 10, 70_000, 1_200_000])
def test_what_was_never_sealed_goes(spool: Spool, pool: Pool, length: int) -> None:
    file = pool.take(head(arrival("1.2.3").meta()))
    for _ in range(length // 10):
        file.write(memoryview(b"0123456789"))
    assert bool(file.landed) is (length > 1 << 20)
    folder = file.path.parent
    assert len(list(folder.iterdir())) > 1
    assert list(spool.repair()) == []
    assert list(folder.iterdir()) == []
    assert spool.damaged() == []


@pytest.mark.parametrize("length", [1000, 70_000, 1_200_000])
@pytest.mark.parametrize("kept", [50, 200, 900])
def test_what_a_kill_cut_off_while_it_was_written_goes(
    monkeypatch: pytest.MonkeyPatch, spool: Spool, pool: Pool, length: int, kept: int
) -> None:
    file = pool.take(head(arrival("1.2.3").meta()))
    for half in (length // 2, length - length // 2):
        file.write(memoryview(bytes(half)))

    def killed(descriptor: int, parts: list[bytes]) -> None:
        whole = b"".join(parts)
        os.write(descriptor, whole[: len(whole) - len(parts[-1]) + kept])
        raise KeyboardInterrupt

    monkeypatch.setattr("services.ingest.pool._write", killed)
    with pytest.raises(KeyboardInterrupt):
        file.seal(0, "", "", TRACE)
    assert list(spool.repair()) == []
    assert spool.damaged() == []


@given(cut=st.integers(0, 2_000_000), flipped=st.integers(0, 2_000_000))
@settings(max_examples=60, deadline=None)
def test_no_damage_ever_passes_for_what_was_sealed(
    tmp_path_factory: pytest.TempPathFactory, cut: int, flipped: int
) -> None:
    spool = Spool(tmp_path_factory.mktemp("spool"), 0)
    folder = spool.folder / "receiver-0"
    folder.mkdir()
    pool = Pool(folder, 0, "life")
    dataset = bytes(range(256)) * 300
    path = write(pool, arrival("1.2.3"), dataset, [1 << 16])
    pool.close()
    (before,) = spool.repair()
    whole = bytearray(path.read_bytes())
    start = len(whole) - len(dataset)
    whole[start + flipped % len(dataset)] ^= 1
    path.write_bytes(whole[: len(whole) - cut % len(dataset)])
    assert list(spool.repair()) == []
    assert [each.name for each in spool.damaged()] == [before.path.with_suffix(".damaged").name]


def test_a_folder_belongs_to_one_process(spool: Spool) -> None:
    folder = spool.folder / "receiver-0"
    descriptor = lock(folder)
    with pytest.raises(FolderInUseError):
        lock(folder)
    Path(f"/proc/self/fd/{descriptor}").stat()


def test_a_full_disk_is_said_before_and_while_it_is_written(tmp_path: Path) -> None:
    made = head(arrival("1.2.3").meta())
    with pytest.raises(SpoolFullError, match="KIVUKO_INGEST_MIN_FREE_BYTES"):
        Pool(tmp_path, 1 << 60, "life").take(made)
    with pytest.raises(SpoolUnavailableError):
        Pool(tmp_path / "nowhere", 0, "life").take(made)


def test_what_all_arrivals_gather_in_memory_is_bounded(pool: Pool) -> None:
    files = [pool.take(head(arrival("1.2.3").meta())) for _ in range(40)]
    for file in files:
        file.write(memoryview(bytes(60_000)))
        file.write(memoryview(bytes(60_000)))
    assert [bool(file.landed) for file in files] == [False] * 32 + [True] * 8
    for file in files:
        file.discard()
    again = pool.take(head(arrival("1.2.3").meta()))
    again.write(memoryview(bytes(1 << 20)))
    assert not again.landed
    again.discard()


def test_a_disk_is_looked_at_now_and_then_while_it_is_ample_and_always_when_it_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks: list[int] = []
    free, now = 1 << 40, [5.0]

    def look(folder: Path, margin: Margin, coming: int) -> int:
        assert folder == tmp_path
        assert margin.needed == 1 << 30
        looks.append(coming)
        return free

    monkeypatch.setattr("services.ingest.pool.require_room", look)
    pool = Pool(tmp_path, 1 << 30, "life", lambda: now[0])
    file = pool.take(head(arrival("1.2.3").meta()))
    pool.require_room()
    assert looks == [0]
    now[0] += 1
    pool.require_room()
    assert looks == [0, 1 << 20]
    free, looks = 5 << 30, []
    now[0] += 1
    pool.require_room()
    file.write(memoryview(bytes(2 << 20)))
    assert looks == [1 << 20] * 2
    file.discard()
    pool.close()


@given(st.text(max_size=200), st.sampled_from(["identity-mismatch", "unreadable-dataset", ""]), st.integers(0, 0xFFFF))
def test_a_seal_is_read_as_it_was_written(detail: str, reason: str, status: int) -> None:
    seal = Seal("0" * 64, 17, status, reason, detail)
    text = seal.text()
    assert len(text) == len(BLANK)
    again = read_seal(text)
    assert (again.sha256, again.length, again.status, again.reason) == ("0" * 64, 17, status, reason)
    assert again.text() == text


def test_other_seals_are_not_believed() -> None:
    with pytest.raises(UnsealedError):
        read_seal(BLANK)
    for text in ("", "x" * 20, " " * len(BLANK), "z" * len(BLANK)):
        with pytest.raises(BrokenSealError):
            read_seal(text)


@given(st.text(max_size=70))
def test_no_identifier_can_look_like_the_seal(text: str) -> None:
    mark = f'"traceparent": "{text}'
    what = arrival(mark)
    made = head(what.meta())
    made.fill(Seal("a" * 64, 1, 0), TRACE)
    private = bytes(made)
    assert private.count(TRACE.encode()) == 1
    assert private.count(b"a" * 64) == 1


sop_uids = st.from_regex(r"[0-9]{1,9}(\.[0-9]{1,9}){0,4}", fullmatch=True) | st.text(max_size=66)


@given(
    st.dictionaries(st.sampled_from(["tenant", "node", "calling_aet"]), st.text(max_size=20)),
    st.lists(st.tuples(st.sampled_from(["1.2.3", "1.2.3.4", "\2\0\3\0UI"]) | sop_uids, sop_uids), max_size=8),
)
def test_heads_of_an_association_are_what_each_would_be_alone(
    provenance: dict[str, str], objects: list[tuple[str, str]]
) -> None:
    heads = Heads(provenance)
    for number, (sop_class, sop_uid) in enumerate(objects):
        own = {"arrival": f"{number:04}-ab", "received_at": f"2026-01-01T00:00:0{number}+00:00"}
        made = heads.make(sop_class, sop_uid, EXPLICIT_LITTLE_ENDIAN, own["arrival"], own["received_at"])
        private = {**provenance, **own, "sop_class_uid": sop_class, "sop_instance_uid": sop_uid}
        alone = head(part10.Meta(sop_class, sop_uid, EXPLICIT_LITTLE_ENDIAN, private))
        assert bytes(made) == bytes(alone)
        seal = Seal(f"{number:064x}", 9, 0)
        assert made.fill(seal, TRACE) == alone.fill(seal, TRACE)
        assert bytes(made) == bytes(alone)
