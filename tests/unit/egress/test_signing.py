"""The key that signs receipts: made once, kept to its owner, never replaced."""

import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    KeySerializationEncryption,
    NoEncryption,
    PrivateFormat,
)

from services.egress.receipt import key_id
from services.egress.signing import FILE, VARIABLE, KeyUnavailableError, ReceiptKey

pytestmark = pytest.mark.unit


def pem(key: Ed25519PrivateKey | X25519PrivateKey, encryption: KeySerializationEncryption | None = None) -> bytes:
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, encryption or NoEncryption())


def identity(key: ReceiptKey) -> str:
    return key_id(key.get().public_key())


def refusal(key: ReceiptKey) -> str:
    with pytest.raises(KeyUnavailableError) as refused:
        key.get()
    return f"{refused.value} {refused.value.advice}"


def test_it_is_made_once_and_only_its_owner_can_read_it(tmp_path: Path) -> None:
    home = tmp_path / "not there yet"
    first = identity(ReceiptKey(None, home / FILE))
    assert identity(ReceiptKey(None, home / FILE)) == first
    assert [path.name for path in home.iterdir()] == [FILE]
    assert stat.S_IMODE((home / FILE).stat().st_mode) == 0o600


def test_processes_that_make_it_at_the_same_time_have_the_same(tmp_path: Path) -> None:
    many = [ReceiptKey(None, tmp_path / FILE) for _ in range(16)]
    with ThreadPoolExecutor(len(many)) as together:
        assert len(set(together.map(identity, many))) == 1
    assert [path.name for path in tmp_path.iterdir()] == [FILE]


def test_one_that_is_given_goes_before_and_is_never_made(tmp_path: Path) -> None:
    given, own = tmp_path / "given.pem", tmp_path / FILE
    key = ReceiptKey(given, own)
    said = refusal(key)
    assert VARIABLE in said
    assert str(given) in said
    # Put there later: no restart is needed.
    mine = Ed25519PrivateKey.generate()
    given.write_bytes(pem(mine))
    assert identity(key) == key_id(mine.public_key())
    assert not own.exists()


def test_where_there_may_be_replicas_it_must_be_given() -> None:
    said = refusal(ReceiptKey(None, None))
    assert f"set {VARIABLE}" in said
    assert "openssl genpkey" in said


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"nonsense",
        pem(X25519PrivateKey.generate()),
        pem(Ed25519PrivateKey.generate(), BestAvailableEncryption(b"x")),
        pem(Ed25519PrivateKey.generate())[:60],
    ],
    ids=["empty", "nonsense", "another kind", "encrypted", "cut off"],
)
def test_one_that_is_damaged_or_of_another_kind_is_left_as_it_is(tmp_path: Path, content: bytes) -> None:
    own = tmp_path / FILE
    own.write_bytes(content)
    assert str(own) in refusal(ReceiptKey(None, own))
    assert own.read_bytes() == content


def test_a_home_that_takes_no_file_is_told(tmp_path: Path) -> None:
    (tmp_path / "home").write_text("a file, not a folder")
    assert "can't be read or made" in refusal(ReceiptKey(None, tmp_path / "home" / FILE))
