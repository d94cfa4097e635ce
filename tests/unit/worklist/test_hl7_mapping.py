"""From HL7 to DICOM, attribute by attribute: the mapping that is built in, and what a site can change."""

from typing import Any

import pytest

from libs.definition.mappings import BUILT_IN
from services.worklist.rule import element
from tests.support.hl7 import order
from tests.unit.worklist.hl7_reading import change, everything, interpreted, sender

pytestmark = pytest.mark.unit

ORC = "ORC|NW|PL1^RIS^1.2^ISO|FI1^RIS||SC||^^^202611210800^^S|||||99^Req^Ordering|||||{}|{}"


def value(keyword: str, raw: bytes, mapping: dict[str, Any] | None = None) -> Any:
    given = None if mapping is None else sender({"extends": "default", "set": mapping})
    return everything(change(raw, given)).get(keyword)


def obr(**fields: str) -> str:
    made = ["OBR", "1", "PL1", "FI1", "CTH^CT Head^99RIS", *[""] * 40]
    for name, text in fields.items():
        made[int(name.removeprefix("f"))] = text
    return "|".join(made)


@pytest.mark.parametrize(
    ("keyword", "segments", "expected"),
    [
        ("PatientName", {"PID": "PID|||P1||Nguema&von^Ana^María^Jr^Dra^PhD"}, ("Nguema^Ana^María^Dra^Jr PhD",)),
        ("PatientName", {"PID": "PID|||P1||Yamada^Tarou^^^^^L^A~山田^太郎^^^^^L^I~やまだ^たろう^^^^^L^P"}, (
            "Yamada^Tarou=山田^太郎=やまだ^たろう",)),
        ("PatientName", {"PID": 'PID|||P1||""'}, ()),
        ("PatientName", {"PID": "PID|||P1"}, None),
        ("PatientBirthDate", {"PID": "PID|||P1||||19700131235900+0900"}, ("19700131",)),
        ("PatientBirthDate", {"PID": "PID|||P1||||1970"}, None),
        ("PatientSex", {"PID": "PID|||P1|||||A"}, ("O",)),
        ("PatientSex", {"PID": "PID|||P1|||||N"}, ("O",)),
        ("PatientSex", {"PID": "PID|||P1|||||U"}, ()),
        ("PatientMotherBirthName", {"PID": "PID|||P1|||Eyang^Rosa"}, ("Eyang^Rosa",)),
        ("PatientAddress", {"PID": "PID|||P1||||||||Calle 1&C^^Malabo^BN^240^GQ"}, ("Calle 1, Malabo, BN, 240, GQ",)),
        ("PatientTelephoneNumbers", {"PID": "PID|||P1||||||||||222~333^PRN"}, ("222", "333")),
        ("IssuerOfPatientID", {"PID": "PID|||P1^^^NS&1.2.3&ISO^MR"}, ("NS",)),
        ("IssuerOfPatientID", {"PID": "PID|||P1^^^&1.2.3&ISO^MR"}, ("1.2.3",)),
        ("IssuerOfPatientID", {"PID": "PID|||P1"}, ("HGM",)),
        ("PregnancyStatus", {"PV1": "PV1||I" + "|" * 13 + "B6"}, ("3",)),
        ("PregnancyStatus", {"PV1": "PV1||I" + "|" * 13 + "A0"}, ()),
        ("AdmissionID", {"PV1": "PV1||I" + "|" * 17 + "V77^^^X"}, ("V77",)),
        ("AdmissionID", {"PID": "PID|||P1" + "|" * 15 + "ACCT9"}, ("ACCT9",)),
        ("ReferringPhysicianName", {"PV1": "PV1||I||||||1234^Obiang&x^Juan^^Jr^Dr"}, ("Obiang^Juan^^Dr^Jr",)),
        ("ReferringPhysicianName", {"PV1": "PV1||I||||||^Obiang^Juan"}, ("Obiang^Juan",)),
        ("PlacerOrderNumberImagingServiceRequest", {}, ("PL1",)),
        ("OrderPlacerIdentifierSequence", {"ORC": ORC}, (
            {"LocalNamespaceEntityID": ("RIS",), "UniversalEntityID": ("1.2",), "UniversalEntityIDType": ("ISO",)},)),
        ("OrderFillerIdentifierSequence", {}, ({"LocalNamespaceEntityID": ("RIS",)},)),
        ("InstitutionName", {}, ("MALABO",)),
        ("InstitutionName", {"ORC": ORC.format("HGM^General", "")}, ("General",)),
        ("InstitutionCodeSequence", {"ORC": ORC.format("HGM^General^L", "")}, (
            {"CodeValue": ("HGM",), "CodingSchemeDesignator": ("L",), "CodeMeaning": ("General",)},)),
        ("RequestingPhysician", {"ORC": ORC}, ("Req^Ordering",)),
        ("ScheduledProcedureStepStartDate", {}, ("20261120",)),
        ("ScheduledProcedureStepStartTime", {}, ("110000",)),
        ("ScheduledProcedureStepStartTime", {"TQ1": "TQ1|1||||||2026112011"}, ("11",)),
        ("ScheduledProcedureStepStartTime", {"TQ1": "TQ1|1||||||20261120"}, ()),
        ("ScheduledProcedureStepStartTime", {"TQ1": "TQ1|1||||||20261120110000.25+0000"}, ("120000",)),
        ("ScheduledProcedureStepStartDate", {"TQ1": "TQ1|1", "ORC": ORC}, ("20261121",)),
        ("ScheduledProcedureStepStartTime", {"TQ1": "TQ1|1", "OBR": obr(f27="^^^20261122093000^^R")}, ("093000",)),
        ("TimezoneOffsetFromUTC", {"TQ1": "TQ1|1||||||20261120110000-0500"}, ("+0100",)),
        ("RequestedProcedurePriority", {"TQ1": "TQ1|1||||||20261120||S"}, ("STAT",)),
        ("RequestedProcedurePriority", {"TQ1": "TQ1|1||||||20261120||A"}, ("HIGH",)),
        ("RequestedProcedurePriority", {"TQ1": "TQ1|1||||||20261120||T^Timing"}, ("MEDIUM",)),
        ("RequestedProcedurePriority", {"TQ1": "TQ1|1", "ORC": ORC}, ("STAT",)),
        ("PatientState", {"OBR": obr(f12="D1^Contagious")}, ("Contagious",)),
        ("MedicalAlerts", {"OBR": obr(f13="PACEMAKER")}, ("PACEMAKER",)),
        ("RequestingPhysician", {"OBR": obr(f16="1^Doc^Other")}, ("Doc^Other",)),
        ("PatientTransportArrangements", {"OBR": obr(f30="WHLC^Wheelchair")}, ("WHLC",)),
        ("ReasonForTheRequestedProcedure", {"OBR": obr(f31="R51^Headache^I10")}, ("Headache",)),
        ("ReasonForRequestedProcedureCodeSequence", {"OBR": obr(f31="R51^Headache^I10~J4^Cough^I10")}, (
            {"CodeValue": ("R51",), "CodingSchemeDesignator": ("I10",), "CodeMeaning": ("Headache",)},
            {"CodeValue": ("J4",), "CodingSchemeDesignator": ("I10",), "CodeMeaning": ("Cough",)})),
        ("ReasonForRequestedProcedureCodeSequence", {"OBR": obr(f31="^Headache")}, None),
        ("RequestedProcedureDescription", {"OBR": obr(f44="P9^Procedure nine^99X")}, ("Procedure nine",)),
        ("RequestedProcedureDescription", {"OBR": obr(f4="CTH^HEAD & NECK^99")}, ("HEAD & NECK",)),
        ("RequestedProcedureCodeSequence", {"OBR": obr(f4="A-VERY-LONG-CODE-OF-A-SITE^Head")}, (
            {"LongCodeValue": ("A-VERY-LONG-CODE-OF-A-SITE",), "CodingSchemeDesignator": ("L",),
             "CodeMeaning": ("Head",)},)),
        ("ScheduledPerformingPhysicianName", {"OBR": obr(f34="7&Tech&Nica^20261120")}, ("Tech^Nica",)),
        ("AccessionNumber", {}, ("ACC1",)),
        ("AccessionNumber", {"IPC": "IPC||RP1", "OBR": obr(f18="ACC9")}, ("ACC9",)),
        ("StudyInstanceUID", {}, ("1.2.826.0.1.3680043.2.1",)),
        ("StudyInstanceUID", {"IPC": "IPC|ACC1", "ZDS": "ZDS|1.2.3.4^100^Application^DICOM"}, ("1.2.3.4",)),
        ("RequestedProcedureID", {"IPC": "IPC|ACC1", "OBR": obr(f19="RP9")}, ("RP9",)),
        ("Modality", {"IPC": "IPC|ACC1", "OBR": obr(f24="MR")}, ("MR",)),
        ("Modality", {"IPC": "IPC|ACC1", "OBR": obr(f24="RUS")}, ("US",)),
        ("ScheduledStationAETitle", {}, ("CT1",)),
        ("ScheduledStationAETitle", {"IPC": "IPC|ACC1||||CT||||A/1~B.2"}, ("A/1", "B.2")),
        ("ScheduledStationAETitle", {"IPC": "IPC|ACC1||||CT"}, ("CT1", "CT2")),
        ("ScheduledStationAETitle", {"IPC": "IPC|ACC1||||MR"}, None),
        ("ScheduledStationAETitle", {"IPC": "IPC|ACC1", "ORC": ORC.format("", "CT9")}, ("CT9",)),
        ("ScheduledStationName", {"IPC": "IPC|A||||CT||ROOM1^x"}, ("ROOM1",)),
        ("ScheduledProcedureStepLocation", {"IPC": "IPC|A||||CT|||R1^Room 1"}, ("Room 1",)),
        ("ScheduledProcedureStepDescription", {}, ("CT Head",)),
        ("ScheduledProcedureStepDescription", {"IPC": "IPC|A", "OBR": obr(f4="A^B^C^D^Protocol^F")}, ("Protocol",)),
        ("ScheduledProtocolCodeSequence", {"IPC": "IPC|A", "OBR": obr(f4="A^B^C^D^Protocol^F")}, (
            {"CodeValue": ("D",), "CodingSchemeDesignator": ("F",), "CodeMeaning": ("Protocol",)},)),
        ("PatientWeight", {"OBX": "OBX|1|NM|3142-7^BODY WEIGHT^LN||72|kg"}, ("72",)),
        ("PatientWeight", {"OBX": "OBX|1|NM|^Body weight||72500|g^gram"}, ("72.5",)),
        ("PatientWeight", {"OBX": "OBX|1|NM|3142-7||160|[lb_av]"}, ("72.5748",)),
        ("PatientWeight", {"OBX": "OBX|1|NM|3142-7||72"}, ("72",)),
        ("PatientWeight", {"OBX": 'OBX|1|NM|3142-7||""|kg'}, ()),
        ("PatientWeight", {"OBX": "OBX|1|NM|3142-7||72|stone"}, None),
        ("PatientWeight", {"OBX": "OBX|1|NM|3142-7||72000"}, None),
        ("PatientSize", {"OBX": "OBX|1|NM|8302-2||172|cm"}, ("1.72",)),
        ("PatientSize", {"OBX": "OBX|1|NM|8302-2||172|m"}, None),
        ("PatientSize", {"OBX": "OBX|1|NM|8302-2||1,72|m"}, ("1.72",)),
        ("RequestedProcedureComments", {"NTE": "NTE|1||one~two\\.br\\three"}, ("one\r\ntwo\r\nthree",)),
    ],
)  # fmt: skip
def test_the_mapping_that_is_built_in(keyword: str, segments: dict[str, str], expected: Any) -> None:
    assert value(keyword, order(**segments)) == expected


def test_every_attribute_of_it_is_in_the_dictionary() -> None:
    assert all(element(keyword).vr for keyword in BUILT_IN.set)


def test_all_identifiers_of_a_patient_are_kept() -> None:
    found = value("OtherPatientIDsSequence", order(PID="PID|||P1^^^HGM^MR~N7^^^GQ^NI"))
    assert [(item["PatientID"], item["IssuerOfPatientID"]) for item in found] == [
        (("P1",), ("HGM",)),
        (("N7",), ("GQ",)),
    ]


@pytest.mark.parametrize(
    ("mapping", "expected"),
    [
        ({"PatientComments": {"value": "from the RIS"}}, ("from the RIS",)),
        ({"PatientComments": {"from": "PID-8"}}, ("F",)),
        ({"PatientComments": {"from": ["PID-30", "PID-8"]}}, ("F",)),
        ({"PatientComments": {"from": "PID-30", "default": "none"}}, ("none",)),
        ({"PatientComments": {"from": "PID-8", "table": {"F": "female"}}}, ("female",)),
        ({"PatientComments": {"from": "PID-8", "table": {"M": "male"}}}, None),
        ({"PatientComments": {"from": "PID-8", "table": {"M": "male"}, "unlisted": "keep"}}, ("F",)),
        ({"PatientComments": {"from": "PID-8", "table": {"M": "male"}, "unlisted": "drop"}}, ()),
        ({"PatientComments": {"from": "PID-8", "unless": "IPC"}}, None),
        ({"PatientComments": {"from": "PID-8", "unless": "ZZZ"}}, ("F",)),
        ({"PatientComments": {"from": "PID-8", "unless": "IPC", "otherwise": {"value": "x"}}}, ("x",)),
        ({"PatientComments": {"from": "Modality"}}, ("CT",)),
        ({"PatientComments": {"from": "node.issuer"}}, ("HGM",)),
        ({"PatientComments": {"from": "PV1-3", "as": "whole"}}, ("WARD^12",)),
        ({"PatientComments": {"from": "PID-3.1", "where": {"PID-3.5": "MR"}}}, ("P1",)),
        ({"PatientComments": {"from": "PID-3.1", "where": {"PID-3.5": "NI"}}}, None),
        ({"PatientComments": {"by": ["Modality", "PV1-3.2"], "table": {"CT/11": "a", "CT/12": "b"}}}, ("b",)),
        ({"PatientComments": {"by": ["Modality", "PV1-3.2"], "table": {"MR/*": "a", "CT/*": "b"}}}, ("b",)),
        ({"PatientComments": {"by": ["Modality", "PV1-3.2"], "table": {"MR/*": "a"}, "default": "c"}}, ("c",)),
    ],
)
def test_what_a_site_can_say(mapping: dict[str, Any], expected: Any) -> None:
    assert value("PatientComments", order(), mapping) == expected


def test_a_site_can_have_a_measure_wherever_its_unit_stands() -> None:
    weight = {"PatientWeight": {"from": "OBX-5", "unit": {"from": "OBX-6", "to": "kg"}}}
    assert value("PatientWeight", order(OBX="OBX|1|NM|WT||72500|g"), weight) == ("72.5",)


def test_a_site_can_take_an_attribute_away() -> None:
    assert value("PatientSex", order(), {"PatientSex": None}) is None


def test_a_start_can_be_put_off_past_midnight() -> None:
    start = {"from": "TQ1-7", "offset": "-90m"}
    keywords = ("ScheduledProcedureStepStartDate", "ScheduledProcedureStepStartTime")
    mapping = dict.fromkeys(keywords, start)
    raw = order(TQ1="TQ1|1||||||20261120003000")
    assert [value(keyword, raw, mapping) for keyword in keywords] == [("20261119",), ("230000",)]


@pytest.mark.parametrize(
    ("segments", "keyword", "expected", "said"),
    [
        ({"IPC": "IPC|" + "A" * 17}, "AccessionNumber", None, "longer than 16"),
        ({"IPC": "IPC|A|1.2.840.113619.2.55.3"}, "RequestedProcedureID", None, "longer than 16"),
        ({"IPC": "IPC|A||not-a-uid"}, "StudyInstanceUID", None, "no UID"),
        ({"IPC": "IPC|A||||ct-scan"}, "Modality", None, "no code"),
        (
            {"IPC": "IPC|A||||CT||||STATION-WITH-A-LONG-NAME"},
            "ScheduledStationAETitle",
            ("CT1", "CT2"),
            "longer than 16",
        ),
        ({"PID": "PID|||P1||" + "N" * 70}, "PatientName", ("N" * 64,), "cut to 64"),
        ({"OBR": obr(f44="x^" + "d" * 65)}, "RequestedProcedureDescription", ("d" * 64,), "cut to 64"),
        ({"OBR": obr(f13="a\\E\\b")}, "MedicalAlerts", ("a/b",), "backslash"),
        ({"TQ1": "TQ1|1||||||20261320"}, "ScheduledProcedureStepStartDate", None, "no date and time that there is"),
        ({"TQ1": "TQ1|1||||||soon"}, "ScheduledProcedureStepStartDate", None, "no date and time"),
        ({"TQ1": "TQ1|1||||||20261120||Q"}, "RequestedProcedurePriority", None, "table"),
        ({"PID": "PID|||P1||||19701332"}, "PatientBirthDate", None, "no date"),
        ({"OBX": "OBX|1|NM|8302-2||172|m"}, "PatientSize", None, "more than 3 m"),
        ({"OBX": "OBX|1|NM|3142-7||heavy|kg"}, "PatientWeight", None, "no number"),
    ],
)
def test_what_is_cut_or_lost_is_told(segments: dict[str, str], keyword: str, expected: Any, said: str) -> None:
    found = interpreted(order(**segments))
    assert everything(change(order(**segments))).get(keyword) == expected
    [warning] = [each for each in found.warnings if each.startswith(f"{keyword}: ")]
    assert said in warning


def test_a_date_and_time_in_one_attribute() -> None:
    mapping = {"ScheduledProcedureStepStartDateTime": {"from": "TQ1-7"}}
    assert value("ScheduledProcedureStepStartDateTime", order(), mapping) == ("20261120110000",)


def test_of_a_code_what_is_too_long_is_cut_and_told() -> None:
    raw = order(OBR=obr(f44="CTH^" + "m" * 65 + "^" + "s" * 17))
    [code] = everything(change(raw))["RequestedProcedureCodeSequence"]
    assert code == {"CodeValue": ("CTH",), "CodingSchemeDesignator": ("s" * 16,), "CodeMeaning": ("m" * 64,)}
    told = [each for each in interpreted(raw).warnings if each.startswith("RequestedProcedureCodeSequence")]
    assert ["cut to 64" in each for each in told] == [True, False]
    assert ["cut to 16" in each for each in told] == [False, True]


def test_a_code_of_more_than_16_characters_is_a_long_one() -> None:
    def keywords(length: int) -> set[str]:
        [code] = everything(change(order(OBR=obr(f44="c" * length + "^Head^99"))))["RequestedProcedureCodeSequence"]
        return set(code) - {"CodingSchemeDesignator", "CodeMeaning"}

    assert keywords(16) == {"CodeValue"}
    assert keywords(17) == {"LongCodeValue"}


def test_a_code_with_a_character_of_another_set_is_left_out_and_told() -> None:
    header = r"MSH|^~\&|RIS|M|K|H|20261120101530||OMI^O23|M1|P|2.5"
    raw = order(MSH=header, OBR=obr(f44="Schädel^Head^99"), charset="latin-1")
    [code] = everything(change(raw))["RequestedProcedureCodeSequence"]
    assert not isinstance(code, str)
    assert code["CodeValue"] == ("CTH",)  # of OBR-4, the next place that is looked at
    assert any("the code has characters" in each for each in interpreted(raw).warnings)


def test_lines_of_a_comment_that_are_too_many_are_cut_and_told() -> None:
    lines = order() + b"".join(b"NTE|1||" + b"n" * 6000 + b"\r" for _ in range(2))
    [comment] = everything(change(lines))["RequestedProcedureComments"]
    assert len(comment) == 10240
    assert any(each.startswith("RequestedProcedureComments") and "cut" in each for each in interpreted(lines).warnings)


def test_warnings_repeat_no_value() -> None:
    found = interpreted(order(PID="PID|||P1||Secret^" + "N" * 70, TQ1="TQ1|1||||||Secret||Secret"))
    assert found.warnings
    assert "Secret" not in "".join(found.warnings)


def test_characters_of_another_set_are_told_and_never_in_an_identifier() -> None:
    raw = order(MSH=r"MSH|^~\&|RIS|M|K|H|20261120101530||OMI^O23|M1|P|2.5", PID="PID|||P1||Müller", charset="latin-1")
    found = interpreted(raw)
    assert everything(change(raw))["PatientName"] == ("M\N{REPLACEMENT CHARACTER}ller",)
    assert any(each.startswith("PatientName") for each in found.warnings)
    lost = interpreted(raw.replace(b"|P1|", b"|P\xfc1|"))
    assert lost.changes == ()
    assert "PID-3" in lost.faults[0].place
    assert "character set" in lost.faults[0].said
