"""DICOM with TLS as modalities speak it: dcmtk, pynetdicom and openssl, let in and turned away."""

import asyncio
import shutil
import socket
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from pynetdicom import AE
from pynetdicom.presentation import build_context
from pynetdicom.sop_class import CTImageStorage, Verification  # type: ignore[attr-defined]  # made at run time

from libs.dimse.tls import Files, client_context
from tests.integration.ingest.conftest import NETWORK, Running, running
from tests.support.authority import Authority, Issued
from tests.support.dcmtk import storescu
from tests.support.process import program
from tests.support.synthetic import make_ct, make_study

pytestmark = pytest.mark.integration

#: CT1 has to show its certificate; MR1 has none to show.
BOUND: dict[str, Any] = NETWORK | {
    "nodes": NETWORK["nodes"] | {"CT1": NETWORK["nodes"]["CT1"] | {"certificate": "ct1.luba.example"}}
}


class Stand:
    """A running ingest with TLS, and its authority."""

    def __init__(self, ingest: Running, authority: Authority, certificate: Path, key: Path) -> None:
        self.ingest = ingest
        self.authority = authority
        self.certificate = certificate
        self.key = key
        assert ingest.service.addresses is not None
        self.port = int(ingest.service.addresses()["dicom-tls"].rpartition(":")[2])

    def send(
        self, path: Path, issued: Issued | None, *flags: str, calling: str = "CT1", authority: Authority | None = None
    ) -> "subprocess.CompletedProcess[str]":
        """Send with dcmtk."""
        trusted = (authority or self.authority).certificate
        ours = ["+tla"] if issued is None else ["+tls", str(issued.key), str(issued.certificate)]
        return storescu(self.port, [path], calling=calling, flags=[*ours, "+cf", str(trusted), *flags])

    async def refusal(self, words: str) -> None:
        """Wait for an event that tells of a refusal with these words."""

        async def told() -> bool:
            events = await self.ingest.events("association.refused")
            return any(words in event["data"]["reason"] for event in events)

        await self.ingest.until(told, f"a refusal for {words!r}")

    def renew(self, issued: Issued) -> None:
        """Put other files in place of ours."""
        for target, source in ((self.key, issued.key), (self.certificate, issued.certificate)):
            new = target.with_suffix(".new")
            shutil.copy(source, new)
            new.replace(target)


@asynccontextmanager
async def secured(folder: Path) -> AsyncIterator[Stand]:
    """Run ingest with a port for TLS."""
    authority = Authority(folder / "ca")
    first = authority.issue("kivuko")
    certificate, key = folder / "tls.crt", folder / "tls.key"
    shutil.copy(first.certificate, certificate)
    shutil.copy(first.key, key)
    async with running(
        folder / "home",
        network=BOUND,
        dicom_tls_port=0,
        tls_certificate=certificate,
        tls_key=key,
        tls_ca=authority.certificate,
    ) as ingest:
        yield Stand(ingest, authority, certificate, key)


@pytest.fixture
async def stand(tmp_path: Path) -> AsyncIterator[Stand]:
    async with secured(tmp_path) as made:
        yield made


@pytest.mark.parametrize("profile", ["+px", "+py", "+pz"])
async def test_dcmtk_sends_with_each_profile(stand: Stand, tmp_path: Path, profile: str) -> None:
    paths = make_study(tmp_path, 3)
    scanner = stand.authority.issue("any", dns=["ct1.luba.example"])
    for path in paths:
        done = await asyncio.to_thread(stand.send, path, scanner, profile)
        assert done.returncode == 0, done.stdout + done.stderr
    await stand.ingest.until_indexed()
    (event, *_) = await stand.ingest.events("instances.stored")
    assert event["data"]["source"]["node"] == "CT1"


@pytest.mark.parametrize(
    ("issuer", "days", "words"),
    [
        (None, 1, "no certificate"),
        ("other", 1, "authority is not among those"),
        ("authority", -1, "has expired"),
    ],
)
async def test_dcmtk_is_turned_away_with_the_reason(
    stand: Stand, tmp_path: Path, issuer: str | None, days: float, words: str
) -> None:
    authorities = {"authority": stand.authority, "other": Authority(tmp_path / "other", "other")}
    issued = None if issuer is None else authorities[issuer].issue("ct1.luba.example", days=days)
    done = await asyncio.to_thread(stand.send, make_ct(tmp_path), issued)
    assert done.returncode != 0
    await stand.refusal(words)
    assert await stand.ingest.events("instances.stored") == []


async def test_a_caller_that_does_not_trust_us_does_not_send(stand: Stand, tmp_path: Path) -> None:
    other = Authority(tmp_path / "other", "other")
    done = await asyncio.to_thread(
        stand.send, make_ct(tmp_path), stand.authority.issue("ct1.luba.example"), authority=other
    )
    assert done.returncode != 0
    await stand.refusal("refuses our certificate")


async def test_a_node_with_a_certificate_is_not_let_in_without_tls(stand: Stand, tmp_path: Path) -> None:
    path = make_ct(tmp_path)
    assert (await asyncio.to_thread(storescu, stand.ingest.port, [path], calling="CT1")).returncode != 0
    await stand.refusal("must call with TLS")
    assert (await asyncio.to_thread(storescu, stand.ingest.port, [path], calling="MR1")).returncode == 0


@pytest.mark.parametrize(
    ("holder", "calling", "words"),
    [
        ("mr1", "CT1", "the certificate shown is not the one of the node CT1"),
        ("ct1", "MR1", "the certificate shown is the one of the node CT1"),
        ("mr1", "MR1", None),
    ],
)
async def test_a_certificate_of_another_lets_nobody_in(
    stand: Stand, tmp_path: Path, holder: str, calling: str, words: str | None
) -> None:
    issued = stand.authority.issue(f"{holder}.luba.example")
    done = await asyncio.to_thread(stand.send, make_ct(tmp_path), issued, calling=calling)
    assert (done.returncode == 0) == (words is None), done.stdout + done.stderr
    if words is not None:
        await stand.refusal(words)


async def test_new_certificates_come_in_while_an_association_goes_on(stand: Stand) -> None:
    scanner = stand.authority.issue("ct1.luba.example")
    files = Files(scanner.certificate, scanner.key, stand.authority.certificate)
    secure = client_context(files, "bcp195")

    def shown() -> bytes | None:
        with (
            socket.create_connection(("127.0.0.1", stand.port), 10) as plain,
            secure.wrap_socket(plain, server_hostname="localhost") as secured,
        ):
            return secured.getpeercert(binary_form=True)

    def go() -> None:
        caller = AE(ae_title="CT1")
        wanted = [build_context(Verification), build_context(CTImageStorage)]
        association = caller.associate(
            "127.0.0.1", stand.port, wanted, ae_title="KIVUKO", tls_args=(secure, "localhost")
        )
        assert association.is_established
        assert association.send_c_echo().Status == 0
        renewed = stand.authority.issue("kivuko")
        assert shown() != renewed.der
        stand.renew(renewed)
        assert shown() == renewed.der
        broken = stand.authority.issue("kivuko")
        shutil.copy(broken.key, stand.key)
        assert shown() == renewed.der
        assert association.send_c_echo().Status == 0
        association.release()
        assert association.is_released

    await asyncio.to_thread(go)


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["-tls1_1", "-cipher", "ALL:@SECLEVEL=0"], "TLS 1.1 or older"),
        (["-tls1_2", "-cipher", "AES128-SHA:@SECLEVEL=0"], "no cipher suite of our profile"),
    ],
)
async def test_openssl_cannot_talk_it_down(stand: Stand, flags: list[str], words: str) -> None:
    scanner = stand.authority.issue("ct1.luba.example")
    done = await asyncio.to_thread(
        subprocess.run,
        [
            program("openssl", "openssl"), "s_client", "-connect", f"127.0.0.1:{stand.port}", "-cert",
            str(scanner.certificate), "-key", str(scanner.key), *flags,
        ],
        input="", capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    assert done.returncode != 0
    await stand.refusal(words)


async def test_a_plain_association_on_the_port_with_tls_is_named(stand: Stand, tmp_path: Path) -> None:
    done = await asyncio.to_thread(storescu, stand.port, [make_ct(tmp_path)], calling="MR1")
    assert done.returncode != 0
    await stand.refusal("does not speak TLS")


async def test_handshakes_that_never_end_hold_nobody_up(tmp_path: Path) -> None:
    idle: list[socket.socket] = []
    async with secured(tmp_path) as stand:
        idle += [socket.create_connection(("127.0.0.1", stand.port), 10) for _ in range(50)]
        scanner = stand.authority.issue("ct1.luba.example")
        assert (await asyncio.to_thread(stand.send, make_ct(tmp_path), scanner)).returncode == 0
    for each in idle:
        with each:
            assert await asyncio.to_thread(_ended, each)


def _ended(connection: socket.socket) -> bool:
    try:
        return connection.recv(1) == b""
    except ConnectionError:
        return True
