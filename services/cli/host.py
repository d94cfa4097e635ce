"""`kivuko up`, `kivuko run` and `kivuko migrate`: the processes."""

import gc
import os
from pathlib import Path
from typing import Annotated

import typer

from services.cli.environment import prepare_home, read_settings
from services.cli.output import Json, fail, out, print_json

UP = "Example: kivuko up --home /srv/kivuko --config docs/examples/clinic.yaml"
RUN = "Example: KIVUKO_NETWORK_URL=http://network:8080 kivuko run ingest"
MIGRATE = "Example: KIVUKO_DATABASE_URL=postgresql://USER:PASSWORD@HOST:PORT/NAME kivuko migrate"


def up(
    *,
    home: Annotated[Path | None, typer.Option(help="Folder of everything that is kept; KIVUKO_HOME.")] = None,
    config: Annotated[Path | None, typer.Option(help="Network definition to apply at the start.")] = None,
    json_output: Json = False,
) -> None:
    """Run the whole of Kivuko in this process, until Ctrl-C.

    Prints one line that starts with `ready`, with all addresses, when it can serve; with --json, one line of JSON.
    Logs go to stderr.
    """
    if home is not None:
        os.environ["KIVUKO_HOME"] = str(home)
    settings = read_settings(json_output=json_output)
    if config is not None and not config.is_file():
        fail(
            f"{config}: there is no such file.",
            "Name the network definition to apply.",
            code=2,
            json_output=json_output,
        )
    prepare_home(settings.home, json_output=json_output)

    # What is loaded stays for the life of the process: looking for garbage in it takes a sixth of the start.
    gc.disable()
    from services.cli import process  # noqa: PLC0415 - slow, and no other command needs it

    process.up(settings, config, json_output=json_output)


def run(
    service: Annotated[str, typer.Argument(help="Name of the service, such as ingest.")], *, json_output: Json = False
) -> None:
    """Run one service of a cluster in this process, until SIGTERM.

    Broker, database and object store may be away at the start: `/readyz` says so, and it goes on when they are back.
    """
    from contracts.topics import SERVICES  # noqa: PLC0415 - slow, and `--help` does without

    if service not in SERVICES:
        fail(
            f"There is no service {service!r}.", f"Take one of {', '.join(SERVICES)}.", code=2, json_output=json_output
        )
    settings = read_settings(json_output=json_output)
    prepare_home(settings.home, json_output=json_output)

    gc.disable()  # as above
    from services.cli import process  # noqa: PLC0415 - slow, and no other command needs it

    process.run(service, settings, json_output=json_output)


def migrate(*, json_output: Json = False) -> None:
    """Bring the tables of every service of a cluster up to date. The embedded profile does so by itself."""
    from services.cli import process  # noqa: PLC0415 - slow, and no other command needs it

    done = process.migrate(read_settings(json_output=json_output), json_output=json_output)
    if json_output:
        print_json({"migrated": done})
        return
    out.print(f"Up to date: {', '.join(done)}.")
