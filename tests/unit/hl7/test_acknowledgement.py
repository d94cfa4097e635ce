"""Answers: by version, by mode, in the sender's character set, and never to an answer."""

from datetime import UTC, datetime

import pytest

from libs.hl7.acknowledgement import Answer, Asked, Fault, answers, asked, is_answer
from libs.hl7.charset import decode
from libs.hl7.message import Message, parse
from tests.support.hl7 import fields, header

pytestmark = pytest.mark.unit

NOW = datetime(2026, 11, 20, 10, 15, tzinfo=UTC)
FAULT = Fault(101, "PID-3 is empty | mend it", "PID-3.1")


def read(text: str, codec: str = "utf-8") -> Message:
    return parse(decode(f"{text}\r".encode(codec), "ASCII"))


def answered(to: Asked, answer: Answer = "AA", *faults: Fault) -> list[bytes]:
    return answers(to, answer, faults, now=NOW, control_id="K1")


def test_the_header_is_made_anew() -> None:
    [answer] = answered(asked(read(header("ORM^O01", "M7", "2.4"))))
    assert fields(answer, "MSH")[2:] == [
        *("KIVUKO", "HUB", "RIS", "MALABO", "20261120101500+0000", "", "ACK^O01^ACK", "K1", "P", "2.4")
    ]
    assert fields(answer) == ["MSA", "AA", "M7"]


@pytest.mark.parametrize(
    ("version", "kind", "time"),
    [
        ("2.1", "ACK", "20261120101500"),
        ("2.2", "ACK^O01", "20261120101500"),
        ("2.3.1", "ACK^O01", "20261120101500+0000"),
        ("2.8", "ACK^O01^ACK", "20261120101500+0000"),
    ],
)
def test_the_header_is_of_the_sender_s_version(version: str, kind: str, time: str) -> None:
    [answer] = answered(asked(read(header("ORM^O01", version=version))))
    assert (fields(answer, "MSH")[8], fields(answer, "MSH")[6], fields(answer, "MSH")[11]) == (kind, time, version)


def test_what_is_wrong_stands_in_err_from_2_5_on() -> None:
    [answer] = answered(asked(read(header("ORM^O01", version="2.5"))), "AE", FAULT)
    assert fields(answer)[:3] == ["MSA", "AE", "M1"]
    err = fields(answer, "ERR")
    assert (err[2], err[3], err[4]) == ("PID^1^3^1^1", "101^Required field missing^HL70357", "E")
    assert err[8] == r"PID-3 is empty \F\ mend it"


def test_before_2_5_and_up_to_2_6_it_stands_in_msa() -> None:
    [old] = answered(asked(read(header("ORM^O01", version="2.3"))), "AE", FAULT)
    assert b"ERR" not in old
    assert fields(old)[3] == r"PID-3 is empty \F\ mend it"
    [new] = answered(asked(read(header("ORM^O01", version="2.7"))), "AE", FAULT)
    assert len(fields(new)) == 3


def test_an_answer_is_in_the_character_set_of_its_question() -> None:
    to = asked(read(header("ORM^O01", "Mü", msh18="8859/1"), "latin-1"))
    [answer] = answered(to)
    assert "MSA|AA|Mü".encode("latin-1") in answer
    assert b"8859/1" in answer
    [wide] = answered(asked(read(header("ORM^O01"), "utf-16")))
    assert wide.decode("utf-16").startswith("MSH|")


@pytest.mark.parametrize(
    ("accept", "application", "answer", "codes"),
    [
        ("", "", "AA", ["AA"]),
        ("", "", "AE", ["AE"]),
        ("AL", "NE", "AA", ["CA"]),
        ("AL", "NE", "AE", ["CE"]),
        ("AL", "NE", "AR", ["CR"]),
        ("AL", "AL", "AA", ["CA", "AA"]),
        ("AL", "AL", "AE", ["CE"]),
        ("NE", "AL", "AA", ["AA"]),
        ("NE", "ER", "AA", []),
        ("NE", "ER", "AR", ["AR"]),
        ("ER", "SU", "AA", ["AA"]),
        ("ER", "SU", "AE", ["CE"]),
        ("SU", "", "AA", ["CA"]),
        ("NE", "NE", "AE", []),
    ],
)
def test_enhanced_mode(accept: str, application: str, answer: Answer, codes: list[str]) -> None:
    to = asked(read(header("ORM^O01", msh15=accept, msh16=application)))
    assert [fields(each)[1] for each in answered(to, answer, *([] if answer == "AA" else [FAULT]))] == codes


def test_an_answer_is_never_answered() -> None:
    assert is_answer(read(header("ACK^O01")))
    assert is_answer(read(header("ORR^O02") + "\rMSA|AA|1"))
    assert is_answer(read(header("XXX") + "\rMSA|AA|1"))
    assert not is_answer(read(header("ORM^O01")))
    [own] = answered(asked(read(header("ORM^O01", msh15="AL"))))
    assert is_answer(parse(decode(own, "ASCII")))


@pytest.mark.parametrize(
    ("said", "modes", "processing"),
    [({}, [], "P"), ({"msh11": ""}, [], "P"), ({"msh11": "T"}, [], "T"), ({"msh15": "AL"}, ["NE", "NE"], "P"),
     ({"msh16": "AL"}, ["NE", "NE"], "P")],
)  # fmt: skip
def test_an_answer_asks_for_none_where_the_sender_knows_such(
    said: dict[str, str], modes: list[str], processing: str
) -> None:
    found = fields(answered(asked(read(header("ORM^O01", "M7", "2.4", **said))))[-1], "MSH")
    assert (found[10], [each for each in found[14:16] if each]) == (processing, modes)
