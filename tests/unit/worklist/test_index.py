"""The index gives every item that matches a query, in the order that people wait for them; whatever came and went."""

import json
from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.worklist.identifier import Key
from services.worklist.index import Entry, Index, entry, is_shown
from services.worklist.query import STEPS, Query

pytestmark = pytest.mark.unit
SQ, DA, STATION, MODALITY = 0x00400100, 0x00400002, 0x00400001, 0x00080060
PATIENT, ACCESSION, NAME, STUDY = 0x00100020, 0x00080050, 0x00100010, 0x0020000D
TODAY = "20261123"


def item(
    number: int, *, day: str = TODAY, time: str = "1000", stations: tuple[str, ...] = ("CT1",), patient: str = "P1",
    tenant: str = "t", accession: str = "A1", revision: int = 1,
) -> Entry:  # fmt: skip
    said = {
        "PatientID": [patient] if patient else [],
        "AccessionNumber": [accession],
        "PatientName": ["DOE^JANE"],
        "StudyInstanceUID": [],
        STEPS: [
            {
                "ScheduledStationAETitle": list(stations),
                "ScheduledProcedureStepStartDate": [day] if day else [],
                "ScheduledProcedureStepStartTime": [time],
                "Modality": ["CT"],
            }
        ],
    }
    start = (day.replace(".", "") + time.ljust(6, "0")) if day else ""
    return entry(number, tenant, "s", start, revision, json.dumps(said))


def asks(within: Mapping[int, tuple[str, tuple[str, ...]]], **keys: tuple[str, ...]) -> Query:
    tags = {"patient": (PATIENT, "LO"), "accession": (ACCESSION, "SH"), "name": (NAME, "PN"), "study": (STUDY, "UI")}
    own = [Key(*tags[name], values) for name, values in keys.items()]
    step = tuple(Key(tag, vr, values) for tag, (vr, values) in within.items())
    return Query([*own, Key(SQ, "SQ", items=(step,))])


days = st.sampled_from(["", "20261121", "20261122", TODAY, "20261124", "2026.11.25"])
made = st.builds(
    item,
    st.integers(1, 12),
    day=days,
    time=st.sampled_from(["0800", "1000", "1200"]),
    stations=st.sampled_from([(), ("CT1",), ("CT2",), ("CT1", "CT2")]),
    patient=st.sampled_from(["", "P1", "P2"]),
    tenant=st.sampled_from(["t", "u"]),
    accession=st.sampled_from(["A1", "A2"]),
)
#: Entries that come, and numbers of those that go.
histories = st.lists(st.one_of(made, st.integers(1, 12)), max_size=25)
queries = st.builds(
    asks,
    st.fixed_dictionaries(
        {},
        optional={
            DA: st.tuples(
                st.just("DA"),
                st.sampled_from([
                    (), ("20261122",), ("20261122-20261123",), ("20261123-",), ("-20261122",), ("20261124", "20261121"),
                    ("2026.11.25",), ("2026112*",), ("*",), ("20261130-",),
                ]),
            ),
            STATION: st.tuples(
                st.just("AE"), st.sampled_from([(), ("CT1",), ("CT1", "CT2"), ("CT?",), ("MR1",), ("*",)])
            ),
        },
    ),
    patient=st.sampled_from([(), ("P1",), ("P1", "P2"), ("P9",), ("P*",)]),
    accession=st.sampled_from([(), (), ("A1",), ("A?",)]),
)  # fmt: skip


def indexed(history: list[Entry | int]) -> tuple[Index, dict[int, Entry]]:
    index, known = Index(), dict[int, Entry]()
    for each in history:
        if isinstance(each, int):
            index.put((), [each])
            known.pop(each, None)
        else:
            index.put([each])
            known[each.id] = each
    return index, known


@settings(max_examples=150, deadline=None)
@given(histories, queries)
def test_all_that_matches_is_a_candidate_and_nothing_of_another_tenant(
    history: list[Entry | int], query: Query
) -> None:
    index, known = indexed(history)
    assert len(index) == len(known)
    found = list(index.candidates("t", query, TODAY))
    assert len({each.id for each in found}) == len(found)
    assert all(known[each.id] == each and each.tenant == "t" for each in found)
    of_tenant = [each for each in known.values() if each.tenant == "t"]
    assert {each.id for each in found if query.matches(each.attributes)} == {
        each.id for each in of_tenant if query.matches(each.attributes)
    }


@settings(max_examples=80, deadline=None)
@given(histories, queries)
def test_what_is_from_today_on_comes_first_then_what_has_no_day_then_the_past_backwards(
    history: list[Entry | int], query: Query
) -> None:
    index, _ = indexed(history)

    def place(each: Entry) -> int:
        return 1 if not each.day else 0 if each.day >= TODAY else 2

    found = list(index.candidates("t", query, TODAY))
    assert [place(each) for each in found] == sorted(place(each) for each in found)
    coming = [each.start for each in found if place(each) == 0]
    past = [each.day for each in found if place(each) == 2]
    assert coming == sorted(coming)
    assert past == sorted(past, reverse=True)


@given(histories, queries)
@settings(max_examples=50, deadline=None)
def test_what_went_leaves_nothing_behind(history: list[Entry | int], query: Query) -> None:
    index, known = indexed(history)
    index.put((), list(known))
    assert len(index) == 0
    assert list(index.candidates("t", query, TODAY)) == []
    for tenant in index._tenants.values():
        assert (tenant.numbers, dict(tenant.stations), tenant.days.entries, tenant.days.ordered) == ({}, {}, {}, [])


def test_a_search_by_day_or_number_looks_at_few() -> None:
    index = Index()
    index.put(item(n, day=f"202611{n:02}", patient=f"P{n}", stations=(f"CT{n % 2}",)) for n in range(1, 31))

    def looked_at(query: Query) -> list[int]:
        return [each.id for each in index.candidates("t", query, TODAY)]

    assert looked_at(asks({DA: ("DA", ("20261110-20261112",))})) == [12, 11, 10]
    assert looked_at(asks({DA: ("DA", ("20261129-",))})) == [29, 30]
    assert looked_at(asks({DA: ("DA", ("-20261102",))})) == [2, 1]
    assert looked_at(asks({DA: ("DA", ("20261110-20261113",)), STATION: ("AE", ("CT1",))})) == [13, 11]
    assert looked_at(asks({}, patient=("P7",))) == [7]
    assert looked_at(asks({}, patient=("P7", "P25"))) == [25, 7]
    assert len(looked_at(asks({}, patient=("P?",)))) == 30


def test_an_entry_sums_up_what_its_item_says() -> None:
    said: dict[str, Any] = {
        "PatientName": ["DOE^JANE"],
        "PatientID": ["P1", "P1B"],
        "AccessionNumber": [""],
        STEPS: [{"ScheduledStationAETitle": ["CT1", ""], "ScheduledProcedureStepStartDate": ["2026.11.23"]}],
    }
    found = entry(7, "t", "s", "", 3, json.dumps(said))
    assert (found.day, found.stations, found.modality, found.name) == (TODAY, ("CT1",), "", "DOE^JANE")
    assert found.numbers == (("PatientID", "P1"), ("PatientID", "P1B"))
    assert found.attributes == said
    assert found.summary["PatientID"] == ("P1", "P1B")
    bare = entry(8, "t", "s", "", 3, "{}")
    assert (bare.day, bare.stations, bare.modality, bare.name, bare.numbers) == ("", (), "", "", ())


@given(made, queries)
@settings(max_examples=80, deadline=None)
def test_a_summary_matches_as_its_item_does(each: Entry, query: Query) -> None:
    assert query.matches(each.summary) is query.matches(each.attributes)


@pytest.mark.parametrize(
    ("state", "performed", "shown"),
    [
        ("scheduled", None, True),
        ("arrived", None, True),
        ("started", "in-progress", True),
        ("scheduled", "completed", False),
        ("started", "discontinued", False),
        ("completed", None, False),
        ("discontinued", None, False),
        ("cancelled", None, False),
    ],
)
def test_what_is_shown(state: str, performed: str | None, shown: bool) -> None:
    assert is_shown(state, performed) is shown
