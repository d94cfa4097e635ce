"""A point in time as a column."""

from datetime import UTC, datetime
from typing import Any

from sqlalchemy import DateTime, Dialect
from sqlalchemy.types import TypeDecorator


class Instant(TypeDecorator[datetime]):
    """A time with its offset, given back in UTC. In a revision: `sa.DateTime(timezone=True)`.

    SQLite keeps no offset: it is stored there in UTC, so that times compare in SQL as they do in Python.

    Raises
    ------
    ValueError
        A time without an offset is stored: it could be any of 24.
    """

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:  # noqa: ARG002
        """Give what is stored."""
        if value is None:
            return None
        if value.utcoffset() is None:
            raise ValueError("a time without an offset can't be stored: take it from the clock that is passed in")
        return value.astimezone(UTC)

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:  # noqa: ARG002
        """Give what was stored, in UTC."""
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)

    def coerce_compared_value(self, op: Any, value: Any) -> Any:  # noqa: ARG002
        """Treat what a column is compared with as the column itself."""
        return self
