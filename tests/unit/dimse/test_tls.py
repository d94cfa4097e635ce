"""TLS over pairs of sockets: who gets through, who does not, why in words, and files that change."""

import os
import shutil
import socket
import ssl
import threading
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import BestAvailableEncryption, Encoding, PrivateFormat
from cryptography.x509.oid import ExtendedKeyUsageOID

from libs.dimse.handshake import HandshakeError, handshake
from libs.dimse.tls import CertificateError, Certificates, Files, Profile, client_context, server_context
from libs.dimse.validity import terms
from tests.support.authority import Authority, Issued

pytestmark = pytest.mark.unit

SHORT_KEY = rsa.generate_private_key(65537, 1024)  # noqa: S505 - it is to be refused
PROFILES: tuple[Profile, ...] = ("bcp195", "bcp195-nd", "bcp195-extended")


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path / "ca")


def files(authority: Authority, issued: Issued, revoked: Path | None = None) -> Files:
    return Files(issued.certificate, issued.key, authority.certificate, revoked)


@pytest.fixture
def ours(authority: Authority) -> Files:
    return files(authority, authority.issue("kivuko"))


@contextmanager
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    one, two = socket.socketpair()
    with one, two:
        yield one, two


def shake(server: ssl.SSLContext, client: ssl.SSLContext) -> bytes:
    """Let a client in, have it send a byte, and give the certificate that it showed; raises what the server says."""

    def call(end: socket.socket) -> None:
        try:
            with handshake(end, client, 10, server_hostname="localhost") as secured:
                secured.sendall(b"x")
        except (HandshakeError, OSError):
            # With TLS 1.3 a client hears only afterwards that it was refused.
            end.close()

    with pair() as (here, there), ThreadPoolExecutor() as pool:
        calling: Future[None] = pool.submit(call, there)
        try:
            with handshake(here, server, 10) as secured:
                assert secured.recv(1) == b"x"
                shown = secured.getpeercert(binary_form=True)
                assert shown is not None
                return shown
        finally:
            calling.result()


def weak(**settings: object) -> ssl.SSLContext:
    """Make a client that trusts everyone and lacks what the profile asks for."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.set_ciphers("ALL:@SECLEVEL=0")
    for name, value in settings.items():
        setattr(context, name, value)
    return context


@pytest.mark.parametrize("profile", PROFILES)
def test_two_sides_of_one_authority_come_together(authority: Authority, ours: Files, profile: Profile) -> None:
    scanner = authority.issue("CT1")
    shown = shake(server_context(ours, profile), client_context(files(authority, scanner), profile))
    assert shown == scanner.der


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_both_versions_are_spoken_with_keys_of_either_kind(authority: Authority, version: ssl.TLSVersion) -> None:
    rsa_key = rsa.generate_private_key(65537, 2048)
    server = server_context(files(authority, authority.issue("kivuko", key=rsa_key)), "bcp195")
    client = client_context(files(authority, authority.issue("CT1")), "bcp195")
    client.maximum_version = client.minimum_version = version
    assert shake(server, client)


@pytest.mark.parametrize("profile", PROFILES)
def test_only_authenticated_encryption_with_ephemeral_keys_is_offered(ours: Files, profile: Profile) -> None:
    context = server_context(ours, profile)
    assert context.minimum_version == ssl.TLSVersion.TLSv1_2
    for suite in context.get_ciphers():
        assert suite["aead"], suite["name"]
        assert suite["protocol"] == "TLSv1.3" or suite["name"].startswith("ECDHE-"), suite["name"]


def refused(server: ssl.SSLContext, client: ssl.SSLContext) -> HandshakeError:
    with pytest.raises(HandshakeError) as caught:
        shake(server, client)
    return caught.value


def test_a_stranger_is_refused_and_told_apart(authority: Authority, ours: Files, tmp_path: Path) -> None:
    server = server_context(ours, "bcp195")
    other = Authority(tmp_path / "other", "other")
    stranger = files(authority, other.issue("CT1"))
    assert refused(server, client_context(stranger, "bcp195")).failure == "unknown-authority"
    assert refused(server, weak()).failure == "no-certificate"


@pytest.mark.parametrize(
    ("issue", "failure"),
    [
        ({"days": -1}, "expired"),
        ({"usage": [ExtendedKeyUsageOID.SERVER_AUTH]}, "bad-certificate"),
        ({"key": SHORT_KEY}, "weak"),
    ],
)
def test_a_certificate_that_does_not_hold_is_refused(
    authority: Authority, ours: Files, issue: dict[str, object], failure: str
) -> None:
    scanner = authority.issue("CT1", **issue)  # type: ignore[arg-type]  # named by the cases
    client = weak()
    client.load_cert_chain(scanner.certificate, scanner.key)
    assert refused(server_context(ours, "bcp195"), client).failure == failure


def test_a_revoked_certificate_is_refused_and_a_list_out_of_date_refuses_all(authority: Authority, ours: Files) -> None:
    good, lost = authority.issue("CT1"), authority.issue("CT2")
    with_list = replace(ours, revoked=authority.revoke(lost))
    assert shake(server_context(with_list, "bcp195"), client_context(files(authority, good), "bcp195"))
    assert refused(
        server_context(with_list, "bcp195"), client_context(files(authority, lost), "bcp195")
    ).failure == "revoked"  # fmt: skip
    authority.revoke(lost, days=-1)
    late = refused(server_context(with_list, "bcp195"), client_context(files(authority, good), "bcp195"))
    assert late.failure == "expired"
    assert "KIVUKO_TLS_CRL" in str(late)


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1, ssl.TLSVersion.TLSv1_1])
def test_versions_that_rfc_8996_forbids_are_refused(ours: Files, version: ssl.TLSVersion) -> None:
    with pytest.deprecated_call():
        client = weak(maximum_version=version, minimum_version=version)
    assert refused(server_context(ours, "bcp195"), client).failure == "too-old"


@pytest.mark.parametrize("suite", ["AES128-SHA", "AES256-GCM-SHA384", "ECDHE-ECDSA-AES128-SHA256", "aNULL", "eNULL"])
def test_suites_outside_the_profile_are_refused(ours: Files, suite: str) -> None:
    client = weak(maximum_version=ssl.TLSVersion.TLSv1_2)
    client.set_ciphers(f"{suite}:@SECLEVEL=0")
    for profile in PROFILES:
        assert refused(server_context(ours, profile), client).failure == "no-common-cipher"


@pytest.mark.parametrize(
    ("said", "failure"),
    [
        (bytes.fromhex("0100000000cd0001"), "not-tls"),  # A-ASSOCIATE-RQ without TLS
        (b"GET / HTTP/1.1\r\n\r\n", "not-tls"),
        (b"", "closed"),
    ],
)
def test_what_is_no_tls_is_named(ours: Files, said: bytes, failure: str) -> None:
    with pair() as (here, there):
        there.sendall(said)
        there.shutdown(socket.SHUT_WR)
        with pytest.raises(HandshakeError) as caught:
            handshake(here, server_context(ours, "bcp195"), 10)
        assert caught.value.failure == failure
        assert here.fileno() == -1


def test_a_handshake_that_drips_ends_at_its_deadline(ours: Files) -> None:
    stop = threading.Event()

    def drip(end: socket.socket) -> None:
        # The head of a record of 16 KiB, then a byte at a time: never silent for as long as the deadline.
        end.sendall(bytes.fromhex("1603014000"))
        while not stop.wait(0.02):
            try:
                end.sendall(b"\x01")
            except OSError:
                return

    with pair() as (here, there), ThreadPoolExecutor() as pool:
        dripping = pool.submit(drip, there)
        with pytest.raises(HandshakeError) as caught:
            handshake(here, server_context(ours, "bcp195"), 0.2)
        stop.set()
        dripping.result()
    assert caught.value.failure == "timeout"


def test_a_handshake_can_be_ended_by_another_thread(ours: Files) -> None:
    began: Future[ssl.SSLSocket] = Future()
    with pair() as (here, _), ThreadPoolExecutor() as pool:
        waiting = pool.submit(handshake, here, server_context(ours, "bcp195"), 60, began=began.set_result)
        socket.socket.shutdown(began.result(10), socket.SHUT_RDWR)
        error = waiting.exception(10)
    assert isinstance(error, HandshakeError)
    assert error.failure == "closed"


def swap(path: Path, source: Path) -> None:
    """Put another file in the place of one, as programs that renew certificates do."""
    new = path.with_suffix(".new")
    shutil.copy(source, new)
    new.replace(path)


def test_new_files_come_into_force_and_broken_ones_do_not(authority: Authority, tmp_path: Path) -> None:
    first, second = authority.issue("kivuko"), authority.issue("kivuko")
    at = Files(tmp_path / "tls.pem", tmp_path / "tls.key", authority.certificate)
    swap(at.certificate, first.certificate)
    swap(at.key, first.key)
    told: list[CertificateError] = []
    certificates = Certificates(at, lambda given: server_context(given, "bcp195"), told.append)
    before = certificates.context()
    assert certificates.context() is before

    swap(at.certificate, second.certificate)
    # The key is still the old one: the two do not belong together.
    assert certificates.context() is before
    assert certificates.context() is before
    assert len(told) == 1
    assert str(at.key) in str(told[0])

    swap(at.key, second.key)
    after = certificates.context()
    assert after is not before
    client = client_context(files(authority, authority.issue("CT1")), "bcp195")
    assert served(after, client) == second.der
    at.certificate.unlink()
    assert certificates.context() is after
    assert len(told) == 2


def served(server: ssl.SSLContext, client: ssl.SSLContext) -> bytes | None:
    """Give the certificate that a server shows."""
    with pair() as (here, there), ThreadPoolExecutor() as pool:
        serving = pool.submit(handshake, here, server, 10)
        with handshake(there, client, 10, server_hostname="localhost") as secured, serving.result():
            return secured.getpeercert(binary_form=True)


def test_what_is_open_goes_on_when_files_change(authority: Authority, tmp_path: Path, ours: Files) -> None:
    at = replace(ours, authorities=tmp_path / "ca.pem")
    swap(at.authorities, authority.certificate)
    told: list[CertificateError] = []
    certificates = Certificates(at, lambda given: server_context(given, "bcp195"), told.append)
    client = client_context(files(authority, authority.issue("CT1")), "bcp195")
    with pair() as (here, there), ThreadPoolExecutor() as pool:
        serving = pool.submit(handshake, here, certificates.context(), 10)
        with handshake(there, client, 10, server_hostname="localhost") as calling, serving.result() as serves:
            swap(at.authorities, Authority(tmp_path / "other", "other").certificate)
            assert refused(certificates.context(), client).failure == "unknown-authority"
            calling.sendall(b"still here")
            assert serves.recv(100) == b"still here"
    assert not told


def test_files_that_do_not_fit_are_named(authority: Authority, ours: Files, tmp_path: Path) -> None:
    junk = tmp_path / "junk.pem"
    junk.write_text("no certificate")
    short = authority.issue("kivuko", key=SHORT_KEY)
    encrypted = tmp_path / "encrypted.key"
    key = rsa.generate_private_key(65537, 2048)
    encrypted.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"secret")))
    for wrong, named in [
        (replace(ours, certificate=tmp_path / "none.pem"), "none.pem"),
        (replace(ours, certificate=junk), "junk.pem"),
        (replace(ours, key=authority.issue("x").key), "belong together"),
        (replace(ours, key=encrypted), "without a password"),
        (replace(ours, authorities=junk), "junk.pem"),
        (replace(ours, authorities=Path(os.devnull)), os.devnull),
        (replace(ours, revoked=authority.certificate), "list of revoked"),
        (replace(ours, certificate=short.certificate, key=short.key), "too short"),
    ]:
        with pytest.raises(CertificateError, match=named.replace(".", r"\.")):
            server_context(wrong, "bcp195")


def test_the_first_end_of_each_file_counts(authority: Authority) -> None:
    short, long = authority.issue("kivuko", days=20), authority.issue("other", days=300)
    short.certificate.write_bytes(long.certificate.read_bytes() + short.certificate.read_bytes())
    found = {each.kind: each for each in terms(files(authority, short, authority.revoke(days=0.5)))}
    now = datetime.now(UTC)
    assert {kind: each.urgency(now) for kind, each in found.items()} == {
        "certificate": "soon", "authority": "ok", "revoked": "soon",
    }  # fmt: skip
    assert found["certificate"].urgency(now + timedelta(days=14)) == "urgent"
    assert found["certificate"].urgency(now + timedelta(days=21)) == "over"
    assert 19 < found["certificate"].days(now) <= 20
