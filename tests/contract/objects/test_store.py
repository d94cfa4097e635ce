"""What every object store does."""

import io
import os
import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from libs.storage.objects import ObjectMissingError, ObjectStore, open_store

pytestmark = pytest.mark.contract
MANY = 17 * 1024 * 1024


class _Stream(io.RawIOBase):
    """Bytes that come in small pieces, without a known length."""

    def __init__(self, data: bytes) -> None:
        self._data = io.BytesIO(data)

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        return self._data.read(min(size, 700_001))


def content(store: ObjectStore, key: str) -> bytes:
    with store.open(key) as file:
        return file.read()


@pytest.mark.parametrize("size", [0, 1, 100_000])
def test_bytes_come_back(store: ObjectStore, size: int) -> None:
    data = os.urandom(size)
    assert store.put("tenant/1.2.3/a.dcm", data) is True
    assert content(store, "tenant/1.2.3/a.dcm") == data
    found = store.stat("tenant/1.2.3/a.dcm")
    assert found is not None
    assert found.size == size
    assert abs(datetime.now(UTC) - found.modified) < timedelta(minutes=5)


@pytest.mark.parametrize("size", [0, 5, 8 * 1024 * 1024, MANY])
def test_a_file_is_stored_from_where_it_stands(store: ObjectStore, size: int) -> None:
    data = os.urandom(size)
    file = io.BytesIO(b"preamble" + data)
    file.seek(8)
    assert store.put("a", file) is True
    assert content(store, "a") == data


@pytest.mark.parametrize("size", [0, 5, MANY])
def test_a_stream_of_unknown_length_is_stored(store: ObjectStore, size: int) -> None:
    data = os.urandom(size)
    assert store.put("a", _Stream(data), if_absent=True) is True  # type: ignore[arg-type] # reads are all that is needed
    assert content(store, "a") == data


def test_put_replaces(store: ObjectStore) -> None:
    store.put("a", b"old and longer")
    assert store.put("a", b"new") is True
    assert content(store, "a") == b"new"


@pytest.mark.parametrize("size", [3, MANY])
def test_if_absent_leaves_what_is_there(store: ObjectStore, size: int) -> None:
    assert store.put("a", b"old", if_absent=True) is True
    assert store.put("a", io.BytesIO(bytes(size)), if_absent=True) is False
    assert content(store, "a") == b"old"


@pytest.mark.parametrize(("writers", "size"), [(8, 1000), (2, MANY)])
def test_of_several_writers_exactly_one_is_told_that_it_was_first(store: ObjectStore, writers: int, size: int) -> None:
    start = threading.Barrier(writers)

    def write(number: int) -> bool:
        start.wait()
        return store.put("folder/new/a", io.BytesIO(bytes([number]) * size), if_absent=True)

    with ThreadPoolExecutor(writers) as pool:
        first = list(pool.map(write, range(writers)))
    assert first.count(True) == 1
    assert content(store, "folder/new/a") == bytes([first.index(True)]) * size


def test_many_threads_in_one_new_folder(store: ObjectStore) -> None:
    keys = [f"tenant/study/{number}" for number in range(60)]
    with ThreadPoolExecutor(12) as pool:
        assert all(pool.map(lambda key: store.put(key, key.encode()), keys))
    assert sorted(keys) == list(store.list("tenant/study/"))


@pytest.mark.parametrize("size", [3, MANY])
def test_adopt_takes_the_file_over(store: ObjectStore, tmp_path: Path, size: int) -> None:
    data = os.urandom(size)
    spool = tmp_path / "spool"
    spool.write_bytes(data)
    assert store.adopt("t/a", spool, if_absent=True) is True
    assert not spool.exists()
    assert content(store, "t/a") == data


def test_adopt_leaves_the_file_if_the_key_is_taken(store: ObjectStore, tmp_path: Path) -> None:
    spool = tmp_path / "spool"
    spool.write_bytes(b"second")
    store.put("a", b"first")
    assert store.adopt("a", spool, if_absent=True) is False
    assert spool.read_bytes() == b"second"
    assert store.adopt("a", spool) is True
    assert not spool.exists()
    assert content(store, "a") == b"second"


def test_adopt_of_a_file_that_is_not_there(store: ObjectStore, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        store.adopt("a", tmp_path / "nothing")
    assert store.stat("a") is None


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=30, deadline=None)
@given(offset=st.integers(0, 120), length=st.none() | st.integers(0, 120))
def test_a_range_is_the_slice(store: ObjectStore, offset: int, length: int | None) -> None:
    data = bytes(range(100))
    store.put("range", data, if_absent=True)
    with store.open("range", offset, length) as file:
        assert file.read() == data[offset : None if length is None else offset + length]


def test_what_is_not_there(store: ObjectStore) -> None:
    store.put("folder/a", b"")
    for key in ("nothing", "folder", "folder/b", "folder/a/b"):
        assert store.stat(key) is None
        with pytest.raises(ObjectMissingError):
            store.open(key)
        with pytest.raises(ObjectMissingError):
            store.open(key, 0, 0)
        store.delete(key)
    assert list(store.list("nothing/")) == []
    assert list(store.list("")) == ["folder/a"]


def test_delete(store: ObjectStore) -> None:
    store.put("folder/a", b"1")
    store.put("folder/b", b"2")
    store.delete("folder/a")
    assert store.stat("folder/a") is None
    assert list(store.list("")) == ["folder/b"]
    assert store.put("folder/a", b"3", if_absent=True) is True


def test_list_is_by_prefix_and_in_order(store: ObjectStore) -> None:
    keys = ["a", "a-b", "ab/c", "ab/c.d", "ab/cd/e", "b/1.2.10", "b/1.2.9", "b0"]
    for key in keys:
        store.put(key, b"")
    for prefix in ["", "a", "a-", "ab", "ab/", "ab/c", "ab/cd/", "b", "b/1.2.", "c", "c/d"]:
        assert list(store.list(prefix)) == [key for key in sorted(keys) if key.startswith(prefix)], prefix


BAD = st.text(min_size=8).filter(lambda key: not key.isascii()) | st.sampled_from(
    [
        "",
        "/a",
        "a/",
        "a//b",
        ".",
        "..",
        "a/../b",
        "../a",
        "a/.b",
        "a\0b",
        "a\\b",
        "a b",
        "a\n",
        "x" * 256,
        "x/" * 600 + "x",
    ]
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=50, deadline=None)
@given(key=BAD)
def test_a_bad_key_is_refused_and_not_repeated(store: ObjectStore, tmp_path: Path, key: str) -> None:
    (tmp_path / "spool").write_bytes(b"")
    for call in (
        lambda: store.put(key, b""),
        lambda: store.adopt(key, tmp_path / "spool"),
        lambda: store.open(key),
        lambda: store.stat(key),
        lambda: store.delete(key),
    ):
        with pytest.raises(ValueError, match="not valid") as raised:
            call()
        assert len(key) < 8 or key not in str(raised.value)
    assert (tmp_path / "spool").exists()


def test_check_of_a_store_that_serves(store: ObjectStore) -> None:
    store.check()
    assert list(store.list("")) == []


def test_the_store_is_there_after_it_was_closed(store: ObjectStore, store_url: str) -> None:
    store.put("a", b"1")
    store.close()
    again = open_store(store_url)
    assert content(again, "a") == b"1"
    again.close()


def _in_child(store: ObjectStore, pipe: Connection) -> None:
    for number in range(20):
        store.put(f"child/{number}", b"child")
    pipe.send([content(store, f"parent/{number}") for number in range(20)])


def test_both_sides_of_a_fork_can_use_it(store: ObjectStore) -> None:
    for number in range(20):
        store.put(f"parent/{number}", f"{number}".encode())
    context = get_context("fork")
    ours, theirs = context.Pipe()
    child = context.Process(target=_in_child, args=(store, theirs))
    child.start()
    seen = [content(store, f"parent/{number % 20}") for number in range(60)]
    assert seen == [f"{number % 20}".encode() for number in range(60)]
    assert ours.poll(60)
    assert ours.recv() == [f"{number}".encode() for number in range(20)]
    child.join()
    assert len(list(store.list("child/"))) == 20


def test_a_source_that_fails_leaves_nothing(store: ObjectStore) -> None:
    class Broken(_Stream):
        def read(self, size: int = -1) -> bytes:
            if self._data.tell() > MANY - 1000:
                raise ConnectionResetError
            return super().read(size)

    with pytest.raises(ConnectionResetError):
        store.put("a", Broken(bytes(2 * MANY)))  # type: ignore[arg-type] # reads are all that is needed
    assert store.stat("a") is None
    assert list(store.list("")) == []


def test_tenants_share_nothing(store: ObjectStore) -> None:
    store.put("one/1.2.3/a", b"1")
    store.put("two/1.2.3/a", b"2")
    assert list(store.list("one/")) == ["one/1.2.3/a"]
    assert content(store, "one/1.2.3/a") == b"1"


def test_many_files_are_kept_and_stay_where_they_are(store: ObjectStore, tmp_path: Path) -> None:
    files = {f"t/{number % 3}/{number}": tmp_path / f"{number}" for number in range(10)}
    for key, path in files.items():
        path.write_bytes(key.encode())
    store.put("t/0/0", b"was there")
    for _ in range(2):
        store.keep(files)
        assert content(store, "t/0/0") == b"was there"
        assert {key: content(store, key) for key in files if key != "t/0/0"} == {
            key: key.encode() for key in files if key != "t/0/0"
        }
    assert all(path.read_bytes() == key.encode() for key, path in files.items())
    store.keep({})


def test_a_key_that_is_another_objects_folder_keeps_nothing(tmp_path: Path) -> None:
    store = open_store(f"file://{tmp_path}/objects")
    (tmp_path / "file").write_bytes(b"1")
    store.put("a/b", b"2")
    with pytest.raises(ValueError, match="folder"):
        store.keep({"a": tmp_path / "file"})
    with pytest.raises(ValueError, match="folder"):
        store.keep({"a/b/c": tmp_path / "file"})
    store.close()


def test_files_of_another_file_system_are_copied(small_disk: Path, tmp_path: Path) -> None:
    store = open_store(f"file://{small_disk}/objects")
    files = {f"t/{number}": tmp_path / f"{number}" for number in range(3)}
    for key, path in files.items():
        path.write_bytes(key.encode())
    store.keep(files)
    assert {key: content(store, key) for key in files} == {key: key.encode() for key in files}
    assert all(path.exists() for path in files.values())
    store.close()
