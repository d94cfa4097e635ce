"""Orders in a CSV file: one line each, one column for each field of the form. Pure."""

import csv
import io
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final, Literal, TypeAlias

from pydantic import ValidationError

from services.worklist import likeness
from services.worklist.change import Number
from services.worklist.form import Added, patient_of

#: Most lines that are taken at a time.
MOST: Final = 20_000
_SEPARATORS: Final = ",;\t"
#: What some spreadsheets write before the columns, to say by what they are parted.
_SAID: Final = re.compile(r'"?sep=(.)"?', re.IGNORECASE)
#: How a date with slashes, dots or hyphens is meant: spreadsheets write dates as their language is used to.
Dates: TypeAlias = Literal["iso", "day-first", "month-first"]
_LOCAL_DATE: Final = re.compile(r"(\d{1,2})([/.-])(\d{1,2})\2(\d{4})(?=\D|$)")
_DATED: Final = ("birth_date", "start")


@dataclass(frozen=True)
class Flaw:
    """What is wrong in a line; without its values."""

    line: int
    column: str
    message: str


@dataclass(frozen=True)
class Line:
    """An order, and the number of its line."""

    number: int
    form: Added


def read(text: str, dates: Dates = "iso") -> tuple[list[Line], list[Flaw]]:
    """Read all lines; give the orders, or what is wrong with any of them.

    The first line names the columns. They are parted by commas, semicolons or tabs, whichever the first line has most
    of: spreadsheets write what their language is used to. Empty cells are left out; empty lines are passed over.

    Parameters
    ----------
    text
        The file; any line ends, with or without a byte order mark.
    dates
        How dates are written besides 2026-11-21: day-first 21/11/2026, month-first 11/21/2026.
    """
    lines: list[Line] = []
    flaws: list[Flaw] = []
    columns: list[str] = []
    number = 0
    try:
        for number, cells in _rows(text):
            if not columns:
                columns = [cell.strip().lower().replace(" ", "_").replace("-", "_") for cell in cells]
                flaws += _of_head(number, columns)
                if flaws:
                    return [], flaws
                continue
            if len(lines) == MOST:
                return [], [Flaw(number, "", f"the file has more than {MOST:,} orders: part it")]
            _read_line(number, columns, cells, dates, lines, flaws)
    except csv.Error as error:
        flaws.append(Flaw(number + 1, "", f"from here on it can't be read as CSV: {error}"))
    if not columns:
        flaws.append(Flaw(1, "", "the file is empty: its first line names the columns"))
    elif not lines and not flaws:
        flaws.append(Flaw(number + 1, "", "the file has columns, and no orders"))
    flaws += _of_several(lines)
    return ([], sorted(flaws, key=lambda flaw: flaw.line)) if flaws else (lines, [])


def parts(text: str, size: int) -> Iterator[str]:
    """Give a file that was read without flaws as several, of so many orders each."""
    rows = [cells for _, cells in _rows(text)]
    for start in range(1, len(rows), size):
        part = io.StringIO()
        csv.writer(part).writerows([rows[0], *rows[start : start + size]])
        yield part.getvalue()


def _rows(text: str) -> Iterator[tuple[int, list[str]]]:
    """Give the cells of each line that is not empty, with its number. Raises csv.Error."""
    lines = re.split(r"\r\n|\r|\n", text.removeprefix("\ufeff"))
    passed = next((number for number, line in enumerate(lines) if line.strip()), 0)
    said = _SAID.fullmatch(lines[passed].strip(" "))
    if said is not None:
        lines[passed] = ""
        separator = said[1]
    else:
        separator = max(_SEPARATORS, key=lines[passed].count)
    reader = csv.reader((line + "\n" for line in lines), delimiter=separator, strict=True)
    for cells in reader:
        if any(cell.strip() for cell in cells):
            yield reader.line_num, cells


def _of_head(number: int, columns: Sequence[str]) -> list[Flaw]:
    known = Added.model_fields
    flaws = [
        Flaw(number, column, f"there is no such column: there are {', '.join(known)}")
        if column
        else Flaw(number, "", f"column {place} has no name")
        for place, column in enumerate(columns, start=1)
        if column not in known
    ]
    flaws += [
        Flaw(number, column, "stands there twice")
        for column in sorted({c for c in columns if c in known and columns.count(c) > 1})
    ]
    missing = [name for name, field in known.items() if field.is_required() and name not in columns]
    return flaws + [Flaw(number, name, "this column is missing, and each order needs it") for name in missing]


def _read_line(
    number: int, columns: Sequence[str], cells: Sequence[str], dates: Dates, lines: list[Line], flaws: list[Flaw]
) -> None:
    if any(cell.strip() for cell in cells[len(columns) :]):
        flaws.append(Flaw(number, "", f"has {len(cells)} cells, and there are {len(columns)} columns"))
        return
    given = {column: cell.strip() for column, cell in zip(columns, cells, strict=False) if cell.strip()}
    given |= {name: _as_iso(given[name], dates) for name in _DATED if name in given}
    try:
        lines.append(Line(number, Added.model_validate(given)))
    except ValidationError as error:
        for each in error.errors(include_input=False, include_url=False, include_context=False):
            column = str(each["loc"][0]) if each["loc"] else ""
            message = _words(each["type"], each["msg"])
            if each["type"] == "date" and dates == "iso" and _LOCAL_DATE.match(given[column]):
                message += ", or say whether all dates are day-first (21/11/2026) or month-first (11/21/2026)"
            flaws.append(Flaw(number, column, message))


def _as_iso(text: str, dates: Dates) -> str:
    found = _LOCAL_DATE.match(text)
    if found is None or dates == "iso":
        return text
    first, _, second, year = found.groups()
    day, month = (first, second) if dates == "day-first" else (second, first)
    return f"{year}-{month:>02}-{day:>02}{text[found.end() :]}"


def _words(kind: str, message: str) -> str:
    if kind == "missing":
        return "is empty, and each order needs it"
    if kind == "string_pattern_mismatch":
        return "holds characters that do not belong there, or is too long"
    return message[:1].lower() + message[1:]


def _of_several(lines: Sequence[Line]) -> Iterator[Flaw]:
    """Find lines of which not both can be true."""
    orders: dict[tuple[str, str], Line] = {}
    patients: dict[Number, Line] = {}
    for line in lines:
        form = line.form
        if form.order is not None:
            other = orders.setdefault((form.site, form.order), line)
            if other.form != form:
                said = f"is that of line {other.number}, which says something else: an order has one line"
                yield Flaw(line.number, "order", said)
        other = patients.setdefault(patient_of(form), line)
        for field in likeness.differences(likeness.of_form(other.form), likeness.of_form(form)):
            yield Flaw(line.number, field, f"is another one than in line {other.number}, for the same patient_id")
