"""Performed procedure steps over the network, with peers that nobody here wrote."""

import asyncio
import ssl
import struct
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from pydicom.dataset import Dataset
from pydicom.tag import Tag
from pynetdicom.dsutils import encode
from sqlalchemy import select, update

from services.worklist import forward_rows
from services.worklist.attributes import Attributes
from services.worklist.dataset import EXPLICIT, IMPLICIT
from services.worklist.models import mpps, mpps_forwards
from tests.integration.worklist.modality import Modality, Ris, Running, native, network, running
from tests.support.authority import Authority
from tests.unit.worklist.performed import MPPS, created, ended, made

pytestmark = pytest.mark.integration


@pytest.fixture
def ris() -> Iterator[Ris]:
    server = Ris()
    yield server
    server.close()


@pytest.fixture
async def worklist(tmp_path: Path, ris: Ris, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Running]:
    monkeypatch.setenv("KIVUKO_WORKLIST_FORWARD_FIRST", "0.05")
    monkeypatch.setenv("KIVUKO_WORKLIST_FORWARD_CAP", "0.2")
    async with running(tmp_path, network(ris.port)) as found:
        yield found


async def rows(worklist: Running, table: Any) -> list[Any]:
    async with worklist.database.reading() as tx:
        return list((await tx.execute(select(table))).all())


async def until_forwarded(worklist: Running, met: Callable[[Any], bool] = lambda row: row.state == "done") -> Any:
    async with asyncio.timeout(60):
        while not met(row := (await rows(worklist, mpps_forwards))[0]):  # noqa: ASYNC110 (what is waited for is in a database)
            await asyncio.sleep(0.02)
    return row


def hex_of(status: Dataset) -> str:
    return f"{status.Status:04X}"


async def test_a_modality_reports_a_step_and_asks_for_it(worklist: Running) -> None:
    def report() -> list[str]:
        with Modality(worklist.port) as ct:
            statuses = [ct.create(created(), MPPS)[0]]
            statuses.append(ct.create(created(), MPPS)[0])
            statuses.append(ct.set(ended(PerformedProcedureStepDescription=("Schädel",)), MPPS)[0])
            again = ct.set(ended(), MPPS)[0]
            assert again.ErrorID == 0xA710
            assert again.ErrorComment == "Performed Procedure Step Object may no longer be updated"
            statuses.append(again)
            statuses.append(ct.set(ended(), f"{MPPS}.9")[0])
            status, given = ct.get(MPPS, [])
            statuses.append(status)
            assert given is not None
            assert given.PerformedProcedureStepStatus == "COMPLETED"
            assert given.PerformedProcedureStepDescription == "Schädel"
            assert str(given.PatientName) == "Nguema^Jané"
            assert len(given.PerformedSeriesSequence[0].ReferencedImageSequence) == 2
            statuses.append(ct.get(f"{MPPS}.9", [])[0])
            return [hex_of(status) for status in statuses]

    assert await asyncio.to_thread(report) == ["0000", "0111", "0000", "0110", "0112", "0000", "0112"]


async def test_what_is_wrong_is_named_to_the_modality(worklist: Running) -> None:
    def report() -> tuple[Dataset, Dataset, Dataset]:
        with Modality(worklist.port) as ct:
            # The wrong values come with it, which the peer reads past.
            wrong, _ = ct.create(created(PerformedProcedureStepStatus=("DISCONTINUED",)), MPPS)
            lacking = dict(created())
            del lacking["PerformedStationAETitle"]
            missing, _ = ct.create(lacking, MPPS)
            ct.create(created(), MPPS)
            empty, _ = ct.set(ended(PerformedSeriesSequence=()), MPPS)
            return wrong, missing, empty

    wrong, missing, empty = await asyncio.to_thread(report)
    assert [hex_of(each) for each in (wrong, missing, empty)] == ["0106", "0120", "0121"]
    assert missing.ErrorComment == "PerformedStationAETitle is missing"


def without(said: Attributes, keyword: str) -> Attributes:
    return {each: values for each, values in said.items() if each != keyword}


STATUS, STATION = "PerformedProcedureStepStatus", "PerformedStationAETitle"
#: Status (PS3.7 annex C, PS3.4 table F.7.2-2), whether the network is strict, and the request that it answers; the step
#: MPPS is in progress, and the step MPPS.1 is over.
ANSWERS: list[tuple[int, bool, Callable[[Modality], Dataset]]] = [
    (0x0000, True, lambda ct: ct.create(created(), f"{MPPS}.2")[0]),
    (0x0001, False, lambda ct: ct.get(MPPS, [Tag("PatientID"), Tag(0x00091001)])[0]),
    (0x0105, True, lambda ct: ct.set({"PatientID": ("200",)}, MPPS)[0]),
    (0x0105, True, lambda ct: ct.set({"CommentsOnThePerformedProcedureStep": ("never created",)}, MPPS)[0]),
    (0x0106, False, lambda ct: ct.create({**created(), STATUS: ("COMPLETED",)}, f"{MPPS}.2")[0]),
    (0x0106, False, lambda ct: ct.set({STATUS: ("PAUSED",)}, MPPS)[0]),
    (0x0107, False, lambda ct: ct.set({"PatientID": ("200",)}, MPPS)[0]),
    (0x0110, False, lambda ct: ct.create_raw(b"\x40\0\x70\2\x10\0\0\0none", f"{MPPS}.2")),
    (0x0110, False, lambda ct: ct.set(ended(), f"{MPPS}.1")[0]),
    (0x0110, True, lambda ct: ct.set({STATUS: ("IN PROGRESS",)}, f"{MPPS}.1")[0]),
    (0x0111, False, lambda ct: ct.create(created(), MPPS)[0]),
    (0x0111, False, lambda ct: ct.create(created(), f"{MPPS}.1")[0]),
    (0x0112, False, lambda ct: ct.set(ended(), f"{MPPS}.9")[0]),
    (0x0112, False, lambda ct: ct.get(f"{MPPS}.9", [])[0]),
    (0x0117, False, lambda ct: ct.create(created(), "1.2.x")[0]),
    (0x0120, False, lambda ct: ct.create(without(created(), STATION), f"{MPPS}.2")[0]),
    (0x0120, True, lambda ct: ct.create(without(created(), "PatientName"), f"{MPPS}.3")[0]),
    (0x0121, False, lambda ct: ct.create({**created(), STATION: ()}, f"{MPPS}.2")[0]),
    (0x0121, False, lambda ct: ct.set(ended(PerformedSeriesSequence=()), MPPS)[0]),
]


@pytest.mark.filterwarnings("ignore:Invalid value for VR UI")  # that is what it sends
@pytest.mark.parametrize("strict", [False, True])
async def test_each_status_goes_over_the_wire_and_what_is_refused_changes_nothing(tmp_path: Path, strict: bool) -> None:
    """Each on an association of its own, as modalities speak."""
    async with running(tmp_path, network(mpps={"strict": strict})) as worklist:

        def report(requests: list[Callable[[Modality], Dataset]]) -> list[Dataset]:
            answers = []
            for request in requests:
                with Modality(worklist.port) as ct:
                    answers.append(request(ct))
            return answers

        begin = [
            lambda ct: ct.create(created(), MPPS)[0],
            lambda ct: ct.create(created(), f"{MPPS}.1")[0],
            lambda ct: ct.set(ended(), f"{MPPS}.1")[0],
        ]
        assert [hex_of(each) for each in await asyncio.to_thread(report, begin)] == ["0000"] * 3
        before = {row.sop_instance_uid: row.attributes for row in await rows(worklist, mpps)}
        expected = [(status, request) for status, of_strict, request in ANSWERS if of_strict is strict]
        answers = await asyncio.to_thread(report, [request for _, request in expected])
        assert [hex_of(each) for each in answers] == [f"{status:04X}" for status, _ in expected]
        over = [each.ErrorID for each in answers if each.Status == 0x0110 and each.get("ErrorID")]
        assert over == [0xA710]
        after = {row.sop_instance_uid: row.attributes for row in await rows(worklist, mpps)}
        assert {uid: after[uid] for uid in before} == before
        assert after.keys() - before.keys() == ({f"{MPPS}.2"} if strict else set())


async def test_a_modality_that_gives_no_uid_gets_one(worklist: Running) -> None:
    def report() -> Dataset:
        with Modality(worklist.port) as ct:
            return ct.create(created(), None)[0]

    assert hex_of(await asyncio.to_thread(report)) == "0000"
    assert [row.state for row in await rows(worklist, mpps)] == ["in-progress"]


async def test_many_images_are_taken(worklist: Running) -> None:
    many = made("1.2.3", *(f"1.2.3.{number}" for number in range(5000)))

    def report() -> list[str]:
        with Modality(worklist.port) as ct:
            return [hex_of(ct.create(created(), MPPS)[0]), hex_of(ct.set(ended("COMPLETED", many), MPPS)[0])]

    assert await asyncio.to_thread(report) == ["0000", "0000"]
    assert [row.instance_count for row in await rows(worklist, mpps)] == [5000]


async def report_whole(worklist: Running, uid: str = MPPS) -> None:
    def report() -> None:
        with Modality(worklist.port) as ct:
            assert hex_of(ct.create(created(), uid)[0]) == "0000"
            assert hex_of(ct.set({"PerformedProcedureTypeDescription": ("CT",)}, uid)[0]) == "0000"
            assert hex_of(ct.set(ended(), uid)[0]) == "0000"

    await asyncio.to_thread(report)


async def test_a_step_is_passed_on_in_the_order_in_which_it_was_reported(worklist: Running, ris: Ris) -> None:
    await report_whole(worklist)
    heard = await asyncio.to_thread(ris.until, 3)
    assert [(operation, uid) for operation, uid, _ in heard] == [("N-CREATE", MPPS), ("N-SET", MPPS), ("N-SET", MPPS)]
    assert [each.get("PerformedProcedureStepStatus") for _, _, each in heard] == ["IN PROGRESS", None, "COMPLETED"]
    assert str(heard[0][2].PatientName) == "Nguema^Jané"
    assert (await until_forwarded(worklist)).sent == 3


async def test_what_fails_is_tried_until_it_is_there(worklist: Running, ris: Ris) -> None:
    tries: list[str] = []

    def answer(operation: str, _uid: str) -> tuple[int, int | None]:
        tries.append(operation)
        return (0xA700, None) if len(tries) in (1, 2, 4) else (0, None)

    ris.answers = answer
    await report_whole(worklist)
    assert (await until_forwarded(worklist)).sent == 3
    assert tries == ["N-CREATE"] * 3 + ["N-SET"] * 3


async def test_an_answer_that_was_lost_costs_nothing(worklist: Running, ris: Ris) -> None:
    """It was taken before, and nobody noted it: the RIS says that it has it."""
    known: set[str] = set()

    def answer(operation: str, uid: str) -> tuple[int, int | None]:
        if operation == "N-CREATE":
            return (0x0111, None) if uid in known else (0, None)
        return 0x0110, 0xA710

    known.add(MPPS)
    ris.answers = answer
    await report_whole(worklist)
    row = await until_forwarded(worklist)
    assert (row.sent, row.problem) == (3, None)


async def test_a_ris_that_has_forgotten_a_step_gets_it_from_the_first(worklist: Running, ris: Ris) -> None:
    forgets = iter([True])

    def answer(operation: str, _uid: str) -> tuple[int, int | None]:
        return (0x0112, None) if operation == "N-SET" and next(forgets, False) else (0, None)

    ris.answers = answer
    await report_whole(worklist)
    await until_forwarded(worklist)
    assert [operation for operation, _, _ in ris.heard] == ["N-CREATE", "N-SET", "N-CREATE", "N-SET", "N-SET"]


async def test_what_is_refused_waits_for_people(worklist: Running, ris: Ris) -> None:
    ris.answers = lambda _operation, _uid: (0x0120, None)
    await report_whole(worklist)
    row = await until_forwarded(worklist, lambda row: row.state == "failed")
    assert row.sent == 0
    assert row.problem == "it answers the N-CREATE with status 0120"


async def test_a_ris_that_is_away_gets_it_when_it_is_back(worklist: Running, ris: Ris) -> None:
    port = ris.port
    ris.close()
    await report_whole(worklist)
    await until_forwarded(worklist, lambda row: row.problem is not None)
    back = Ris(port)
    try:
        await asyncio.to_thread(back.until, 3)
        await until_forwarded(worklist)
    finally:
        back.close()


async def test_what_a_killed_process_had_in_hand_is_sent_by_the_next(tmp_path: Path, ris: Ris) -> None:
    async with running(tmp_path, network()) as first:
        await report_whole(first)
        async with first.database.transaction() as tx:
            (row,) = (await tx.execute(select(mpps))).all()
            await tx.execute(
                mpps_forwards.insert().values(
                    mpps_id=row.id,
                    node="RIS",
                    sent=0,
                    state="open",
                    failures=0,
                    due_at=row.created_at,
                    changed_at=row.created_at,
                    leased_by="dead",
                    leased_until=row.created_at,
                )
            )
    async with running(tmp_path, network(ris.port), version=2) as second:
        await asyncio.to_thread(ris.until, 3)
        await until_forwarded(second)


async def test_nothing_that_comes_while_a_step_is_passed_on_is_left_behind(worklist: Running, ris: Ris) -> None:
    """The N-SET comes while the RIS is asked about the N-CREATE, and finds the forward neither open nor done."""
    await report_whole(worklist)
    await until_forwarded(worklist)
    async with worklist.database.transaction() as tx:
        await tx.execute(update(mpps_forwards).values(state="open", sent=2))
    await asyncio.to_thread(ris.until, 3)
    # Two messages are noted, three are there: it is not done.
    async with worklist.database.transaction() as tx:
        (row,) = (await tx.execute(select(mpps_forwards))).all()
        await tx.execute(update(mpps_forwards).values(leased_by="other"))
        await forward_rows.note_sent(tx, "RIS", row.mpps_id, 2, "other", row.changed_at)
        assert (await tx.execute(select(mpps_forwards.c.state))).scalar_one() == "open"


@pytest.mark.parametrize("taken", [IMPLICIT, EXPLICIT])
async def test_what_no_keyword_names_comes_back_and_goes_on_as_it_came(
    tmp_path: Path, taken: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The RIS takes one transfer syntax only, the modality speaks explicit VR, in Latin-1."""
    monkeypatch.setenv("KIVUKO_WORKLIST_FORWARD_FIRST", "0.05")
    said, inner = native(created()), Dataset()
    said.SpecificCharacterSet = "ISO_IR 100"
    inner.add_new(0x00110020, "LO", "ACME")
    inner.add_new(0x00112001, "OB", b"\1\2")
    private = {
        0x00090010: ("LO", "ACME 1.1"),
        0x00091001: ("LO", "Schädel"),
        0x00091002: ("OB", bytes(range(256))),
        0x00091003: ("UN", b"\0\1\2\3"),
        0x00091004: ("SQ", [inner]),
        0x00091005: ("FD", [1.5, -2.0]),
    }
    for tag, (vr, value) in private.items():
        said.add_new(tag, vr, value)
    icon = Dataset()
    icon.PixelData = b"\7\0" * 8
    icon["PixelData"].VR = "OW"
    said.IconImageSequence = [icon]

    def report(port: int) -> Dataset:
        with Modality(port, "CT1", EXPLICIT) as ct:
            assert hex_of(ct.create(said, MPPS)[0]) == "0000"
            more = Dataset()
            more.add_new(0x00090030, "LO", "ACME 1.1")
            more.add_new(0x00093003, "UN", b"\4\5")
            assert hex_of(ct.set(more, MPPS)[0]) == "0000"
            status, given = ct.get(MPPS, [])
            assert hex_of(status) == "0000"
            assert given is not None
            (some, only) = ct.get(MPPS, [Tag(0x00093002)])
            assert hex_of(some) == "0000"
            assert only is not None
            assert only.private_block(9, "ACME 1.1")[2].value == bytes(range(256))
            return given

    ris = Ris(0, taken)
    try:
        async with running(tmp_path, network(ris.port)) as worklist:
            given = await asyncio.to_thread(report, worklist.port)
            heard = (await asyncio.to_thread(ris.until, 2))[0][2]
    finally:
        ris.close()
    block = given.private_block(9, "ACME 1.1")
    for tag, (vr, value) in private.items():
        if tag & 0xFF00:
            expected = b"\4\5" if tag == 0x00091003 else value
            assert (block[tag & 0xFF].VR, block[tag & 0xFF].value) == (vr, expected)
    assert given.IconImageSequence[0].PixelData == icon.PixelData
    # What is passed on has the same bytes, of which implicit VR leaves out what they are.
    if taken == EXPLICIT:
        assert encode(heard, False, True) == encode(said, False, True)
    else:
        assert heard[0x00091001].value == "Schädel ".encode("latin-1")
        assert heard[0x00091002].value == bytes(range(256))
        assert heard[0x00091005].value == struct.pack("<2d", 1.5, -2.0)
        assert heard.IconImageSequence[0].PixelData == icon.PixelData
    assert heard.SpecificCharacterSet == "ISO_IR 100"
    assert str(heard.PatientName) == "Nguema^Jané"


async def test_a_step_is_passed_on_over_tls_to_whom_the_network_trusts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KIVUKO_WORKLIST_FORWARD_FIRST", "0.05")
    monkeypatch.setenv("KIVUKO_WORKLIST_FORWARD_CAP", "0.2")
    monkeypatch.setenv("KIVUKO_WORKLIST_SECRETS", str(tmp_path / "secrets"))
    authority, stranger = Authority(tmp_path / "ca"), Authority(tmp_path / "stranger", "stranger")
    ours = authority.issue("kivuko")
    named = tmp_path / "secrets" / "ris-client"
    named.mkdir(parents=True)
    for source, name in ((ours.certificate, "tls.crt"), (ours.key, "tls.key"), (authority.certificate, "ca.crt")):
        (named / name).write_bytes(source.read_bytes())

    def ris_with(issuer: Authority) -> Ris:
        own = issuer.issue("ris")
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(own.certificate, own.key)
        context.load_verify_locations(authority.certificate)
        context.verify_mode = ssl.CERT_REQUIRED
        return Ris(context=context)

    trusted, other, third = ris_with(authority), ris_with(authority), ris_with(stranger)
    nodes = {
        "CT1": {"site": "malabo", "host": "127.0.0.1", "may": ["mpps"]},
        "RIS": {"site": "malabo", "host": "localhost", "port": trusted.port, "tls": True},
        "NAMED": {"site": "malabo", "host": "localhost", "port": other.port, "tls": {"client": "ris-client"}},
        "LOST": {"site": "malabo", "host": "localhost", "port": other.port, "tls": {"client": "not-there"}},
        "THIRD": {"site": "malabo", "host": "localhost", "port": third.port, "tls": True},
    }
    definition = network(nodes=nodes, mpps={"forward": ["RIS", "NAMED", "LOST", "THIRD"]})
    files: dict[str, Any] = {"tls_certificate": ours.certificate, "tls_key": ours.key, "tls_ca": authority.certificate}
    try:
        async with running(tmp_path / "home", definition, **files) as worklist:
            await report_whole(worklist)
            for ris in (trusted, other):
                heard = await asyncio.to_thread(ris.until, 3)
                assert [operation for operation, _, _ in heard] == ["N-CREATE", "N-SET", "N-SET"]
            found: dict[str, Any] = {}
            async with asyncio.timeout(60):
                while len(found) < 4 or any(row.state == "open" and row.problem is None for row in found.values()):
                    found = {row.node: row for row in await rows(worklist, mpps_forwards)}
                    await asyncio.sleep(0.02)
    finally:
        for ris in (trusted, other, third):
            ris.close()
    assert {node: row.state for node, row in found.items()} == {
        "RIS": "done",
        "NAMED": "done",
        "LOST": "open",
        "THIRD": "open",
    }
    assert third.heard == []
    assert "certificate" in found["THIRD"].problem
    assert "asks for TLS" in found["LOST"].problem
