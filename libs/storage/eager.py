"""SQLite for asyncio with one visit to the connection's thread per statement, where aiosqlite's cursors make four."""

import sqlite3
from collections.abc import Iterable, Sequence
from typing import Any, Self

import aiosqlite


class EagerCursor:
    """What SQLAlchemy asks of an asynchronous cursor. All rows are there when `execute` returns."""

    def __init__(self, connection: "EagerConnection") -> None:
        self._connection = connection
        self._rows: list[Any] = []
        self.description: Any = None
        self.rowcount = -1
        self.lastrowid: int | None = None
        self.arraysize = 1

    async def __aenter__(self) -> Self:
        return self

    async def execute(self, operation: str, parameters: Sequence[Any] = ()) -> "EagerCursor":
        """Run a statement and fetch what it gives."""
        await self._connection.visit(self._execute, operation, parameters)
        return self

    async def executemany(self, operation: str, parameters: Iterable[Sequence[Any]]) -> "EagerCursor":
        """Run a statement for each row of parameters."""
        await self._connection.visit(self._executemany, operation, parameters)
        return self

    async def fetchall(self) -> list[Any]:
        """Give the rows that have not been given."""
        rows, self._rows = self._rows, []
        return rows

    async def close(self) -> None:
        """Do nothing: the thread keeps no cursor open."""

    def _execute(self, connection: sqlite3.Connection, operation: str, parameters: Sequence[Any]) -> None:
        cursor = connection.execute(operation, parameters)
        self._rows = cursor.fetchall()
        self._note(cursor)

    def _executemany(self, connection: sqlite3.Connection, operation: str, parameters: Iterable[Sequence[Any]]) -> None:
        self._note(connection.executemany(operation, parameters))

    def _note(self, cursor: sqlite3.Cursor) -> None:
        self.description = cursor.description
        self.rowcount = cursor.rowcount
        self.lastrowid = cursor.lastrowid
        cursor.close()


class EagerConnection(aiosqlite.Connection):
    """A connection of aiosqlite with other cursors. Results that are read row by row have no place here."""

    async def visit(self, work: Any, *arguments: Any) -> None:
        """Have `work(connection, ...)` done in the connection's thread."""
        await self._execute(work, self._conn, *arguments)  # type: ignore[no-untyped-call] # aiosqlite's own way in

    def cursor(self) -> EagerCursor:  # type: ignore[override] # SQLAlchemy asks for no more
        """Give a cursor; nothing happens yet."""
        return EagerCursor(self)


def connect(path: str, **options: Any) -> EagerConnection:
    """Prepare a connection for SQLAlchemy's `async_creator_fn`; it opens when awaited. Options as of `sqlite3`."""
    connection = EagerConnection(lambda: sqlite3.connect(path, **options), 64)
    connection._thread.daemon = True  # noqa: SLF001 - as SQLAlchemy does with connections that it makes itself
    return connection
