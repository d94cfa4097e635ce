"""Deliveries from request to receipt, with real receivers."""

import asyncio
import threading
from datetime import timedelta
from pathlib import Path

import pytest
from sqlalchemy import insert, update

from contracts.manifest import set_hash
from libs.clock import utc_now
from services.egress.models import deliveries, destinations, items, workers
from services.egress.orders import Given
from tests.conftest import StoreScpFactory
from tests.integration.egress.peer import ABORT, mute, receiver
from tests.integration.egress.stand import QUICK, archive, network, request, stand
from tests.support.dicomset import dataset_bytes, real_set
from tests.support.orthanc import Orthanc
from tests.support.port import free_port
from tests.support.synthetic import make_ct, make_study

pytestmark = pytest.mark.integration


async def test_a_study_arrives_identical_and_is_told_once(tmp_path: Path, storescp: StoreScpFactory) -> None:
    paths, server = make_study(tmp_path, 12), storescp()
    async with stand(tmp_path, archive(server.port)) as egress:
        wanted = egress.keep(paths)
        await egress.request(wanted[:5], closes=False)
        await egress.request(wanted[5:], expected=12)
        await egress.request(wanted[5:], expected=12)
        row = await egress.until_state("done")
        completed = await egress.events("delivery.completed")
        attempted = await egress.events("delivery.attempted")
        assert {item.status for item in await egress.items()} == {"0000"}
    assert sorted(map(dataset_bytes, server.files())) == sorted(map(dataset_bytes, paths))
    assert [(told["study_version"], told["instance_count"]) for told in completed] == [(1, 12)]
    assert sum(told["sent_count"] for told in attempted) == 12
    assert row.completed_at is not None


async def test_orthanc_gets_the_real_set(tmp_path: Path, orthanc: Orthanc) -> None:
    paths = real_set()
    async with stand(tmp_path, archive(orthanc.dicom_port, aet="ORTHANC")) as egress:
        await egress.request(egress.keep(paths))
        await egress.until_state("done")
    assert len(orthanc.instances()) == len(paths)


async def test_an_unclosed_delivery_is_not_done(tmp_path: Path) -> None:
    with receiver() as peer:
        async with stand(tmp_path, archive(peer.port)) as egress:
            await egress.request(egress.keep(make_study(tmp_path, 2)), closes=False)

            async def sent() -> bool:
                return {item.state for item in await egress.items()} == {"sent"}

            await egress.until(sent)
            row = await egress.until_state("open")
            assert row.next_attempt_at is None
            assert await egress.events("delivery.completed") == []
            await egress.request([], expected=2)
            await egress.until_state("done")
    assert len(peer.received) == 2


async def test_what_is_said_while_enough_is_in_hand_goes_on_the_same_association(tmp_path: Path) -> None:
    asked, go_on = threading.Event(), threading.Event()

    def slow(_uid: str) -> int:
        asked.set()
        go_on.wait(60)
        return 0x0000

    patient = QUICK.model_copy(update={"hold": 4, "linger": 600.0})
    with receiver(slow) as peer, receiver() as other:
        both = network(
            1,
            {"archive": {"node": "PACS"}, "other": {"node": "OTHER"}},
            {"PACS": {"port": peer.port, "associations": 1}, "OTHER": {"port": other.port}},
        )
        async with stand(tmp_path, both, patient) as egress:
            wanted = egress.keep(make_study(tmp_path, 5))

            async def sent(count: int) -> None:
                async def so_many() -> bool:
                    return [item.state for item in await egress.items()].count("sent") == count

                await egress.until(so_many)

            await egress.request(wanted[:1], closes=False, destination="other")
            await sent(1)
            await egress.request(wanted[:3], closes=False)
            await asyncio.to_thread(asked.wait, 60)
            # Whoever sees what is due at the one sees it at the other, where there is no room for it in hand.
            async with egress.database.transaction() as tx:
                await egress.deliveries.merge(request(wanted[3:], closes=False), tx)
                await egress.deliveries.merge(request(wanted[1:2], closes=False, destination="other"), tx)
            await sent(2)
            go_on.set()
            await sent(7)


async def test_an_amended_study_opens_it_again_and_sends_only_what_is_new(tmp_path: Path) -> None:
    paths = make_study(tmp_path, 5)
    with receiver() as peer:
        async with stand(tmp_path, archive(peer.port)) as egress:
            wanted = egress.keep(paths)
            await egress.request(wanted[:3])
            await egress.until_state("done")
            await egress.request(wanted, study_version=2)

            async def told_twice() -> bool:
                return len(await egress.events("delivery.completed")) == 2

            await egress.until(told_twice)
            completed = await egress.events("delivery.completed")
    assert [(told["study_version"], told["instance_count"]) for told in completed] == [(1, 3), (2, 5)]
    assert len(peer.received) == 5


async def test_one_that_came_later_does_not_make_up_for_one_that_is_missing(tmp_path: Path) -> None:
    first, missing, closing, late = make_study(tmp_path, 4)
    with receiver() as peer:
        async with stand(tmp_path, archive(peer.port)) as egress:
            kept = egress.keep([first, missing, closing, late])
            version = set_hash((one.sop_instance_uid, one.content_hash) for one in kept[:3])
            # The request with the second instance is still on its way, and a rule asks for one of the next version.
            await egress.request([kept[0]], closes=False)
            await egress.request([kept[3]], closes=False)
            await egress.request([kept[2]], expected=3, expected_hash=version)

            async def three_sent() -> bool:
                return [one.state for one in await egress.items()] == ["sent"] * 3

            await egress.until(three_sent)
            assert (await egress.until_state("open", "done")).state == "open"
            await egress.request([kept[1]], closes=False)
            everything = set_hash((one.sop_instance_uid, one.content_hash) for one in kept)
            await egress.request(kept, study_version=2, expected_hash=everything)
            await egress.until_state("done")
            assert [told["study_version"] for told in await egress.events("delivery.completed")] == [2]


async def test_a_receiver_that_comes_back_gets_everything_and_is_probed_by_one(tmp_path: Path) -> None:
    port = free_port()
    async with stand(tmp_path, archive(port)) as egress:
        for n in range(6):
            await egress.request(egress.keep([make_ct(tmp_path)]), study=f"1.2.{n}")
        row = await egress.until_state("waiting", study="1.2.5")
        assert str(port) in (row.reason or "")

        async def tried(times: int) -> bool:
            return len(await egress.events("delivery.attempted")) >= times

        async def attempts() -> list[int]:
            found = [await egress.delivery(f"1.2.{n}") for n in range(6)]
            return [row.attempts for row in found if row is not None]

        async def nothing_under_way() -> bool:
            told = len(await egress.events("delivery.attempted"))
            return told >= 3 and told == sum(await attempts())

        # What was under way when the first failure became known is over then: one probes, and no other is tried.
        await egress.until(nothing_under_way)
        before = await attempts()
        await egress.until(lambda: tried(sum(before) + 4))
        assert sum(now > then for now, then in zip(await attempts(), before, strict=True)) == 1
        with receiver(port=port) as peer:
            for n in range(6):
                await egress.until_state("done", study=f"1.2.{n}")
    assert len(peer.received) == 6


async def test_one_bad_instance_does_not_keep_the_rest_and_people_can_try_it_again(tmp_path: Path) -> None:
    paths = make_study(tmp_path, 6)
    mended = threading.Event()
    bad = paths[0].stem
    with receiver(lambda uid: 0xC000 if uid == bad and not mended.is_set() else 0) as peer:
        async with stand(tmp_path, archive(peer.port)) as egress:
            await egress.request(egress.keep(paths))
            row = await egress.until_state("failed")
            failed = await egress.events("delivery.failed")
            assert await egress.events("delivery.completed") == []
            mended.set()
            assert await egress.orders.give(Given("retry", "op"), [row.id]) == (1, 1)
            await egress.until_state("done")
    assert [(told["failed_count"], told["sent_count"]) for told in failed] == [(1, 5)]
    assert [each["status"] for each in failed[0]["failures"]] == ["C000"]
    assert peer.received.count(bad) == QUICK.refusals + 1
    assert len(peer.received) == 5 + QUICK.refusals + 1


async def test_aborts_at_one_instance_do_not_keep_the_rest(tmp_path: Path) -> None:
    paths = make_study(tmp_path, 4)
    poison = paths[0].stem
    with receiver(lambda uid: ABORT if uid == poison else 0) as peer:
        async with stand(tmp_path, archive(peer.port)) as egress:
            await egress.request(egress.keep(paths))

            async def rest_sent() -> bool:
                return [item.state for item in await egress.items()].count("sent") == 3

            await egress.until(rest_sent)
            left = [(item.sop_instance_uid, item.status) for item in await egress.items() if item.state == "pending"]
            assert left == [(poison, "no-answer")]
            assert await egress.events("delivery.completed") == []
            assert await egress.events("delivery.failed") == []
    assert sorted(peer.received) == sorted(path.stem for path in paths[1:])


async def test_a_full_receiver_is_tried_again_until_it_has_room(tmp_path: Path) -> None:
    answers = iter([0xA700] * 7)
    with receiver(lambda _uid: next(answers, 0)) as peer:
        async with stand(tmp_path, archive(peer.port)) as egress:
            await egress.request(egress.keep(make_study(tmp_path, 5)))
            await egress.until_state("done")
            attempted = await egress.events("delivery.attempted")
    assert len(peer.received) == 7 + 5
    assert any("out of resources" in (told["problem"] or "") for told in attempted)


async def test_a_hung_receiver_blocks_nobody_else(tmp_path: Path) -> None:
    with mute() as port, receiver() as peer:
        snapshot = network(
            1,
            {"archive": {"node": "PACS"}, "hung": {"node": "HUNG", "associations": 4}},
            {"PACS": {"port": peer.port}, "HUNG": {"port": port}},
        )
        async with stand(tmp_path, snapshot, QUICK.model_copy(update={"acse_timeout": 20})) as egress:
            for n in range(8):
                await egress.request(egress.keep([make_ct(tmp_path)]), study=f"1.1.{n}", destination="hung")
            await egress.request(egress.keep(make_study(tmp_path, 3)))
            await egress.until_state("done")
            assert await egress.events("delivery.attempted") != []
            assert all(told["destination"] == "archive" for told in await egress.events("delivery.attempted"))
    assert len(peer.received) == 3


async def test_the_urgent_lane_goes_first_and_the_cap_holds(tmp_path: Path) -> None:
    go = threading.Event()
    with receiver(lambda _uid: int(not go.wait(30))) as peer:
        async with stand(tmp_path, archive(peer.port, destination={"associations": 1})) as egress:
            [first, *rest] = [egress.keep([make_ct(tmp_path)]) for _ in range(5)]
            await egress.request(first, study="1.1.0", priority="bulk")

            async def under_way() -> bool:
                return any(each.leased_by is not None for each in await egress.items())

            await egress.until(under_way)
            for n, priority in enumerate(["bulk", "routine", "high", "stat"], 1):
                await egress.request(rest[n - 1], study=f"1.1.{n}", priority=priority)

            async def in_hand() -> bool:
                return all(each.leased_by is not None for each in await egress.items())

            await egress.until(in_hand)
            go.set()
            for n in range(5):
                await egress.until_state("done", study=f"1.1.{n}")
    order = [first, rest[3], rest[2], rest[1], rest[0]]
    assert peer.received == [wanted[0].sop_instance_uid for wanted in order]
    assert peer.most_associations == 1


async def test_a_destination_gets_as_many_associations_as_it_allows(tmp_path: Path) -> None:
    together = threading.Barrier(3, timeout=30)

    def answer(_uid: str) -> int:
        together.wait()
        return 0

    with receiver(answer) as peer:
        async with stand(tmp_path, archive(peer.port, destination={"associations": 3})) as egress:
            for n in range(6):
                await egress.request(egress.keep([make_ct(tmp_path)]), study=f"1.1.{n}")
            for n in range(6):
                await egress.until_state("done", study=f"1.1.{n}")
    assert peer.most_associations == 3


async def test_a_damaged_object_is_failed_and_not_sent(tmp_path: Path) -> None:
    with receiver() as peer:
        async with stand(tmp_path, archive(peer.port)) as egress:
            wanted = egress.keep(make_study(tmp_path, 3))
            egress.objects.delete(wanted[1].object_key)
            await egress.request(wanted)
            await egress.until_state("failed")
            assert [item.status for item in await egress.items()] == ["0000", "object-damaged", "0000"]
    assert len(peer.received) == 2


async def test_nothing_is_sent_where_the_definition_asks_for_what_cannot_be_done(tmp_path: Path) -> None:
    with receiver() as peer:
        async with stand(tmp_path, None) as egress:
            await egress.request(egress.keep(make_study(tmp_path, 2)))
            assert "apply" in ((await egress.until_state("held")).reason or "")
            versions = [
                archive(peer.port, 2, tls=True),
                archive(peer.port, 3, retired=True),
                network(4, {}, {}),
            ]
            for version, words in zip(versions, ["TLS", "retired", "not in the network"], strict=True):
                await egress.apply(version)

                async def held_for(words: str = words) -> bool:
                    row = await egress.delivery()
                    return row is not None and row.state == "held" and words in str(row.reason)

                await egress.until(held_for)
            assert peer.received == []
            await egress.apply(archive(peer.port, 5))
            await egress.until_state("done")
    assert len(peer.received) == 2


async def test_sent_but_not_committed_is_not_done(tmp_path: Path) -> None:
    with receiver() as peer:
        async with stand(tmp_path, archive(peer.port, destination={"confirm": "commit"})) as egress:
            await egress.request(egress.keep(make_study(tmp_path, 2)))
            row = await egress.until_state("waiting")
            assert "has not committed itself to 2 of 2" in (row.reason or "")
            assert len(peer.received) == 2
            assert await egress.events("delivery.completed") == []
            await egress.apply(archive(peer.port, 2))
            await egress.until_state("done")
            assert len(await egress.events("delivery.completed")) == 1
    assert len(peer.received) == 2


async def test_a_stopped_sender_leaves_the_rest_for_the_next_run(tmp_path: Path) -> None:
    halfway = threading.Event()
    paths = make_study(tmp_path, 10)
    seen: list[str] = []

    def answer(uid: str) -> int:
        seen.append(uid)
        if len(seen) == 4:
            halfway.set()
        return 0

    with receiver(answer) as peer:
        async with stand(tmp_path, archive(peer.port)) as egress:
            await egress.request(egress.keep(paths))
            await asyncio.to_thread(halfway.wait, 30)
        async with stand(tmp_path, archive(peer.port)) as egress:
            await egress.until_state("done")
    assert sorted(peer.received) == sorted(path.stem for path in paths)


async def test_nothing_waits_for_a_clock_that_was_put_back(tmp_path: Path) -> None:
    with receiver() as peer:
        async with stand(tmp_path, None) as egress:
            await egress.request(egress.keep(make_study(tmp_path, 2)))
        async with stand(tmp_path, archive(peer.port)) as egress:
            later = utc_now() + timedelta(hours=1)
            async with egress.database.transaction() as tx:
                await tx.execute(update(items).values(next_attempt_at=later))
                await tx.execute(update(deliveries).values(next_attempt_at=later))
                await tx.execute(insert(workers).values(name="x", alive_until=later))
                await tx.execute(insert(destinations).values(key="archive", failures=1, retry_at=later))
            await egress.work.follow_clock()
            await egress.until_state("done")


async def test_what_a_person_cancels_or_pauses_goes_no_further_than_what_is_under_way(tmp_path: Path) -> None:
    came, go = threading.Event(), threading.Event()

    def answer(_uid: str) -> int:
        came.set()
        return int(not go.wait(30))

    with receiver(answer) as peer:
        async with stand(tmp_path, archive(peer.port, destination={"associations": 1})) as egress:
            await egress.request(egress.keep(make_study(tmp_path, 5)))

            async def in_hand() -> bool:
                return all(each.leased_by is not None for each in await egress.items())

            await egress.until(in_hand)
            assert await asyncio.to_thread(came.wait, 30)
            row = await egress.delivery()
            assert row is not None
            await egress.orders.give(Given("cancel", "op", "not wanted"), [row.id])

            async def off_the_shelf() -> bool:
                return sum(each.leased_by is not None for each in await egress.items()) <= 1

            await egress.until(off_the_shelf)
            go.set()

            async def out_of_hand() -> bool:
                return all(each.leased_by is None for each in await egress.items())

            await egress.until(out_of_hand)
            row = await egress.until_state("cancelled")
            assert len(peer.received) == 1
            await egress.orders.give(Given("retry", "op"), [row.id])
            await egress.until_state("done")
    assert len(peer.received) == 5
