"""Where a destination asks for storage commitment, done means committed."""

import asyncio
import queue
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from pydicom import Dataset
from pynetdicom import AE, evt

from contracts.commitment import CommitmentReported
from libs.dimse.commitment import SOP_CLASS
from services.egress.calling import Ending
from services.egress.claim import Stretch
from services.egress.orders import Given
from services.egress.outcome import Outcome, Verdict
from services.egress.patience import Patience
from tests.integration.egress.keeper import Keeper, Request, keeper
from tests.integration.egress.peer import receiver
from tests.integration.egress.stand import QUICK, Stand, archive, stand
from tests.support.migrated import migrate
from tests.support.orthanc import Orthanc
from tests.support.postgresql import PostgreSQL
from tests.support.synthetic import CT_IMAGE_STORAGE, make_study

pytestmark = pytest.mark.integration
COMMIT = {"confirm": "commit"}
#: Who does not report on the association of the request is not waited for.
HASTY = QUICK.model_copy(update={"commit_wait": 0.05})


class Watch:
    """A clock that is put on by hand."""

    def __init__(self) -> None:
        self.now = datetime(2026, 11, 20, 10, tzinfo=UTC)

    def __call__(self) -> datetime:
        return self.now


async def until_asked(egress: Stand, times: int = 1) -> Any:
    """Wait until a destination took so many requests for the delivery; give the delivery."""
    found: list[Any] = []

    async def asked() -> bool:
        row = await egress.delivery()
        if row is None or row.confirm_asks < times:
            return False
        found.append(row)
        return True

    await egress.until(asked)
    return found[-1]


async def until_requests(egress: Stand, peer: Keeper, count: int) -> None:
    """Wait until a destination has got so many requests, and what became of them is written down."""

    async def asked() -> bool:
        row = await egress.delivery()
        return len(peer.requests) == count and row is not None and row.confirm_asks > 0

    await egress.until(asked)


def said(peer: Keeper, request: Request, node: str = "PACS", **changes: Any) -> CommitmentReported:
    """Make the event of a report, as ingest does."""
    verdicts = {uid: peer.verdict(uid) for uid in request.instances}
    values = {
        "transaction_uid": request.transaction_uid,
        "node": node,
        "committed": [
            {"sop_class_uid": CT_IMAGE_STORAGE, "sop_instance_uid": uid}
            for uid, reason in verdicts.items()
            if not reason
        ],
        "failed": [
            {"sop_class_uid": CT_IMAGE_STORAGE, "sop_instance_uid": uid, "failure_reason": reason}
            for uid, reason in verdicts.items()
            if reason
        ],
    }
    return CommitmentReported.model_validate(values | changes)


async def report(egress: Stand, fact: CommitmentReported) -> None:
    """Hand in the event of a report."""
    async with egress.database.transaction() as tx:
        await egress.confirmations.reported(tx, fact)


class Listener:
    """Takes reports on associations of the archive's own, as ingest does."""

    def __init__(self) -> None:
        self.reports: queue.Queue[CommitmentReported] = queue.Queue()
        self.port = 0

    def take(self, event: evt.Event) -> tuple[int, None]:
        """Answer N-EVENT-REPORT."""
        found = event.event_information
        self.reports.put(
            CommitmentReported.model_validate(
                {
                    "transaction_uid": str(found.TransactionUID),
                    "node": "PACS",
                    "committed": [_instance(each) for each in found.get("ReferencedSOPSequence", [])],
                    "failed": [
                        _instance(each) | {"failure_reason": int(each.FailureReason)}
                        for each in found.get("FailedSOPSequence", [])
                    ],
                }
            )
        )
        return 0, None


def _instance(each: Dataset) -> dict[str, Any]:
    return {
        "sop_class_uid": str(each.ReferencedSOPClassUID),
        "sop_instance_uid": str(each.ReferencedSOPInstanceUID),
    }


@contextmanager
def listener() -> Iterator[Listener]:
    """Run a port for reports."""
    found = Listener()
    entity = AE("KIVUKO")
    # The archive takes the role of the SCP, though it is the one who calls.
    entity.add_supported_context(SOP_CLASS, scu_role=False, scp_role=True)
    server: Any = entity.start_server(
        ("127.0.0.1", 0), block=False, evt_handlers=[(evt.EVT_N_EVENT_REPORT, found.take)]
    )
    found.port = server.server_address[1]
    try:
        yield found
    finally:
        server.shutdown()


async def test_committed_on_the_same_association(tmp_path: Path) -> None:
    with keeper() as peer:
        async with stand(tmp_path, archive(peer.port, destination=COMMIT)) as egress:
            await egress.request(egress.keep(make_study(tmp_path, 3)))
            row = await egress.until_state("done")
            items = await egress.items()
            (told,) = await egress.events("commitment.reported")
            assert len(await egress.events("delivery.completed")) == 1
    assert all(each.committed_at is not None and each.sent_at <= each.committed_at for each in items)
    assert (row.reason, row.confirm_at, row.confirm_asks) == (None, None, 0)
    (request,) = peer.requests
    assert set(request.instances) == set(peer.stored)
    assert (told["transaction_uid"], told["node"]) == (request.transaction_uid, "PACS")
    assert peer.answers == [0]


async def test_committed_on_another_association(tmp_path: Path) -> None:
    with keeper() as peer:
        peer.reports = False
        async with stand(tmp_path, archive(peer.port, destination=COMMIT), HASTY) as egress:
            await egress.request(egress.keep(make_study(tmp_path, 2)))
            row = await until_asked(egress)
            assert (row.state, await egress.events("delivery.completed")) == ("waiting", [])
            assert "has not committed itself to 2 of 2 yet; asked again at" in row.reason
            fact = said(peer, peer.requests[0])
            await report(egress, fact)
            await egress.until_state("done")
            # The same once more is about nothing that is asked for.
            await report(egress, fact)
            assert len(await egress.events("delivery.completed")) == 1
            row = await egress.delivery()
            assert row is not None
            assert row.state == "done"
    assert len(peer.requests) == 1


async def test_a_report_that_is_not_the_destinations_or_is_about_something_else_changes_nothing(tmp_path: Path) -> None:
    with keeper() as peer:
        peer.reports = False
        async with stand(tmp_path, archive(peer.port, destination=COMMIT), HASTY) as egress:
            await egress.request(egress.keep(make_study(tmp_path, 2)))
            await until_asked(egress)
            (request,) = peer.requests
            for fact in (
                said(peer, request, node="CT1"),
                said(peer, request, transaction_uid="1.2.3"),
                said(peer, request, committed=[{"sop_class_uid": CT_IMAGE_STORAGE, "sop_instance_uid": "1.2.3"}]),
                said(peer, request, committed=[{"sop_class_uid": "1.2", "sop_instance_uid": uid} for uid in peer.has]),
            ):
                await report(egress, fact)
                assert all(each.committed_at is None for each in await egress.items())
                row = await egress.delivery()
                assert row is not None
                assert row.state == "waiting"
            await report(egress, said(peer, request))
            await egress.until_state("done")


async def test_a_part_that_is_reported_stays_and_the_rest_is_waited_for(tmp_path: Path) -> None:
    with keeper() as peer:
        peer.reports = False
        async with stand(tmp_path, archive(peer.port, destination=COMMIT), HASTY) as egress:
            await egress.request(egress.keep(make_study(tmp_path, 3)))
            await until_asked(egress)
            whole = said(peer, peer.requests[0])
            await report(egress, whole.model_copy(update={"committed": whole.committed[:1]}))
            row = await egress.delivery()
            assert row is not None
            assert (row.state, "2 of 3" in row.reason) == ("waiting", True)
            await report(egress, whole)
            await egress.until_state("done")


async def test_what_it_does_not_have_is_sent_again_and_asked_for_again(tmp_path: Path) -> None:
    with keeper() as peer:
        async with stand(tmp_path, archive(peer.port, destination=COMMIT)) as egress:
            paths = make_study(tmp_path, 3)
            lost: list[str] = []

            def reason(uid: str) -> int:
                # It loses one, once.
                if not lost:
                    lost.append(uid)
                return 0x0112 if uid in lost and peer.stored.count(uid) == 1 else 0

            peer.reason = reason
            await egress.request(egress.keep(paths))
            await egress.until_state("done")
            items = {each.sop_instance_uid: each for each in await egress.items()}
    assert sorted(peer.stored) == sorted([*peer.has, *lost])
    assert [set(each.instances) for each in peer.requests] == [set(peer.has), set(lost)]
    assert (items[lost[0]].misses, items[lost[0]].attempts) == (1, 2)


@pytest.mark.parametrize(
    ("failure", "words", "sendings"),
    [
        (0x0112, "does not have it", 3),
        (0x0110, "failed to process", 3),
        (0x0122, "SOP class", 1),
        (1, "Standard", 1),
    ],
)
async def test_what_it_never_commits_itself_to_is_for_people(
    failure: int, words: str, sendings: int, tmp_path: Path
) -> None:
    with keeper() as peer:
        async with stand(tmp_path, archive(peer.port, destination=COMMIT)) as egress:
            paths = make_study(tmp_path, 2)
            kept = egress.keep(paths)
            bad = kept[0].sop_instance_uid
            peer.reason = lambda uid: failure if uid == bad else 0
            await egress.request(kept)
            await egress.until_state("failed")
            assert await egress.events("delivery.completed") == []
            (told,) = await egress.events("delivery.failed")
            (item,) = [each for each in await egress.items() if each.sop_instance_uid == bad]
            assert peer.stored.count(bad) == sendings
            assert (item.state, item.status, item.committed_at) == ("failed", f"{failure:04X}", None)
            assert words in item.reason
            assert words in told["failures"][0]["reason"]
            peer.reason = None
            row = await egress.delivery()
            assert row is not None
            await egress.orders.give(Given("retry", "op"), [row.id])
            await egress.until_state("done")


async def test_without_a_report_it_is_asked_again_with_growing_waits(tmp_path: Path) -> None:
    watch = Watch()
    with keeper() as peer:
        peer.reports = False
        async with stand(tmp_path, archive(peer.port, destination=COMMIT), HASTY, clock=watch) as egress:
            await egress.request(egress.keep(make_study(tmp_path, 2)))
            for asks, hours in ((1, 1), (2, 2), (3, 4)):
                row = await until_asked(egress, asks)
                assert row.confirm_at == watch.now + timedelta(hours=hours)
                assert f"asked again at {row.confirm_at:%Y-%m-%d %H:%M} UTC" in row.reason
                watch.now = row.confirm_at
                await egress.deliveries.apply_network()
            await until_asked(egress, 4)
            assert len({each.transaction_uid for each in peer.requests}) == 4
            # An archive may be slower than we ask: its first report is as good as its last.
            await report(egress, said(peer, peer.requests[0]))
            await egress.until_state("done")
    assert len(peer.stored) == 2


async def test_a_failure_that_is_out_of_date_changes_nothing(tmp_path: Path) -> None:
    watch = Watch()
    with keeper() as peer:
        peer.reports = False
        async with stand(tmp_path, archive(peer.port, destination=COMMIT), HASTY, clock=watch) as egress:
            await egress.request(egress.keep(make_study(tmp_path, 1)))
            row = await until_asked(egress)
            watch.now = row.confirm_at
            await egress.deliveries.apply_network()
            await until_asked(egress, 2)
            peer.reason = lambda _uid: 0x0112
            await report(egress, said(peer, peer.requests[0]))
            (item,) = await egress.items()
            assert (item.state, item.misses) == ("sent", 0)
            peer.reason = None
            await report(egress, said(peer, peer.requests[1]))
            await egress.until_state("done")


async def test_what_waited_long_to_be_confirmed_is_not_given_up_when_it_is_sent_again(tmp_path: Path) -> None:
    watch = Watch()
    with keeper() as peer:
        peer.reports = False
        async with stand(tmp_path, archive(peer.port, destination=COMMIT), HASTY, clock=watch) as egress:
            patience = Patience(egress.database, egress.deliveries, egress.network, HASTY, watch)
            await egress.request(egress.keep(make_study(tmp_path, 1)))
            await until_asked(egress)
            watch.now += timedelta(days=30)
            await egress.deliveries.apply_network()
            await until_asked(egress, 2)
            assert await patience.give_up() == 0
            peer.reason = lambda _uid: 0x0112
            await report(egress, said(peer, peer.requests[1]))
            assert await patience.give_up() == 0
            peer.reason = None
            watch.now += timedelta(seconds=1)
            await egress.deliveries.apply_network()
            await until_requests(egress, peer, 3)
            await report(egress, said(peer, peer.requests[2]))
            await egress.until_state("done")
    assert len(peer.stored) == 2


async def test_a_destination_that_does_not_offer_it_is_shown_and_asked_again(tmp_path: Path) -> None:
    with receiver() as peer:
        async with stand(tmp_path, archive(peer.port, destination=COMMIT)) as egress:
            await egress.request(egress.keep(make_study(tmp_path, 1)))

            async def told() -> bool:
                row = await egress.delivery()
                return row is not None and "does not offer storage commitment" in (row.reason or "")

            await egress.until(told)
            row = await egress.delivery()
            assert row is not None
            assert (row.state, row.confirm_asks) == ("waiting", 0)
            # It is sent to as before: who can't confirm is not one that can't be reached.
            await egress.request(egress.keep(make_study(tmp_path, 1)), study="1.2.4")
            await egress.until_state("waiting", study="1.2.4")
    assert len(peer.received) == 2


async def test_a_destination_that_refuses_the_request_is_asked_again(tmp_path: Path) -> None:
    with keeper() as peer:
        peer.status = 0x0213
        async with stand(tmp_path, archive(peer.port, destination=COMMIT)) as egress:
            await egress.request(egress.keep(make_study(tmp_path, 1)))

            async def told() -> bool:
                row = await egress.delivery()
                return row is not None and "status 0213" in (row.reason or "")

            await egress.until(told)
            peer.status = 0
            await egress.until_state("done")


async def test_other_content_needs_another_commitment(tmp_path: Path) -> None:
    with keeper() as peer:
        async with stand(tmp_path, archive(peer.port, destination=COMMIT)) as egress:
            first, second = make_study(tmp_path, 2)
            kept = egress.keep([first, second])
            earlier = datetime(2026, 11, 20, 10, tzinfo=UTC)
            kept = [each.model_copy(update={"received_at": earlier}) for each in kept]
            await egress.request(kept)
            await egress.until_state("done")
            changed = first.read_bytes()[:-2] + b"\x11\x22"
            first.write_bytes(changed)
            (other,) = egress.keep([first])
            other = other.model_copy(update={"received_at": earlier + timedelta(hours=1)})
            peer.reports = False
            await egress.request([other, kept[1]], study_version=2)
            await until_asked(egress)
            assert set(peer.requests[-1].instances) == {other.sop_instance_uid}
            row = await egress.delivery()
            assert row is not None
            assert row.state == "waiting"
            await report(egress, said(peer, peer.requests[-1]))
            await egress.until_state("done")
            assert len(await egress.events("delivery.completed")) == 2


async def test_a_commitment_to_an_earlier_sending_is_none_to_a_later(tmp_path: Path) -> None:
    """One content, another, then the first once more: what was said of the first sending says nothing of the last."""
    began = datetime(2026, 11, 20, 10, tzinfo=UTC)
    with keeper() as peer:
        peer.reports = False
        async with stand(tmp_path, archive(peer.port, destination=COMMIT), HASTY) as egress:
            (path,) = make_study(tmp_path, 1)
            (first,) = egress.keep([path])
            path.write_bytes(path.read_bytes()[:-2] + b"\x11\x22")
            (other,) = egress.keep([path])
            for version, content in enumerate((first, other, first), 1):
                at = began + timedelta(hours=version)
                await egress.request([content.model_copy(update={"received_at": at})], study_version=version)
                await until_requests(egress, peer, version)
            assert len(peer.stored) == 3
            for request in peer.requests[:2]:
                await report(egress, said(peer, request))
                row = await egress.delivery()
                assert row is not None
                assert row.state == "waiting"
            await report(egress, said(peer, peer.requests[2]))
            await egress.until_state("done")


async def test_a_restart_asks_for_what_was_about_to_be_asked(tmp_path: Path) -> None:
    with keeper() as peer:
        peer.reason = lambda _uid: 0
        before = Stand(f"sqlite://{tmp_path / 'db'}", tmp_path, archive(peer.port, destination=COMMIT))
        await migrate(before.database, "services.egress")
        await before.network.refresh()
        await before.work.adopt()
        await before.request(before.keep(make_study(tmp_path, 2)))
        stretches: dict[str, Stretch] = {}
        parcels = await before.work.claim("archive", 9, stretches)
        told = [(parcel, Outcome(parcel.item, Verdict.SENT, "0000")) for parcel in parcels]
        await before.work.settle("archive", told, [], list(stretches.values()), [Ending("finished")])
        (lost,) = await before.confirmations.claim("archive", "PACS")
        assert await before.confirmations.claim("archive", "PACS") == [], "another replica would ask for it, too"
        await before.database.close()
        async with stand(tmp_path, archive(peer.port, destination=COMMIT), name="b") as egress:
            await egress.until_state("done")
    (request,) = peer.requests
    assert request.transaction_uid != lost.transaction_uid
    assert len(request.instances) == 2


async def test_a_definition_that_asks_for_less_ends_the_wait(tmp_path: Path) -> None:
    with keeper() as peer:
        peer.reports = False
        async with stand(tmp_path, archive(peer.port, destination=COMMIT), HASTY) as egress:
            kept = egress.keep(make_study(tmp_path, 1))
            await egress.request(kept)
            await until_asked(egress)
            await egress.apply(archive(peer.port, 2))
            await egress.until_state("done")
            # What is done stays done when a definition asks for more, and the same request comes once more.
            await egress.apply(archive(peer.port, 3, destination=COMMIT))
            await egress.request(kept)
            row = await egress.delivery()
            assert row is not None
            assert row.state == "done"


async def test_nothing_is_asked_for_what_a_person_holds_but_what_is_reported_counts(tmp_path: Path) -> None:
    with keeper() as peer:
        peer.reports = False
        async with stand(tmp_path, archive(peer.port, destination=COMMIT), HASTY) as egress:
            await egress.request(egress.keep(make_study(tmp_path, 1)))
            row = await until_asked(egress)
            await egress.orders.give(Given("hold", "op"), [row.id])
            await report(egress, said(peer, peer.requests[0]))
            row = await egress.delivery()
            assert row is not None
            assert (row.state, row.confirm_at) == ("held", None)
            await egress.orders.give(Given("release", "op"), [row.id])
            await egress.until_state("done")
    assert len(peer.requests) == 1


async def test_two_replicas_ask_once(tmp_path: Path, postgresql: PostgreSQL) -> None:
    url = postgresql.database()
    with keeper() as peer:
        async with (
            stand(tmp_path, archive(peer.port, destination=COMMIT), database_url=url) as one,
            stand(tmp_path, archive(peer.port, destination=COMMIT), database_url=url, name="b") as other,
        ):
            for number in range(6):
                replica = (one, other)[number % 2]
                await replica.request(replica.keep(make_study(tmp_path, 2)), study=f"1.2.{number}")
            for number in range(6):
                await one.until_state("done", study=f"1.2.{number}")
    asked = Counter(uid for each in peer.requests for uid in each.instances)
    assert set(asked.values()) == {1}
    assert len(asked) == 12


async def test_orthanc_reports_on_an_association_of_its_own(tmp_path: Path) -> None:
    """What Orthanc reports goes to the port that it knows for us, where ingest takes it; here a listener stands in."""
    with listener() as ours:
        modality = {"AET": "KIVUKO", "Host": "127.0.0.1", "Port": ours.port, "AllowStorageCommitment": True}
        server = Orthanc(tmp_path / "orthanc", settings={"DicomModalities": {"kivuko": modality}})
        server.start()
        try:
            async with stand(tmp_path, archive(server.dicom_port, destination=COMMIT, aet="ORTHANC"), HASTY) as egress:
                await egress.request(egress.keep(make_study(tmp_path, 3)))
                row = await until_asked(egress)
                assert row.state == "waiting"
                first = await asyncio.to_thread(ours.reports.get, timeout=60)
                assert len(first.committed) == 3
                await report(egress, first)
                await egress.until_state("done")
                # What it lost before it was asked is sent to it once more.
                await egress.request(egress.keep(make_study(tmp_path, 2)), study="1.2.4")
                second = await asyncio.to_thread(ours.reports.get, timeout=60)
                uid = second.committed[0].sop_instance_uid
                lost = second.model_dump() | {"committed": [second.committed[1].model_dump()]}
                lost["failed"] = [second.committed[0].model_dump() | {"failure_reason": 0x0112}]
                await report(egress, CommitmentReported.model_validate(lost))
                third = await asyncio.to_thread(ours.reports.get, timeout=60)
                assert [each.sop_instance_uid for each in third.committed] == [uid]
                await report(egress, third)
                await egress.until_state("done", study="1.2.4")
        finally:
            server.close()
