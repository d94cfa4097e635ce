"""Orders and destinations over HTTP: who may, what is told, and what the audit log gets."""

import asyncio
from pathlib import Path
from typing import Any

import pytest
from pynetdicom.presentation import build_context

from services.egress.examination import VERIFICATION
from tests.integration.egress.peer import receiver
from tests.integration.egress.stand import archive, network
from tests.integration.egress.test_app import Process, caller, run, until_state
from tests.support.port import free_port
from tests.support.synthetic import CT_IMAGE_STORAGE, make_ct, make_study

pytestmark = pytest.mark.integration
ALL: dict[str, Any] = {"destination": "archive"}
OPERATOR, VIEWER, FAR = caller("op"), caller("view"), caller("far")


async def post(process: Process, path: str, who: dict[str, str] = OPERATOR, **body: Any) -> tuple[int, Any]:
    answer = await process.client.post(f"/v1/egress/{path}", headers=who, json=body or None)
    return answer.status_code, answer.json()


async def count(process: Process) -> int:
    return int((await post(process, "deliveries/hold", **ALL, dry_run=True))[1]["deliveries"])


async def until_count(process: Process, wanted: int) -> None:
    """Wait until so many can be held, looking after each commit."""
    committed = asyncio.Event()
    process.database.on_commit(lambda _session: committed.set())
    async with asyncio.timeout(60):
        while await count(process) < wanted:
            await committed.wait()
            committed.clear()


async def destination(process: Process) -> dict[str, Any]:
    answer = await process.client.get("/v1/egress/destinations/archive", headers=VIEWER)
    return dict(answer.raise_for_status().json())


async def test_one_delivery_is_held_cancelled_and_released(tmp_path: Path) -> None:
    async for process in run(tmp_path, archive(free_port())):
        await process.publish(make_study(tmp_path, 2))
        row = await until_state(process, "waiting")
        url = f"deliveries/{row['id']}"
        status, refused = await post(process, f"{url}/release")
        assert (status, refused["detail"]) == (409, "Nobody holds it: it is waiting.")
        assert (await post(process, f"{url}/hold", VIEWER))[0] == 403
        assert (await post(process, f"{url}/hold", FAR))[0] == 404
        assert (await post(process, f"{url}/hold", reason="two\nlines"))[0] == 422

        status, held = await post(process, f"{url}/hold", reason="phantom")
        assert (status, held["state"], held["ordered"], held["ordered_by"]) == (200, "held", "held", "op")
        assert held["reason"].endswith(": phantom")
        status, refused = await post(process, f"{url}/retry")
        assert (status, refused["advice"]) == (409, "Release it instead.")
        status, cancelled = await post(process, f"{url}/cancel")
        assert (status, cancelled["state"]) == (200, "cancelled")
        status, refused = await post(process, f"{url}/cancel")
        assert status == 409
        assert "cancelled by op" in refused["detail"]
        assert (await destination(process))["backlog"] == 0
        assert (await post(process, f"{url}/retry")) == (200, {"instances": 2})
        assert (await post(process, f"{url}/release"))[0] == 409
        # The outcome of each change stands with the study.
        assert [(use.actor, use.route, use.status) for use in process.uses if use.target == "1.2.3"][:2] == [
            ("op", "/v1/egress/deliveries/{delivery_id}/release", 409),
            ("op", "/v1/egress/deliveries/{delivery_id}/hold", 200),
        ]


async def test_many_are_counted_first_and_ordered_together(tmp_path: Path) -> None:
    async for process in run(tmp_path, archive(free_port())):
        for n in range(3):
            await process.publish([make_ct(tmp_path)], study=f"1.2.{n}")

        await until_count(process, 3)
        assert (await post(process, "deliveries/hold", reason="x"))[0] == 422
        assert (await post(process, "deliveries/hold", VIEWER, **ALL))[0] == 403
        assert (await post(process, "deliveries/hold", FAR, **ALL))[1]["deliveries"] == 0
        status, held = await post(process, "deliveries/hold", **ALL, reason="x")
        assert (status, held["deliveries"], sum(held["states"].values())) == (200, 3, 3)
        assert await count(process) == 0
        known = await destination(process)
        assert (known["held"], known["backlog"], known["instances"]) == (3, 3, 3)
        [kept] = known["standstills"]
        assert (kept["state"], kept["deliveries"]) == ("held", 3)
        # What a person holds is not tried again by a bulk order, and what is cancelled not released by one.
        assert (await post(process, "deliveries/retry", state="held"))[1]["deliveries"] == 0
        assert (await post(process, "deliveries/cancel", study="1.2.0"))[1]["deliveries"] == 1
        assert (await post(process, "deliveries/release", **ALL))[1]["deliveries"] == 2
        assert (await post(process, "deliveries/release", **ALL, state="cancelled"))[1]["states"] == {"cancelled": 1}
        assert (await post(process, "deliveries/retry", **ALL, state="lost"))[0] == 422


async def test_a_delivery_is_sent_elsewhere_and_made_urgent(tmp_path: Path) -> None:
    with receiver() as peer:
        nodes = {"PACS": {"port": free_port()}, "SPARE": {"port": peer.port}, "CT1": {"port": 104}}
        destinations: dict[str, dict[str, Any]] = {
            "archive": {"node": "PACS"},
            "spare": {"node": "SPARE"},
            "source": {"node": "CT1"},
            "both": {"group": ["archive", "spare"]},
        }
        async for process in run(tmp_path, network(1, destinations, nodes)):
            await process.publish(make_study(tmp_path, 2))
            row = await until_state(process, "waiting")
            url = f"deliveries/{row['id']}"
            status, changed = await post(process, f"{url}/change", priority="stat", reason="the surgeon asks")
            assert (status, changed["priority"]) == (200, "stat")
            assert (await post(process, f"{url}/change", priority="now"))[0] == 422
            assert (await post(process, f"{url}/redirect", VIEWER, to="spare"))[0] == 403
            assert (await post(process, f"{url}/redirect", FAR, to="spare"))[0] == 404
            assert (await post(process, f"{url}/redirect"))[0] == 422
            for nowhere in ("nowhere", "both"):
                status, refused = await post(process, f"{url}/redirect", to=nowhere)
                assert (status, nowhere in refused["detail"]) == (422, True)
            status, refused = await post(process, f"{url}/redirect", to="source")
            assert status == 409
            assert "the study came from node CT1" in refused["detail"]
            many = {**ALL, "to": "spare", "reason": "moved"}
            assert (await post(process, "deliveries/redirect", **many, dry_run=True))[1]["deliveries"] == 1
            assert (await post(process, "deliveries/redirect", **{**many, "to": "nowhere"}))[0] == 422
            status, told = await post(process, "deliveries/redirect", **many)
            assert (status, told["deliveries"]) == (200, 1)
            done = await until_state(process, "done")
            assert (done["destination"], done["priority"]) == ("spare", "stat")
            shown = (await process.client.get(f"/v1/egress/{url}", headers=VIEWER)).json()
            assert (shown["state"], shown["diverted_to"]) == ("diverted", "spare")
            assert shown["reason"].endswith(": moved")
            status, refused = await post(process, f"{url}/hold")
            assert status == 409
            assert "to spare" in refused["advice"]
            uses = [(use.route, use.status) for use in process.uses if use.target == "1.2.3"]
            assert ("/v1/egress/deliveries/{delivery_id}/change", 200) in uses
    assert len(peer.received) == 2


async def test_all_that_failed_are_tried_again(tmp_path: Path) -> None:
    with receiver(lambda _uid: 0xC000) as peer:
        async for process in run(tmp_path, archive(peer.port)):
            await process.publish(make_study(tmp_path, 2))
            row = await until_state(process, "waiting")
            for _ in range(2):
                # Not to wait for the next attempts.
                await post(process, f"deliveries/{row['id']}/retry")
            assert (await post(process, "deliveries/retry", **ALL, state="done"))[1]["deliveries"] == 0
            status, again = await post(process, "deliveries/retry", **ALL, state="waiting")
            assert status == 200
            assert again["instances"] == 2 * again["deliveries"]


async def test_a_destination_is_paused_shown_and_resumed(tmp_path: Path) -> None:
    with receiver() as peer:
        async for process in run(tmp_path, archive(peer.port)):
            assert (await destination(process))["state"] == "idle"
            assert (await post(process, "destinations/archive/resume"))[0] == 409
            assert (await post(process, "destinations/archive/pause", VIEWER))[0] == 403
            assert (await post(process, "destinations/archive/pause", FAR))[0] == 404
            assert (await post(process, "destinations/nowhere/pause"))[0] == 404
            status, paused = await post(process, "destinations/archive/pause", reason="new disks")
            assert (status, paused["state"], paused["paused_by"]) == (200, "paused", "op")
            await process.publish(make_study(tmp_path, 2))
            await until_state(process, "held")
            known = await destination(process)
            assert (known["paused_why"], known["instances"], known["held"]) == ("new disks", 2, 1)
            assert (known["bytes"] > 0, known["empty_in"], known["oldest_request_at"] is not None) == (True, None, True)
            assert (known["called_aet"], known["associations_allowed"]) == ("STORESCP", 2)
            metrics = (await process.client.get("/metrics", headers=OPERATOR)).text
            assert 'kivuko_egress_queue_instances{destination="archive"}' not in metrics
            assert (await post(process, "destinations/archive/resume"))[1]["state"] in ("waiting", "sending", "idle")
            await until_state(process, "done")
            assert ("op", 200) in [(use.actor, use.status) for use in process.uses if use.target == "archive"]
    assert len(peer.received) == 2


async def test_who_sends_to_a_destination_that_is_not_theirs_may_not_pause_it(tmp_path: Path) -> None:
    # The node of the archive is at site a; the study came from site b.
    async for process in run(tmp_path, archive(free_port())):
        assert (await post(process, "destinations/archive/pause", caller("guest")))[0] == 404
        await process.publish([make_ct(tmp_path)], site="b")
        row = await until_state(process, "waiting")
        status, refused = await post(process, "destinations/archive/pause", caller("guest"))
        assert status == 403
        assert "Hold your own deliveries" in refused["advice"]
        assert (await post(process, f"deliveries/{row['id']}/hold", caller("guest")))[0] == 200
        status, paused = await post(process, "destinations/archive/pause", caller("own"))
        assert (status, paused["paused_by"]) == (200, "own")


async def test_what_a_destination_takes_is_found_out_and_remembered(tmp_path: Path) -> None:
    contexts = [build_context(VERIFICATION), build_context(CT_IMAGE_STORAGE, ["1.2.840.10008.1.2"])]
    with receiver(contexts=contexts) as peer:
        async for process in run(tmp_path, archive(peer.port)):
            assert (await post(process, "destinations/archive/test", VIEWER))[0] == 403
            assert (await post(process, "destinations/archive/test", FAR))[0] == 404
            status, found = await post(process, "destinations/archive/test")
            assert (status, found["ok"], found["problem"], found["stored"]) == (200, True, None, None)
            taken = [each for each in found["contexts"] if each["accepted"]]
            assert [(each["sop_class"], each["transfer_syntax"]) for each in taken] == [
                ("CT Image Storage", "implicit")
            ]
            known = await destination(process)
            assert known["contexts_accepted"] == 1
            assert known["contexts_refused"] == len(found["contexts"]) - 1
            # It has no room for a test object: that is told, and nothing counts as well.
            status, found = await post(process, "destinations/archive/test", store=True)
            assert (status, found["ok"]) == (200, False)
            assert "Secondary Capture" in found["problem"]
