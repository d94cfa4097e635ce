"""From values of HL7 to values of a VR: what fits, what is cut, and what is rather lost."""

from datetime import timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.worklist.conversion import LostError, added, fit, measure, moment, person

MALABO = ZoneInfo("Africa/Malabo")


@pytest.mark.parametrize(
    ("text", "date", "time", "offset"),
    [
        ("2026", "", "", ""),
        ("202611", "", "", ""),
        ("20261120", "20261120", "", ""),
        ("2026112009", "20261120", "09", ""),
        ("202611200915", "20261120", "0915", ""),
        ("20261120091530", "20261120", "091530", ""),
        ("20261120091530.1234", "20261120", "091530", ""),
        (" 20261120091530 ", "20261120", "091530", ""),
        ("20261120091530+0100", "20261120", "091530", "+0100"),
        ("20261120091530+0000", "20261120", "101530", "+0100"),
        ("20261120234500-0330", "20261121", "041500", "+0100"),
        ("20261120003000+0530", "20261119", "200000", "+0100"),
        # A day has no zone: nothing is moved.
        ("20261120-0330", "20261120", "", ""),
    ],
)
def test_a_time_as_exact_as_it_was_given(text: str, date: str, time: str, offset: str) -> None:
    found = moment(text, MALABO)
    assert (found.date, found.time, found.offset) == (date, time, offset)


@pytest.mark.parametrize(
    "text", ["", "yesterday", "20261320", "20260230", "2026112024", "202611200960", "99991231235959-0100", "2026-11-20"]
)
def test_what_is_no_time(text: str) -> None:
    with pytest.raises(LostError):
        moment(text, MALABO)


def test_a_leap_second_is_the_next_minute() -> None:
    assert moment("20261231235960", MALABO).date == "20270101"


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        ("-15m", timedelta(minutes=-15)),
        ("90s", timedelta(seconds=90)),
        ("+2h", timedelta(hours=2)),
        ("1d", timedelta(days=1)),
        (None, timedelta()),
    ],
)
def test_what_is_added_to_a_time(written: str | None, expected: timedelta) -> None:
    assert added(written) == expected


@pytest.mark.parametrize(
    ("text", "unit", "to", "expected"),
    [
        ("72.5", "kg", "kg", "72.5"),
        ("72,5", "KG", "kg", "72.5"),
        ("72500", "g", "kg", "72.5"),
        ("160", "[lb_av]", "kg", "72.5748"),
        ("160", "oz", "kg", "4.5359"),
        ("72", "", "kg", "72"),
        ("700", "kg", "kg", "700"),
        ("1.8", "m", "m", "1.8"),
        ("180", "cm", "m", "1.8"),
        ("1800", "mm", "m", "1.8"),
        ("70", "[in_i]", "m", "1.778"),
        ("70", "[in_us]", "m", "1.778"),
        ("6", "ft", "m", "1.8288"),
        ("3", "m", "m", "3"),
    ],
)
def test_a_measure_is_converted(text: str, unit: str, to: str, expected: str) -> None:
    assert measure(text, unit, to) == expected


@pytest.mark.parametrize(
    ("text", "unit", "to"),
    [
        ("heavy", "kg", "kg"),
        ("0", "kg", "kg"),
        ("-3", "kg", "kg"),
        ("700.1", "kg", "kg"),
        ("180", "m", "m"),
        ("180", "cm", "kg"),
        ("180", "stone", "kg"),
        ("NaN", "kg", "kg"),
        ("Infinity", "kg", "kg"),
    ],
)
def test_a_measure_that_cannot_be_is_lost(text: str, unit: str, to: str) -> None:
    with pytest.raises(LostError):
        measure(text, unit, to)


@pytest.mark.parametrize(
    ("parts", "name"),
    [
        (["Nguema"], "Nguema"),
        (["Nguema", "Ana", "María"], "Nguema^Ana^María"),
        (["Nguema", "Ana", "", "Jr", "Dr", "PhD"], "Nguema^Ana^^Dr^Jr PhD"),
        (["Nguema", "Ana", "", "", "", "PhD"], "Nguema^Ana^^^PhD"),
        (["Nguema", "Ana", "", "", "Dr"], "Nguema^Ana^^Dr"),
        (["Nguema", '""', "", "", "", "", "L"], "Nguema"),
        (["A^B=C", " Ana "], "A B C^Ana"),
        ([], ""),
    ],
)
def test_a_name_has_its_prefix_before_its_suffix(parts: list[str], name: str) -> None:
    assert person(parts) == name


@pytest.mark.parametrize(
    ("vr", "text", "value"),
    [
        ("SH", "a" * 16, "a" * 16),
        ("SH", "a" * 17, "a" * 16),
        ("LO", "a" * 65, "a" * 64),
        ("ST", "a" * 1025, "a" * 1024),
        ("SH", "abcdefghijklmno p", "abcdefghijklmno"),
        ("LO", "one\rtwo\tthree", "one two three"),
        ("LO", "one\ntwo", "one two"),
        ("LT", "one\ntwo\tthree", "one\r\ntwo three"),
        ("LO", "C:\\ward", "C:/ward"),
        ("LT", "C:\\ward", "C:\\ward"),
        ("CS", "head ct", "HEAD CT"),
        ("UI", "1.2.840." + "9" * 56, "1.2.840." + "9" * 56),
        ("IS", "07", "7"),
        ("US", "4", "4"),
        ("DS", "72,50", "72.5"),
        ("DS", "1e3", "1000"),
        ("DS", "1234567890123456", "1234567890123456"),
        ("PN", f"{'a' * 65}=b=c=d", f"{'a' * 64}=b=c"),
        ("PN", "Nguema^Ana", "Nguema^Ana"),
    ],
)
def test_what_fits(vr: str, text: str, value: str) -> None:
    assert fit("StudyDescription", vr, text).value == value


@pytest.mark.parametrize(
    ("keyword", "vr", "text"),
    [
        ("PatientID", "LO", "1" * 65),
        ("AccessionNumber", "SH", "1" * 17),
        ("ScheduledStationAETitle", "AE", "A" * 17),
        ("BodyPartExamined", "CS", "Ä"),
        ("BodyPartExamined", "CS", "A" * 17),
        ("StudyInstanceUID", "UI", "1.2." + "9" * 61),
        ("StudyInstanceUID", "UI", "1.02"),
        ("StudyInstanceUID", "UI", "1.2."),
        ("PregnancyStatus", "US", "no"),
        ("PatientWeight", "DS", "heavy"),
        ("PatientWeight", "DS", "Infinity"),
        ("PatientWeight", "DS", "12345678901234567"),
    ],
)
def test_what_is_lost_rather_than_made_another(keyword: str, vr: str, text: str) -> None:
    with pytest.raises(LostError):
        fit(keyword, vr, text)


@pytest.mark.parametrize(
    ("vr", "text", "note"),
    [
        ("SH", "a" * 16, ""),
        ("SH", "a" * 17, "cut to 16 characters"),
        ("LO", "a\\b", "a backslash, which DICOM does not have here, became /"),
        ("PN", "a" * 65, "cut to 64 characters"),
        ("PN", "a" * 64 + "=b", ""),
    ],
)
def test_what_was_done_is_told(vr: str, text: str, note: str) -> None:
    assert fit("StudyDescription", vr, text).note == note


@given(st.text(max_size=80), st.sampled_from(["LO", "SH", "LT", "PN", "CS", "DS", "IS", "UI", "AE"]))
def test_whatever_comes_fits_or_is_lost(text: str, vr: str) -> None:
    try:
        value = fit("StudyDescription", vr, text).value
    except LostError:
        return
    assert len(value) <= {"SH": 16, "CS": 16, "AE": 16, "DS": 16, "PN": 64 * 3 + 2}.get(vr, 10240)
    if vr not in ("LT", "IS", "DS", "UI"):
        assert "\\" not in value
        assert not any(ord(each) < 32 for each in value)
