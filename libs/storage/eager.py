"""SQLite for asyncio with one visit to the connection's thread per statement, where aiosqlite's cursors make four.

Rows of one INSERT go many in a statement: `sqlite3` lets go of the interpreter for each statement, and with several
threads at work the price of that is several times the price of the row. For the same reason a connection that writes
runs its statements where it is asked, between BEGIN and COMMIT: they take microseconds, and the two visits to its
thread that are left are those which may wait, for a lock and for the disk. One that reads begins and ends its
transaction where it is asked.
"""

import asyncio
import re
import sqlite3
from collections.abc import Iterator, Sequence
from itertools import chain
from typing import Any, Final, Self

import aiosqlite

#: An INSERT of one row, as SQLAlchemy writes it: what is before the row, the row, what is after it.
_INSERT: Final = re.compile(r"(INSERT INTO [^?]* VALUES )(\([?, ]+\))([^?]*)", re.DOTALL)
#: Rows of one statement: few sizes, so that the prepared statements are kept. The largest has at most as many
#: parameters as the oldest SQLite takes.
_SIZES: Final = (64, 16, 4, 1)
_MOST_PARAMETERS: Final = 999


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

    async def executemany(self, operation: str, parameters: Sequence[Sequence[Any]]) -> "EagerCursor":
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

    def _executemany(self, connection: sqlite3.Connection, operation: str, parameters: Sequence[Sequence[Any]]) -> None:
        rows = _INSERT.fullmatch(operation)
        if rows is None:
            return self._note(connection.executemany(operation, parameters))
        count = 0
        for part in _parts(parameters):
            several = f"{rows[1]}{', '.join([rows[2]] * len(part))}{rows[3]}"
            cursor = connection.execute(several, list(chain.from_iterable(part)))
            count += cursor.rowcount
            self._note(cursor)
        self.rowcount = count
        return None

    def _note(self, cursor: sqlite3.Cursor) -> None:
        self.description = cursor.description
        self.rowcount = cursor.rowcount
        self.lastrowid = cursor.lastrowid
        cursor.close()


class EagerConnection(aiosqlite.Connection):
    """A connection of aiosqlite with other cursors. Results that are read row by row have no place here.

    Attributes
    ----------
    at_once
        Whether statements of a transaction run in the caller's thread.
    """

    at_once = False
    #: Whether the thread has come back from its last visit: after a cancellation it may be in the middle of one.
    _back = False

    #: Whether the thread was told to end.
    _ended = False

    def stop(self) -> "asyncio.Future[Any] | None":
        """Have the thread end; None if it was told so before, as a second word to it would never be answered.

        SQLAlchemy tells it twice where a statement is cancelled, and the process would wait for that one at its end.
        """
        if self._ended:
            return None
        self._ended = True
        return super().stop()

    async def visit(self, work: Any, operation: str, parameters: Sequence[Any]) -> None:
        """Have `work(connection, operation, parameters)` done."""
        # A DELETE may take all of a large study with it. BEGIN alone takes no lock.
        if self._back and (
            (self.at_once and self._conn.in_transaction and operation[:6] != "DELETE") or operation == "BEGIN"
        ):
            work(self._conn, operation, parameters)
            return
        await self._there(work, self._conn, operation, parameters)

    async def rollback(self) -> None:
        """Undo what was done since BEGIN, if anything was begun."""
        # One that only read has nothing to undo.
        if self._back and not (self.at_once and self._conn.in_transaction):
            self._conn.rollback()
            return
        await self._there(self._conn.rollback)

    async def _there(self, work: Any, *arguments: Any) -> None:
        self._back = False
        await self._execute(work, *arguments)  # type: ignore[no-untyped-call] # aiosqlite's own way in
        self._back = True

    def cursor(self) -> EagerCursor:  # type: ignore[override] # SQLAlchemy asks for no more
        """Give a cursor; nothing happens yet."""
        return EagerCursor(self)


def _parts(rows: Sequence[Sequence[Any]]) -> Iterator[Sequence[Sequence[Any]]]:
    begin = 0
    most = _MOST_PARAMETERS // max(1, len(rows[0])) if rows else 0
    for size in _SIZES:
        while len(rows) - begin >= size and (size <= most or size == 1):
            yield rows[begin : begin + size]
            begin += size


def connect(path: str, *, at_once: bool, **options: Any) -> EagerConnection:
    """Prepare a connection for SQLAlchemy's `async_creator_fn`; it opens when awaited. Options as of `sqlite3`.

    With `at_once` the statements of a transaction run in the caller's thread, so they must be short.
    """
    connection = EagerConnection(lambda: sqlite3.connect(path, **options), 64)
    connection.at_once = at_once
    connection._thread.daemon = True  # noqa: SLF001 - as SQLAlchemy does with connections that it makes itself
    return connection
