"""Who may ask what at the worklist port, how answers end, and what is recorded and explained of them."""

import socket
import subprocess
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import FastAPI, Request
from pydicom import Dataset

from libs.dimse import command as commands
from libs.dimse.negotiation import Proposed
from libs.dimse.negotiation import Request as Asked
from libs.dimse.requestor import Association, Patience, RejectedError
from libs.web.principal import LOCAL, Principal
from services.worklist.caller import Caller, Done
from services.worklist.dicom import MPPS, MPPS_RETRIEVE, WORKLIST
from services.worklist.query_api import make_query_router
from tests.support.authority import Authority
from tests.support.process import program
from tests.support.worklist import NOW, STEPS, Worklist, find

IMPLICIT = "1.2.840.10008.1.2"
NODES: dict[str, dict[str, Any]] = {
    "CT1": {},
    "LIMITED": {"worklist": {"limit": 3}},
    "OWN": {"worklist": {"stations": "own"}},
    "MROOM": {"worklist": {"modalities": "MR"}},
    "WIDE": {"worklist": {"sites": "all"}},
    "TWO": {"worklist": {"sites": ["s", "t"], "charset": ["ISO_IR 144"]}},
    "LATIN": {"worklist": {"charset": "ISO_IR 100", "names": "fold"}},
    "STORES": {"may": ["store"]},
    "OTHER": {"site": "u"},
    "MPPS1": {"may": ["mpps"]},
}


def item(number: int, *, name: str = "DOE^JANE", station: str = "CT1", modality: str = "CT") -> dict[str, Any]:
    return {
        "AccessionNumber": (f"A{number}",),
        "PatientName": (name,),
        "PatientID": (f"P{number}",),
        STEPS: (
            {
                "ScheduledStationAETitle": (station,) if station else (),
                "ScheduledProcedureStepStartDate": (f"202611{20 + number:02}",),
                "ScheduledProcedureStepStartTime": ("100000",),
                "Modality": (modality,),
            },
        ),
    }


class Steps:
    """Takes performed procedure steps, and keeps what it was told."""

    def __init__(self) -> None:
        self.calls: list[tuple[Any, ...]] = []

    def create(self, caller: Caller, sop_instance_uid: str, dataset: bytes, syntax: str) -> Done:
        self.calls.append(("create", caller.node, sop_instance_uid, dataset, syntax))
        return Done(0)

    def set(self, caller: Caller, sop_instance_uid: str, dataset: bytes, syntax: str) -> Done:
        self.calls.append(("set", caller.node, sop_instance_uid, dataset, syntax))
        return Done(0x0110, comment="over", error_id=0xA710)

    def get(self, caller: Caller, sop_instance_uid: str, attributes: tuple[int, ...], syntax: str) -> Done:
        self.calls.append(("get", caller.node, sop_instance_uid, attributes, syntax))
        return Done(0, b"\x10\x00\x20\x00\x02\x00\x00\x00P1")


@pytest.fixture(scope="module")
def steps() -> Steps:
    return Steps()


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def worklist(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, steps: Steps
) -> Iterator[Worklist]:
    url = request.getfixturevalue("postgresql").database() if request.param == "postgresql" else None
    steps.calls.clear()
    with Worklist(tmp_path_factory.mktemp("port"), NODES, url=url, steps=steps) as running:
        running.add(
            {"attributes": item(1)},
            {"attributes": item(2, name="Люк^Иван")},
            {"attributes": item(3, station="MR1", modality="MR")},
            {"attributes": item(4, station="OWN")},
            {"attributes": item(5, station="")},
            {"attributes": item(6, name="Müller^José"), "site": "t"},
            {"attributes": item(7), "state": "cancelled"},
            {"attributes": item(8), "state": "started", "performed": "completed"},
            {"attributes": item(9, name="Ángel^Núñez"), "changed_at": NOW + timedelta(days=1)},
        )
        running.add({"attributes": item(10, name="ELSE^WHERE"), "site": "u"}, tenant="other")
        running.seen(8)
        yield running


def query(**keys: str) -> Dataset:
    found = Dataset()
    for keyword, value in {"AccessionNumber": "", "PatientName": "", **keys}.items():
        setattr(found, keyword, value)
    return found


def numbers(answers: list[Dataset]) -> list[int]:
    return [int(str(each.AccessionNumber)[1:]) for each in answers]


@pytest.mark.parametrize(
    ("calling", "seen"),
    [
        ("CT1", [1, 2, 3, 4, 5, 9]),
        ("OWN", [4, 5]),
        ("MROOM", [3]),
        ("WIDE", [1, 2, 3, 4, 5, 6, 9]),
        ("TWO", [1, 2, 3, 4, 5, 6, 9]),
        ("OTHER", [10]),
    ],
)
def test_a_node_sees_what_the_definition_lets_it_see_by_start(
    worklist: Worklist, calling: str, seen: list[int]
) -> None:
    assert numbers(find(worklist.port_number, query(), calling=calling)[0]) == seen


def test_an_answer_that_can_not_have_all_says_so_and_has_those_from_today_on(worklist: Worklist) -> None:
    answers, said = find(worklist.port_number, query(), calling="LIMITED")
    assert numbers(answers) == [2, 3, 4]
    assert "OutOfResources" in said


def test_names_are_folded_where_the_definition_says_so_and_fit_the_screen(worklist: Worklist) -> None:
    asked = query(PatientName="angel")
    assert find(worklist.port_number, asked)[0] == []
    (answer,) = find(worklist.port_number, asked, calling="LATIN")[0]
    assert str(answer.PatientName) == "Ángel^Núñez"
    answers, said = find(worklist.port_number, query(PatientID="P2"), calling="LATIN")
    assert [str(each.PatientName) for each in answers] == ["Liuk^Ivan"]
    assert "Success" in said
    (answer,) = find(worklist.port_number, query(PatientID="P2"), calling="TWO")[0]
    assert (answer.SpecificCharacterSet, str(answer.PatientName)) == ("ISO_IR 144", "Люк^Иван")


@pytest.mark.parametrize(
    ("charset", "name"), [("ISO_IR 144", "Люк*"), ("ISO_IR 192", "Люк*"), ("ISO 2022 IR 6\\ISO 2022 IR 144", "Люк^*")]
)
def test_a_query_may_be_in_letters_that_the_modality_can_not_show_in_answers(
    worklist: Worklist, charset: str, name: str
) -> None:
    """PS3.4 section C.2.2.2: its character set is that of the request, and says nothing of the answer's."""
    asked = query(SpecificCharacterSet=charset, PatientName=name)
    (answer,) = find(worklist.port_number, asked, calling="LATIN")[0]
    assert (answer.SpecificCharacterSet, str(answer.PatientName)) == ("ISO_IR 100", "Liuk^Ivan")


@pytest.mark.parametrize(("calling", "called"), [("NOBODY", "KIVUKO"), ("STORES", "KIVUKO"), ("CT1", "WRONG")])
def test_who_is_not_known_or_may_not_ask_is_rejected(worklist: Worklist, calling: str, called: str) -> None:
    answers, said = find(worklist.port_number, query(), calling=calling, called=called)
    assert answers == []
    assert "Association Rejected" in said


def test_an_echo_is_answered(worklist: Worklist) -> None:
    command = [program("echoscu", "dcmtk"), "-aet", "CT1", "-aec", "KIVUKO", "127.0.0.1", str(worklist.port_number)]
    assert subprocess.run(command, capture_output=True, check=False, timeout=60).returncode == 0


def test_findscu_can_cancel(worklist: Worklist) -> None:
    # What is on its way when the cancel comes is still taken; nothing may hang or fail.
    answers, said = find(worklist.port_number, query(), flags=["--cancel", "1"])
    assert 1 <= len(answers) <= 6
    assert "Cancel" in said


class Modality:
    """An association of our own, to say what no program of dcmtk says."""

    def __init__(self, port: int, calling: str, *classes: str) -> None:
        connected = socket.create_connection(("127.0.0.1", port))
        self.association = Association(connected, Patience(acse=30, response=30, network=30))
        proposed = tuple(Proposed(2 * at + 1, each, (IMPLICIT,)) for at, each in enumerate(classes))
        self.association.ask(Asked("KIVUKO", calling, proposed, 1 << 16, "1.2.3.4"))

    def __enter__(self) -> Association:
        return self.association

    def __exit__(self, *_: object) -> None:
        self.association.release()


def test_what_is_no_identifier_is_told_so(worklist: Worklist) -> None:
    with Modality(worklist.port_number, "CT1", WORKLIST) as association:
        association.send(1, commands.find_request(1, WORKLIST), (b"\x10\x00\x10\x00\xff\x00\x00\x00AB",))
        assert association.receive().command.status == 0xA900


def test_performed_steps_go_to_who_takes_them(worklist: Worklist, steps: Steps) -> None:
    with Modality(worklist.port_number, "MPPS1", MPPS, MPPS_RETRIEVE) as association:
        association.send(1, commands.create_request(1, MPPS, "1.2.9"), (b"\x10\x00\x20\x00\x02\x00\x00\x00P1",))
        created = association.receive().command
        association.send(1, commands.create_request(2, MPPS, ""), (b"\x10\x00\x20\x00\x00\x00\x00\x00",))
        made = association.receive().command
        association.send(1, commands.set_request(3, MPPS, "1.2.9"), (b"\x10\x00\x20\x00\x02\x00\x00\x00P2",))
        refused = association.receive().command
        association.send(3, commands.get_request(4, MPPS_RETRIEVE, "1.2.9", [0x00100020]), ())
        got = association.receive()
    assert (created.status, created.sop_instance_uid) == (0, "1.2.9")
    assert made.sop_instance_uid == steps.calls[1][2]
    assert steps.calls[1][2].startswith("2.25.")
    assert (refused.status, refused.error_id, refused.comment) == (0x0110, 0xA710, "over")
    assert (got.command.status, got.dataset) == (0, b"\x10\x00\x20\x00\x02\x00\x00\x00P1")
    assert [call[0] for call in steps.calls] == ["create", "create", "set", "get"]
    assert steps.calls[3][3] == (0x00100020,)
    with pytest.raises(RejectedError):
        Modality(worklist.port_number, "MPPS1", WORKLIST)


async def call(worklist: Worklist, path: str, caller: Principal = LOCAL, **query: str | int) -> Any:
    """Ask over HTTP as a principal."""
    app = FastAPI()
    app.include_router(make_query_router(worklist.database, worklist.view), prefix="/v1/worklist")

    class Use:
        def declared(self, *_: object) -> None: ...

        async def begin(self) -> None: ...

    @app.middleware("http")
    async def signed(request: Request, go: Any) -> Any:
        request.state.principal, request.state.use = caller, Use()
        return await go(request)

    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://kivuko") as client:
        answer = await client.get(f"/v1/worklist{path}", params=query)
        assert answer.status_code == 200, answer.text
        return answer.json()


def asked(worklist: Worklist, path: str, caller: Principal = LOCAL, **query: str | int) -> Any:
    async def written() -> Any:
        running = worklist.port._running
        assert running is not None
        await running.queries.write()
        return await call(worklist, path, caller, **query)

    return worklist.run(written())


def test_what_was_asked_is_recorded_and_counted(worklist: Worklist) -> None:
    for _ in range(3):
        find(worklist.port_number, query(PatientID="P3"), calling="MROOM")
    find(worklist.port_number, query(PatientID="P1"), calling="MROOM")
    newest, before, *_ = asked(worklist, "/queries", ae="MROOM")["queries"]
    assert (newest["keys"]["PatientID"], newest["count"], newest["hidden"], newest["times"]) == ("P1", 0, 1, 1)
    assert (before["keys"]["PatientID"], before["count"], before["times"]) == ("P3", 1, 3)
    assert asked(worklist, "/queries", Principal("x", "operator", tenants=frozenset({"other"})))["queries"] == [
        each for each in asked(worklist, "/queries")["queries"] if each["tenant"] == "other"
    ]


@pytest.mark.parametrize(
    ("calling", "keys", "number", "kinds", "words"),
    [
        ("CT1", {"PatientID": "P3"}, 1, ["key"], "PatientID 'P3'"),
        ("CT1", {"PatientName": "SMITH*"}, 1, ["key"], "'DOE^JANE'"),
        ("CT1", {}, 7, ["state"], "cancelled"),
        ("CT1", {}, 8, ["performed"], "completed"),
        ("OWN", {}, 1, ["view"], "worklist: stations"),
        ("MROOM", {}, 1, ["view"], "worklist: modalities"),
        ("CT1", {}, 6, ["view"], "worklist: sites"),
        ("LIMITED", {}, 5, ["limit"], "worklist: limit"),
        ("CT1", {}, 9, ["later"], "after the query"),
        ("CT1", {}, 2, [], ""),
        ("OTHER", {}, 1, ["view"], "another tenant"),
    ],
)
def test_it_is_explained_why_a_modality_does_not_see_an_item(
    worklist: Worklist, calling: str, keys: dict[str, str], number: int, kinds: list[str], words: str
) -> None:
    find(worklist.port_number, query(**keys), calling=calling)
    found = worklist.run(_explained(worklist, calling, number))
    assert [each["kind"] for each in found["reasons"]] == kinds
    assert words in "".join(each["text"] for each in found["reasons"])


async def _explained(worklist: Worklist, calling: str, number: int) -> Any:
    """Explain an item by a name that all share, as the items of this test are of one order."""
    running = worklist.port._running
    assert running is not None
    await running.queries.write()
    # However the one who asks writes it.
    name = {2: "Люк", 6: "muller", 9: "ANGEL"}.get(number, "doe")
    found = await call(worklist, "/explain", ae=calling, patient=name)
    return next(each for each in found["items"] if each["accession"] == f"A{number}")


def test_changes_of_an_item_reach_modalities(tmp_path: Path) -> None:
    with Worklist(tmp_path, {"CT1": {}}) as running:
        running.add({"attributes": item(1)})
        running.seen(1)
        assert numbers(find(running.port_number, query())[0]) == [1]
        running.add({"attributes": item(2)})
        running.seen(2)
        assert numbers(find(running.port_number, query())[0]) == [1, 2]


def test_the_port_speaks_tls_and_knows_a_node_by_its_certificate(tmp_path: Path) -> None:
    authority = Authority(tmp_path / "ca")
    ours, scanner, stranger = (authority.issue(name) for name in ("kivuko", "ct1.example", "else.example"))
    nodes = {"CT1": {"certificate": "ct1.example"}, "CT2": {}}
    with Worklist(
        tmp_path,
        nodes,
        worklist_tls_port=0,
        tls_certificate=ours.certificate,
        tls_key=ours.key,
        tls_ca=authority.certificate,
    ) as running:
        running.add({"attributes": item(1)})
        running.seen(1)
        port = int(running.port.addresses()["worklist-tls"].rpartition(":")[2])
        for issued, seen in ((scanner, [1]), (stranger, [])):
            flags = ["+tls", str(issued.key), str(issued.certificate), "+cf", str(authority.certificate)]
            assert numbers(find(port, query(), flags=flags)[0]) == seen
        assert numbers(find(running.port_number, query(), calling="CT1")[0]) == []
        assert numbers(find(running.port_number, query(), calling="CT2")[0]) == [1]
