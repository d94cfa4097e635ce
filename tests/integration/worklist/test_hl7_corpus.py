"""What senders really send: each file of the corpus is the bytes of a connection."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from tests.integration.worklist.hl7_port import Port, hl7_port
from tests.support.hl7 import Line

pytestmark = pytest.mark.integration

CORPUS = Path(__file__).parents[2] / "corpus" / "hl7"
#: Answers, warnings (what they begin with), and attributes of the first item.
EXPECTED: dict[str, tuple[list[str], list[str], dict[str, Any]]] = {
    "wrong-segment-order": (["AA"], [], {"PatientName": ["Nguema^Ana"]}),
    "missing-msh-18": (["AA"], [], {"PatientName": ["Peña^José"]}),
    "lone-line-feeds": (["AA"], [], {"PatientName": ["Nguema^Ana"]}),
    "line-feed-within-a-comment": (
        ["AA"],
        ["a line end stands"],
        {"RequestedProcedureComments": ["first line\r\nsecond line"]},
    ),
    "escape-sequences": (
        ["AA"],
        [],
        {
            "RequestedProcedureDescription": ["Head & neck (left)"],
            "RequestedProcedureComments": ["one\r\ntwo \\ | loud C:\\scan\\new"],
        },
    ),
    "z-segments": (["AA"], [], {"StudyInstanceUID": ["1.2.826.0.1.3680043.2.1"]}),
    "truncated-then-again": (["AA"], [], {}),
    "two-messages-in-one-frame": (["AA", "AA"], [], {"AccessionNumber": ["ACC1"]}),
    "fields-too-long": (
        ["AA"],
        [
            "AccessionNumber: IPC-1: not taken",
            "RequestedProcedureID: IPC-2: not taken",
            "ScheduledProcedureStepID: IPC-4: not taken",
            "ScheduledProcedureStepDescription: IPC-6.2: cut",
            "ScheduledProtocolCodeSequence: IPC-6: cut",
        ],
        {"StudyInstanceUID": ["1.2.3"]},
    ),
    "another-character-set-than-stated": (["AA"], ["PatientName: PID-5: has characters"], {"PatientID": ["P1"]}),
    "unknown-character-set": (["AE"], [], {}),
    "arabic": (["AA"], [], {"PatientName": ["محمد^علي"]}),
    "japanese": (["AA"], [], {"PatientName": ["YAMADA^TAROU=山田^太郎"]}),
    "without-the-last-return": (["AA"], [], {}),
    "without-a-start": (["AA"], [], {}),
    "ampersand-as-it-is": (["AA"], [], {"RequestedProcedureDescription": ["HEAD & NECK"]}),
    "without-patient": (["AE"], [], {}),
    "acknowledgement-then-order": (["AA"], [], {}),
    "batch": (["AA"], [], {}),
    "version-2-1": (["AA"], [], {"PatientName": ["NGUEMA^ANA"], "AccessionNumber": ["ACC1"]}),
    "utf-16": (["AA"], [], {"PatientName": ["Ċapak^Ġorġ"]}),
}


@pytest.fixture
async def port(tmp_path: Path) -> AsyncIterator[Port]:
    """A port on SQLite."""
    async with hl7_port(f"sqlite:///{tmp_path / 'db'}", tmp_path) as made:
        yield made


def test_each_file_has_an_expectation() -> None:
    assert {path.stem for path in CORPUS.iterdir()} == set(EXPECTED)


@pytest.mark.parametrize("name", EXPECTED)
async def test_what_senders_send(port: Port, name: str) -> None:
    answers, warnings, attributes = EXPECTED[name]

    def talk() -> list[bytes]:
        line = Line(port.address)
        try:
            line.send((CORPUS / f"{name}.mllp").read_bytes())
            return [line.answer() for _ in answers]
        finally:
            line.close()

    found = await asyncio.to_thread(talk)
    plain = [each.decode("utf-16" if name == "utf-16" else "latin-1") for each in found]
    assert [each.split("\rMSA|")[1][:2] for each in plain] == answers
    items = await port.items()
    assert len(items) == answers.count("AA")
    if items:
        shown = items[0]["attributes"]
        assert {keyword: shown.get(keyword) for keyword in attributes} == attributes
    kept = await port.messages()
    assert [each["answer"] for each in kept] == answers
    told = [warning for each in kept for warning in each["warnings"]]
    assert [next((w for w in warnings if t.startswith(w)), t) for t in told] == warnings
