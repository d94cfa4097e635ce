"""The gate: the definition, the certificate and the limits together, by the definition in force at that moment."""

from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from contracts.definition import Definition, Snapshot
from libs.dimse.admission import Admitted, Refusal
from libs.dimse.gate import Gate
from libs.messaging.outbox import Outbox
from libs.snapshot import NetworkView
from libs.storage.database import Database
from services.ingest import metric
from services.ingest.models import messaging
from tests.support.authority import Authority

pytestmark = pytest.mark.unit


def at() -> datetime:
    return datetime(2026, 11, 20, tzinfo=UTC)


class Stand:
    """A gate whose definition and seconds are set by hand."""

    def __init__(self, folder: Path) -> None:
        self.version = 0
        self.now = 100.0
        self.database = Database(f"sqlite:///{folder}", "ingest")
        self.snapshot: Snapshot | None = None
        self.view = NetworkView(self._fetch, folder / "kept.json")
        self.gate = Gate(
            self.view,
            self.database,
            Outbox("ingest", "test", at, messaging),
            loopback=False,
            clock=at,
            handshakes=metric.HANDSHAKES,
            associations=3,
            monotonic=lambda: self.now,
        )

    async def _fetch(self) -> Snapshot | None:
        return self.snapshot

    async def apply(self, **nodes: dict[str, Any]) -> None:
        """Put a definition in force."""
        self.version += 1
        definition = Definition.model_validate(
            {
                "kivuko": 1,
                "name": "n",
                "sites": {"s": {"name": "S"}},
                "nodes": {
                    key: {"site": "s", "host": "10.0.0.1", "may": ["store"]} | node for key, node in nodes.items()
                },
            }
        )
        self.snapshot = Snapshot(version=self.version, document_hash="0" * 64, definition=definition)
        assert await self.view.refresh()

    def admit(self, name: str, calling: str = "CT", certificate: bytes | None = None) -> Admitted | Refusal:
        """Ask for an association."""
        return self.gate.admit("KIVUKO", calling, "10.0.0.1", certificate, association=name)


@pytest.fixture
async def stand(tmp_path: Path) -> AsyncIterator[Stand]:
    made = Stand(tmp_path)
    yield made
    await made.database.close()


async def test_a_node_gets_its_place_back_when_an_association_has_closed(stand: Stand) -> None:
    await stand.apply(CT={"limits": {"associations": 1}}, MR={})
    assert isinstance(stand.admit("1"), Admitted)
    full = stand.admit("2")
    assert isinstance(full, Refusal)
    assert not full.permanent
    assert isinstance(stand.admit("3", "MR"), Admitted)
    stand.gate.closed("1")
    stand.gate.closed("1")
    stand.gate.closed("never")
    assert isinstance(stand.admit("4"), Admitted)


async def test_all_nodes_together_have_a_limit(stand: Stand) -> None:
    await stand.apply(CT={})
    assert [isinstance(stand.admit(str(number)), Admitted) for number in range(4)] == [True, True, True, False]


async def test_who_is_refused_takes_no_place(stand: Stand) -> None:
    await stand.apply(CT={})
    for number in range(10):
        assert isinstance(stand.admit(str(number), "STRANGER"), Refusal)
    assert isinstance(stand.admit("10"), Admitted)


async def test_the_rate_is_the_one_in_force_and_that_of_all_associations_of_the_node(stand: Stand) -> None:
    await stand.apply(CT={"limits": {"rate": 2}})
    for name in ("1", "2"):
        assert isinstance(stand.admit(name), Admitted)
    assert [stand.gate.take(name) for name in ("1", "2", "1", "2")] == [0, 0, 0.5, 1]
    stand.now += 10
    assert stand.gate.take("1") == 0
    await stand.apply(CT={})
    assert [stand.gate.take("1") for _ in range(10)] == [0] * 10
    assert stand.gate.take("unheard of") == 0


async def test_certificates_are_read_and_junk_is_refused(stand: Stand, tmp_path: Path) -> None:
    authority = Authority(tmp_path / "ca")
    await stand.apply(CT={"certificate": "ct1"})
    admitted = stand.admit("1", certificate=authority.issue("ct1").der)
    assert isinstance(admitted, Admitted)
    assert admitted.tls_subject is not None
    assert "CN=ct1" in admitted.tls_subject
    assert isinstance(stand.admit("2", certificate=authority.issue("x", dns=["CT1"]).der), Admitted)
    for wrong in (authority.issue("ct2").der, b"", b"\x30\x03\x02\x01\x00"):
        assert isinstance(stand.admit("3", certificate=wrong), Refusal)
