"""What each kind of message changes, and why one is refused."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from libs.hl7.charset import decode
from libs.hl7.message import MalformedError, parse
from services.worklist.change import Number, OrderChange, PatientChange, PatientMerge
from services.worklist.hl7 import interpret
from services.worklist.rule import STEP
from tests.support.hl7 import header, message, order
from tests.unit.worklist.hl7_reading import NOON, change, everything, interpreted, sender

pytestmark = pytest.mark.unit

PID = "PID|||P1^^^HGM||Nguema^Ana"


def test_an_order() -> None:
    made = change(order())
    assert (made.action, made.tenant, made.site) == ("schedule", "minsabs", "malabo")
    assert made.patient == Number("P1", "HGM")
    assert (made.placer, made.filler, made.accession) == (Number("PL1", "RIS"), Number("FI1", "RIS"), Number("ACC1"))
    assert [step.step_id for step in made.steps] == ["SPS1"]
    assert not STEP & (made.about_order.keys() | made.about_patient.keys())
    assert not made.steps[0].attributes.keys() - STEP
    assert (made.origin.source, made.origin.message, made.origin.part) == ("RIS", "M1", 0)
    assert made.origin.stamp == datetime(2026, 11, 20, 9, 15, 30, tzinfo=UTC)


@pytest.mark.parametrize("kind", ["ORM^O01", "ORM", "ORM^O01^ORM_O01", "OMG^O19^OMG_O19", "OMI^O23"])
@pytest.mark.parametrize("version", ["2.1", "2.2", "2.3", "2.3.1", "2.4", "2.5", "2.5.1", "2.6", "2.7", "2.7.1", "2.8"])
def test_orders_of_all_versions(kind: str, version: str) -> None:
    if kind == "ORM" or kind.startswith("ORM"):
        made = change(order(MSH=header(kind, version=version)))
    else:
        made = change(order(MSH=header(kind, version=version)))
    assert made.action == "schedule"


@pytest.mark.parametrize(
    ("control", "action"),
    [
        ("NW||||SC", "schedule"),
        ("NW||||IP", "schedule"),
        ("NW", "schedule"),
        ("XO||||SC", "schedule"),
        ("XO", "update"),
        ("CA||||CA", "cancel"),
        ("CA", "cancel"),
        ("DC||||CA", "discontinue"),
        ("XO||||CM", "complete"),
        ("SC||||CM", "complete"),
        ("SC||||A", "complete"),
        ("SC||||IP", "start"),
    ],
)
def test_order_control(control: str, action: str) -> None:
    verb, _, rest = control.partition("||||")
    assert change(order(ORC=f"ORC|{verb}|PL1|FI1||{rest}")).action == action


def test_order_control_is_data() -> None:
    own = sender({"extends": "default", "control": {"HD": "update", "NW_SC": "arrive"}})
    assert change(order(ORC="ORC|HD|PL1"), own).action == "update"
    assert change(order(ORC="ORC|NW|PL1|||SC"), own).action == "arrive"
    assert change(order(ORC="ORC|NW|PL1|||IP"), own).action == "schedule"


def test_several_steps() -> None:
    raw = order() + b"IPC|ACC1|RP1|1.2.826.0.1.3680043.2.1|SPS2|MR|MRH^MR Head^99RIS|||MR1\r"
    made = change(raw)
    assert [(step.step_id, step.attributes["Modality"]) for step in made.steps] == [
        ("SPS1", ("CT",)),
        ("SPS2", ("MR",)),
    ]


def test_several_orders() -> None:
    raw = message(
        [
            header("ORM^O01"),
            PID,
            *("ORC|NW|PL1", "OBR|1|PL1||CTH^Head|||||||||||||||ACC1||S1||||CT", "NTE|1||first"),
            *("ORC|CA|PL2", "OBR|1|PL2||MRH^Head|||||||||||||||ACC2||S1||||MR"),
        ]
    )
    first, second = interpreted(raw).changes
    assert isinstance(first, OrderChange)
    assert isinstance(second, OrderChange)
    assert (first.placer, first.action, second.placer, second.action) == (
        *(Number("PL1"), "schedule"),
        *(Number("PL2"), "cancel"),
    )
    assert (first.origin.part, second.origin.part) == (0, 1)
    assert "RequestedProcedureComments" in first.about_order
    assert "RequestedProcedureComments" not in second.about_order


def test_several_procedures_of_one_order_are_its_steps() -> None:
    raw = message(
        [header("ORM^O01"), PID, "ORC|NW|PL1", "OBR|1|PL1||CTH^Head", "OBR|2|PL1||CTT^Thorax"],
    )
    steps = [step.step_id for each in interpreted(raw).changes if isinstance(each, OrderChange) for step in each.steps]
    assert steps == ["1", "2"]


def test_the_only_step_of_an_order_needs_no_name() -> None:
    assert [step.step_id for step in change(order(IPC="IPC|ACC1|RP1|1.2.3||CT")).steps] == [""]


@given(st.permutations(["PID", "PV1", "ORC", "TQ1", "OBR", "IPC"]))
@settings(max_examples=60)
def test_the_order_of_segments_does_not_matter(names: list[str]) -> None:
    segments = {line[:3]: line for line in order().decode().split("\r")}
    shuffled = change(message([segments["MSH"], *(segments[name] for name in names)]))
    assert everything(shuffled) == everything(change(order()))


def test_an_appointment() -> None:
    segments = [
        *("SCH|AP1^RIS|AP2^RIS|||||||||^^^20261121090000", "PID|||P1||Nguema^Ana", "RGS|1"),
        *("AIS|1||CTH^CT Head^99RIS|20261122100000", "AIL|1||ROOM1"),
    ]
    made = change(message([header("SIU^S12"), *segments]))
    assert (made.action, made.placer, made.filler) == ("schedule", Number("AP1", "RIS"), Number("AP2", "RIS"))
    found = everything(made)
    assert (found["ScheduledProcedureStepStartDate"], found["ScheduledProcedureStepStartTime"]) == (
        ("20261122",),
        ("100000",),
    )
    assert found["ScheduledProcedureStepLocation"] == ("ROOM1",)
    moved = change(message([header("SIU^S13"), "SCH" + "|" * 26 + "PL1", PID]))
    assert (moved.action, moved.placer, moved.filler) == ("schedule", Number("PL1"), None)
    assert change(message([header("SIU^S14"), *segments])).action == "update"
    assert change(message([header("SIU^S15"), *segments])).action == "cancel"


@pytest.mark.parametrize("event", ["A01", "A04", "A05", "A08", "A28", "A31"])
def test_a_patient(event: str) -> None:
    [made] = interpreted(message([header(f"ADT^{event}"), f"EVN|{event}", f'{PID}||""|F'])).changes
    assert isinstance(made, PatientChange)
    assert made.patient == Number("P1", "HGM")
    assert made.about_patient["PatientBirthDate"] == ()
    assert made.about_patient["PatientSex"] == ("F",)
    assert "InstitutionName" not in made.about_patient


def test_an_event_may_stand_in_evn_alone() -> None:
    assert interpreted(message([header("ADT"), "EVN|A08", PID])).changes


@pytest.mark.parametrize("event", ["A40", "A47"])
def test_a_merge(event: str) -> None:
    merge, update = interpreted(message([header(f"ADT^{event}"), PID, "MRG|P2^^^HGM"])).changes
    assert isinstance(merge, PatientMerge)
    assert (merge.kept, merge.merged) == (Number("P1", "HGM"), Number("P2", "HGM"))
    assert isinstance(update, PatientChange)
    assert update.patient == Number("P1", "HGM")


def test_merges_of_several_patients_and_issuers() -> None:
    raw = message(
        [
            header("ADT^A40"),
            *("PID|||P1^^^HGM~N1^^^GQ||Nguema^Ana", "MRG|P2^^^HGM~N2^^^GQ"),
            *("PID|||P3^^^HGM||Obiang^Juan", "MRG|P4"),
        ]
    )
    merges = [(each.kept, each.merged) for each in interpreted(raw).changes if isinstance(each, PatientMerge)]
    assert merges == [
        (Number("P1", "HGM"), Number("P2", "HGM")),
        (Number("N1", "GQ"), Number("N2", "GQ")),
        (Number("P3", "HGM"), Number("P4", "HGM")),
    ]


@pytest.mark.parametrize(
    ("assigned", "issuer"),
    [(r"HGM&1.2.3&ISO", "HGM"), (r"&1.2.3&ISO", "1.2.3"), (r"H\T\M&1.2.3&ISO", "H&M")],
)
def test_a_merge_and_an_order_name_the_same_issuer_by_all_that_assigned_it(assigned: str, issuer: str) -> None:
    pid = PID.replace("P1^^^HGM", f"P1^^^{assigned}")
    merge, _ = interpreted(message([header("ADT^A40"), pid, f"MRG|P2^^^{assigned}"])).changes
    assert isinstance(merge, PatientMerge)
    assert (merge.kept, merge.merged) == (Number("P1", issuer), Number("P2", issuer))
    assert change(order(PID=pid)).patient == merge.kept


@pytest.mark.parametrize(
    ("assigned", "issuer", "number"),
    [
        ("", "", Number("P1", site="malabo")),
        ("", "HGM", Number("P1", "HGM")),
        ("GQ", "", Number("P1", "GQ")),
    ],
)
def test_an_identifier_without_issuer_is_the_own_of_the_sender_s_site(
    assigned: str, issuer: str, number: Number
) -> None:
    pid = PID.replace("P1^^^HGM", f"P1^^^{assigned}")
    given = sender(issuer=issuer)
    merge, update = interpreted(message([header("ADT^A40"), pid, f"MRG|P2^^^{assigned}"]), given).changes
    assert isinstance(merge, PatientMerge)
    assert isinstance(update, PatientChange)
    assert [change(order(PID=pid), given).patient, update.patient] == [number, number]
    assert (merge.kept, merge.merged) == (number, replace(number, value="P2"))


@pytest.mark.parametrize(
    ("raw", "code", "place"),
    [
        (order(PID="PID|||"), 101, "PID-3"),
        (order(PID='PID|||""'), 101, "PID-3"),
        (order(without=["PID"]), 101, "PID-3"),
        (order(ORC="ORC|NW", OBR="OBR|1|||x", IPC="IPC"), 101, "ORC-2"),
        (order(ORC="ORC|ZZ|PL1"), 103, "ORC-1"),
        (order(without=["ORC"]), 103, "ORC-1"),
        (order(MSH=header("ORU^R01")), 200, "MSH-9"),
        (order(MSH=header("ADT^A99")), 201, "MSH-9"),
        (order(MSH=header("ORM^O01", version="3.0")), 203, "MSH-12"),
        (order(MSH=header("ORM^O01", control_id="")), 101, "MSH-10"),
        (message([header("ADT^A40"), PID, "MRG|P1^^^HGM"]), 204, "MRG-1"),
        (message([header("ADT^A40"), PID, "MRG|"]), 101, "MRG-1"),
        (message([header("ADT^A40"), PID]), 101, "MRG"),
        (message([header("ADT^A40"), "MRG|P1^^^HGM"]), 101, "MRG"),
        (message([header("ADT^A40"), "PID|||", "MRG|P1^^^HGM"]), 101, "PID-3"),
        (message([header("ADT^A08")]), 101, "PID-3"),
    ],
)
def test_what_is_refused(raw: bytes, code: int, place: str) -> None:
    found = interpreted(raw)
    assert found.changes == ()
    assert (found.faults[0].code, found.faults[0].place) == (code, place)


def test_a_number_that_is_not_taken_over_is_said_to_be_so() -> None:
    [fault] = interpreted(order(PID="PID|||P1*").replace(b"P1*", b"P1\xff")).faults
    assert (fault.place, "not of the character set" in fault.said) == ("PID-3", True)
    assert "P1" not in fault.said


@pytest.mark.parametrize(("written", "issuer"), [("PL1^RIS^1.2^ISO", "RIS"), ("PL1^^1.2^ISO", "1.2"), ("PL1", "")])
def test_an_order_number_is_of_whoever_gave_it_by_any_name(written: str, issuer: str) -> None:
    assert change(order(ORC=f"ORC|NW|{written}", OBR="OBR|1|||x")).placer == Number("PL1", issuer)


def test_a_message_with_one_order_that_cannot_be_taken_says_nothing_at_all() -> None:
    """Half of a message would be acknowledged as refused, and be there."""
    raw = message([header("ORM^O01"), PID, "ORC|NW|PL1", "OBR|1|PL1||CTH^Head", "ORC|ZZ|PL2", "OBR|1|PL2||CTH^Head"])
    found = interpreted(raw)
    assert [fault.place for fault in found.faults] == ["ORC-1"]
    assert found.changes == ()


def test_an_order_that_usual_queries_would_not_find_is_told() -> None:
    found = interpreted(order(IPC="IPC|ACC1", TQ1="TQ1|1"))
    assert [each.partition(" ")[0] for each in found.warnings] == [
        "Modality",
        "ScheduledStationAETitle",
        "ScheduledProcedureStepStartDate",
    ]
    assert not interpreted(order()).warnings


@pytest.mark.parametrize(
    ("written", "stamp"),
    [
        ("20261120101530", datetime(2026, 11, 20, 9, 15, 30, tzinfo=UTC)),
        ("20261120101530-0500", NOON),
        ("20261120061530-0500", datetime(2026, 11, 20, 11, 15, 30, tzinfo=UTC)),
        ("", NOON),
        ("yesterday", NOON),
        ("20271120101530", NOON),
    ],
)
def test_the_time_of_a_message_is_that_of_its_source_unless_it_is_ahead(written: str, stamp: datetime) -> None:
    raw = order().replace(b"20261120101530", written.encode())
    assert change(raw).origin.stamp == stamp
    assert any("MSH-7" in each for each in interpreted(raw).warnings) == (stamp == NOON and written != "20261120130000")


def test_a_clock_slightly_ahead_is_believed() -> None:
    ahead = NOON + timedelta(minutes=10)
    raw = order().replace(b"20261120101530", ahead.strftime("%Y%m%d%H%M%S+0000").encode())
    assert change(raw).origin.stamp == ahead


@given(st.binary(max_size=300), st.integers(0, 400))
@settings(max_examples=150)
def test_no_bytes_are_a_defect(junk: bytes, at: int) -> None:
    raw = order()
    for sent in (b"MSH" + junk, raw[:at] + junk + raw[at:]):
        try:
            read = parse(decode(sent, "8859/1", always=True))
        except MalformedError:
            continue
        found = interpret(read, sender(), NOON)
        assert bool(found.changes) != bool(found.faults)
