"""What is wrong with mappings and senders is said at apply, with its place."""

import pytest

from contracts.definition import Definition
from libs.definition.mappings import BUILT_IN, resolved
from libs.definition.reading import read
from libs.definition.validation import check

pytestmark = pytest.mark.unit

HEAD = "kivuko: 1\nname: n\nsites: {s: {name: S}}\n"


def problems(text: str) -> list[str]:
    found = check(read(HEAD + text))
    return [] if isinstance(found, Definition) else [f"{each.path}: {each.message}" for each in found]


def mapped(value: str, keyword: str = "PatientComments") -> str:
    return f"hl7-mappings: {{m: {{extends: default, set: {{{keyword}: {value}}}}}}}"


@pytest.mark.parametrize(
    "value",
    [
        "{from: PID-5}",
        "{from: [PID-5.1, PID-3.4.2, node.issuer, Modality]}",
        "{value: x}",
        "{by: [Modality, PV1-3.2], table: {CT/1: x}}",
        "{from: OBX-5, where: {OBX-3: [3142-7, WEIGHT]}, unless: IPC, otherwise: {value: y}}",
        "null",
    ],
)
def test_what_is_right(value: str) -> None:
    keyword = "PatientSex" if value == "null" else "PatientComments"
    assert problems(mapped(value, keyword)) == []


@pytest.mark.parametrize(
    ("value", "keyword", "said"),
    [
        ("{from: PID-5}", "PatientNam", "not a DICOM keyword"),
        ("{from: PID_5}", "PatientComments", "no place of a message"),
        ("{from: PID}", "PatientComments", "whole segment"),
        ("{from: PID-0}", "PatientComments", "no place of a message"),
        ("{from: node.isuer}", "PatientComments", "no place of a message"),
        ("{from: PatientComments}", "PatientComments", "itself"),
        ("{from: SliceThickness}", "PatientComments", "not set by this mapping"),
        ("{from: PID-5, unless: Modality}", "PatientComments", "no place of a message"),
        ("{from: PID-5, table: {CT: ct1}}", "Modality", "no value of it"),
        ("{value: yesterday}", "PatientBirthDate", "no value of it"),
        ("{from: PID-5}", "RequestAttributesSequence", "is a sequence"),
        ("{from: PID-5, as: code}", "PatientID", "no sequence"),
        ("{from: PID-5, as: name}", "PatientID", "names of persons"),
        ("{from: PID-5, unit: {from: OBX-6, to: kg}}", "PatientID", "decimal numbers"),
        ("{from: PID-5, offset: 5m}", "PatientID", "dates and times"),
        ("{from: PID-5, station: true}", "PatientID", "ScheduledStationAETitle"),
        ("{from: PID-5}", "PixelData", "cannot be set"),
        ("{from: PID-5}", "SpecificCharacterSet", "Kivuko itself"),
        ("null", "PatientComments", "taken away"),
        ("{}", "PatientComments", "no source"),
        ("{value: x, from: PID-5}", "PatientComments", "excludes"),
        ("{by: Modality}", "PatientComments", "table"),
        ("{each: PID-3, from: PID-3}", "PatientComments", "each needs set"),
        ("{set: {PatientNam: {from: PID-5}}}", "OtherPatientIDsSequence", "not a DICOM keyword"),
        ("{each: PID, set: {PatientID: {from: PID-3}}}", "OtherPatientIDsSequence", "field that repeats"),
    ],
)
def test_what_is_wrong_is_said_with_its_place(value: str, keyword: str, said: str) -> None:
    [problem] = problems(mapped(value, keyword))
    assert problem.startswith(f"hl7-mappings.m.set.{keyword}")
    assert said in problem


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("hl7-mappings: {default: {set: {PatientID: {from: PID-3}}}}", "built in"),
        ("hl7-mappings: {m: {set: {PatientID: {from: PID-3}}}}", "no `control`"),
        ("hl7-mappings: {m: {extends: default, control: {NW: sometimes}}}", "schedule"),
        ("hl7-mappings: {m: {extends: nobody}}", "no mapping is called nobody"),
        (
            (
                "hl7-mappings: {m: {extends: default, set: {PatientState: {from: MedicalAlerts}, "
                "MedicalAlerts: {from: PatientState}}}}"
            ),
            "refer to each other",
        ),
        ("nodes: {R: {site: s, hl7: {}}}", "no address"),
        ("nodes: {R: {site: s, host: 10.0.0.1, hl7: {charset: KLINGON}}}", "no character set"),
        ("nodes: {R: {site: s, host: 10.0.0.1, hl7: {mapping: nobody}}}", "no mapping is called nobody"),
        (
            "nodes: {R: {site: s, host: 10.0.0.1, hl7: {}}, Q: {site: s, host: 10.0.0.1, hl7: {}}}",
            "cannot be told from",
        ),
        (
            "nodes: {R: {site: s, from: 10.0.0.0/24, hl7: {}}, Q: {site: s, from: 10.0.0.7, hl7: {}}}",
            "cannot be told from",
        ),
    ],
)
def test_mappings_and_senders(text: str, said: str) -> None:
    [problem] = problems(text)
    assert said in problem


def test_senders_that_say_who_they_are_may_share_an_address() -> None:
    nodes = "{R: {site: s, host: 10.0.0.1, hl7: {application: R}}, Q: {site: s, host: 10.0.0.1, hl7: {}}}"
    assert problems(f"nodes: {nodes}") == []


def test_what_is_extended_stays_but_for_what_is_set() -> None:
    definition = check(read(HEAD + mapped("null", "PatientSex")))
    assert isinstance(definition, Definition)
    found = resolved(definition.hl7_mappings, "m")
    assert set(BUILT_IN.set) - set(found.set) == {"PatientSex"}
    assert found.control == BUILT_IN.control
