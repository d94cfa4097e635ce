"""The short way through a mapping gives what the long way gives, and is taken where it can be."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.worklist.hl7 import Sender
from services.worklist.rule import Rule
from tests.support.hl7 import order
from tests.unit.worklist.hl7_reading import interpreted, sender

pytestmark = pytest.mark.unit

#: What is built in gives no text that nothing but a message says another value, nor takes one that something else says
#: before the message.
OWN = {
    "AdmissionID": {"from": ["PV1-19.1"], "default": "V0"},
    "InstitutionName": {"from": ["ORC-17.2"]},
    "InstitutionalDepartmentName": {"from": ["site.name", "OBR-21.1"]},
}
SHORT = sender({"extends": "default", "set": OWN})


def long(rule: Rule) -> Rule:
    items = None if rule.items is None else {keyword: long(inner) for keyword, inner in rule.items.items()}
    return replace(rule, verbatim=(), items=items)


LONG = replace(SHORT, rules={keyword: long(rule) for keyword, rule in SHORT.rules.items()})
#: What the two ways could differ in: delimiters, escapes, nothing and "nothing", blanks, what no DICOM text may hold.
FIELD = st.lists(
    st.sampled_from(
        ["A", "é", "^", "~", "&", '""', '"', "\\", "\\T\\", "\\X41\\", " ", "\t", "\ufffd", "x" * 70, "1.2"]
    ),
    max_size=6,
).map("".join)
FIELDS = st.lists(FIELD, max_size=48)


def read(given_: Sender, raw: bytes) -> object:
    found = interpreted(raw, given_, "UNICODE UTF-8")
    return found.changes, found.faults, found.warnings, found.rows


@given(
    pid=FIELDS, pv1=FIELDS, orc=FIELDS, obr=FIELDS, ipcs=st.lists(FIELDS, max_size=2), notes=st.lists(FIELD, max_size=3)
)
def test_both_ways_lead_to_the_same(
    pid: list[str], pv1: list[str], orc: list[str], obr: list[str], ipcs: list[list[str]], notes: list[str]
) -> None:
    segments = {
        "PID": "|".join(["PID", "", "", "P1", *pid]),
        "PV1": "|".join(["PV1", *pv1]),
        "ORC": "|".join(["ORC", "NW", "PL1", *orc]),
        "OBR": "|".join(["OBR", *obr]),
        "NTE": "\r".join(f"NTE|1||{note}" for note in notes) or None,
        "IPC": "\r".join("|".join(["IPC", *fields]) for fields in ipcs) or None,
    }
    raw = order(**{name: segment for name, segment in segments.items() if segment is not None})
    assert read(SHORT, raw) == read(LONG, raw)


@pytest.mark.parametrize("marks", ["^~\\&", "^", "^~", "$%*!"])
@pytest.mark.parametrize(
    "text", ["A", " A ", "A*T*B", "A\\T\\B", "A\\B", "A ^ B ", "A ~ B", "^B", "A%B", "A$B", "x" * 70]
)
def test_whatever_the_delimiters(marks: str, text: str) -> None:
    raw = order(PV1="|".join(["PV1", *[""] * 18, text]), ORC="|".join(["ORC", "NW", "PL1", *[""] * 14, text])).decode()
    raw = raw.replace("^~\\&", marks, 1)
    if len(marks) == len("$%*!"):
        raw = raw.translate(str.maketrans("^~&", "$%!"))
    assert read(SHORT, raw.encode()) == read(LONG, raw.encode())
