"""One service's tables in one database: SQLite in a folder, or a schema of PostgreSQL."""

import asyncio
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager, nullcontext
from pathlib import Path
from typing import Any, Final, Literal

from pydantic_core import from_json, to_json
from sqlalchemy import URL, Connection, event, make_url, text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, AsyncSession, create_async_engine

from libs.storage import eager
from libs.storage.durable import make_folder
from libs.telemetry import log

_LOG = log.get(__name__)
Listener = Callable[[AsyncSession], None]
#: Where a session keeps what is done right before it commits.
_LAST = "kivuko.last"

#: How long SQLite waits for a writer of another process, and PostgreSQL for a lock, ms.
LOCK_TIMEOUT = 15_000
#: How long one statement may run on PostgreSQL, ms. Migrations are exempt.
STATEMENT_TIMEOUT = 60_000
#: How long a transaction on PostgreSQL may stand idle before the server ends it, ms.
IDLE_TIMEOUT = 120_000


class Database:
    """The tables of one service.

    Parameters
    ----------
    url
        `sqlite:///FOLDER` keeps them in FOLDER/SERVICE.db. `postgresql://USER:PASSWORD@HOST:PORT/NAME` keeps them in
        the schema SERVICE; `sslmode` is understood as by libpq, the certificate authority comes from `PGSSLROOTCERT`.
    service
        Name of the service.

    Attributes
    ----------
    service
        Name of the service.
    engine
        The engine that writes. Services use `transaction` and `reading`; the engine is for migrations.
    dialect
        `sqlite` or `postgresql`.

    Raises
    ------
    ValueError
        The URL is neither. The text never holds the URL, as it may hold a password.
    """

    service: str
    engine: AsyncEngine
    dialect: Literal["sqlite", "postgresql"]

    def __init__(self, url: str, service: str) -> None:
        self.service = service
        self._listeners: list[Listener] = []
        self._writer: asyncio.Task[Any] | None = None
        self._turn: asyncio.Lock | None = None
        parsed = make_url(url)
        match parsed.get_backend_name():
            case "sqlite":
                self.dialect = "sqlite"
                self._turn = asyncio.Lock()
                path = _sqlite_file(Path(parsed.database or "."), service)
                self.engine = _sqlite(path, "BEGIN IMMEDIATE", "foreign_keys=ON", at_once=True)
                self._readers = _sqlite(path, "BEGIN", "query_only=ON")
                # Rebuilding a table drops it, which would cascade; foreign keys can't be switched in a transaction.
                self._migrating = _sqlite(path, "BEGIN IMMEDIATE", "foreign_keys=OFF")
            case "postgresql":
                self.dialect = "postgresql"
                self.engine = _postgresql(parsed, service)
                self._readers = self.engine.execution_options(postgresql_readonly=True)
                self._migrating = self.engine
            case other:
                raise ValueError(
                    f"the database's address starts with {other}://: "
                    "set KIVUKO_DATABASE_URL to sqlite:///FOLDER or postgresql://USER:PASSWORD@HOST:PORT/NAME"
                )

    def __repr__(self) -> str:
        return f"Database({self.engine.url.render_as_string(hide_password=True)}, {self.service})"

    def transaction(self) -> AbstractAsyncContextManager[AsyncSession]:
        """Open a transaction that commits at the end of the block, and rolls back if the block raises.

        On SQLite it takes the write lock at its begin; the writers of this object wait for each other in order.

        Raises
        ------
        RuntimeError
            On SQLite: this task is in a transaction already and would wait for itself.
        """
        return self._transaction()

    def reading(self) -> AbstractAsyncContextManager[AsyncSession]:
        """Open a transaction that only reads, on one state of the tables on SQLite, and never waits for writers."""
        return self._reading()

    def on_commit(self, listener: Listener) -> None:
        """Have `listener` called after each successful commit, with the session that committed.

        It is called in the event loop and must not block. What it raises is logged: the commit stands.
        """
        self._listeners.append(listener)

    @asynccontextmanager
    async def migrating(self) -> AsyncIterator[AsyncConnection]:
        """Open a transaction that changes tables, commits at the end, and excludes others that migrate this service.

        Nobody's foreign keys cascade in it. Statements may take as long as they need.
        """
        async with self._turn or nullcontext(), self._migrating.begin() as connection:
            if self.dialect == "postgresql":
                await connection.execute(text("SET LOCAL statement_timeout = 0"))
                await connection.execute(text("SET LOCAL lock_timeout = 0"))
                await connection.execute(
                    text("SELECT pg_advisory_xact_lock(hashtextextended(:name, 0))"),
                    {"name": f"kivuko migration of {self.service}"},
                )
                await connection.execute(text(f"SET LOCAL lock_timeout = {LOCK_TIMEOUT}"))
            yield connection

    async def close(self) -> None:
        """Close all connections."""
        for engine in (self._readers, self._migrating, self.engine):
            await engine.dispose()

    @asynccontextmanager
    async def _transaction(self) -> AsyncIterator[AsyncSession]:
        task = asyncio.current_task()
        if self._turn is not None and self._writer is task:
            raise RuntimeError(f"a transaction of {self.service} inside another one of the same task waits for itself")
        async with self._turn or nullcontext(), AsyncSession(self.engine, expire_on_commit=False) as session:
            self._writer = task
            last: list[Callable[[], Awaitable[None]]] = []
            session.info[_LAST] = last
            try:
                # The lock is taken here, not at the first statement, so that what is read stays true until the commit.
                await session.connection()
                yield session
                for work in last:
                    await work()
                await session.commit()
            finally:
                self._writer = None
            self._tell(session)

    @asynccontextmanager
    async def _reading(self) -> AsyncIterator[AsyncSession]:
        async with AsyncSession(self._readers, expire_on_commit=False, autoflush=False) as session:
            yield session

    def _tell(self, session: AsyncSession) -> None:
        for listener in self._listeners:
            try:
                listener(session)
            except Exception:  # noqa: BLE001 - the commit stands; the caller must not take this for its failure
                _LOG.exception("a listener to commits failed", service=self.service)


def before_commit(tx: AsyncSession, work: Callable[[], Awaitable[None]]) -> None:
    """Have `work` done as the last thing in a transaction: rows that gather there are written by one statement.

    What it raises rolls the transaction back. In a savepoint it must not be used: that may be undone alone.

    Raises
    ------
    RuntimeError
        The session is not from `Database.transaction`, or in a savepoint: the work would be forgotten, or done in vain.
    """
    if _LAST not in tx.info or tx.in_nested_transaction():
        raise RuntimeError("only a transaction of Database.transaction, outside of savepoints, does work at its end")
    tx.info[_LAST].append(work)


def _json(value: Any) -> str:
    return to_json(value).decode()


#: Columns of type JSON: several times faster than the standard library, which is felt with a row for each instance.
_JSON: Final = {"json_serializer": _json, "json_deserializer": from_json}


def _sqlite_file(folder: Path, service: str) -> Path:
    make_folder(folder)
    path = folder / f"{service}.db"
    # SQLite would make it readable for all; its journal files take their mode from it.
    os.close(os.open(path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600))
    return path


def _sqlite(path: Path, begin: str, *pragmas: str, at_once: bool = False) -> AsyncEngine:
    engine = create_async_engine(
        URL.create("sqlite+aiosqlite", database=str(path)),
        # sqlite3 must not begin transactions by itself: it would take the write lock late and lose it at DDL.
        connect_args={
            "isolation_level": None,
            "timeout": LOCK_TIMEOUT / 1000,
            "async_creator_fn": eager.connect,
            "at_once": at_once,
        },
        pool_size=4,
        max_overflow=4,
        hide_parameters=True,
        **_JSON,
    )

    @event.listens_for(engine.sync_engine, "connect")
    def set_up(connection: Any, _record: object) -> None:
        cursor = connection.cursor()
        for pragma in (f"busy_timeout={LOCK_TIMEOUT}", "journal_mode=WAL", "synchronous=FULL", *pragmas):
            cursor.execute(f"PRAGMA {pragma}")
        cursor.close()

    @event.listens_for(engine.sync_engine, "begin")
    def start(connection: Connection) -> None:
        connection.exec_driver_sql(begin)

    return engine


def _postgresql(url: URL, service: str) -> AsyncEngine:
    query = {("ssl" if key == "sslmode" else key): value for key, value in url.query.items()}
    return create_async_engine(
        url.set(drivername="postgresql+asyncpg", query=query),
        connect_args={
            "timeout": 10,
            "server_settings": {
                "application_name": f"kivuko-{service}",
                "search_path": f'"{service}"',
                "statement_timeout": str(STATEMENT_TIMEOUT),
                "lock_timeout": str(LOCK_TIMEOUT),
                "idle_in_transaction_session_timeout": str(IDLE_TIMEOUT),
            },
        },
        pool_size=5,
        max_overflow=5,
        pool_timeout=30,
        pool_pre_ping=True,
        hide_parameters=True,
        **_JSON,
    )
