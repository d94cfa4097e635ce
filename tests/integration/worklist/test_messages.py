"""What came, as people see it, and how long its bytes are kept, on both databases."""

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select

from services.worklist import keeping
from services.worklist.keeping import Keeping
from services.worklist.models import messages
from services.worklist.orders import Received
from tests.integration.worklist.conftest import Desk, make_desk
from tests.integration.worklist.office import Office, office
from tests.unit.worklist.said import NOON, order

pytestmark = pytest.mark.integration
HOUR = timedelta(hours=1)


@pytest.fixture
async def hl7(database_url: str) -> AsyncIterator[Desk]:
    made = await make_desk(database_url)
    yield made
    await made.database.close()


@pytest.fixture
async def people(hl7: Desk, database_url: str, tmp_path: Path) -> AsyncIterator[Office]:
    del hl7
    async with office(database_url, tmp_path) as made:
        yield made


async def came(hl7: Desk, number: int, *, refused: bool = False, warnings: tuple[str, ...] = ()) -> None:
    """Have a message come, an hour after the one before."""
    change = order(number, placer=f"P{number}", site="bata", source="RIS")
    said: dict[str, Any] = {"tenant": "minsabs", "refusal": "PID-3: empty"} if refused else {}
    raw = f"MSH|^~\\&|RIS|X|||||{number}|é".encode("latin-1")
    changes = () if refused else (change,)
    await hl7.orders.take(Received("RIS", f"m{number}", raw, NOON + number * HOUR, changes, warnings, **said))


async def test_messages_are_listed_by_how_they_were_answered_and_shown_in_their_character_set(
    hl7: Desk, people: Office
) -> None:
    await came(hl7, 0)
    await came(hl7, 1, refused=True)
    await came(hl7, 2, warnings=("PID-5 was cut",))

    async def listed(**query: Any) -> list[str]:
        return [one["control_id"] for one in (await people.get("/messages", **query))["messages"]]

    assert await listed() == ["m2", "m1", "m0"]
    assert await listed(answer="AE") == ["m1"]
    assert await listed(warned=True) == ["m2"]
    assert await listed(control_id="m0", source="RIS") == ["m0"]
    assert await listed(source="HIS") == []
    page = await people.get("/messages", limit=2)
    assert [one["control_id"] for one in (await people.get("/messages", before=page["before"]))["messages"]] == ["m0"]
    refused = page["messages"][1]
    assert (refused["answer"], refused["said"], refused["removed"]) == ("AE", "PID-3: empty", False)
    assert (await people.get(f"/messages/{refused['id']}"))["text"].endswith("|1|é")
    assert (await people.missing(f"/messages/{refused['id']}", "stranger"))["status"] == 404
    assert (await people.missing(f"/messages/{refused['id']}", "malabo"))["status"] == 404
    assert (await people.missing("/messages", "looker"))["status"] == 403


async def test_bytes_go_after_their_time_and_what_became_of_them_stays(
    hl7: Desk, people: Office, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(keeping, "_SLICE", 2)
    for number in range(6):
        await came(hl7, number, refused=number == 1)
    before = (await people.get("/messages"))["messages"]
    now = NOON + timedelta(days=90) + 5 * HOUR
    kept = Keeping(hl7.database, lambda: now, days=90)
    assert [await kept.remove(), await kept.remove()] == [5, 0]
    after = (await people.get("/messages"))["messages"]
    assert [one["removed"] for one in after] == [False, *[True] * 5]
    assert [{**one, "removed": False} for one in after] == before
    assert [(await people.get(f"/messages/{one['id']}"))["text"] for one in after[1:]] == [""] * 5
    async with hl7.database.reading() as tx:
        raw = [bytes(row.raw) for row in await tx.execute(select(messages).order_by(messages.c.id))]
    assert [bool(one) for one in raw] == [False] * 5 + [True]
    # Known by its digest still.
    await came(hl7, 0)
    assert len((await people.get("/messages"))["messages"]) == 6


async def test_a_mapping_is_tried_for_a_node_in_the_scope_of_who_asks(people: Office) -> None:
    async def tried(content: bytes, who: str = "night", **query: str) -> tuple[int, Any]:
        answer = await people.client.post(
            "/v1/worklist/map", content=content, params=query, headers={"authorization": f"Bearer {who}"}
        )
        return answer.status_code, answer.json()

    message = (
        b"MSH|^~\\&|RIS|X|||20261120120000||ORM^O01|M1|P|2.5\rPID|||9||MBA^ANA\rPV1||E\rORC|NW|P9\rOBR|1|P9||A^B^L\r"
    )
    status, [found] = await tried(message)
    assert (status, found["source"], found["answer"]) == (200, "RIS", "AA")
    fields = {field["keyword"]: (field["value"], field["origin"]) for field in found["fields"]}
    assert fields["RouteOfAdmissions"] == (["E"], "PV1-2")
    assert (await tried(b"\x0b" + message + b"\x1c\r"))[1][0]["fields"] == found["fields"]
    assert [one["answer"] for one in (await tried(message + message.replace(b"ORC|NW|P9\r", b"")))[1]] == ["AA", "AE"]
    assert (await tried(message.replace(b"|2.5", b"|9")))[1][0]["faults"]
    for content, who, query, expected in (
        (b"", "night", {}, 422),
        (message, "night", {"source": "NOBODY"}, 422),
        (message, "stranger", {"source": "RIS"}, 422),
        (message, "looker", {}, 403),
    ):
        assert (await tried(content, who, **query))[0] == expected
    assert (await people.get("/messages"))["messages"] == []


async def test_replicas_that_remove_bytes_at_the_same_time_remove_each_once(
    hl7: Desk, people: Office, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(keeping, "_SLICE", 2)
    for number in range(6):
        await came(hl7, number)
    before = (await people.get("/messages"))["messages"]
    replicas = [Keeping(hl7.database, lambda: NOON + timedelta(days=91), days=90) for _ in range(4)]
    await asyncio.gather(*(each.remove() for each in replicas))
    after = (await people.get("/messages"))["messages"]
    assert [one["size"] for one in after] == [one["size"] for one in before]
    assert all(one["removed"] for one in after)


UNREAD = b"MSH|^~\\&|RIS|HGB|||20261120101530||OMI^O23|u1|P|2.5\rPID|||P7||MBA^ANA\rORC|ZZ|P7\rOBR|1|P7||CTH^CT Head\r"


async def test_what_could_not_be_read_is_read_again_by_a_mapping_that_was_mended(hl7: Desk, people: Office) -> None:
    unread = Received("RIS", "u1", UNREAD, NOON, (), (), tenant="minsabs", refusal="ORC-1: not one of `control`")
    await hl7.orders.take(unread)
    [row] = (await people.get("/messages"))["messages"]
    again = await people.post(f"/messages/{row['id']}/read-again")
    assert (again["answer"], again["faults"][0].partition(":")[0]) == ("AE", "ORC-1")
    ris = {"site": "bata", "host": "10.1.0.4", "issuer": "HGB", "hl7": {"mapping": "own"}}
    mended = {"own": {"extends": "default", "control": {"ZZ": "schedule"}}}
    await people.apply(**{"nodes": {"RIS": ris}, "hl7-mappings": mended})
    for who, status in (("looker", 403), ("stranger", 404), ("malabo", 404)):
        refused = await people.refused(f"/messages/{row['id']}/read-again", who=who)
        assert refused["status"] == status, who
    again = await people.post(f"/messages/{row['id']}/read-again")
    assert again == {"answer": "AA", "faults": []}
    [order_] = (await people.get("/orders"))["orders"]
    assert (order_["patient"], order_["placer"]) == ("P7", "P7")
    [taken] = (await people.get("/messages"))["messages"]
    assert (taken["id"], taken["answer"], taken["received_at"][:16]) == (row["id"], "AA", "2026-11-20T12:00")
    # By its own time, not that of who reads it: what was said since stays.
    assert (await people.refused(f"/messages/{row['id']}/read-again"))["title"] == "Taken"


async def test_what_cannot_be_read_again_is_said(hl7: Desk, people: Office) -> None:
    await came(hl7, 0, refused=True)
    long = order(1, placer="P" * 300, site="bata", source="RIS")
    await hl7.orders.take(Received("RIS", "m9", b"MSH|^~\\&|RIS", NOON, (long,)))
    await hl7.orders.take(Received("GONE", "m8", b"MSH|^~\\&|X", NOON, (), (), tenant="minsabs", refusal="MSH-9"))
    gone, said, old = (one["id"] for one in (await people.get("/messages"))["messages"])
    assert (await people.refused(f"/messages/{gone}/read-again"))["title"] == "No sender"
    assert (await people.refused(f"/messages/{said}/read-again"))["title"] == "Refused"
    assert await Keeping(hl7.database, lambda: NOON + timedelta(days=91), days=90).remove() == 3
    assert (await people.refused(f"/messages/{old}/read-again"))["status"] == 410
    assert (await people.refused("/messages/999/read-again"))["status"] == 404
