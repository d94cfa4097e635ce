"""The same queries to the worklist and to dcmtk's wlmscpfs on the same items, asked by dcmtk's findscu."""

from collections.abc import Iterator, Mapping
from typing import Any

import pytest
from pydicom import Dataset

from services.worklist.attributes import Attributes
from tests.support.worklist import STEPS, WlmScp, Worklist, find

# Modalities send values that are none of their VR.
pytestmark = pytest.mark.filterwarnings("ignore:Invalid value for VR")
CODE = {"CodeValue": ("71020",), "CodingSchemeDesignator": ("C4",), "CodeMeaning": ("Chest",)}
OTHER = {"CodeValue": ("70450",), "CodingSchemeDesignator": ("C4",), "CodeMeaning": ("Head",)}


def item(number: int, name: str, *, physician: str = "", codes: tuple[Attributes, ...] = (), **step: str) -> Attributes:
    return {
        "AccessionNumber": (f"A{number}",),
        "PatientName": (name,),
        "PatientID": (f"P{number}",),
        "PatientBirthDate": (f"19{number:02}0101",),
        "PatientSex": ("F" if number % 2 else "M",),
        "StudyInstanceUID": (f"1.2.3.{number}",),
        "RequestedProcedureID": (f"R{number}",),
        "RequestedProcedureDescription": ("Chest" if number < 5 else "Head",),
        "RequestedProcedureCodeSequence": codes,
        "ReferringPhysicianName": (),
        STEPS: (
            {
                "ScheduledStationAETitle": (step.get("station", "CT1"),),
                "ScheduledProcedureStepStartDate": (step.get("date", "20261123"),),
                "ScheduledProcedureStepStartTime": (step.get("time", "100000"),),
                "Modality": (step.get("modality", "CT"),),
                "ScheduledPerformingPhysicianName": (physician,) if physician else (),
                "ScheduledProcedureStepDescription": ("Step",),
                "ScheduledProcedureStepID": (f"S{number}",),
            },
        ),
    }


#: Item and the character set of its file.
ITEMS: list[tuple[Attributes, str]] = [
    (item(1, "DOE^JANE", physician="HOUSE^GREGORY", codes=(CODE,)), "ISO_IR 100"),
    (item(2, "DOE^JOHN", date="20261124", time="083000", codes=(OTHER, CODE)), "ISO_IR 100"),
    (item(3, "Müller^José", station="MR1", modality="MR", physician="Günther^Äsop"), "ISO_IR 100"),
    (item(4, "Люкceмбypг^Иван", station="MR1", modality="MR", date="20261125", time="180000"), "ISO_IR 144"),
    (item(5, "Διονυσιος^Άννα", station="US1", modality="US", time="235959"), "ISO_IR 126"),
    (item(6, "قباني^لنزار", station="US1", modality="US", date="20261124", time="120000"), "ISO_IR 127"),
    (item(7, "Yamada^Tarou=山田^太郎=やまだ^たろう", date="20261126"), "ISO 2022 IR 6\\ISO 2022 IR 87"),
    (item(8, "Wang^XiaoDong=王^小東", station="MR1", modality="MR", date="20261127"), "ISO_IR 192"),
    (item(9, "DOERING^ANNA", date="20261125", time="101500", physician="HOUSE^GREGORY"), "ISO_IR 100"),
    (item(10, "SMITH^JOHN", station="CT2", date="20261130", time="070000", codes=(OTHER,)), "ISO_IR 100"),
]


@pytest.fixture(scope="module")
def worklist(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Worklist]:
    with Worklist(tmp_path_factory.mktemp("worklist"), {"CT1": {}}) as running:
        running.add(*({"attributes": each} for each, _ in ITEMS))
        running.seen(len(ITEMS))
        yield running


@pytest.fixture(scope="module")
def peer(tmp_path_factory: pytest.TempPathFactory) -> Iterator[WlmScp]:
    server = WlmScp(tmp_path_factory.mktemp("wlm") / "files")
    for number, (attributes, charset) in enumerate(ITEMS):
        server.add(f"item{number}", attributes, charset)
    server.start()
    yield server
    server.stop()


def query(charset: str = "", /, *, step: Mapping[str, str] | None = None, **keys: Any) -> Dataset:
    """Make an identifier that asks for the numbers by which items are known, and for these keys."""
    found = Dataset()
    if charset:
        found.SpecificCharacterSet = charset.split("\\")
    for keyword, value in {"AccessionNumber": "", "PatientName": "", **keys}.items():
        setattr(found, keyword, value)
    inner = Dataset()
    for keyword, value in {"Modality": "", "ScheduledProcedureStepStartDate": "", **(step or {})}.items():
        setattr(inner, keyword, value)
    if STEPS not in found:
        setattr(found, STEPS, [inner])
    return found


def code(**keys: str) -> Dataset:
    found = Dataset()
    for keyword, value in keys.items():
        setattr(found, keyword, value)
    return found


DATE, TIME = "ScheduledProcedureStepStartDate", "ScheduledProcedureStepStartTime"
STATION, DOCTOR = "ScheduledStationAETitle", "ScheduledPerformingPhysicianName"
#: Query, and the items that it finds by the text of the Standard.
QUERIES: dict[str, tuple[Dataset, set[int]]] = {
    "universal": (query(), set(range(1, 11))),
    "single value: station": (query(step={STATION: "CT1"}), {1, 2, 7, 9}),
    "station, date and modality": (query(step={STATION: "CT1", DATE: "20261123", "Modality": "CT"}), {1}),
    "capitals count in a code": (query(step={"Modality": "ct"}), set()),
    "patient ID": (query(PatientID="P3"), {3}),
    "accession number": (query(AccessionNumber="A4"), {4}),
    "single time": (query(step={TIME: "083000"}), {2}),
    "range of dates": (query(step={DATE: "20261124-20261126"}), {2, 4, 6, 7, 9}),
    "range of dates without an end": (query(step={DATE: "20261126-"}), {7, 8, 10}),
    "range of dates without a beginning": (query(step={DATE: "-20261123"}), {1, 3, 5}),
    "range of times": (query(step={TIME: "110000-190000"}), {4, 6}),
    "dates and times as one range": (query(step={DATE: "20261123-20261125", TIME: "120000-110000"}), {2, 5, 6, 9}),
    "a date, and a range of times": (query(step={DATE: "20261124", TIME: "080000-100000"}), {2}),
    "wild card: *": (query(PatientName="DOE*"), {1, 2, 9}),
    "wild card: ?": (query(PatientName="DOE^J?N?"), {1}),
    "wild card: both": (query(PatientName="?O*^J*"), {1, 2}),
    "wild card alone matches empty values": (query(step={DOCTOR: "*"}), set(range(1, 11))),
    "an empty value matches no other key": (query(step={DOCTOR: "H*"}), {1, 9}),
    "name as a whole": (query(PatientName="DOE^JANE"), {1}),
    "part of a name": (query(PatientName="DOE"), set()),
    "a sequence of zero length": (query(ScheduledProcedureStepSequence=[]), set(range(1, 11))),
    "a sequence with one empty item": (query(ScheduledProcedureStepSequence=[Dataset()]), set(range(1, 11))),
    "code in a sequence": (query(RequestedProcedureCodeSequence=[code(CodeValue="71020")]), {1, 2}),
    "two codes in one item": (
        query(RequestedProcedureCodeSequence=[code(CodeValue="71020", CodeMeaning="Head")]),
        set(),
    ),
    "list of UIDs": (query(StudyInstanceUID=["1.2.3.2", "1.2.3.9", "1.2.3.99"]), {2, 9}),
    "Latin-1": (query("ISO_IR 100", PatientName="Müller^Jos?"), {3}),
    "Latin-1, in a step": (query("ISO_IR 100", step={DOCTOR: "Gün*"}), {3}),
    "Cyrillic": (query("ISO_IR 144", PatientName="Люк*"), {4}),
    "Greek": (query("ISO_IR 126", PatientName="Διον*"), {5}),
    "Arabic": (query("ISO_IR 127", PatientName="قباني*"), {6}),
    "Japanese with escape sequences": (
        query("ISO 2022 IR 6\\ISO 2022 IR 87", PatientName="Yamada^Tarou=山田^太郎=やまだ^たろう"),
        {7},
    ),
    "Japanese, one component group": (query("ISO 2022 IR 6\\ISO 2022 IR 87", PatientName="山田^*"), {7}),
    "UTF-8": (query("ISO_IR 192", PatientName="Wang*=王*"), {8}),
    "one character set asks for what another has": (query("ISO_IR 192", PatientName="Müller*"), {3}),
    "single date": (query(step={DATE: "20261125"}), {4, 9}),
    "range of times without an end": (query(step={TIME: "120000-"}), {4, 5, 6}),
    "range of times without a beginning": (query(step={TIME: "-083000"}), {2, 10}),
    "hours and minutes without seconds": (query(step={TIME: "0830"}), {2}),
    "range of hours": (query(step={TIME: "07-08"}), {2, 10}),
    "dates and times as one range without an end": (query(step={DATE: "20261125-", TIME: "120000-"}), {4, 7, 8, 10}),
    "dates and times as one range without a beginning": (
        query(step={DATE: "-20261124", TIME: "-090000"}),
        {1, 2, 3, 5},
    ),
    "a range of dates, and one time": (query(step={DATE: "20261123-20261124", TIME: "100000"}), {1, 3}),
    "a range with both ends the same": (query(step={DATE: "20261124-20261124"}), {2, 6}),
    "dates as ACR-NEMA wrote them": (query(step={DATE: "2026.11.24"}), {2, 6}),
    "times with a fraction": (query(step={TIME: "083000.000-110000.000"}), {1, 2, 3, 7, 8, 9}),
    "wild card in a date": (query(step={DATE: "202611*"}), set(range(1, 11))),
    "wild card alone, in a date": (query(step={DATE: "*"}), set(range(1, 11))),
    "wild card alone, in a time": (query(step={TIME: "*"}), set(range(1, 11))),
    "wild card alone, in a UID": (query(StudyInstanceUID="*"), set(range(1, 11))),
    "wild card alone, in a code": (query(step={"Modality": "*"}), set(range(1, 11))),
    "wild card in an AE title": (query(step={STATION: "CT?"}), {1, 2, 7, 9, 10}),
    "all components of a name empty": (query(PatientName="^^^^"), set(range(1, 11))),
    "a name with empty components at its end": (query(PatientName="DOE^JANE^^^"), {1}),
    "capitals in a name": (query(PatientName="doe^jane"), set()),
    "wild card in each component of a name": (query(PatientName="D*^A*"), {9}),
    "names in two component groups": (
        query("ISO 2022 IR 6\\ISO 2022 IR 87", PatientName="Yamada*==やまだ*"),
        {7},
    ),
    "names in the ideographic group alone": (query("ISO_IR 192", PatientName="=王*"), {8}),
    "the ideographic group that another has": (query("ISO_IR 192", PatientName="=山田*=*"), {7}),
    "spaces at the end": (query(PatientID="P3   ", step={STATION: "MR1   "}), {3}),
    "spaces at the beginning": (query(step={STATION: " CT2"}), {10}),
    "a list of modalities": (query(step={"Modality": "MR\\US"}), {3, 4, 5, 6, 8}),
    "a list of stations": (query(step={STATION: "CT2\\US1"}), {5, 6, 10}),
    "a list of patient IDs": (query(PatientID="P1\\P2"), {1, 2}),
    "a sequence of zero length in the request": (query(RequestedProcedureCodeSequence=[]), set(range(1, 11))),
    "a sequence with one empty item in the request": (
        query(RequestedProcedureCodeSequence=[Dataset()]),
        set(range(1, 11)),
    ),
    "empty keys in a sequence": (
        query(RequestedProcedureCodeSequence=[code(CodeValue="", CodingSchemeDesignator="", CodeMeaning="")]),
        set(range(1, 11)),
    ),
    "a level, as queries of archives have one": (query(QueryRetrieveLevel="PATIENT"), set(range(1, 11))),
    "patient's sex": (query(PatientSex="F"), {1, 3, 5, 7, 9}),
    "birth date": (query(PatientBirthDate="19030101"), {3}),
    "requested procedure ID": (query(RequestedProcedureID="R5"), {5}),
    "step ID": (query(step={"ScheduledProcedureStepID": "S6"}), {6}),
    "all required keys at once": (
        query(
            PatientName="DOE*",
            PatientID="P1",
            step={STATION: "CT1", DATE: "20261123", TIME: "100000", "Modality": "CT", DOCTOR: "HOUSE*"},
        ),
        {1},
    ),
    "a key that nothing is matched by": (query(Manufacturer="ACME"), set(range(1, 11))),
}
_OPTIONAL = "an optional key: PS3.4 section K.2.2.1.1.2 leaves it to the SCP whether anything is matched by it"
_GROUPS = "section C.2.2.2.4 note 3: how component groups are matched is for the SCP to say"
_NOT_WILD = (
    "section C.2.2.2.4: dates and times have no wild cards; what modalities mean that send them all the same is clear"
)
_SINGLE = "table K.6-1: single value matching; more than one value, or a wild card, is beyond what the Standard has"
#: Where wlmscpfs answers otherwise, and what the Standard says of it.
DIFFERENT = {
    "code in a sequence": _OPTIONAL,
    "two codes in one item": _OPTIONAL,
    "list of UIDs": _OPTIONAL,
    "step ID": _OPTIONAL,
    "Japanese, one component group": _GROUPS,
    "names in two component groups": _GROUPS,
    "names in the ideographic group alone": _GROUPS,
    "the ideographic group that another has": _GROUPS,
    "one character set asks for what another has": "section C.2.2.2: the character set says how keys are encoded, and "
    "what is matched is their characters; wlmscpfs compares bytes",
    "range of hours": "section C.2.2.2.5: both ends are in the range; PS3.5 table 6.2-1: 08 is any time of that hour, "
    "and wlmscpfs takes its first second for the end",
    "dates as ACR-NEMA wrote them": "PS3.5 table 6.2-1: no compliant DA, and what it means is clear",
    "wild card in a date": _NOT_WILD,
    "wild card alone, in a date": _NOT_WILD,
    "wild card alone, in a time": _NOT_WILD,
    "wild card in an AE title": _SINGLE,
    "a list of modalities": _SINGLE,
    "a name with empty components at its end": "PS3.5 section 6.2.1: delimiters of empty components at the end may "
    "be left out, so that both are the same name",
}
#: Requested Procedure Code Sequence.
CODES = 0x00321064
#: Keys that wlmscpfs does not know: Manufacturer, Query/Retrieve Level.
UNSUPPORTED = {0x00080070, 0x00080052}


def test_each_difference_is_one_of_a_query() -> None:
    assert DIFFERENT.keys() <= QUERIES.keys()


@pytest.mark.parametrize("name", QUERIES)
def test_answers_are_those_of_the_standard_and_of_wlmscpfs(name: str, worklist: Worklist, peer: WlmScp) -> None:
    asked, expected = QUERIES[name]
    ours, theirs = (by_number(find(port, asked)[0]) for port in (worklist.port_number, peer.port))
    assert ours.keys() == expected
    assert (ours.keys() == theirs.keys()) is (name not in DIFFERENT)
    for number in ours.keys() & theirs.keys():
        assert ours[number].SpecificCharacterSet
        # What wlmscpfs does not support it leaves out, as section K.2.2.1.2 lets it; ours comes back empty.
        left_out = {each.tag for each in asked} & UNSUPPORTED
        # Type 1C in table K.6-1: wlmscpfs leaves it out where an item has none, ours comes back empty.
        left_out |= {each.tag for each in ours[number] if each.tag == CODES and not each.value}
        assert [each.tag for each in ours[number] if each.tag not in left_out] == [each.tag for each in theirs[number]]
        assert str(ours[number].PatientName) == str(theirs[number].PatientName)


def by_number(answers: list[Dataset]) -> dict[int, Dataset]:
    """Give answers by the number of their item; each comes once."""
    found = {int(str(each.AccessionNumber)[1:]): each for each in answers}
    assert len(found) == len(answers)
    return found
