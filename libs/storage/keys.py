"""Rows by a list of keys that is one parameter: the statement is the same however many there are.

With a parameter for each value every length of a list is a statement of its own, to be made, compiled and planned anew;
PostgreSQL compares each row of a small table with all of them.
"""

from collections.abc import Iterable, Sequence
from typing import Any, Final

from pydantic_core import to_json
from sqlalchemy import JSON, BigInteger, Column, FromClause, Text, and_, bindparam, cast, func, literal_column
from sqlalchemy import Integer as Whole
from sqlalchemy.sql.elements import ColumnElement
from sqlalchemy.sql.selectable import Join

#: Name of the parameter.
KEYS: Final = "keys"


def join(dialect: str, table: FromClause, *columns: Column[Any]) -> Join:
    """Join a table with the keys that `of` makes a parameter of: of a key that is named twice its rows come twice.

    Parameters
    ----------
    dialect
        `sqlite` or `postgresql`.
    columns
        Of the table, one for each part of a key; texts or whole numbers.
    """
    given = bindparam(KEYS, type_=Text)
    if dialect == "postgresql":
        rows = func.json_array_elements(cast(given, JSON)).table_valued("value").render_derived(name="key")
        parts: list[ColumnElement[Any]] = [
            cast(rows.c.value.op("->>")(literal_column(str(number))), BigInteger if _is_whole(column) else Text)
            for number, column in enumerate(columns)
        ]
    else:
        rows = func.json_each(given).table_valued("value", name="key")
        parts = [func.json_extract(rows.c.value, literal_column(f"'$[{number}]'")) for number in range(len(columns))]
    return rows.join(table, and_(*(column == part for column, part in zip(columns, parts, strict=True))))


def of(keys: Iterable[Sequence[str | int]]) -> dict[str, str]:
    """Give the parameter for keys, each once."""
    return {KEYS: to_json(sorted(set(map(tuple, keys)))).decode()}


def _is_whole(column: Column[Any]) -> bool:
    return isinstance(column.type, Whole)
