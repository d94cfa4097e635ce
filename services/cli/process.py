"""The processes behind `kivuko up`, `kivuko run` and `kivuko migrate`."""

import asyncio
import gc
import json
import signal
import socket
import sys
from collections.abc import Callable, Coroutine, Mapping
from contextlib import AsyncExitStack
from dataclasses import asdict
from pathlib import Path
from typing import Any

from aiormq.exceptions import AMQPError
from asyncpg import PostgresError
from pydantic import ValidationError
from sqlalchemy.exc import ArgumentError, DBAPIError, SQLAlchemyError

from libs.definition.document import DefinitionError
from libs.dimse.tls import CertificateError
from libs.host import Host
from libs.messaging.bus import BusUnavailableError
from libs.messaging.listen import DATABASE_AWAY
from libs.messaging.lock import LockedError
from libs.messaging.topology import TopologyError
from libs.settings import Settings
from libs.storage.database import Database
from libs.storage.migration import MigrationError
from libs.storage.migration import migrate as migrate_tables
from libs.storage.objects import StoreFullError, StoreUnavailableError
from libs.telemetry import log, trace
from libs.web.server import ListenError
from services.cli.composition import MisconfiguredError, embedded, migrated_services, single
from services.cli.environment import misfit, no_home
from services.cli.output import fail

#: Why a process can't start; the messages say what to do.
_REASONS = (
    BusUnavailableError, CertificateError, ListenError, LockedError, MigrationError, StoreFullError,
    StoreUnavailableError, TopologyError,
)  # fmt: skip

#: The database, or another server that an address names, is away.
#: New objects between two looks for garbage: a group of messages makes more than Python's 700, and none of them is.
_NEW = 10_000
_NO_SERVER = (SQLAlchemyError, PostgresError, ConnectionError, TimeoutError, socket.gaierror)

#: Makes the host of a process; what has to be closed after it goes on the stack.
Compose = Callable[[AsyncExitStack], Coroutine[Any, Any, Host]]


def up(settings: Settings, config: Path | None, *, json_output: bool) -> None:
    """Run all services until SIGTERM or SIGINT."""

    async def compose(_stack: AsyncExitStack) -> Host:
        return embedded(settings, config)

    _run(settings, "kivuko", compose, json_output=json_output)


def run(service: str, settings: Settings, *, json_output: bool) -> None:
    """Run one service of a cluster until SIGTERM or SIGINT."""

    async def compose(stack: AsyncExitStack) -> Host:
        import httpx  # noqa: PLC0415 - slow, and the embedded profile does without

        return single(service, settings, await stack.enter_async_context(httpx.AsyncClient()))

    _run(settings, service, compose, json_output=json_output)


def migrate(settings: Settings, *, json_output: bool) -> list[str]:
    """Bring the tables of the services of this image up to date; give their names."""
    log.configure(settings.log_level)
    names = migrated_services()
    try:
        asyncio.run(_migrate(settings, names))
    except MigrationError as error:
        fail(_sentence(error), "", code=1, json_output=json_output)
    except (ValueError, ArgumentError) as error:
        fail(f"KIVUKO_DATABASE_URL does not fit: {error}.", "", code=2, json_output=json_output)
    except DATABASE_AWAY as error:
        fail(*_no_database(error, settings), code=1, json_output=json_output)
    return names


async def _migrate(settings: Settings, names: list[str]) -> None:
    for name in names:
        database = Database(settings.database, name)
        try:
            await migrate_tables(database, f"services.{name}")
        finally:
            await database.close()


def _run(settings: Settings, name: str, compose: Compose, *, json_output: bool) -> None:
    log.configure(settings.log_level)
    trace.configure(settings, name)
    try:
        asyncio.run(_serve(compose, json_output=json_output))
    except asyncio.CancelledError:
        return  # told to stop before it was ready; what had started was stopped
    except DefinitionError as error:
        count = len(error.problems)
        fail(
            f"The network definition has {count} {'problem' if count == 1 else 'problems'}; nothing was started.",
            "Mend what is listed, then start again.",
            code=1,
            json_output=json_output,
            problem={"problems": [asdict(problem) for problem in error.problems]},
        )
    except MisconfiguredError as error:
        fail(_sentence(error), "", code=2, json_output=json_output)
    except ValidationError as error:
        if not error.title.endswith("Settings"):
            raise
        fail(*misfit(error), code=2, json_output=json_output)
    except _REASONS as error:
        fail(_sentence(error), "", code=1, json_output=json_output)
    except AMQPError as error:
        what = f"The broker does not answer ({type(error).__name__})."
        fail(what, "Check KIVUKO_BROKER_URL and run `kivuko doctor`.", code=1, json_output=json_output)
    except _NO_SERVER as error:
        fail(*_no_database(error, settings), code=1, json_output=json_output)
    except OSError as error:
        fail(*no_home(error, settings.home), code=1, json_output=json_output)
    finally:
        trace.shutdown()


async def _serve(compose: Compose, *, json_output: bool) -> None:
    stop = asyncio.Event()
    ready = asyncio.Event()
    this = asyncio.current_task()

    def end() -> None:
        stop.set()
        if not ready.is_set() and this is not None:
            this.cancel()

    def announce(addresses: Mapping[str, str]) -> None:
        ready.set()
        line = " ".join(["ready", *(f"{name}={address}" for name, address in addresses.items())])
        sys.stdout.write((json.dumps({"ready": True, "addresses": addresses}) if json_output else line) + "\n")
        sys.stdout.flush()

    for sign in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(sign, end)
    async with AsyncExitStack() as stack:
        host = await compose(stack)
        # Everything is loaded: from here on garbage is looked for, but not in what will never be any.
        gc.freeze()
        gc.set_threshold(_NEW, 20, 50)
        gc.enable()
        await host.run(announce, stop)


def _no_database(error: Exception, settings: Settings) -> tuple[str, str]:
    if settings.database.startswith("sqlite:"):
        # The driver's sentence, such as "database or disk is full", holds no values.
        why = str(error.orig) if isinstance(error, DBAPIError) else type(error).__name__
        return f"The tables in {settings.home.absolute()} cannot be used ({why}).", "Run `kivuko doctor`."
    what = f"The database does not answer as it should ({type(error).__name__})."
    return what, "Check KIVUKO_DATABASE_URL and run `kivuko doctor`."


def _sentence(error: Exception) -> str:
    text = str(error)
    return text[:1].upper() + text[1:] + ("" if text.endswith(".") else ".")
