"""Orders over MLLP, from the bytes of a sender to the item and the answer."""

import asyncio
import json
import socket
import ssl
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import hl7
import pytest
from hl7.client import MLLPClient
from hl7.mllp import open_hl7_connection

from libs.dimse.tls import Files
from services.worklist.orders import NotTakenError, Orders
from tests.integration.worklist.hl7_port import NETWORK, Port, hl7_port
from tests.support.authority import Authority
from tests.support.hl7 import END, START, Line, fields, header, message, order

pytestmark = pytest.mark.integration


@pytest.fixture
async def port(tmp_path: Path) -> AsyncIterator[Port]:
    """A port on SQLite, with one node that sends from this machine."""
    async with hl7_port(f"sqlite:///{tmp_path / 'db'}", tmp_path) as made:
        yield made


async def asked(port: Port, *sent: bytes) -> list[bytes]:
    """Send messages over one connection, one after the other, and give the answers."""

    def talk() -> list[bytes]:
        line = Line(port.address)
        try:
            return [line.ask(each) for each in sent]
        finally:
            line.close()

    return await asyncio.to_thread(talk)


async def wire(port: Port, sent: bytes, answers: int) -> list[bytes]:
    """Send bytes as they are, and give so many answers."""

    def talk() -> list[bytes]:
        line = Line(port.address)
        try:
            line.send(sent)
            return [line.answer() for _ in range(answers)]
        finally:
            line.close()

    return await asyncio.to_thread(talk)


def with_id(number: int) -> bytes:
    raw = order(MSH=header("OMI^O23", f"M{number}", "2.5.1"), IPC=f"IPC|ACC{number}|RP|1.2.3.{number}|S{number}|CT")
    return raw.replace(b"PL1", b"PL%d" % number).replace(b"FI1", b"FI%d" % number)


async def test_order_is_an_item_before_it_is_acknowledged(port: Port) -> None:
    reader, writer = await open_hl7_connection(*port.address.rsplit(":", 1))
    writer.writemessage(hl7.parse(order().decode()))
    await writer.drain()
    answer = await reader.readmessage()
    assert (str(answer.segment("MSA")[1]), str(answer.segment("MSA")[2])) == ("AA", "M1")
    [item] = await port.items()
    assert (item["step_id"], item["modality"], item["station_aets"]) == ("SPS1", "CT", ["CT1"])
    assert (item["start"], item["site"], item["state"]) == ("20261120110000", "malabo", "scheduled")
    writer.close()
    await writer.wait_closed()


async def test_a_client_that_blocks_gets_its_answers(port: Port) -> None:
    host, _, number = port.address.rpartition(":")

    def talk() -> list[str]:
        with MLLPClient(host, int(number)) as client:
            return [str(hl7.parse(client.send_message(with_id(each))).segment("MSA")[2]) for each in range(3)]

    assert await asyncio.to_thread(talk) == ["M0", "M1", "M2"]
    assert len(await port.items()) == 3


async def test_answers_have_the_order_of_the_questions_on_many_connections(port: Port) -> None:
    async def talk(start: int) -> list[str]:
        numbers = range(start, start + 5)
        sent = b"".join(START + with_id(each) + END for each in numbers)
        return [fields(each)[2] for each in await wire(port, sent, len(numbers))]

    found = await asyncio.gather(*(talk(start) for start in range(0, 50, 5)))
    assert found == [[f"M{each}" for each in range(start, start + 5)] for start in range(0, 50, 5)]
    assert len(await port.items()) == 50


async def test_a_message_that_comes_again_is_answered_the_same_and_changes_nothing(port: Port) -> None:
    first, again = await asked(port, order(), order())
    assert fields(first) == fields(again) == ["MSA", "AA", "M1"]
    assert (len(await port.items()), len(await port.messages())) == (1, 1)


async def test_what_is_refused_is_kept_with_the_reason_and_can_be_sent_again(port: Port) -> None:
    refused = order(ORC="ORC|HD|PL1|FI1||SC")
    [answer] = await asked(port, refused)
    assert fields(answer)[1] == "AE"
    assert "control" in fields(answer, "ERR")[8]
    [kept] = await port.messages()
    assert (kept["answer"], kept["tenant"], bytes(kept["raw"])) == ("AE", "minsabs", refused)
    assert "order control" in kept["said"]
    port.apply(
        {
            **NETWORK,
            "hl7-mappings": {"own": {"extends": "default", "control": {"HD": "schedule"}}},
            "nodes": {"RIS": {"site": "malabo", "host": "127.0.0.1", "hl7": {"mapping": "own"}}},
        }
    )
    [answer] = await asked(port, refused)
    assert fields(answer)[1] == "AA"
    assert [each["answer"] for each in await port.messages()] == ["AA"]
    assert len(await port.items()) == 1


async def test_a_refusal_is_logged_with_kind_and_reason_and_without_values(
    port: Port, capfd: pytest.CaptureFixture[str]
) -> None:
    first = message([header("ADT^A40", "M1"), "PID|||P1^^^HGM||Nguema^Ana", "MRG|P2^^^HGM"])
    inverse = message([header("ADT^A40", "M2"), "PID|||P2^^^HGM||Nguema^Ana", "MRG|P1^^^HGM"])
    nameless = message([header("ADT^A08", "M3"), "PID|||"])
    answers = await asked(port, first, inverse, nameless)
    assert [fields(answer)[1] for answer in answers] == ["AA", "AE", "AE"]
    lines = [json.loads(line) for line in capfd.readouterr().err.splitlines() if "HL7 message refused" in line]
    assert [(line["type"], line["reason"].partition(" that ")[0]) for line in lines] == [
        ("ADT A40", "the identifier"),
        ("ADT A08", "PID-3"),
    ]
    assert not any(value in str(lines) for value in ("Nguema", "P1", "P2"))


async def test_warnings_are_kept_with_the_message(port: Port) -> None:
    [answer] = await asked(port, order(PID="PID|||P1||" + "N" * 70))
    assert fields(answer)[1] == "AA"
    [kept] = await port.messages()
    assert kept["warnings"] == ["PatientName: PID-5: cut to 64 characters"]


async def test_without_the_database_it_is_to_be_sent_again(port: Port, monkeypatch: pytest.MonkeyPatch) -> None:
    async def away(*_: Any) -> None:
        raise NotTakenError("the database is away")

    with monkeypatch.context() as patch:
        patch.setattr(Orders, "take", away)
        [answer] = await asked(port, order())
        assert fields(answer)[1] == "AR"
        assert await port.messages() == []
    [answer] = await asked(port, order())
    assert fields(answer)[1] == "AA"


async def test_a_stranger_is_told_so(port: Port) -> None:
    port.apply({**NETWORK, "nodes": {"RIS": {"site": "malabo", "host": "10.1.2.3", "hl7": {}}}})
    answer, end = await wire(port, START + order() + END, 2)
    assert fields(answer)[:3] == ["MSA", "AR", "M1"]
    assert "127.0.0.1" in fields(answer, "ERR")[8]
    assert end == b""
    assert (await port.items(), await port.messages()) == ([], [])


async def test_a_node_without_hl7_is_told_so(port: Port) -> None:
    port.apply({**NETWORK, "nodes": {"CT1": {"site": "malabo", "host": "127.0.0.1", "may": ["store"]}}})
    [answer] = await wire(port, START + order() + END, 1)
    assert fields(answer)[1] == "AR"
    assert "CT1" in fields(answer, "ERR")[8]


async def test_two_senders_at_one_address_are_told_apart_by_what_they_call_themselves(port: Port) -> None:
    nodes = {
        "RIS": {"site": "malabo", "host": "127.0.0.1", "hl7": {"application": "RIS"}},
        "HIS": {"site": "malabo", "host": "127.0.0.1", "hl7": {"application": "HIS", "facility": "MALABO"}},
    }
    port.apply({**NETWORK, "nodes": nodes})
    his = with_id(2).replace(b"|RIS|MALABO|", b"|HIS|MALABO|")
    other = with_id(3).replace(b"|RIS|MALABO|", b"|LAB|MALABO|")
    assert [fields(each)[1] for each in await asked(port, with_id(1), his)] == ["AA", "AA"]
    assert [each["source"] for each in await port.messages()] == ["RIS", "HIS"]
    [answer] = await asked(port, other)
    assert fields(answer)[1] == "AR"


async def test_enhanced_mode_says_that_it_is_kept_and_that_it_is_done(port: Port) -> None:
    asking = order(MSH=header("OMI^O23", "M5", "2.5.1", msh15="AL", msh16="AL"))
    found = await wire(port, START + asking + END, 2)
    assert [fields(each)[1:3] for each in found] == [["CA", "M5"], ["AA", "M5"]]


async def test_an_acknowledgement_is_not_answered(port: Port) -> None:
    ack = message([header("ACK^O01", "A1"), "MSA|AA|X"])
    [answer] = await wire(port, START + ack + END + START + order() + END, 1)
    assert fields(answer)[2] == "M1"


async def test_a_message_of_ten_megabytes_is_taken_and_a_longer_one_is_not(port: Port) -> None:
    base = order()
    large = base + b"OBX|1|ED|PDF||" + b"A" * (10_000_000 - len(base) - 15) + b"\r"
    assert len(large) == 10_000_000
    [answer] = await asked(port, large)
    assert fields(answer)[1] == "AA"
    [answer] = await wire(port, START + large + b"B" + END, 1)
    assert answer == b""


async def test_many_large_messages_wait_for_each_other(tmp_path: Path) -> None:
    large = b"OBX|1|ED|PDF||" + b"A" * 2_000_000 + b"\r"
    async with hl7_port(f"sqlite:///{tmp_path / 'db'}", tmp_path, large=1) as port:
        found = await asyncio.gather(*(asked(port, with_id(each) + large) for each in range(4)))
        assert [fields(answer)[1] for [answer] in found] == ["AA"] * 4


async def test_a_sender_that_stops_in_a_message_does_not_stay(tmp_path: Path) -> None:
    async with hl7_port(f"sqlite:///{tmp_path / 'db'}", tmp_path, message_timeout=0.2) as port:
        assert await wire(port, START + order()[:100], 1) == [b""]
        assert await port.messages() == []


async def test_there_are_so_many_connections_and_no_more(tmp_path: Path) -> None:
    async with hl7_port(f"sqlite:///{tmp_path / 'db'}", tmp_path, connections_address=1) as port:
        line = await asyncio.to_thread(Line, port.address)
        assert fields(await asyncio.to_thread(line.ask, order()))[1] == "AA"
        assert await wire(port, b"", 1) == [b""]
        line.close()


@pytest.mark.parametrize("backend", ["postgresql"])
async def test_an_order_in_a_cluster(backend: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    async with hl7_port(request.getfixturevalue(backend).database(), tmp_path) as port:
        assert [fields(each)[1] for each in await asked(port, order(), order())] == ["AA", "AA"]
        assert len(await port.items()) == 1


async def test_tls_shows_who_it_is(tmp_path: Path) -> None:
    authority = Authority(tmp_path / "authority")
    ours = authority.issue("localhost")
    nodes = {
        "RIS": {"site": "malabo", "host": "127.0.0.1", "certificate": "ris.example", "hl7": {"application": "RIS"}},
        "HIS": {"site": "malabo", "host": "127.0.0.1", "certificate": "his.example", "hl7": {}},
    }
    files = Files(ours.certificate, ours.key, authority.certificate)
    async with hl7_port(f"sqlite:///{tmp_path / 'db'}", tmp_path, {**NETWORK, "nodes": nodes}, files=files) as port:
        assert port.tls is not None
        for name, answer in (("ris.example", "AA"), ("his.example", "AA"), ("lab.example", "AR")):
            theirs = authority.issue(name)
            found = await asyncio.to_thread(_over_tls, port.tls, authority.certificate, theirs, with_id(len(name)))
            assert fields(found)[1] == answer, name
        assert [each["source"] for each in await port.messages()] == ["RIS", "HIS"]
        [plain] = await wire(port, START + order() + END, 1)
        assert fields(plain)[1] == "AR"
        with pytest.raises(OSError):  # noqa: PT011 - whichever of them the peer's end comes as
            await asyncio.to_thread(_over_tls, port.tls, authority.certificate, None, order())


def _over_tls(address: str, trusted: Path, own: Any, sent: bytes) -> bytes:
    context = ssl.create_default_context(cafile=str(trusted))
    if own is not None:
        context.load_cert_chain(own.certificate, own.key)
    host, _, number = address.rpartition(":")
    with (
        socket.create_connection((host, int(number)), timeout=30) as plain,
        context.wrap_socket(plain, server_hostname="localhost") as secured,
    ):
        secured.sendall(START + sent + END)
        found = b""
        while END not in found:
            data = secured.recv(65_536)
            if not data:
                raise ConnectionError("no answer")
            found += data
        return found.strip(START + END)
