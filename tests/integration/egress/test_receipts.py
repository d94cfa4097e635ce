"""Receipts as egress gives them out: only for what its own tables bear out, and only to who may see the delivery."""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
from sqlalchemy import insert, update

from contracts.access import AccessUsed
from contracts.manifest import set_hash
from libs.clock import utc_now
from libs.service import Service
from libs.storage.database import Database
from libs.web.access import AccessEntry, AccessList, AccessView, token_hash
from libs.web.app import make_app
from services.egress.models import deliveries, items
from services.egress.receipt import public_pem, read, read_keys
from services.egress.receipt_api import make_receipt_router
from services.egress.signing import FILE, ReceiptKey
from services.egress.verification import verify
from tests.support.migrated import migrate
from tests.support.postgresql import PostgreSQL

pytestmark = pytest.mark.integration

ASKED = datetime(2026, 11, 20, 10, tzinfo=UTC)
#: In an order in which no database keeps them.
HASHES = {f"1.2.{n}": f"{n:064x}" for n in (3, 20, 100, 1)}
URL = "/v1/egress/deliveries/d/receipt"


@pytest.fixture(params=["sqlite", "postgresql"])
async def database(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Database]:
    """A database with a delivery that is done; an instance of it had other content before."""
    if request.param == "sqlite":
        url = f"sqlite:///{tmp_path / 'db'}"
    else:
        postgresql: PostgreSQL = request.getfixturevalue("postgresql")
        url = postgresql.database()
    made = Database(url, "egress")
    await migrate(made, "services.egress")
    rows = [row(uid, digest) for uid, digest in HASHES.items()]
    async with made.transaction() as tx:
        await tx.execute(insert(deliveries).values(delivery()))
        await tx.execute(insert(items), [*rows, row("1.2.3", "f" * 64, state="pending", status=None, current=False)])
    yield made
    await made.close()


def delivery(**values: Any) -> dict[str, Any]:
    return {
        "id": "d",
        "tenant": "default",
        "site": "clinic",
        "study_instance_uid": "1.2.3",
        "destination": "archive",
        "state": "done",
        "lane": 2,
        "source_node": "CT1",
        "network_version": 4,
        "study_version": 1,
        "expected_count": len(HASHES),
        "expected_hash": set_hash(HASHES.items()),
        "completed_version": 1,
        "attempts": 2,
        "requested_at": ASKED,
        "completed_at": ASKED + timedelta(seconds=5),
        **values,
    }


def row(uid: str, digest: str, **values: Any) -> dict[str, Any]:
    return {
        "delivery_id": "d",
        "sop_instance_uid": uid,
        "content_hash": digest,
        "transform": "",
        "sop_class_uid": "1.2",
        "transfer_syntax_uid": "1.2",
        "object_key": f"t/{digest}",
        "size": 526,
        "state": "sent",
        "status": "0000",
        "sent_at": ASKED + timedelta(seconds=4),
        "current": True,
        **values,
    }


@asynccontextmanager
async def client(database: Database, key: ReceiptKey, caller: str = "all") -> AsyncIterator[httpx.AsyncClient]:
    """Ask as one of the callers: `all`, `far` of another tenant, `near` of another site."""

    async def tokens() -> AccessList:
        scopes: dict[str, Any] = {"all": {}, "far": {"tenants": {"other"}}, "near": {"sites": {"elsewhere"}}}
        entries = [
            AccessEntry.model_validate(
                {"token_id": name, "token_hash": token_hash(name), "name": name, "role": "auditor", **scope}
            )
            for name, scope in scopes.items()
        ]
        return AccessList(entries=tuple(entries))

    async def record(_service: str, _use: AccessUsed, _tenant: str) -> None:
        return

    access = AccessView(tokens, utc_now)
    await access.refresh()
    service = Service("egress", router=make_receipt_router(database, key, "north"))
    app = make_app([service], access, record, utc_now, version="1")
    headers = {"authorization": f"Bearer {caller}"}
    async with httpx.AsyncClient(
        transport=httpx.ASGITransport(app), base_url="http://kivuko", headers=headers
    ) as asking:
        yield asking


async def change(database: Database, table: Any, condition: Any, **values: Any) -> None:
    async with database.transaction() as tx:
        await tx.execute(update(table).where(condition).values(**values))


async def test_a_receipt_says_what_the_tables_say(database: Database, tmp_path: Path) -> None:
    key = ReceiptKey(None, tmp_path / FILE)
    async with client(database, key) as asking:
        answer = (await asking.get(URL)).raise_for_status()
        again = await asking.get(URL)
        public = (await asking.get("/v1/egress/receipt-key")).raise_for_status().json()
    exported = read(answer.content)
    assert answer.headers["content-type"] == "application/json"
    assert answer.content == again.content
    assert all(finding.holds for finding in verify(exported, read_keys(public["public_key"].encode())))
    assert public["key_id"] == exported.signature.key_id
    receipt = exported.receipt
    assert [item.sop_instance_uid for item in receipt.items] == sorted(HASHES)
    assert {item.sop_instance_uid: item.content_hash for item in receipt.items} == HASHES
    assert (receipt.region, receipt.tenant, receipt.destination) == ("north", "default", "archive")
    assert (receipt.network_version, receipt.study_version, receipt.attempts) == (4, 1, 2)
    assert (receipt.requested_at, receipt.completed_at) == (ASKED, ASKED + timedelta(seconds=5))
    assert {item.sent_at for item in receipt.items} == {ASKED + timedelta(seconds=4)}
    assert "null" not in json.dumps(answer.json())


async def test_what_came_after_it_was_complete_counts(database: Database, tmp_path: Path) -> None:
    async with database.transaction() as tx:
        late = row("1.2.3", HASHES["1.2.3"], transform="small", sent_at=ASKED + timedelta(hours=1))
        await tx.execute(insert(items).values(late))
    key = ReceiptKey(None, tmp_path / FILE)
    async with client(database, key) as asking:
        exported = read((await asking.get(URL)).raise_for_status().content)
    assert exported.receipt.completed_at == ASKED + timedelta(hours=1)
    assert [item.transform for item in exported.receipt.items].count("small") == 1
    assert all(finding.holds for finding in verify(exported, read_keys(public_pem(key.get().public_key()).encode())))


@pytest.mark.parametrize(
    ("table", "condition", "values", "said"),
    [
        (items, items.c.sop_instance_uid == "1.2.1", {"state": "pending", "status": None}, "1.2.1 is not sent"),
        (items, items.c.sop_instance_uid == "1.2.1", {"current": False}, "4 instances were to be delivered"),
        (items, items.c.sop_instance_uid == "1.2.1", {"content_hash": "e" * 64}, "the hash of their set"),
        (items, items.c.sop_instance_uid == "1.2.1", {"status": "A700"}, "with the status A700"),
        (deliveries, deliveries.c.id == "d", {"expected_hash": None}, "did not say of which instances"),
        (deliveries, deliveries.c.id == "d", {"state": "waiting"}, "not done but waiting: 4 of 4"),
    ],
)
async def test_what_the_tables_do_not_bear_out_is_not_signed(
    database: Database, tmp_path: Path, table: Any, condition: Any, values: dict[str, Any], said: str
) -> None:
    await change(database, table, condition, **values)
    async with client(database, ReceiptKey(None, tmp_path / FILE)) as asking:
        answer = await asking.get(URL)
    assert answer.status_code == 409
    assert said in answer.json()["detail"]
    assert answer.json()["advice"]
    assert "signature" not in answer.json()


async def test_who_may_not_see_the_delivery_gets_none(database: Database, tmp_path: Path) -> None:
    key = ReceiptKey(None, tmp_path / FILE)
    for token in ("far", "near"):
        async with client(database, key, token) as asking:
            assert (await asking.get(URL)).status_code == 404
            assert (await asking.get("/v1/egress/receipt-key")).status_code == 200
    async with client(database, key, "nobody") as asking:
        assert (await asking.get(URL)).status_code == 401
    async with client(database, key) as asking:
        assert (await asking.get("/v1/egress/deliveries/none/receipt")).status_code == 404


async def test_without_a_key_there_is_none(database: Database) -> None:
    async with client(database, ReceiptKey(None, None)) as asking:
        for url in (URL, "/v1/egress/receipt-key"):
            answer = await asking.get(url)
            assert answer.status_code == 503
            assert "No key to sign receipts with is set." in answer.json()["detail"]
            assert "KIVUKO_EGRESS_RECEIPT_KEY" in answer.json()["advice"]
