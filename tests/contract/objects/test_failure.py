"""Failures are classified, say what to do, and never hold a secret."""

import os
import socket
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from libs.storage.bucket import Bucket
from libs.storage.folder import FolderStore
from libs.storage.objects import ObjectStore, StoreFullError, StoreUnavailableError, open_store
from libs.storage.s3 import S3Store
from tests.support.port import free_port
from tests.support.seaweedfs import SeaweedFS

pytestmark = pytest.mark.contract
SECRET = "a-secret-that-must-not-be-said"


def calls(store: ObjectStore) -> list[Callable[[], object]]:
    return [
        lambda: store.put("a", b"1"),
        lambda: store.put("a", b"1", if_absent=True),
        lambda: store.open("a"),
        lambda: store.stat("a"),
        lambda: store.delete("a"),
        lambda: list(store.list("")),
        store.check,
    ]


def assert_unavailable(store: ObjectStore, text: str) -> None:
    for call in calls(store):
        with pytest.raises(StoreUnavailableError, match=text) as raised:
            call()
        assert SECRET not in f"{raised.value!r} {raised.value.__cause__!r} {store!r}"


def test_wrong_secret(s3: SeaweedFS) -> None:
    bucket = s3.bucket().rpartition("/")[2]
    store = S3Store(Bucket(f"127.0.0.1:{s3.port}", bucket, s3.key, SECRET, secure=False))
    assert_unavailable(store, "check the key, the secret")


def test_bucket_that_is_not_there(s3: SeaweedFS) -> None:
    store = S3Store(Bucket(f"127.0.0.1:{s3.port}", "not-there", s3.key, s3.secret, secure=False))
    # Not put: this server makes the bucket then.
    for call in (lambda: store.open("a"), lambda: store.stat("a"), store.check):
        with pytest.raises(StoreUnavailableError, match="not-there"):
            call()
    store.create_bucket()
    store.create_bucket()
    store.check()


def test_store_that_is_down() -> None:
    port = free_port()
    assert_unavailable(
        open_store(f"s3://key:{SECRET}@127.0.0.1:{port}/bucket"), rf"127\.0\.0\.1:{port} .*KIVUKO_OBJECTS_URL right"
    )


@contextmanager
def answering(answer: bytes) -> Iterator[int]:
    """Answer every request with the same bytes and hang up."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            while True:
                try:
                    connection, _ = server.accept()
                except OSError:
                    return
                with connection:
                    connection.recv(65536)
                    connection.sendall(answer)

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        try:
            yield server.getsockname()[1]
        finally:
            server.shutdown(socket.SHUT_RDWR)
            thread.join()


def test_an_object_that_breaks_off_is_an_error_and_not_a_short_object() -> None:
    with answering(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n" + bytes(100)) as port:
        store = open_store(f"s3://key:{SECRET}@127.0.0.1:{port}/bucket")
        with store.open("a") as file, pytest.raises(StoreUnavailableError, match="broke off"):
            file.read()


def test_a_server_that_is_no_object_store() -> None:
    with answering(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello") as port:
        store = open_store(f"s3://key:{SECRET}@127.0.0.1:{port}/bucket")
        with pytest.raises(StoreUnavailableError):
            list(store.list(""))


def test_tls_to_a_store_without_tls(s3: SeaweedFS) -> None:
    store = S3Store(Bucket(f"127.0.0.1:{s3.port}", "any", s3.key, SECRET, secure=True))
    with pytest.raises(StoreUnavailableError, match="secure=false"):
        store.check()


@pytest.mark.parametrize(
    "url",
    [
        f"s3://127.0.0.1/{SECRET}",
        f"s3://key:{SECRET}@127.0.0.1",
        f"s3://key:{SECRET}@127.0.0.1/a/b",
        f"s3://key:{SECRET}@127.0.0.1/bucket?secur=true",
        f"s3://key:{SECRET}@127.0.0.1/Bucket",
        f"s3://key:{SECRET}@127.0.0.1/bucket?secure={SECRET}",
        f"file://{SECRET}/a",
        f"ftp://key:{SECRET}@127.0.0.1/a",
        SECRET,
    ],
)
def test_an_address_that_cannot_be_read(url: str) -> None:
    with pytest.raises(ValueError, match="KIVUKO_OBJECTS_URL") as raised:
        open_store(url)
    assert SECRET not in str(raised.value)


def test_tls_is_on_but_for_loopback() -> None:
    assert Bucket.from_url("s3://k:s@store.example.org/bkt").secure
    assert not Bucket.from_url("s3://k:s@store.example.org/bkt?secure=false").secure
    assert not Bucket.from_url("s3://k:s@127.0.0.1:9000/bkt").secure
    assert not Bucket.from_url("s3://k:s@[::1]:9000/bkt").secure
    odd = Bucket.from_url("s3://k%2F:s%40%2F@store.example.org:9000/bkt?region=af-south-1")
    assert (odd.key, odd.secret, odd.region, odd.host) == ("k/", "s@/", "af-south-1", "store.example.org:9000")
    assert "s@/" not in repr(odd)


def test_full_disk(small_disk: Path, tmp_path: Path) -> None:
    store = FolderStore(small_disk / "objects")
    store.put("kept", bytes(1_000_000))
    spool = tmp_path / "spool"
    spool.write_bytes(bytes(8_000_000))
    with pytest.raises(StoreFullError, match="free some space"):
        store.put("b", bytes(8_000_000))
    with pytest.raises(StoreFullError, match="free some space"):
        store.adopt("c", spool)
    # Nothing of the attempts remains: what is left has room again, and the file is still where it was.
    assert list((small_disk / "objects" / ".tmp").iterdir()) == []
    assert list(store.list("")) == ["kept"]
    assert spool.stat().st_size == 8_000_000
    assert store.put("d", bytes(1_000_000)) is True
    with store.open("kept") as file:
        assert file.read() == bytes(1_000_000)
    store.close()


def test_adopt_from_another_file_system(small_disk: Path, tmp_path: Path) -> None:
    store = FolderStore(small_disk / "objects")
    spool = tmp_path / "spool"
    spool.write_bytes(b"content")
    assert store.adopt("a", spool, if_absent=True) is True
    assert not spool.exists()
    with store.open("a") as file:
        assert file.read() == b"content"
    store.close()


def test_adopt_from_another_mount_of_the_same_file_system(small_disk: Path) -> None:
    store = FolderStore(small_disk / "objects")
    (small_disk / "spool").mkdir()
    (small_disk / "seen").mkdir()
    subprocess.run(["mount", "--bind", str(small_disk / "spool"), str(small_disk / "seen")], check=True)
    spool = small_disk / "seen" / "a"
    spool.write_bytes(b"content")
    assert spool.stat().st_dev == (small_disk / "objects").stat().st_dev
    assert store.adopt("a", spool, if_absent=True) is True
    assert list((small_disk / "spool").iterdir()) == []
    with store.open("a") as file:
        assert file.read() == b"content"
    subprocess.run(["umount", str(small_disk / "seen")], check=True)
    store.close()


def test_a_disk_that_was_taken_away_is_not_an_empty_store(tmp_path: Path) -> None:
    store = FolderStore(tmp_path / "objects")
    store.put("a", b"1")
    (tmp_path / "objects").rename(tmp_path / "elsewhere")
    for call in calls(store):
        with pytest.raises(StoreUnavailableError):
            call()


def test_a_key_that_would_be_the_folder_of_another(tmp_path: Path) -> None:
    store = FolderStore(tmp_path)
    store.put("a", b"1")
    store.put("b/c", b"1")
    for key in ("a/b", "b"):
        for if_absent in (True, False):
            with pytest.raises(ValueError, match="folder of another"):
                store.put(key, b"2", if_absent=if_absent)
    assert list(store.list("")) == ["a", "b/c"]


def test_an_object_is_a_plain_file_for_this_user_only(tmp_path: Path) -> None:
    store = FolderStore(tmp_path / "objects")
    store.put("t/a", b"content")
    with store.open("t/a", 3) as file, (tmp_path / "copy").open("wb") as copy:
        assert os.sendfile(copy.fileno(), file.fileno(), 3, 100) == 4
    for path in (tmp_path / "objects").rglob("*"):
        assert path.stat().st_mode & 0o077 == 0, path
