"""PostgreSQL's notifications: woken as soon as another process commits."""

import asyncio
from collections.abc import Callable
from typing import Any

import asyncpg
from sqlalchemy.dialects.postgresql.asyncpg import AsyncAdapt_asyncpg_dbapi
from sqlalchemy.exc import SQLAlchemyError

from libs.storage.database import Database
from libs.telemetry import log

#: What a database raises while it is away. SQLAlchemy passes some of the driver's errors on as they are, and where a
#: connection is asked for as such, its own adapter's.
DATABASE_AWAY = (
    *(SQLAlchemyError, AsyncAdapt_asyncpg_dbapi.Error),
    *(asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError, OSError),
)
_AGAIN_S = 5.0
_LOG = log.get(__name__)


async def listen(database: Database, channel: str, wake: Callable[[], None]) -> None:
    """Call `wake` at each notification until cancelled, on an own connection that is made again when lost."""
    while True:
        try:
            await _listen(database, channel, wake)
        except DATABASE_AWAY as error:
            _LOG.warning("notifications are not heard for the moment", queue=channel, exc_info=error, delay=_AGAIN_S)
        await asyncio.sleep(_AGAIN_S)


async def _listen(database: Database, channel: str, wake: Callable[[], None]) -> None:
    lost = asyncio.Event()
    raw = await database.engine.raw_connection()
    driver: Any = raw.driver_connection
    raw.detach()  # the pool has another one in its place
    try:
        driver.add_termination_listener(lambda _: lost.set())
        await driver.add_listener(channel, lambda *_: wake())
        wake()  # for what was committed while nobody listened
        await lost.wait()
        _LOG.warning("connection for notifications was lost", queue=channel)
    finally:
        if not driver.is_closed():
            await driver.close(timeout=5)
