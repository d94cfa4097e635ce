"""Orders in a CSV file: one line each, one column for each field of the form. Pure."""

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from pydantic import ValidationError

from services.worklist.form import Added

#: Most lines that are taken at a time.
MOST: Final = 20_000
_SEPARATORS: Final = ",;\t"


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


def read(text: str) -> tuple[list[Line], list[Flaw]]:
    """Read all lines; give the orders, or what is wrong with any of them.

    The first line names the columns. They are parted by commas, semicolons or tabs, whichever the first line has most
    of: spreadsheets write what their language is used to. Empty cells are left out; empty lines are passed over.
    """
    text = text.removeprefix("\ufeff")
    head = text.partition("\n")[0]
    reader = csv.reader(io.StringIO(text), delimiter=max(_SEPARATORS, key=head.count), strict=True)
    lines: list[Line] = []
    flaws: list[Flaw] = []
    columns: list[str] = []
    try:
        for cells in reader:
            if not any(cell.strip() for cell in cells):
                continue
            if not columns:
                columns = [cell.strip().lower().replace(" ", "_").replace("-", "_") for cell in cells]
                flaws += _of_head(columns)
                if flaws:
                    return [], flaws
                continue
            if len(lines) == MOST:
                return [], [Flaw(reader.line_num, "", f"the file has more than {MOST:,} orders: part it")]
            _read_line(reader.line_num, columns, cells, lines, flaws)
    except csv.Error as error:
        flaws.append(Flaw(reader.line_num, "", f"is not CSV: {error}"))
    if not columns:
        flaws.append(Flaw(1, "", "the file is empty: its first line names the columns"))
    return ([], flaws) if flaws else (lines, [])


def _of_head(columns: Sequence[str]) -> list[Flaw]:
    known = Added.model_fields
    flaws = [
        Flaw(1, column, f"there is no such column: there are {', '.join(known)}")
        for column in columns
        if column not in known
    ]
    flaws += [Flaw(1, column, "stands there twice") for column in sorted({c for c in columns if columns.count(c) > 1})]
    missing = [name for name, field in known.items() if field.is_required() and name not in columns]
    return flaws + [Flaw(1, name, "this column is missing, and each order needs it") for name in missing]


def _read_line(number: int, columns: Sequence[str], cells: Sequence[str], lines: list[Line], flaws: list[Flaw]) -> None:
    if len(cells) > len(columns):
        flaws.append(Flaw(number, "", f"has {len(cells)} cells, and there are {len(columns)} columns"))
        return
    given = {column: cell.strip() for column, cell in zip(columns, cells, strict=False) if cell.strip()}
    try:
        lines.append(Line(number, Added.model_validate(given)))
    except ValidationError as error:
        for each in error.errors(include_input=False, include_url=False, include_context=False):
            flaws += [Flaw(number, str(each["loc"][0]) if each["loc"] else "", _words(each["type"], each["msg"]))]


def _words(kind: str, message: str) -> str:
    if kind == "missing":
        return "is empty, and each order needs it"
    if kind == "string_pattern_mismatch":
        return "holds characters that do not belong there, or is too long"
    return message
