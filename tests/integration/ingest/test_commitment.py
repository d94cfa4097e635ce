"""Archives that report storage commitment at our port, on associations of their own."""

import asyncio
import socket
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from pydicom import Dataset, dcmread
from pynetdicom import AE, build_role
from pynetdicom.presentation import build_context
from sqlalchemy import text

from libs.dimse import command as commands
from libs.dimse import commitment
from libs.dimse.command import Command
from libs.dimse.commitment import EXPLICIT, IMPLICIT, Failure, Reference, Report
from libs.dimse.commitment_scu import Asking
from libs.dimse.negotiation import Proposed, Request, Role
from libs.dimse.requestor import Association, Patience, RejectedError
from services.ingest import commitment as kept
from tests.integration.ingest.conftest import NETWORK, Running, running
from tests.integration.ingest.peer import send
from tests.support.association import CT
from tests.support.orthanc import Orthanc
from tests.support.synthetic import make_ct

pytestmark = pytest.mark.integration

PACS: dict[str, Any] = {"site": "bata", "host": "127.0.0.1", "commit": True}
BOTH = PACS | {"may": ["store"]}
NODES = NETWORK | {"nodes": NETWORK["nodes"] | {"PACS": PACS, "BOTH": BOTH, "ORTHANC": PACS}}
PATIENCE = Patience(acse=30, response=30, network=30)
KEPT, LOST = Reference(CT, "1.2.3.4"), Failure(CT, "1.2.3.5", 0x0112)
REPORT = Report("1.2.9", (KEPT,), (LOST,))
AS_SCP = Role(commitment.SOP_CLASS, scu=False, scp=True)


@contextmanager
def archive(
    port: int,
    calling: str = "PACS",
    *,
    roles: Sequence[Role] = (AS_SCP,),
    syntaxes: tuple[str, ...] = (EXPLICIT, IMPLICIT),
    stores: bool = False,
) -> Iterator[Association]:
    """Associate as an archive that puts on the wire whatever it is told to."""
    association = Association(socket.create_connection(("127.0.0.1", port)), PATIENCE)
    contexts = [Proposed(1, commitment.SOP_CLASS, syntaxes)]
    if stores:
        contexts.append(Proposed(3, CT, (IMPLICIT,)))
    association.ask(Request("KIVUKO", calling, tuple(contexts), 1 << 16, "1.2.3.4", roles=tuple(roles)))
    try:
        yield association
        association.release()
    finally:
        association.abort()


def said(
    association: Association,
    report: Report | bytes = REPORT,
    *,
    event: int = 2,
    sop_class: str = commitment.SOP_CLASS,
    instance: str = commitment.SOP_INSTANCE,
) -> int:
    """Report; give the status of the answer."""
    ((_, syntax), context_id) = next(iter(association.contexts.items()))
    dataset = report if isinstance(report, bytes) else commitment.encode_report(report, syntax)
    request = commands.event_report_request(7, sop_class, instance, event)
    association.send(context_id, request, (dataset,))
    return answered(association, request)


def answered(association: Association, request: Command) -> int:
    answer = association.receive().command
    assert answer.field == request.field | commands.RESPONSE
    assert answer.responded_to == request.message_id
    return answer.status


async def reported(ingest: Running) -> list[dict[str, Any]]:
    return [event["data"] for event in await ingest.events("commitment.reported")]


DATA = {
    "transaction_uid": "1.2.9",
    "node": "PACS",
    "committed": [{"sop_class_uid": CT, "sop_instance_uid": "1.2.3.4"}],
    "failed": [{"sop_class_uid": CT, "sop_instance_uid": "1.2.3.5", "failure_reason": 0x0112}],
}


@pytest.mark.parametrize(
    "roles", [(), (AS_SCP,), (Role(commitment.SOP_CLASS, scu=True, scp=True), Role(CT, scu=False, scp=True))]
)
@pytest.mark.parametrize("syntax", [IMPLICIT, EXPLICIT])
async def test_a_report_is_kept_before_it_is_answered(tmp_path: Path, roles: tuple[Role, ...], syntax: str) -> None:
    async with running(tmp_path / "home", network=NODES) as ingest:

        def go() -> int:
            with archive(ingest.port, roles=roles, syntaxes=(syntax,)) as association:
                return said(association)

        assert await asyncio.to_thread(go) == 0
        (event,) = await ingest.events("commitment.reported")
        assert (event["tenant"], event["site"], event["subject"]) == ("north", "bata", "1.2.9")
        assert event["data"] == DATA


async def test_both_databases_keep_it(tmp_path: Path, database_url: str) -> None:
    async with running(tmp_path / "home", network=NODES, database_url=database_url) as ingest:

        def go() -> int:
            with archive(ingest.port) as association:
                return said(association)

        assert await asyncio.to_thread(go) == 0
        assert await reported(ingest) == [DATA]


async def test_roles_are_answered_as_asked(tmp_path: Path) -> None:
    async with running(tmp_path / "home", network=NODES) as ingest:

        def agreed(*roles: Role) -> tuple[tuple[Role, ...], int]:
            association = Association(socket.create_connection(("127.0.0.1", ingest.port)), PATIENCE)
            contexts = (Proposed(1, commitment.SOP_CLASS, (IMPLICIT,)), Proposed(3, CT, (IMPLICIT,)))
            answer = association.ask(Request("KIVUKO", "BOTH", contexts, 1 << 16, "1.2.3.4", roles=roles))
            association.release()
            return answer.roles, len(association.contexts)

        def go() -> None:
            assert agreed() == ((), 2)
            assert agreed(AS_SCP) == ((AS_SCP,), 2)
            assert agreed(Role(commitment.SOP_CLASS, scu=True, scp=True)) == ((AS_SCP,), 2)
            assert agreed(AS_SCP, Role(CT, scu=True, scp=True)) == ((AS_SCP,), 2)
            # It wants us to commit, which we do not.
            assert agreed(Role(commitment.SOP_CLASS, scu=True, scp=False)) == ((), 1)

        await asyncio.to_thread(go)


async def test_a_long_report_is_several_events_and_all_of_it(tmp_path: Path) -> None:
    count = commitment.MOST_INSTANCES
    uids = [f"1.2.{'3' * 40}.{number}" for number in range(count)]
    report = Report(
        "1.2.9",
        tuple(Reference(CT, uid) for uid in uids[:-700]),
        tuple(Failure(CT, uid, 0x0110) for uid in uids[-700:]),
    )
    async with running(tmp_path / "home", network=NODES) as ingest:

        def go() -> int:
            with archive(ingest.port) as association:
                return said(association, report)

        assert await asyncio.to_thread(go) == 0
        events = await reported(ingest)
        assert all(0 < len(each["committed"]) + len(each["failed"]) <= 500 for each in events)
        assert {each["transaction_uid"] for each in events} == {"1.2.9"}
        named = [item["sop_instance_uid"] for each in events for item in each["committed"]]
        assert named == uids[:-700]
        assert [item["sop_instance_uid"] for each in events for item in each["failed"]] == uids[-700:]


async def test_a_report_that_cannot_be_kept_is_to_be_sent_again(tmp_path: Path, database_url: str) -> None:
    async with running(tmp_path / "home", network=NODES, database_url=database_url) as ingest:

        async def rename(old: str, new: str) -> None:
            async with ingest.database.transaction() as tx:
                await tx.execute(text(f"ALTER TABLE {old} RENAME TO {new}"))

        loop = asyncio.get_running_loop()

        def go() -> list[int]:
            def run(work: Any) -> None:
                asyncio.run_coroutine_threadsafe(work, loop).result(30)

            with archive(ingest.port) as association:
                run(rename("outbox", "away"))
                statuses = [said(association)]
                run(rename("away", "outbox"))
                return [*statuses, said(association)]

        assert await asyncio.to_thread(go) == [0x0110, 0]
        # One transaction: of the first nothing is there.
        assert await reported(ingest) == [DATA]


async def test_a_defect_is_answered_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def defect(*_args: object) -> None:
        raise RuntimeError("a defect")

    async with running(tmp_path / "home", network=NODES) as ingest:

        def go() -> list[int]:
            with archive(ingest.port) as association:
                with monkeypatch.context() as patched:
                    patched.setattr(kept, "events", defect)
                    statuses = [said(association)]
                return [*statuses, said(association)]

        assert await asyncio.to_thread(go) == [0x0110, 0]
        assert await reported(ingest) == [DATA]
    assert "by a defect" in capfd.readouterr().err


async def test_a_bad_report_changes_nothing_and_the_association_goes_on(tmp_path: Path) -> None:
    whole = commitment.encode_report(REPORT, EXPLICIT)
    async with running(tmp_path / "home", network=NODES) as ingest:

        def go() -> list[int]:
            with archive(ingest.port) as association:
                statuses = [
                    said(association, whole[:-20]),
                    said(association, whole.replace(b"1.2.3.4", b"1.2.3.x")),
                    said(association, whole[14:]),
                    said(association, bytes(commitment.LONGEST_REPORT + 2)),
                    said(association, event=3),
                    said(association, instance="1.2.3"),
                    said(association, sop_class=CT),
                ]
                bare = dict(commands.event_report_request(8, commitment.SOP_CLASS, commitment.SOP_INSTANCE, 1).elements)
                for request in (
                    Command(bare | {0x0800: b"\x01\x01"}),
                    commands.echo_request(9),
                    commitment.action_request(10),
                    commands.store_request(11, CT, "1.2.3"),
                ):
                    association.send(1, request, (b"ab",))
                    statuses.append(answered(association, request))
                return [*statuses, said(association)]

        statuses = await asyncio.to_thread(go)
        assert statuses == [
            *(0x0115, 0x0115, 0x0115, 0x0213, 0x0113, 0x0112, 0x0118),
            *(0x0115, 0x0211, 0x0211, 0x0122),
            0,
        ]
        assert await reported(ingest) == [DATA]
        assert ingest.spool == []


@pytest.mark.parametrize("calling", ["CT1", "OTHER"])
async def test_who_does_not_answer_commitment_may_not_report(tmp_path: Path, calling: str) -> None:
    async with running(tmp_path / "home", network=NODES) as ingest:

        def go() -> None:
            with pytest.raises(RejectedError) as refused, archive(ingest.port, calling):
                pass
            assert refused.value.rejection.result == 1

        await asyncio.to_thread(go)
        (event,) = await ingest.until_events("association.refused", 1)
        if calling == "CT1":
            assert "the node CT1 asks to report storage commitment" in event["data"]["reason"]
            assert "add `commit: true`" in event["data"]["reason"]
        assert await reported(ingest) == []


async def test_who_may_only_store_goes_on_storing(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    async with running(tmp_path / "home", network=NODES) as ingest:

        def go() -> None:
            with archive(ingest.port, "CT1", stores=True) as association:
                assert list(association.contexts) == [(CT, IMPLICIT)]
            assert send(ingest.port, [make_ct(tmp_path)]) == [0x0000]

        await asyncio.to_thread(go)
    assert "storage commitment refused" in capfd.readouterr().err


async def test_who_may_only_report_does_not_store(tmp_path: Path) -> None:
    async with running(tmp_path / "home", network=NODES) as ingest:

        def go() -> int:
            with archive(ingest.port, stores=True) as association:
                assert list(association.contexts) == [(commitment.SOP_CLASS, EXPLICIT)]
                return said(association)

        assert await asyncio.to_thread(go) == 0
        assert [each["node"] for each in await reported(ingest)] == ["PACS"]


async def test_one_that_breaks_off_in_its_report_has_said_nothing(tmp_path: Path) -> None:
    async with running(tmp_path / "home", network=NODES) as ingest:

        def go() -> None:
            with archive(ingest.port) as association:
                request = commands.event_report_request(7, commitment.SOP_CLASS, commitment.SOP_INSTANCE, 2)

                def pieces() -> Iterator[bytes]:
                    yield commitment.encode_report(REPORT, EXPLICIT)
                    raise ConnectionError

                with pytest.raises(ConnectionError):
                    association.send(1, request, pieces())
                association.abort()
            with archive(ingest.port) as association:
                assert said(association) == 0

        await asyncio.to_thread(go)
        assert await reported(ingest) == [DATA]


async def test_pynetdicom_reports_on_a_new_association(tmp_path: Path) -> None:
    async with running(tmp_path / "home", network=NODES) as ingest:

        def go() -> int:
            entity = AE("PACS")
            association = entity.associate(
                "127.0.0.1",
                ingest.port,
                [build_context(commitment.SOP_CLASS)],
                ae_title="KIVUKO",
                ext_neg=[build_role(commitment.SOP_CLASS, scp_role=True)],
            )
            assert association.is_established
            kept, lost, report = Dataset(), Dataset(), Dataset()
            kept.ReferencedSOPClassUID = lost.ReferencedSOPClassUID = CT
            kept.ReferencedSOPInstanceUID, lost.ReferencedSOPInstanceUID = "1.2.3.4", "1.2.3.5"
            lost.FailureReason = 0x0112
            report.TransactionUID = "1.2.9"
            report.FailedSOPSequence, report.ReferencedSOPSequence = [lost], [kept]
            answer, _ = association.send_n_event_report(report, 2, commitment.SOP_CLASS, commitment.SOP_INSTANCE)
            association.release()
            return int(answer.Status)

        assert await asyncio.to_thread(go) == 0
        assert await reported(ingest) == [DATA]


async def test_orthanc_reports_what_it_holds_and_what_it_does_not(tmp_path: Path) -> None:
    path = make_ct(tmp_path)
    held = str(dcmread(path, stop_before_pixels=True).SOPInstanceUID)

    def go(port: int) -> None:
        modality = {"AET": "KIVUKO", "Host": "127.0.0.1", "Port": port, "AllowStorageCommitment": True}
        orthanc = Orthanc(tmp_path / "orthanc", settings={"DicomModalities": {"kivuko": modality}})
        try:
            orthanc.start()
            with httpx.Client(base_url=orthanc.http_url, timeout=60, trust_env=False) as http:
                http.post("/instances", content=path.read_bytes()).raise_for_status()
            association = Association(socket.create_connection(("127.0.0.1", orthanc.dicom_port)), PATIENCE)
            association.ask(Request("ORTHANC", "KIVUKO", (commitment.proposed(1),), 1 << 16, "1.2.3.4"))
            references = (Reference(CT, held), Reference(CT, "1.2.3.5"))
            assert Asking(association).ask(1, "1.2.9", references).status == 0
            association.release()
            done.wait(60)
        finally:
            orthanc.close()

    done = threading.Event()
    async with running(tmp_path / "home", network=NODES) as ingest:
        asked = asyncio.ensure_future(asyncio.to_thread(go, ingest.port))
        try:
            (event,) = await ingest.until_events("commitment.reported", 1)
        finally:
            done.set()
            await asked
        assert event["data"] == DATA | {
            "node": "ORTHANC",
            "committed": [{"sop_class_uid": CT, "sop_instance_uid": held}],
        }
