"""Matching, held against the text of PS3.4 section C.2.2.2 written down as slowly as it reads."""

import struct
import unicodedata
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.worklist import identifier, matching
from services.worklist.identifier import Key, UnreadableError
from services.worklist.query import STEPS, Mismatch, Query, said

PN, CS, SH, DA, TM, UI, SQ = 0x00100010, 0x00080060, 0x00080050, 0x00400002, 0x00400003, 0x0020000D, 0x00400100
STATION, PATIENT, DOCTOR = 0x00400001, 0x00100020, 0x00400006


def text(tag: int, vr: str, *values: str) -> Key:
    return Key(tag, vr, values)


def step(*keys: Key) -> Key:
    return Key(SQ, "SQ", items=(keys,))


def matches(vr: str, wanted: str, had: str, names: matching.Names = "exact") -> bool:
    return matching.is_universal(vr, (wanted,)) or matching.matcher(vr, (wanted,), names)((had,))


def slow_wild(wanted: str, had: str) -> bool:
    """`*` is any sequence of characters, `?` any single one."""
    if not wanted:
        return not had
    if wanted[0] == "*":
        return any(slow_wild(wanted[1:], had[at:]) for at in range(len(had) + 1))
    return bool(had) and wanted[0] in ("?", had[0]) and slow_wild(wanted[1:], had[1:])


few = st.text("AB^*?.\n", max_size=8)


@given(st.text("AB*?\n.", min_size=1, max_size=8), st.text("AB?.\n", min_size=1, max_size=8))
def test_wild_cards_match_what_the_standard_says(wanted: str, had: str) -> None:
    assert matches("LO", wanted, had) is (not wanted.strip("*") or slow_wild(wanted, had))


@given(st.text("AB=^*? ", min_size=1, max_size=10), st.text("AB=^ ", min_size=1, max_size=10))
def test_names_match_literally_by_component_group(wanted: str, had: str) -> None:
    def bare(group: str) -> str:
        return "^".join(each.strip() for each in group.split("^")).rstrip("^ ")

    asked, got = [bare(each) for each in wanted.split("=")], [bare(each) for each in had.split("=")]
    if not wanted.strip("*^= "):
        expected = True
    elif len(asked) == 1:
        expected = any(slow_wild(asked[0], group) for group in got if group)
    else:
        expected = all(
            not each or (place < len(got) and bool(got[place]) and slow_wild(each, got[place]))
            for place, each in enumerate(asked)
        )
    assert matches("PN", wanted, had) is expected


times = st.builds(
    lambda hour, minute, second, length: f"{hour:02}{minute:02}{second:02}"[:length],
    st.integers(0, 23), st.integers(0, 59), st.integers(0, 59), st.sampled_from([2, 4, 6]),
)  # fmt: skip
dates = st.builds(lambda month, day: f"2026{month:02}{day:02}", st.integers(1, 12), st.integers(1, 28))


def seconds(time: str, *, end: bool = False) -> int:
    """Seconds of a day: the first that a time may mean, or the last."""
    rest = "5959" if end else "0000"
    full = time + rest[len(time) - 2 :]
    return int(full[:2]) * 3600 + int(full[2:4]) * 60 + int(full[4:6])


@given(dates, times, dates, times, dates, times)
def test_dates_and_times_are_one_range(d1: str, t1: str, d2: str, t2: str, date: str, time: str) -> None:
    query = Query([step(text(DA, "DA", f"{d1}-{d2}"), text(TM, "TM", f"{t1}-{t2}"))])
    item = {
        "ScheduledProcedureStepSequence": (
            {"ScheduledProcedureStepStartDate": (date,), "ScheduledProcedureStepStartTime": (time,)},
        )
    }
    moment = (date, seconds(time))
    expected = (d1, seconds(t1)) <= moment <= (d2, seconds(t2, end=True))
    assert query.matches(item) is expected
    assert bool(query.mismatches(item)) is not expected


@given(times, times, times)
def test_a_range_of_times_has_both_its_ends(low: str, high: str, time: str) -> None:
    expected = seconds(low) <= seconds(time) <= seconds(high, end=True)
    assert matches("TM", f"{low}-{high}", time) is expected
    assert matches("TM", f"{low} - {high}", time) is expected
    assert matches("TM", f"{low}-", time) is (seconds(low) <= seconds(time))
    assert matches("TM", f"-{high}", time) is (seconds(time) <= seconds(high, end=True))
    assert matches("TM", low, time) is (seconds(low) == seconds(time))


@pytest.mark.parametrize(
    ("wanted", "had", "expected"),
    [("2230", "223000", True), ("223000.0000", "2230", True), ("22:30", "223000", True), ("2230", "223001", False)],
)
def test_single_times_match_by_meaning(wanted: str, had: str, expected: bool) -> None:
    assert matches("TM", wanted, had) is expected


@pytest.mark.parametrize("vr", ["DA", "TM", "UI", "DS", "IS", "CS", "LO", "AE", "US"])
def test_a_lone_wild_card_asks_for_everything_whatever_the_vr(vr: str) -> None:
    assert matching.is_universal(vr, ("*",))
    assert matching.is_universal(vr, ("1", "**"))
    assert not matching.is_universal(vr, ("1*",))


def test_wild_cards_in_dates_and_times_do_what_is_meant() -> None:
    assert matches("DA", "202611*", "20261123")
    assert matches("DA", "2026.11.2?", "20261123")
    assert not matches("DA", "202612*", "20261123")
    assert matches("TM", "10*", "10:15")
    assert matching.matcher("DA", ("202610*", "202611*"), "exact")(("20261123",))
    item = {STEPS: ({"ScheduledProcedureStepStartDate": ("20261123",), "ScheduledProcedureStepStartTime": ("1015",)},)}
    both = Query([step(text(DA, "DA", "2026112*"), text(TM, "TM", "09-11"))])
    assert both.matches(item)
    assert both.days == matching.Span("", "")
    assert not Query([step(text(DA, "DA", "2026*-2026*"))]).matches(item)


@pytest.mark.parametrize(
    ("date", "time"), [((), ("1000",)), (("20261123",), ()), (("",), ("1000",)), (("20261123",), ("",)), ((), ())]
)
def test_what_has_no_date_or_no_time_lies_in_no_range_of_both(date: tuple[str, ...], time: tuple[str, ...]) -> None:
    item = {STEPS: ({"ScheduledProcedureStepStartDate": date, "ScheduledProcedureStepStartTime": time},)}
    for dates, times in (("20261101-20261130", "0800-1800"), ("20261101-", "0800-"), ("-20261130", "-1800")):
        assert not Query([step(text(DA, "DA", dates), text(TM, "TM", times))]).matches(item)


def test_days_are_those_of_the_date_alone() -> None:
    assert Query([step(text(TM, "TM", "0800-0900"), text(DA, "DA", "20261123"))]).days == matching.Span(
        "20261123", "20261123"
    )
    assert Query([step(text(DA, "DA", "20261123", "20261125"))]).days == matching.Span("", "")
    assert Query([step(text(DA, "DA", "-"))]).days == matching.Span("", "")
    assert Query([step(text(CS, "CS", "CT"))]).days == matching.Span("", "")
    assert Query([step(text(STATION, "AE", "*"))]).exact("ScheduledStationAETitle") is None
    assert Query([step(text(STATION, "AE"))]).exact("ScheduledStationAETitle") is None


def test_one_end_without_a_time_reaches_to_the_end_of_its_day() -> None:
    assert matching.combined("20261123-20261125", "1000-") == matching.Span(
        "20261123100000000000", "20261125999999999999"
    )
    assert matching.combined("-20261125", "1000-1800").low == ""


@given(st.sampled_from(["é", "Ä", "ñ", "ø", "Ł", "ά", "й", "ﾔ", "ß", "Ｄ"]), st.text("abc", max_size=3))
def test_folded_names_match_without_accents_case_and_width(letter: str, rest: str) -> None:
    wanted = matching.fold(letter + rest)
    assert matches("PN", wanted, (letter + rest).upper(), "fold")
    assert matches("PN", f"{wanted}*", unicodedata.normalize("NFD", letter + rest) + "^X", "fold")
    assert not matches("PN", f"{wanted}Q", letter + rest, "fold")


@pytest.mark.parametrize(
    ("wanted", "had", "expected"),
    [
        ("Doe", "Doe^John", True),
        ("^John", "Doe^John", True),
        ("Doe^J*", "DOE^John^Paul", True),
        ("Doe^John^Paul", "Doe^John", False),
        ("か", "が", False),
    ],
)
def test_folded_names_match_component_by_component(wanted: str, had: str, expected: bool) -> None:
    assert matches("PN", wanted, had, "fold") is expected


@pytest.mark.parametrize("wanted", ["*a*a*a*a*a*a*a*a*a*a*b", "?*?*?*?*?*?*?*?*?*?*b", "*" * 2000 + "b"])
def test_no_key_takes_long(wanted: str) -> None:
    assert not matches("LO", wanted, "a" * 5000)


@pytest.mark.parametrize(
    ("vr", "wanted"), [("LO", "*"), ("LO", "**"), ("PN", "*^*"), ("PN", "^"), ("DA", "-"), ("CS", "")]
)
def test_what_asks_for_nothing_matches_empty_values_too(vr: str, wanted: str) -> None:
    tag = {"LO": 0x00321060, "PN": PN, "DA": 0x00100030, "CS": 0x00100040}[vr]
    key = text(tag, vr, *((wanted,) if wanted else ()))
    assert Query([key]).matches({})
    assert Query([key]).matches({key.keyword: ()})
    assert Query([key]).matches({key.keyword: ("",)})


@pytest.mark.parametrize(
    ("vr", "tag", "wanted"), [("LO", PATIENT, "?*"), ("DA", 0x00100030, "19000101-"), ("PN", PN, "A*")]
)
def test_an_empty_value_matches_no_key(vr: str, tag: int, wanted: str) -> None:
    key = text(tag, vr, wanted)
    for item in ({}, {key.keyword: ()}, {key.keyword: ("",)}):
        assert not Query([key]).matches(item)
        assert Query([key]).mismatches(item) == [Mismatch(key.keyword, wanted, tuple(item.get(key.keyword, ())))]


def test_one_of_several_values_is_enough_on_either_side() -> None:
    item = {"ScheduledProcedureStepSequence": ({"ScheduledStationAETitle": ("CT1", "CT2")},)}
    assert Query([step(text(STATION, "AE", "CT2"))]).matches(item)
    assert Query([step(text(STATION, "AE", "MR1", "CT1"))]).matches(item)
    assert not Query([step(text(STATION, "AE", "MR1"))]).matches(item)


def test_keys_of_a_sequence_have_to_match_in_one_item() -> None:
    codes = ({"CodeValue": ("1",), "CodeMeaning": ("A",)}, {"CodeValue": ("2",), "CodeMeaning": ("B",)})
    item = {"RequestedProcedureCodeSequence": codes}
    code, meaning = 0x00080100, 0x00080104

    def asks(*keys: Key) -> Query:
        return Query([Key(0x00321064, "SQ", items=(keys,))])

    assert asks(text(code, "SH", "2"), text(meaning, "LO", "B")).matches(item)
    assert not asks(text(code, "SH", "1"), text(meaning, "LO", "B")).matches(item)
    assert asks(text(code, "SH")).matches({})
    assert not asks(text(code, "SH", "1")).matches({})
    found = asks(text(code, "SH", "1"), text(meaning, "LO", "B")).mismatches(item)
    assert [each.key for each in found] == ["RequestedProcedureCodeSequence.CodeMeaning"]


@pytest.mark.parametrize("items", [(), ((),)])
def test_a_sequence_without_keys_asks_for_nothing(items: tuple[tuple[Key, ...], ...]) -> None:
    assert Query([Key(SQ, "SQ", items=items)]).matches({})


def test_keys_that_nothing_is_matched_by_are_told() -> None:
    query = Query(
        [text(0x00080070, "LO", "ACME"), text(0x00080201, "SH", "+0100"), text(0x00091001, "LO", "X"), step()]
    )
    assert query.matches({})
    assert query.ignored == ("Manufacturer", "TimezoneOffsetFromUTC", "(0009,1001)")
    assert query.unknown


def test_what_narrows_the_search_is_known() -> None:
    query = Query(
        [text(PATIENT, "LO", "P1"), step(text(STATION, "AE", "CT1", "CT2"), text(DA, "DA", "20261123-20261124"))]
    )
    assert query.exact("PatientID") == frozenset({"P1"})
    assert query.exact("ScheduledStationAETitle") == frozenset({"CT1", "CT2"})
    assert query.days == matching.Span("20261123", "20261124")
    assert Query([text(PATIENT, "LO", "P*")]).exact("PatientID") is None
    # A key outside of the step is none of the step's.
    assert Query([text(CS, "CS", "CT")]).exact("Modality") is None


def encode(keys: Sequence[Key], *, implicit: bool) -> bytes:
    """Write an identifier, plainly."""
    parts = []
    for key in keys:
        group, element = key.tag >> 16, key.tag & 0xFFFF
        if key.items is None:
            value = "\\".join(key.values).encode()
            value += b" " * (len(value) % 2)
        else:
            inner = [encode(item, implicit=implicit) for item in key.items]
            value = b"".join(struct.pack("<HHI", 0xFFFE, 0xE000, len(each)) + each for each in inner)
        if implicit:
            parts.append(struct.pack("<HHI", group, element, len(value)) + value)
        elif key.vr == "SQ":
            parts.append(struct.pack("<HH2sHI", group, element, b"SQ", 0, len(value)) + value)
        else:
            parts.append(struct.pack("<HH2sH", group, element, key.vr.encode(), len(value)) + value)
    return b"".join(parts)


words = st.lists(st.text("ABC*?", min_size=1, max_size=5), max_size=2).map(tuple)


@given(words, words, words, st.booleans())
def test_an_identifier_is_read_as_it_was_written(
    names: tuple[str, ...], ids: tuple[str, ...], stations: tuple[str, ...], implicit: bool
) -> None:
    keys = (Key(PN, "PN", names), Key(PATIENT, "LO", ids), step(Key(STATION, "AE", stations)))
    syntax = "1.2.840.10008.1.2" if implicit else "1.2.840.10008.1.2.1"
    data = encode(keys, implicit=implicit)
    found = identifier.decode(data, syntax)
    assert found == keys
    assert list(said(found)) == ["PatientName", "PatientID", "ScheduledProcedureStepSequence"]


@given(st.binary(max_size=200), st.booleans())
def test_any_bytes_are_read_or_refused(data: bytes, implicit: bool) -> None:
    try:
        keys = identifier.decode(data, "1.2.840.10008.1.2" if implicit else "1.2.840.10008.1.2.1")
    except UnreadableError:
        return
    Query(keys).matches({"PatientName": ("A",)})
    Query(keys).mismatches({})


def test_nesting_has_an_end() -> None:
    key = Key(PN, "PN", ("A",))
    for _ in range(20):
        key = Key(SQ, "SQ", items=((key,),))
    with pytest.raises(UnreadableError):
        identifier.decode(encode([key], implicit=True), "1.2.840.10008.1.2")
