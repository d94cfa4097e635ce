"""DICOM over TLS: the BCP 195 secure transport profiles of PS3.15 annex B, with both sides authenticated.

RFC 8996 and RFC 9325: TLS 1.2 and 1.3 only, ephemeral elliptic curves, authenticated encryption, keys and signatures of
at least 112 bits of security (RSA 2048, SHA-256), no renegotiation, no compression. DHE is left out, as the profiles
ask of whoever cannot set the length of its keys. docs/dicom-tls.md says which profile means what.
"""

import os
import ssl
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal

# For its type alone: receivers import this module, and must not pay for pydantic in each process.
if TYPE_CHECKING:
    from libs.settings import Settings

Profile = Literal["bcp195", "bcp195-nd", "bcp195-extended"]

_RECOMMENDED: Final = (
    "ECDHE-ECDSA-AES256-GCM-SHA384",
    "ECDHE-RSA-AES256-GCM-SHA384",
    "ECDHE-ECDSA-AES128-GCM-SHA256",
    "ECDHE-RSA-AES128-GCM-SHA256",
)
#: Cipher suites of TLS 1.2 by profile, the best first; those of TLS 1.3 are all good.
_SUITES: Final[dict[Profile, tuple[str, ...]]] = {
    "bcp195": _RECOMMENDED,
    # Since RFC 8996 no profile goes below TLS 1.2: what set this one apart holds for all.
    "bcp195-nd": _RECOMMENDED,
    "bcp195-extended": (
        *_RECOMMENDED,
        "ECDHE-ECDSA-CHACHA20-POLY1305",
        "ECDHE-RSA-CHACHA20-POLY1305",
        "ECDHE-ECDSA-AES256-CCM",
        "ECDHE-ECDSA-AES128-CCM",
    ),
}
#: OpenSSL's level for 112 bits of security: it refuses shorter keys and SHA-1 in certificates, too.
_LEVEL: Final = "@SECLEVEL=2"


class CertificateError(Exception):
    """Our own files do not fit. The text names the file and says what to do."""

    safe_to_log = True


@dataclass(frozen=True)
class Files:
    """What a side of TLS stands on, all in PEM.

    Attributes
    ----------
    certificate, key
        Our certificate with its chain, and its private key, which must not be encrypted.
    authorities
        Those whose certificates we accept, and no others: not those of the system.
    revoked
        What they have revoked; then every authority of a chain needs a list there that is not out of date.
    """

    certificate: Path
    key: Path
    authorities: Path
    revoked: Path | None = None


def files_of(settings: "Settings") -> Files | None:
    """Give the files of the DICOM port with TLS, or nothing where it is off."""
    return _files(settings, settings.dicom_tls_port)


def worklist_files_of(settings: "Settings") -> Files | None:
    """Give the files of the worklist port with TLS, or nothing where it is off."""
    return _files(settings, settings.worklist_tls_port)


def hl7_files_of(settings: "Settings") -> Files | None:
    """Give the files of the HL7 port with TLS, or nothing where it is off."""
    return _files(settings, settings.hl7_tls_port)


def _files(settings: "Settings", port: int | None) -> Files | None:
    return None if port is None else own_files_of(settings)


def own_files_of(settings: "Settings") -> Files | None:
    """Give the files with which others are called, or nothing where there are none: that takes no port."""
    certificate, key, authorities = settings.tls_certificate, settings.tls_key, settings.tls_ca
    if certificate is None or key is None or authorities is None:
        return None
    return Files(certificate, key, authorities, settings.tls_crl)


def server_context(files: Files, profile: Profile) -> ssl.SSLContext:
    """Make the context of an acceptor, to which every caller has to show a certificate. Raises CertificateError."""
    return _context(ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), files, profile)


def client_context(files: Files, profile: Profile) -> ssl.SSLContext:
    """Make the context of a requestor, which checks the host name of whom it calls. Raises CertificateError."""
    return _context(ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT), files, profile)


def _context(context: ssl.SSLContext, files: Files, profile: Profile) -> ssl.SSLContext:
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers(":".join((*_SUITES[profile], _LEVEL)))
    # A session that is taken up again would not be checked against what was revoked since.
    context.options |= (
        ssl.OP_NO_RENEGOTIATION | ssl.OP_NO_COMPRESSION | ssl.OP_CIPHER_SERVER_PREFERENCE | ssl.OP_NO_TICKET
    )
    if context.protocol == ssl.PROTOCOL_TLS_SERVER:
        context.num_tickets = 0
    context.verify_mode = ssl.CERT_REQUIRED
    _load(context, files)
    return context


def _load(context: ssl.SSLContext, files: Files) -> None:
    for path in (files.certificate, files.key, files.authorities, files.revoked):
        if path is not None:
            _readable(path)
    try:
        context.load_cert_chain(files.certificate, files.key, password=_no_password)
    except ssl.SSLError as error:
        raise CertificateError(_unfit(files, error.reason)) from error
    _trust(context, files.authorities, "certificate of an authority")
    if context.cert_store_stats()["x509"] == 0:
        raise CertificateError(f"{files.authorities} holds no certificate of an authority in PEM: write it anew")
    if files.revoked is not None:
        _trust(context, files.revoked, "list of revoked certificates")
        if context.cert_store_stats()["crl"] == 0:
            raise CertificateError(f"{files.revoked} holds no list of revoked certificates in PEM: write it anew")
        context.verify_flags |= ssl.VERIFY_CRL_CHECK_CHAIN


def _trust(context: ssl.SSLContext, path: Path, what: str) -> None:
    try:
        context.load_verify_locations(path)
    except ssl.SSLError as error:
        raise CertificateError(f"{path} holds no {what} in PEM: write it anew") from error


def _readable(path: Path) -> None:
    try:
        with path.open("rb"):
            pass
    except OSError as error:
        raise CertificateError(
            f"{path} cannot be read ({os.strerror(error.errno or 0)}): put it there, and let this user read it"
        ) from error


def _no_password() -> str:
    raise CertificateError("the private key is encrypted: give one without a password, in a file of mode 0600")


def _unfit(files: Files, reason: str | None) -> str:
    if reason == "KEY_VALUES_MISMATCH":
        return f"{files.key} is not the key of {files.certificate.name}: replace both, the two belong together"
    if reason in ("EE_KEY_TOO_SMALL", "CA_KEY_TOO_SMALL"):
        return f"the key of {files.certificate} is too short: RSA needs 2048 bits, elliptic curves 256"
    if reason in ("CA_MD_TOO_WEAK", "EE_MD_TOO_WEAK"):
        return f"{files.certificate} is signed with a weak hash: have it issued with SHA-256 or better"
    return f"{files.certificate} and {files.key.name} do not hold a certificate and its key in PEM: write them anew"


class Certificates:
    """The context in force: made anew when its files change, without an end to what is open. For many threads.

    Parameters
    ----------
    files
        What it is made of.
    make
        `server_context` or `client_context` with a profile.
    broken
        Told once when changed files do not fit; the context from before stays in force. From any thread.

    Raises
    ------
    CertificateError
        The files do not fit at the start.
    """

    def __init__(
        self, files: Files, make: Callable[[Files], ssl.SSLContext], broken: Callable[[CertificateError], None]
    ) -> None:
        self._files = files
        self._make = make
        self._broken = broken
        self._lock = threading.Lock()
        # Looked at before they are read: what changes in between is read again.
        self._seen = self._look()
        self._context = make(files)

    def context(self) -> ssl.SSLContext:
        """Give the context for a new connection."""
        error = None
        with self._lock:
            seen = self._look()
            if seen != self._seen:
                self._seen = seen
                try:
                    self._context = self._make(self._files)
                except CertificateError as unfit:
                    error = unfit
            context = self._context
        if error is not None:
            self._broken(error)
        return context

    def _look(self) -> tuple[tuple[int, ...] | None, ...]:
        files = (self._files.certificate, self._files.key, self._files.authorities, self._files.revoked)
        return tuple(None if path is None else _mark(path) for path in files)


def _mark(path: Path) -> tuple[int, ...]:
    try:
        found = path.stat()
    except OSError as error:
        return (error.errno or 0,)
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns
