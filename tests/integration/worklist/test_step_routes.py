"""HTTP routes of performed procedure steps, on both databases: who sees which, and what is sent again."""

from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import httpx
import pytest

from contracts.access import AccessUsed
from libs.service import Service
from libs.web.access import AccessEntry, AccessList, AccessView, token_hash
from libs.web.app import make_app
from services.worklist import forward_rows
from services.worklist.models import mpps_forwards
from services.worklist.step_api import make_step_router
from tests.integration.worklist.conftest import Desk
from tests.integration.worklist.room import Room, caller, definition, open_room, ordered
from tests.unit.worklist.performed import MPPS, STUDY, created, ended, scheduled
from tests.unit.worklist.said import NOON

pytestmark = pytest.mark.integration

EMERGENCY, MERGED, ABROAD = f"{MPPS}.2", f"{MPPS}.3", f"{MPPS}.4"
_PEOPLE: dict[str, dict[str, Any]] = {
    "operator": {"role": "operator"},
    "viewer": {"role": "viewer"},
    "integrator": {"role": "integrator"},
    "elsewhere": {"role": "operator", "tenants": ("elsewhere",)},
    "malabo": {"role": "operator", "tenants": ("minsabs",), "sites": ("malabo",)},
    "bata": {"role": "operator", "tenants": ("minsabs",), "sites": ("bata",)},
}


class Line:
    """Counts how often forwarding was woken."""

    woken = 0

    def wake(self) -> None:
        self.woken += 1


@dataclass
class Office:
    """The routes, and the people who ask them."""

    room: Room
    client: httpx.AsyncClient
    line: Line
    uses: list[AccessUsed]

    async def ask(self, path: str = "", who: str = "operator", **query: Any) -> httpx.Response:
        headers = {"authorization": f"Bearer {who}"}
        return await self.client.get(f"/v1/worklist/steps{path}", params=query, headers=headers)

    async def uids(self, who: str = "operator", **query: Any) -> list[str]:
        """Give the last number of each step that is listed."""
        answer = await self.ask(who=who, **query)
        assert answer.status_code == 200, answer.text
        return [one["sop_instance_uid"].removeprefix(MPPS) for one in answer.json()["steps"]]

    async def again(self, uid: str, who: str = "operator", **query: Any) -> httpx.Response:
        headers = {"authorization": f"Bearer {who}"}
        return await self.client.post(f"/v1/worklist/steps/{uid}/again", params=query, headers=headers)


@pytest.fixture
async def office(desk: Desk) -> AsyncIterator[Office]:
    """Four steps: one completed for an order, an emergency, one of another patient than its order's, one of others."""
    nodes = definition().model_dump(mode="json", by_alias=True, exclude_unset=True)["nodes"]
    ris2 = {"site": "malabo", "host": "10.0.0.4", "port": 104}
    room = open_room(desk, nodes=nodes | {"RIS2": ris2}, mpps={"forward": ["RIS", "RIS2", "ALIEN"]})
    line, uses = Line(), list[AccessUsed]()

    async def people() -> AccessList:
        entries = [
            AccessEntry(token_id=name, token_hash=token_hash(name), name=name, **scope)
            for name, scope in _PEOPLE.items()
        ]
        return AccessList(entries=tuple(entries))

    async def record(_service: str, use: AccessUsed, _tenant: str) -> None:
        uses.append(use)

    access = AccessView(people, lambda: NOON)
    await access.refresh()
    router = make_step_router(desk.database, line, lambda: NOON)  # type: ignore[arg-type]  # it is only woken
    app = make_app([Service(name="worklist", router=router)], access, record, lambda: NOON, version="1")
    await ordered(room, "S1", "S2")
    await room.create(created(scheduled(step_id="S1", accession="A1")))
    await room.set(ended())
    await room.create(created(scheduled("1.2.3", accession="EMERGENCY"), patient="200"), EMERGENCY)
    await room.create(created(scheduled(step_id="S2"), patient="300", Modality=("MR",)), MERGED)
    room.caller = caller("ALIEN", "elsewhere", "other")
    await room.create(created(scheduled("1.2.4")), ABROAD)
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://kivuko") as client:
        yield Office(room, client, line, uses)


async def test_steps_are_listed_the_newest_first_and_by_what_they_are(office: Office) -> None:
    assert await office.uids() == [".4", ".3", ".2", ""]
    for query, expected in (
        ({"state": "completed"}, [""]),
        ({"state": ["completed", "in-progress"], "node": "CT1"}, [".3", ".2", ""]),
        ({"node": "ALIEN"}, [".4"]),
        ({"study": STUDY}, [".3", ""]),
        ({"accession": "EMERGENCY"}, [".2"]),
        ({"patient": "200"}, [".2"]),
        ({"unlinked": True}, [".4", ".2"]),
        ({"waiting": True}, [".3", ".2", ""]),
        ({"accession": "A1", "patient": "200"}, []),
    ):
        assert await office.uids(**query) == expected, query
    assert (await office.ask(state="begun")).status_code == 422


async def test_pages_follow_one_another(office: Office) -> None:
    first = (await office.ask(limit=3)).json()
    assert len(first["steps"]) == 3
    assert await office.uids(limit=3, before=first["before"]) == [""]
    assert (await office.ask(limit=3, before=first["before"])).json()["before"] is None
    assert (await office.ask(limit=4)).json()["before"] is None


async def test_who_sees_what(office: Office) -> None:
    assert await office.uids("elsewhere") == [".4"]
    assert await office.uids("malabo") == [".3", ".2", ""]
    assert await office.uids("bata") == []
    assert (await office.ask(f"/{MPPS}", "elsewhere")).status_code == 404
    assert (await office.ask(f"/{MPPS}", "malabo")).status_code == 200
    assert (await office.again(MPPS, "elsewhere")).status_code == 404
    for who, may in (("viewer", (403, 200)), ("integrator", (403, 403))):
        assert (await office.again(MPPS, who)).status_code == may[0]
        assert (await office.ask(who=who)).status_code in {may[1], 403}
    assert office.line.woken == 0


async def test_a_step_is_shown_with_all_that_was_said_of_it(office: Office) -> None:
    shown = (await office.ask(f"/{MPPS}")).json()
    assert (shown["state"], shown["node"], shown["site"], shown["instance_count"]) == ("completed", "CT1", "malabo", 2)
    assert (shown["started_at"], shown["ended_at"]) == ("2026-11-20T12:05:00Z", "2026-11-20T12:15:00Z")
    (link,) = shown["links"]
    assert link["order_id"] is not None
    assert (link["study_instance_uid"], link["accession"], link["step_id"]) == (STUDY, "A1", "S1")
    assert (link["matched_by"], link["contradicts"]) == ("step", False)
    assert [(one["number"], one["calling_aet"], one["size"] > 100) for one in shown["messages"]] == [
        (0, "CT1", True),
        (1, "CT1", True),
    ]
    assert shown["attributes"]["PerformedProcedureStepStatus"] == ["COMPLETED"]
    assert [(one["node"], one["state"], one["sent"]) for one in shown["forwards"]] == [
        ("RIS", "open", 0),
        ("RIS2", "open", 0),
    ]
    (link,) = (await office.ask(f"/{MERGED}")).json()["links"]
    assert link["contradicts"] is True
    (link,) = (await office.ask(f"/{EMERGENCY}")).json()["links"]
    assert (link["order_id"], link["matched_by"]) == (None, None)
    assert [use.target for use in office.uses] == [STUDY, STUDY, "1.2.3"]


async def test_a_step_that_there_is_not_is_said_to_be_none(office: Office) -> None:
    missing = await office.ask("/1.2.3")
    assert missing.status_code == 404
    assert "kivuko worklist steps" in missing.json()["advice"]


async def test_a_uid_of_two_tenants_is_asked_for_with_a_token_of_one(office: Office) -> None:
    await office.room.create(created(scheduled("1.2.4")), MPPS)
    answer = await office.ask(f"/{MPPS}")
    assert answer.status_code == 409
    assert "tenant" in answer.json()["advice"]
    assert (await office.ask(f"/{MPPS}", "elsewhere")).json()["tenant"] == "elsewhere"


async def test_what_was_refused_is_sent_again_and_what_is_done_is_not(office: Office) -> None:
    database = office.room.desk.database
    async with database.transaction() as tx:
        for node in ("RIS", "RIS2"):
            taken = await forward_rows.lease(tx, node, "r", NOON, 50)
            await forward_rows.note_refused(tx, node, taken[0], 0, "r", "it answers with status 0120", NOON)
        await forward_rows.note_sent(tx, "RIS", taken[1], 1, "r", NOON)
    failed, done = (await office.ask(f"/{MPPS}")).json(), (await office.ask(f"/{EMERGENCY}")).json()
    assert [one["state"] for one in failed["forwards"]] == ["failed", "failed"]
    assert {one["problem"] for one in failed["forwards"]} == {"it answers with status 0120"}
    assert [(one["state"], one["due_at"]) for one in done["forwards"]] == [
        ("done", None),
        ("open", "2026-11-20T12:00:00Z"),
    ]
    assert (await office.again(MPPS, node="RIS2")).json() == {"forwards": 1}
    assert (await office.again(EMERGENCY)).json() == {"forwards": 1}
    assert office.line.woken == 2
    states = {(row["mpps_id"], row["node"]): row["state"] for row in await office.room.rows(mpps_forwards)}
    assert states[failed["id"], "RIS"] == "failed"
    assert states[failed["id"], "RIS2"] == "open"
    assert states[done["id"], "RIS"] == "done"
