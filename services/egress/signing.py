"""The private key that signs receipts: where it is kept, and how it is made."""

import os
import secrets
import threading
from contextlib import suppress
from pathlib import Path

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, load_pem_private_key

from libs.storage.durable import make_folder, sync_folder

VARIABLE = "KIVUKO_EGRESS_RECEIPT_KEY"
#: In the home of a process that is alone.
FILE = "receipt-key.pem"
_MAKE_ONE = "Make one with `openssl genpkey -algorithm ed25519`"


class KeyUnavailableError(Exception):
    """Receipts can't be signed now; deliveries go on. The text says why.

    Attributes
    ----------
    advice
        What to do.
    """

    safe_to_log = True

    def __init__(self, why: str, advice: str) -> None:
        super().__init__(why)
        self.advice = advice


class ReceiptKey:
    """The key, read when it is first asked for.

    Parameters
    ----------
    given
        File of the key, where the operator keeps it: all replicas have the same.
    own
        File of the key where none is given; made if it is not there. None where there may be several replicas.
    """

    def __init__(self, given: Path | None, own: Path | None) -> None:
        self._given = given
        self._own = own
        self._lock = threading.Lock()
        self._key: Ed25519PrivateKey | None = None

    def get(self) -> Ed25519PrivateKey:
        """Give the key; asyncio code calls it in a thread, as it may read and write. Raises KeyUnavailableError."""
        with self._lock:
            if self._key is None:
                self._key = self._read()
            return self._key

    def _read(self) -> Ed25519PrivateKey:
        if self._given is not None:
            try:
                return _load(self._given)
            except OSError as error:
                raise KeyUnavailableError(
                    f"the key that signs receipts can't be read: {VARIABLE} names {self._given} ({error.strerror})",
                    f"Put the key there. {_MAKE_ONE} if there was none, and give all replicas the same.",
                ) from error
        if self._own is None:
            raise KeyUnavailableError(
                "no key to sign receipts with is set",
                f"{_MAKE_ONE}, keep it in a Secret that all replicas of egress have, and set {VARIABLE} to its file.",
            )
        try:
            if not self._own.exists():
                _make(self._own)
            return _load(self._own)
        except OSError as error:
            raise KeyUnavailableError(
                f"the key that signs receipts can't be read or made: {self._own} ({error.strerror})",
                "Give Kivuko the right to read and write there, and some space.",
            ) from error


def _load(path: Path) -> Ed25519PrivateKey:
    try:
        key = load_pem_private_key(path.read_bytes(), password=None)
    # The second: it is encrypted.
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise _strange(path) from error
    if not isinstance(key, Ed25519PrivateKey):
        raise _strange(path)
    return key


def _strange(path: Path) -> KeyUnavailableError:
    return KeyUnavailableError(
        f"{path} holds no private key for Ed25519 in PEM without a password",
        "Put the right key back there, from a backup if need be. To have a new one made, move the file away.",
    )


def _make(path: Path) -> None:
    """Make a key that nobody else can read, whole and on stable storage before its name is there."""
    pem = Ed25519PrivateKey.generate().private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    make_folder(path.parent)
    partial = path.with_name(f"{path.name}.{secrets.token_hex(8)}.part")
    descriptor = os.open(partial, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(pem)
            file.flush()
            os.fsync(descriptor)
        # Not by rename: a key that another process made at the same time, and may have signed with, stays.
        with suppress(FileExistsError):
            os.link(partial, path)
    finally:
        partial.unlink(missing_ok=True)
    sync_folder(path.parent)
