"""CSV files of orders, as people and their spreadsheets write them."""

import csv
import io
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.worklist import form, sheet
from services.worklist.form import Added
from services.worklist.sheet import Flaw, read

HEAD = "site,patient_id,patient_name,modality,start"
LINE = "bata,4711,DOE^JANE,US,2026-11-21 10:15"


def forms(text: str, **how: Any) -> list[Added]:
    lines, flaws = read(text, **how)
    assert flaws == []
    return [line.form for line in lines]


def flaws(text: str, **how: Any) -> list[Flaw]:
    lines, found = read(text, **how)
    assert lines == []
    return found


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("separator", [",", ";", "\t"])
@pytest.mark.parametrize("before", ["", "\ufeff", "\n\n", "sep={}\n", '\ufeff"sep={}"\n'])
def test_a_file_is_read_however_a_spreadsheet_writes_it(before: str, separator: str, end: str) -> None:
    text = before.replace("{}", separator) + f"{HEAD}\n{LINE}\n".replace(",", separator)
    [one] = forms(text.replace("\n", end))
    assert (one.patient_name, one.start) == ("DOE^JANE", "20261121101500")


def test_empty_lines_and_cells_say_nothing_and_names_of_columns_are_read_kindly() -> None:
    text = f"Site, Patient ID ,patient-name,MODALITY,start,weight,\n,,,,,,\n{LINE},,\n".replace(
        "start,weight,", "start,weight"
    )
    [one] = forms(text)
    assert one == Added(site="bata", patient_id="4711", patient_name="DOE^JANE", modality="US", start="20261121101500")
    assert one.model_fields_set == {"site", "patient_id", "patient_name", "modality", "start"}


@pytest.mark.parametrize(
    ("text", "line", "column", "words"),
    [
        ("", 1, "", "empty"),
        (f"{HEAD}\n", 2, "", "no orders"),
        (f"{HEAD},shoe\n{LINE},42\n", 1, "shoe", "no such column"),
        (f"{HEAD},,room\n{LINE},,1\n", 1, "", "column 6 has no name"),
        (f"{HEAD},site\n{LINE},bata\n", 1, "site", "twice"),
        ("site,patient_id,patient_name,modality\n", 1, "start", "missing"),
        (f"{HEAD}\n{LINE}\nbata,4712,ROE^JOHN,US,\n", 3, "start", "is empty"),
        (f"{HEAD}\n{LINE},STAT\n", 2, "", "6 cells"),
        (f'{HEAD}\n{LINE}\nbata,"4712,ROE^JOHN,US,2026-11-21\n', 3, "", "can't be read as CSV"),
        (f"{HEAD}\nbata,4711,DOE^JANE,US,21/11/2026 10:15\n", 2, "start", "day-first"),
        (f"{HEAD}\nbata,4711,DOE^JANE,US,tomorrow\n", 2, "start", "is not a date here"),
        (f"{HEAD}\nbata,4711,DOE^JANE,US,2026121\n", 2, "start", "is not a date here"),
        (f"{HEAD}\nbata,4711,^,US,2026-11-21\n", 2, "patient_name", "nobody's name"),
        (f"{HEAD},sex\n{LINE},Mujer\n", 2, "sex", "'M', 'F' or 'O'"),
        (f"{HEAD},procedure_scheme\n{LINE},SCT\n", 2, "", "give both"),
        (f"{HEAD}\nbata,47\\11,DOE^JANE,US,2026-11-21\n", 2, "patient_id", "characters that do not belong"),
        (f"{HEAD}\n{LINE}\nbata,4711,DOE^JUNE,US,2026-11-22\n", 3, "patient_name", "line 2"),
        (f"{HEAD},order\n{LINE},17\nbata,4711,DOE^JANE,CT,2026-11-22,17\n", 3, "order", "line 2"),
    ],
)
def test_what_is_wrong_is_told_with_its_line_and_column_and_nothing_is_taken(
    text: str, line: int, column: str, words: str
) -> None:
    [flaw] = flaws(text)
    assert (flaw.line, flaw.column) == (line, column)
    assert words in flaw.message


def test_every_flaw_of_a_file_is_told_in_the_order_of_its_lines() -> None:
    text = f"{HEAD},sex\n{LINE},F\nbata,4711,DOE^JANE,US,,Q\n{LINE},M\n"
    assert [(flaw.line, flaw.column) for flaw in flaws(text)] == [(3, "sex"), (3, "start"), (4, "sex")]


def test_no_flaw_repeats_a_value() -> None:
    text = f"{HEAD},birth_date,weight\nbata,SECRET\\1,SECRET^^^^^^,secret!,SECRET,SECRET,SECRET\n"
    assert not any("SECRET" in flaw.message.upper() for flaw in flaws(text))


@pytest.mark.parametrize(
    ("dates", "written"),
    [
        ("iso", "2026-3-7 9:05"),
        ("day-first", "7/3/2026 9:05"),
        ("day-first", "07.03.2026 09:05:00"),
        ("month-first", "3/7/2026 9:05"),
    ],
)
def test_dates_are_read_as_it_is_said_that_they_are_meant(dates: str, written: str) -> None:
    [one] = forms(f"{HEAD},birth_date\nbata,4711,DOE^JANE,US,{written},1980-03-27\n", dates=dates)
    assert (one.start, one.birth_date) == ("20260307090500", "19800327")


@pytest.mark.parametrize("written", ["61.5", "61,5", "61\u066b5"])
def test_the_decimal_sign_is_that_of_the_spreadsheet(written: str) -> None:
    [one] = forms(f"{HEAD},weight\n{LINE},{written}\n".replace(",", ";").replace("61;5", "61,5"))
    assert one.weight == 61.5


def test_the_same_line_twice_is_no_flaw_and_one_order() -> None:
    first, second = forms(f"{HEAD}\n{LINE}\n{LINE}\n")
    assert form.own_number(first) == form.own_number(second)


def test_the_number_of_an_order_does_not_change_with_the_fields_that_a_form_has() -> None:
    one = Added(site="bata", patient_id="4711", patient_name="DOE^JANE", modality="US", start="2026-11-21")
    assert form.own_number(one) == form.own_number(one.model_copy(update={"room": None, "weight": None}))
    # Kept by releases: to import a file again after an upgrade changes nothing.
    assert form.own_number(one).value == "46CE5C798E9D1C42F965"
    assert form.own_number(one) != form.own_number(one.model_copy(update={"room": "2"}))


def test_more_lines_than_are_taken_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sheet, "MOST", 2)
    [flaw] = flaws(f"{HEAD}\n" + "".join(f"bata,{n},DOE^J,US,2026-11-21\n" for n in range(3)))
    assert (flaw.line, "more than 2 orders" in flaw.message) == (4, True)


NAMES = st.text(
    st.characters(codec="utf-8", exclude_categories=["Cc", "Cs"], exclude_characters="^=\\"), min_size=1, max_size=20
)
ORDERS = st.lists(
    st.fixed_dictionaries(
        {
            "site": st.just("bata"),
            "patient_id": st.integers(0, 10**6).map(str),
            "patient_name": NAMES.map(str.strip).filter(bool),
            "modality": st.sampled_from(["CT", "MR", "US"]),
            "start": st.datetimes().map(lambda at: at.strftime("%Y-%m-%d %H:%M").rjust(16, "0")),
        },
        optional={
            "reason": st.text(
                st.characters(codec="utf-8", exclude_categories=["Cc", "Cs"], exclude_characters="\\"), max_size=20
            ),
            "comments": st.text(st.sampled_from('ab;,"\t\n ñ\u0628'), max_size=20),
        },
    ),
    min_size=1,
    max_size=5,
    unique_by=lambda order: order["patient_id"],
)


@given(orders=ORDERS, separator=st.sampled_from(",;\t"), end=st.sampled_from(["\n", "\r\n"]), size=st.integers(1, 3))
@settings(max_examples=60, deadline=None)
def test_what_any_spreadsheet_writes_is_read_back_whole_and_in_parts(
    orders: list[dict[str, str]], separator: str, end: str, size: int
) -> None:
    columns = ["site", "patient_id", "patient_name", "modality", "start", "reason", "comments"]
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, delimiter=separator, lineterminator=end, restval="")
    writer.writeheader()
    writer.writerows(orders)
    wanted = [
        Added.model_validate({name: value.strip() for name, value in order.items() if value.strip()})
        for order in orders
    ]
    assert forms(text.getvalue()) == wanted
    assert [one for part in sheet.parts(text.getvalue(), size) for one in forms(part)] == wanted


@given(text=st.text(st.sampled_from('site,patient_idnamemodality"\n\r;\t \ufeff=^0123456789-:'), max_size=200))
@settings(max_examples=100, deadline=None)
def test_no_text_makes_the_reader_fail(text: str) -> None:
    for whole in (text, f"{HEAD}\n{text}"):
        lines, found = read(whole)
        assert bool(lines) != bool(found)
