"""Rows by a list of keys that is one parameter: the statement is the same however many there are.

With a parameter for each value every length of a list is a statement of its own, to be made, compiled and planned anew;
PostgreSQL compares each row of a small table with all of them.
"""

from collections.abc import Iterable, Sequence
from typing import Any, Final

from pydantic_core import to_json
from sqlalchemy import (
    JSON,
    BigInteger,
    Column,
    Integer,
    Select,
    Table,
    Text,
    bindparam,
    cast,
    func,
    literal_column,
    select,
    true,
)
from sqlalchemy.sql.elements import ColumnElement

#: Name of the parameter.
KEYS: Final = "keys"


def find(
    dialect: str,
    table: Table,
    *columns: Column[Any],
    give: Sequence[Column[Any]] = (),
    where: ColumnElement[bool] | None = None,
) -> Select[Any]:
    """Select the rows that have keys, which `of` makes a parameter of, in no order.

    Parameters
    ----------
    dialect
        `sqlite` or `postgresql`.
    columns
        Of the table, one for each part of a key; texts or whole numbers. An index begins with them.
    give
        Columns to give; all if none are named.
    where
        A further condition.
    """
    given = bindparam(KEYS, type_=Text)
    found = select(*(give or table.c)).where(true() if where is None else where)
    if dialect == "sqlite":
        key = func.json_each(given).table_valued("value", name="key")
        parts = [func.json_extract(key.c.value, literal_column(f"'$[{number}]'")) for number in range(len(columns))]
        same = [column == part for column, part in zip(columns, parts, strict=True)]
        return found.select_from(key.join(table, true())).where(*same)
    key = func.json_array_elements(cast(given, JSON)).table_valued("value").render_derived(name="key")
    texts = [key.c.value.op("->>")(literal_column(str(number))) for number in range(len(columns))]
    same = [
        column == cast(text, BigInteger if isinstance(column.type, Integer) else Text)
        for column, text in zip(columns, texts, strict=True)
    ]
    # OFFSET keeps the planner from reading all of the table, as it would while it believes that there is not much.
    each = found.where(*same).correlate(key).offset(literal_column("0")).lateral("found")
    return select(each).select_from(key.join(each, true()))


def of(keys: Iterable[Sequence[str | int]]) -> dict[str, str]:
    """Give the parameter for keys, each once."""
    return {KEYS: to_json(sorted(set(map(tuple, keys)))).decode()}
