"""`kivuko up`, `kivuko run` and `kivuko migrate`: the processes."""

import asyncio
import os
import signal
import sys
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import httpx
import typer
from pydantic import ValidationError
from sqlalchemy.exc import SQLAlchemyError

from contracts.topics import SERVICES
from libs.definition.reading import DefinitionError
from libs.host import Host
from libs.messaging.lock import LockedError
from libs.settings import Settings
from libs.storage.database import Database
from libs.storage.migration import MigrationError
from libs.storage.migration import migrate as migrate_tables
from libs.storage.objects import StoreFullError, StoreUnavailableError
from libs.telemetry import log, trace
from libs.web.server import ListenError
from services.cli.composition import MisconfiguredError, embedded, migrated_services, single
from services.cli.output import Json, fail, out, print_json

#: Why a process can't start; the messages say what to do.
_REASONS = (ListenError, LockedError, MigrationError, MisconfiguredError, StoreFullError, StoreUnavailableError)


def up(
    *,
    home: Annotated[Path | None, typer.Option(help="Folder of everything that is kept; KIVUKO_HOME.")] = None,
    config: Annotated[Path | None, typer.Option(help="Network definition to apply at the start.")] = None,
) -> None:
    """Run the whole of Kivuko in this process, until Ctrl-C.

    Prints one line that starts with `ready`, with all addresses, when it can serve.
    """
    if home is not None:
        os.environ["KIVUKO_HOME"] = str(home)
    settings = read_settings()
    _run(settings, "kivuko", lambda _: embedded(settings, config))


def run(service: Annotated[str, typer.Argument(help=f"One of {', '.join(SERVICES)}.")]) -> None:
    """Run one service of a cluster in this process, until SIGTERM."""
    if service not in SERVICES:
        fail(f"There is no service {service!r}.", f"Take one of {', '.join(SERVICES)}.", code=2, json_output=False)
    settings = read_settings()
    _run(settings, service, lambda http: single(service, settings, http))


def migrate(*, json_output: Json = False) -> None:
    """Bring the tables of every service of a cluster up to date. The embedded profile does so by itself."""
    settings = read_settings()
    log.configure(settings.log_level)
    done = migrated_services()
    try:
        asyncio.run(_migrate(settings, done))
    except MigrationError as error:
        fail(str(error), "", code=1, json_output=json_output)
    except (OSError, SQLAlchemyError) as error:
        fail(
            f"The database does not answer as it should ({type(error).__name__}).",
            "Check KIVUKO_DATABASE_URL and run `kivuko doctor`.",
            code=1,
            json_output=json_output,
        )
    if json_output:
        print_json({"migrated": done})
        return
    out.print(f"Up to date: {', '.join(done)}.")


def read_settings() -> Settings:
    """Read the environment; a wrong value ends the command with its name and reason."""
    try:
        return Settings()
    except ValidationError as error:
        wrong = "; ".join(f"KIVUKO_{str(one['loc'][0]).upper()}: {one['msg']}" for one in error.errors())
        fail(f"The environment does not fit: {wrong}.", "Mend these variables.", code=2, json_output=False)


async def _migrate(settings: Settings, names: list[str]) -> None:
    for name in names:
        database = Database(settings.database, name)
        try:
            await migrate_tables(database, f"services.{name}")
        finally:
            await database.close()


def _run(settings: Settings, name: str, compose: Callable[[httpx.AsyncClient], Host]) -> None:
    log.configure(settings.log_level)
    trace.configure(settings, name)
    try:
        asyncio.run(_serve(settings, compose))
    except DefinitionError as error:
        problems = [asdict(problem) for problem in error.problems]
        fail(
            f"The network definition has {len(problems)} problems; nothing was started.",
            "Mend them, then start again.",
            code=1,
            json_output=False,
            problem={"problems": problems},
        )
    except _REASONS as error:
        fail(str(error), "", code=1, json_output=False)
    finally:
        trace.shutdown()


async def _serve(settings: Settings, compose: Callable[[httpx.AsyncClient], Host]) -> None:
    stop = asyncio.Event()
    for sign in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(sign, stop.set)
    settings.home.mkdir(parents=True, exist_ok=True, mode=0o700)
    async with httpx.AsyncClient() as http:
        await compose(http).run(_announce, stop)


def _announce(addresses: Mapping[str, str]) -> None:
    sys.stdout.write("ready " + " ".join(f"{name}={address}" for name, address in addresses.items()) + "\n")
    sys.stdout.flush()
